"""What names and sizes may look like, checked once at the edge.

Every name a person chooses is a DNS label, so that it is also a directory name, an NBD export
name and a metric label without escaping.
"""

import re

from slackwater import errors

SECTOR_BYTES = 512
"""Volumes, and every change of one, are whole sectors."""

MAX_VOLUME_BYTES = 64 << 40
"""Volumes end at 64 TiB."""

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def check_label(field: str, value: str) -> str:
    """Return `value` if it is a DNS label, else raise InvalidRequest naming `field`."""
    if not _LABEL.fullmatch(value):
        raise errors.InvalidRequest(
            field,
            f"{_shown(value)} is not a name",
            "Names are 1 to 63 of a-z, 0-9 and '-', and begin and end with a letter or digit",
        )
    return value


def check_volume_size(field: str, size: int) -> int:
    """Return `size` if a volume may have it: a multiple of 512 from 512 B to 64 TiB."""
    if size <= 0:
        raise errors.InvalidRequest(field, f"{size} is not a positive size")
    if size % SECTOR_BYTES:
        raise errors.InvalidRequest(field, f"{size} is not a multiple of {SECTOR_BYTES}")
    if size > MAX_VOLUME_BYTES:
        raise errors.InvalidRequest(field, f"{size} is more than 64 TiB ({MAX_VOLUME_BYTES})")
    return size


def check_sectors(field: str, value: int) -> None:
    """Raise InvalidRequest unless an offset or a length of a change is whole sectors."""
    if value % SECTOR_BYTES:
        raise errors.InvalidRequest(
            field,
            f"{value} is not a multiple of {SECTOR_BYTES}",
            f"Write whole sectors of {SECTOR_BYTES} bytes; reads may begin and end anywhere",
        )


def parse(field: str, name: str, *collections: str) -> tuple[str, ...]:
    """Return the ids of a resource name such as `groups/g/volumes/v`.

    Args:
        field: The request's field, named in the error.
        name: The resource name.
        collections: The expected collection words in order, for example "groups", "volumes".

    Raises:
        InvalidRequest: The name does not have that shape, or an id is no DNS label.
    """
    parts = name.split("/")
    pattern = "/".join(f"{collection}/<{collection[:-1]}>" for collection in collections)
    if len(parts) != 2 * len(collections) or tuple(parts[::2]) != collections:
        raise errors.InvalidRequest(field, f"{_shown(name)} does not have the form {pattern}")
    return tuple(check_label(field, part) for part in parts[1::2])


def group(field: str, name: str) -> str:
    """Return g of `groups/g`."""
    return parse(field, name, "groups")[0]


def child(field: str, name: str, collection: str) -> tuple[str, str]:
    """Return (g, x) of `groups/g/<collection>/x`."""
    group_id, child_id = parse(field, name, "groups", collection)
    return group_id, child_id


def resource(*pairs: str) -> str:
    """Return the resource name of alternating collections and ids, already checked."""
    assert len(pairs) % 2 == 0, "a resource name is made of pairs"
    return "/".join(pairs)


def _shown(value: str) -> str:
    """Quote a value for an error, bounded."""
    return repr(value if len(value) <= 80 else value[:77] + "...")
