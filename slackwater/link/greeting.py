"""What a Primary says of itself at the start of a stream, checked."""

import uuid
from collections.abc import Iterable

from slackwater import errors
from slackwater.link.actions import VolumeInfo
from slackwater.link.receiver_actions import HelloInfo
from slackwater.link.settings import PROTOCOL_VERSION
from slackwater.link.wire import from_wire
from slackwater.names import check_label, check_volume_size
from slackwater.v1 import replication_pb2

MAX_EPOCH = (1 << 63) - 1
"""What group.db keeps."""
MAX_KINDS = 1000
SYNC_ID_BYTES = 16


def read_hello(hello: replication_pb2.Hello) -> HelloInfo:
    """Return a Hello of the link, checked.

    Raises:
        InvalidRequest: a field is not what it may be.
        FailedPrecondition: the Primary speaks another version of the link.
    """
    if len(hello.group_uid) != 16:
        raise errors.InvalidRequest("hello.group_uid", "is not 16 bytes long")
    if hello.protocol_version != PROTOCOL_VERSION:
        raise errors.FailedPrecondition(
            "PROTOCOL_VERSION",
            f"the Primary speaks version {hello.protocol_version} of the link,"
            f" this Secondary version {PROTOCOL_VERSION}",
            "Upgrade Secondaries first",
        )
    if not 0 < hello.epoch <= MAX_EPOCH:
        raise errors.InvalidRequest("hello.epoch", f"{hello.epoch} is not 1 to {MAX_EPOCH}")
    if len(hello.sync_id) not in (0, SYNC_ID_BYTES):
        raise errors.InvalidRequest("hello.sync_id", "is neither empty nor 16 bytes long")
    if len(hello.kinds) > MAX_KINDS:
        raise errors.InvalidRequest("hello.kinds", f"are more than {MAX_KINDS}")
    return HelloInfo(
        group_uid=uuid.UUID(bytes=hello.group_uid),
        group=check_label("hello.group", hello.group),
        link=check_label("hello.link", hello.link),
        epoch=hello.epoch,
        durable=from_wire(hello.durable),
        volumes=read_volumes("hello.volumes", hello.volumes),
        log_bytes=hello.log_bytes,
        sync_id=hello.sync_id,
        discard_secondary=hello.discard_secondary,
    )


def read_volumes(field: str, infos: Iterable[replication_pb2.VolumeInfo]) -> tuple[VolumeInfo, ...]:
    """Return volumes of the link, checked."""
    seen: set[int] = set()
    volumes = []
    for info in infos:
        check_label(f"{field}.name", info.name)
        check_volume_size(f"{field}.size_bytes", info.size_bytes)
        if info.volume in seen:
            raise errors.InvalidRequest(field, f"volume {info.volume} is listed twice")
        seen.add(info.volume)
        volumes.append(VolumeInfo(info.volume, info.name, info.size_bytes))
    return tuple(volumes)
