"""What the Primary's requests must satisfy, beside the rules of names."""

from collections.abc import Collection
from typing import Any

import grpc

from slackwater import names
from slackwater.errors import InvalidRequest, OutOfRange
from slackwater.group.volume import Volume
from slackwater.runtime.config import split_address
from slackwater.v1 import resources_pb2

Context = grpc.aio.ServicerContext[Any, Any]


def check_known(field: str, value: int, known: Collection[int]) -> None:
    """Raise InvalidRequest if an enumeration has no such value in this release."""
    if value not in known:
        raise InvalidRequest(field, f"{value} is not known to this release", "Look at its values")


def check_change(volume: Volume, field: str, offset: int, length: int) -> None:
    """Raise InvalidRequest or OutOfRange unless a change is whole sectors of a volume.

    Args:
        volume: what is changed.
        field: the field of the request that gives the length.
        offset: first byte.
        length: bytes.
    """
    names.check_sectors("offset", offset)
    names.check_sectors(field, length)
    check_range(volume, offset, length)


def check_range(volume: Volume, offset: int, length: int) -> None:
    """Raise OutOfRange unless a range lies within a volume."""
    if offset + length > volume.size:
        raise OutOfRange(
            "offset",
            f"{offset} + {length} is past the end of volume {volume.name!r} ({volume.size} bytes)",
        )


async def check_mode(mode: int, context: Context) -> None:
    """Refuse a mode of a link that this release does not know or carry."""
    check_known("mode", mode, resources_pb2.LinkMode.values())
    if mode > resources_pb2.LINK_MODE_ASYNCHRONOUS:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "mode: synchronous links come with a later release; leave mode out",
        )


def check_endpoint(endpoint: str) -> None:
    """Raise InvalidRequest unless an endpoint is host:port."""
    try:
        _, port = split_address(endpoint)
    except ValueError as error:
        raise InvalidRequest("endpoint", str(error), "Give host:port") from error
    if not port:
        raise InvalidRequest("endpoint", "has port 0", "Give the port the Secondary listens on")
