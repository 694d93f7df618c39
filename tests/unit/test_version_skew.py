"""The last release and this one read each other's messages; a word unknown to one is refused.

The last release is protos/release/slackwater-v1.binpb, with which `buf breaking` compares as well.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from slackwater import errors
from slackwater.link.receiver import LinkReceiver
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    record_pb2,
    replication_pb2,
    resources_pb2,
    secondary_pb2,
    snapshot_pb2,
)

RELEASE = Path(__file__).parents[2] / "protos/release/slackwater-v1.binpb"
TODAY: tuple[Any, ...] = (
    common_pb2, record_pb2, resources_pb2, replication_pb2, primary_pb2, secondary_pb2,
    snapshot_pb2,
)  # fmt: skip
PACKAGE = "slackwater.v1."
DEPTH = 4


def released() -> descriptor_pool.DescriptorPool:
    """The descriptors of the last release, apart from those of today."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(RELEASE.read_bytes()).file:
        pool.Add(file)
    return pool


POOL = released()
FILES = [POOL.FindFileByName(module.DESCRIPTOR.name) for module in TODAY]


def messages_of(kinds: Any) -> Iterator[Descriptor]:
    """Messages and those inside them, maps' entries left out."""
    for kind in kinds:
        if not kind.GetOptions().map_entry:
            yield kind
            yield from messages_of(kind.nested_types)


OLD = [kind for file in FILES for kind in messages_of(file.message_types_by_name.values())]
NOW = {
    kind.full_name: kind
    for module in TODAY
    for kind in messages_of(module.DESCRIPTOR.message_types_by_name.values())
}
NUMBERS = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    FieldDescriptor.CPPTYPE_FLOAT: 0.5,
}


def value(field: FieldDescriptor) -> Any:
    """Something that is not the field's default."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"{field.name}-\u00e4"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return field.name.encode()
    if field.enum_type is not None:
        return max(one.number for one in field.enum_type.values)
    return NUMBERS.get(field.cpp_type, 7)


def fill(message: Any, only: str, depth: int = DEPTH) -> None:
    """Set every field; of a oneof the one named, or else its first."""
    for field in message.DESCRIPTOR.fields:
        choice = field.containing_oneof
        if choice is not None and len(choice.fields) > 1:
            names = [one.name for one in choice.fields]
            if field.name != (only if only in names else names[0]):
                continue
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            continue
        if field.message_type is not None:
            holder = getattr(message, field.name)
            inner = holder.add() if field.is_repeated else holder
            if not field.is_repeated:
                inner.SetInParent()
            if depth:
                fill(inner, only, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).append(value(field))
        else:
            setattr(message, field.name, value(field))


def choices(kind: Descriptor) -> list[str]:
    """The fields of its oneofs, each of which is to be tried; nothing in particular without one."""
    named = [field.name for oneof in kind.oneofs for field in oneof.fields]
    return named or [""]


def same(one: Message, other: Message, kind: Descriptor) -> bool:
    """Whether they say the same in the words of the older one, and nothing is unknown to it."""
    again = message_factory.GetMessageClass(kind)
    left, right = (
        again.FromString(each.SerializeToString(deterministic=True)) for each in (one, other)
    )
    left.DiscardUnknownFields()
    right.DiscardUnknownFields()
    return bool(left == right)


@pytest.mark.parametrize("old", OLD, ids=lambda kind: kind.full_name.removeprefix(PACKAGE))
def test_message_of_either_release_is_read_by_the_other(old: Descriptor) -> None:
    assert old.full_name in NOW, "a message of the release is gone"
    then, now = (message_factory.GetMessageClass(kind) for kind in (old, NOW[old.full_name]))
    for only in choices(old):
        theirs = then()
        fill(theirs, only)
        read = now.FromString(theirs.SerializeToString())
        known = now.FromString(theirs.SerializeToString())
        known.DiscardUnknownFields()
        assert known == read, "this release knows every field of the last"
        assert same(theirs, read, old)
    for only in choices(NOW[old.full_name]):
        ours = now()
        fill(ours, only)
        assert same(ours, then.FromString(ours.SerializeToString()), old)


def services(files: Any) -> dict[str, ServiceDescriptor]:
    return {
        service.full_name: service for file in files for service in file.services_by_name.values()
    }


def test_every_rpc_of_the_release_is_there_as_it_was() -> None:
    today = services(module.DESCRIPTOR for module in TODAY)

    def shape(method: Any) -> tuple[str, str, bool, bool]:
        return (
            method.input_type.full_name, method.output_type.full_name,
            method.client_streaming, method.server_streaming,
        )  # fmt: skip

    for name, service in services(FILES).items():
        for method in service.methods:
            assert shape(today[name].methods_by_name[method.name]) == shape(method)


def test_numbers_of_enums_mean_what_they_meant() -> None:
    today = {
        name: enum
        for module in TODAY
        for name, enum in module.DESCRIPTOR.enum_types_by_name.items()
    }
    for file in FILES:
        for name, enum in file.enum_types_by_name.items():
            for one in enum.values:
                assert today[name].values_by_number[one.number].name == one.name


@pytest.mark.parametrize("number", [14, 15, 100, 2000])
def test_word_of_a_later_primary_is_refused_and_not_passed_over(number: int) -> None:
    """A Primary must not believe that a Secondary did what it does not know."""
    key, tag = number << 3 | 2, bytearray()
    while key > 0x7F:
        tag.append(key & 0x7F | 0x80)
        key >>= 7
    later = bytes([*tag, key, 2]) + b"\x08\x01"
    hello = replication_pb2.Hello(
        group_uid=uuid.UUID(int=9).bytes, group="demo", link="east", epoch=1, protocol_version=1
    )
    for first in (b"", replication_pb2.ReplicateRequest(hello=hello).SerializeToString()):
        receiver = LinkReceiver(0.0)
        if first:
            receiver.receive(first)
        with pytest.raises(errors.InvalidRequest, match="message"):
            receiver.receive(later)


def test_link_of_a_later_version_is_refused_with_the_order_of_upgrading() -> None:
    hello = replication_pb2.Hello(
        group_uid=uuid.UUID(int=9).bytes, group="demo", link="east", epoch=1, protocol_version=2
    )
    with pytest.raises(errors.FailedPrecondition, match="Upgrade Secondaries first"):
        LinkReceiver(0.0).receive(replication_pb2.ReplicateRequest(hello=hello).SerializeToString())
