"""Oversized everything: each field of each rpc, far beyond what it may hold; the services go on."""

import base64
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from slackwater.v1 import primary_pb2, replication_pb2, secondary_pb2, snapshot_pb2
from tests.support.processes import APPLICATION, GROUP, MIB, Cluster

pytestmark = pytest.mark.timeout(180)

SERVICES: dict[str, Any] = {
    "primary": primary_pb2.DESCRIPTOR.services_by_name["PrimaryService"],
    "secondary": secondary_pb2.DESCRIPTOR.services_by_name["SecondaryService"],
    "replication": replication_pb2.DESCRIPTOR.services_by_name["ReplicationService"],
    "snapshot": snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
}
LONG, MANY, WAIT_SECONDS = MIB, 100_000, 10.0
REFUSALS = {
    "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED", "ALREADY_EXISTS",
}  # fmt: skip

HARMLESS = {
    "page_size", "page_token",  # cut to the largest page; a place in an order
    "keep_last", "keep_hourly", "keep_daily", "keep_weekly",  # to keep all there is
    "source",  # of output alone
    "epoch", "lsn", "chain_crc32c",  # of the Primary's end: a figure to show
    "log_bytes",  # of the Primary: the Secondary has a bound of its own
}  # fmt: skip
"""Fields that may say anything: what they ask for has a bound of its own."""
SENTENCE_CHARACTERS = 1500

NAMES = {
    "Volume": f"{GROUP}/volumes/data",
    "Link": f"{GROUP}/links/site-b",
    "Message": f"{GROUP}/messages/none",
    "Snapshot": f"{GROUP}/snapshots/none",
    "Task": "tasks/nightly",
    "Run": "tasks/none/runs/none",
    "Schedule": "schedules/none",
    "Check": "checks/none",
    "Mirror": "mirrors/none",
}
"""A good name for what a method is about; a group's for all others."""

GOOD = {
    "group": GROUP,
    "application": APPLICATION,
    "message": NAMES["Message"],
    "group_id": "new",
    "volume_id": "new",
    "link_id": "new",
    "snapshot_id": "new",
    "endpoint": "127.0.0.1:1",
    "size_bytes": 512,
    "data": b"x" * 512,
    "length": 512,
    "at_message": "",
    "from": NAMES["Snapshot"],
    "to": NAMES["Snapshot"],
    "volume": "data",
}
"""Good values of other fields, so that the one that is too large is what is wrong."""


def fields_of(kind: Descriptor, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields that can be too large."""
    for field in kind.fields:
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("slackwater."):
            yield from fields_of(inner, (*above, field.name))
        elif field.type not in {FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM}:
            yield (*above, field.name)


_TASK = {
    "name": "tasks/new",
    "group": GROUP,
    "application": APPLICATION,
    "quiesce": {"applications": ["erp"]},
}
_SCHEDULE = {"schedule": {"name": "schedules/new", "task": "tasks/nightly", "cron": "0 4 * * *"}}
EXACT: dict[str, dict[str, Any]] = {
    "SendMessage": {"group": GROUP, "application": APPLICATION, "fence": True},
    "HoldQuiesce": {
        "open": {"group": GROUP, "application": APPLICATION, "kind": "sync", "host": "here"}
    },
    "HoldMessage": {"open": {"group": GROUP, "application": APPLICATION, "holder": "me"}},
    "Replicate": {
        "hello": {
            "group_uid": base64.b64encode(bytes(range(16))).decode(),
            "group": "other",
            "link": "site-b",
            "epoch": 1,
            "durable": {"epoch": 1, "lsn": 1},
            "protocol_version": 1,
            "kinds": [2],
        }
    },
    "CreateTask": {"task": _TASK},
    "UpdateTask": {"task": {**_TASK, "name": "tasks/nightly"}},
    "CreateSchedule": _SCHEDULE,
    "UpdateSchedule": _SCHEDULE,
}
"""Requests whose good fields depend on each other."""


def good_request(method: MethodDescriptor) -> Any:
    """A request with nothing wrong that could be known without its service."""
    request: Any = message_factory.GetMessageClass(method.input_type)()
    if method.name in EXACT:
        json_format.ParseDict(EXACT[method.name], request)
    for field in () if method.name in EXACT else method.input_type.fields:
        if field.name == "name":
            noun = next((noun for noun in NAMES if method.name.endswith(noun)), None)
            request.name = GROUP if noun is None else NAMES[noun]
        elif field.name in GOOD and not (field.is_repeated or field.message_type):
            setattr(request, field.name, GOOD[field.name])
    return request


def enlarge(request: Message, path: tuple[str, ...]) -> None:
    """Put what is far too large into one field."""
    holder: Any = request
    for name in path[:-1]:
        is_repeated = holder.DESCRIPTOR.fields_by_name[name].is_repeated
        holder = getattr(holder, name)
        holder = holder.add() if is_repeated else holder
    field = holder.DESCRIPTOR.fields_by_name[path[-1]]
    if field.is_repeated and field.type == FieldDescriptor.TYPE_STRING:
        getattr(holder, path[-1]).extend(f"a{number}" for number in range(MANY))
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(holder, path[-1], "x" * LONG)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(holder, path[-1], bytes(2 * LONG))
    elif field.message_type is not None:
        getattr(holder, path[-1]).seconds = (1 << 63) - 1
    elif field.is_repeated:
        getattr(holder, path[-1]).extend(range(MANY))
    else:
        bits = {FieldDescriptor.CPPTYPE_UINT64: 64, FieldDescriptor.CPPTYPE_INT64: 63,
                FieldDescriptor.CPPTYPE_UINT32: 32, FieldDescriptor.CPPTYPE_INT32: 31}  # fmt: skip
        setattr(holder, path[-1], (1 << bits[field.cpp_type]) - 1)


def send(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> tuple[str, str]:
    """What became of a call, and what it said."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = message_factory.GetMessageClass(method.output_type)
    kind = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    call: Any = kind(
        path,
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    try:
        given = iter([request]) if method.client_streaming else request
        if method.server_streaming:
            stream = call(given, timeout=WAIT_SECONDS)
            next(stream)
            stream.cancel()
        else:
            call(given, timeout=WAIT_SECONDS)
        return "OK", ""
    except StopIteration:
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, str(error.details())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("oversized")) as services:
        yield services.replicate(data=MIB)


def wrong(answers: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The answers that no caller should get."""
    return {
        what: (code, said)
        for what, (code, said) in answers.items()
        if len(said) > SENTENCE_CHARACTERS
        or not (code in REFUSALS or (code == "OK" and what.rpartition(".")[2] in HARMLESS))
    }


@pytest.mark.parametrize("name", SERVICES)
def test_field_that_is_far_too_large_is_refused_and_changes_nothing(
    shared: Cluster, name: str
) -> None:
    role = "secondary" if name == "replication" else name
    service = getattr(shared, role)
    before = shared.group_status()
    answers = {}
    with grpc.insecure_channel(service.endpoints.grpc) as channel:
        for method in SERVICES[name].methods:
            for path in fields_of(method.input_type):
                if name == "replication" and path[0] != "hello":
                    continue  # records have their own tests: a chain that does not fit is a gap
                request = good_request(method)
                enlarge(request, path)
                fields = method.input_type.fields_by_name
                if path[-1] in HARMLESS and "validate_only" in fields:
                    request.validate_only = True
                answers[".".join((method.name, *path))] = send(channel, method, request)
    assert not wrong(answers)
    assert len(answers) > 5, "every field of every rpc was asked"
    after = shared.group_status()
    assert (after.group, list(after.volumes)) == (before.group, list(before.volumes))
    assert [link.name for link in after.links] == [link.name for link in before.links]
    assert service.health("readiness") == "SERVING"


@pytest.mark.parametrize("role", ["primary", "secondary", "snapshot"])
def test_request_or_metadata_that_no_call_needs_is_refused_whole(
    shared: Cluster, role: str
) -> None:
    service = getattr(shared, role)
    path = f"/{SERVICES[role].full_name}/GetStatus"
    with grpc.insecure_channel(service.endpoints.grpc) as channel:
        call: Any = channel.unary_unary(path)
        for request, metadata in ((bytes(9 * MIB), ()), (b"", (("large", "x" * (64 << 10)),))):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, metadata=metadata, timeout=WAIT_SECONDS)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        call(b"", timeout=WAIT_SECONDS)
