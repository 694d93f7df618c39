"""The API's shape: what every rpc has, whatever it does."""

import re

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from slackwater.v1 import primary_pb2, replication_pb2, secondary_pb2, snapshot_pb2

METHODS = [
    method
    for module in (primary_pb2, replication_pb2, secondary_pb2, snapshot_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
UNARY = [m for m in METHODS if not m.client_streaming and not m.server_streaming]
READS = re.compile(r"(Get|List|Read|Diff)[A-Z]")
DANGEROUS = re.compile(r"(Delete|Promote$|UpdateLink$|BreakOff|Rejoin)")


def fields(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields}


def every(methods: list[MethodDescriptor]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=[m.full_name for m in methods])


@every([m for m in UNARY if m.name.startswith(("List", "Diff"))])
def test_every_list_has_pages(method: MethodDescriptor) -> None:
    assert {"page_size", "page_token"} <= fields(method.input_type)
    assert "next_page_token" in fields(method.output_type)


@every([m for m in UNARY if not READS.match(m.name)])
def test_every_mutation_has_a_request_id(method: MethodDescriptor) -> None:
    assert "request_id" in fields(method.input_type)


@every([m for m in UNARY if DANGEROUS.match(m.name)])
def test_every_dangerous_call_can_be_validated_and_says_what_is_lost(
    method: MethodDescriptor,
) -> None:
    assert "validate_only" in fields(method.input_type)
    assert "losses" in fields(method.output_type)


def test_no_message_serves_two_rpcs() -> None:
    used = [m.input_type.full_name for m in METHODS] + [m.output_type.full_name for m in METHODS]
    assert len(used) == len(set(used))


def test_append_keeps_records_in_the_field_the_log_frames_them_with() -> None:
    append = replication_pb2.Append.DESCRIPTOR.fields_by_name
    assert (append["previous"].number, append["records"].number) == (1, 2)
    assert append["padding"].number == 3
