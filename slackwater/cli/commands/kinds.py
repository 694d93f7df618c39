"""Kinds of snapshots in words."""

from typing import Annotated, Final

import typer

from slackwater.cli.failure import usage
from slackwater.v1 import resources_pb2

WHOLE: Final = 100
Kind = Annotated[
    str,
    typer.Option(
        "--kind",
        help="space-optimized, or full: a copy is made behind that outlives the volumes.",
        metavar="KIND",
    ),
]
_KINDS: Final = {
    "space-optimized": resources_pb2.SNAPSHOT_KIND_SPACE_OPTIMIZED,
    "full": resources_pb2.SNAPSHOT_KIND_FULL,
}
_WORDS: Final = {number: word for word, number in _KINDS.items()}


def parse(word: str) -> "resources_pb2.SnapshotKind.ValueType":
    """Return the kind a user asks for; `space-optimised` is understood too."""
    wanted = word.replace("optimised", "optimized")
    if wanted == "mirror":
        raise usage(
            "--kind: this release makes no mirrors",
            "--kind full makes a copy that outlives the volumes",
            "kind",
        )
    if wanted not in _KINDS:
        raise usage(f"--kind: {word!r} is no kind", "--kind space-optimized or --kind full", "kind")
    return _KINDS[wanted]


def shown(row: resources_pb2.Snapshot) -> str:
    """Return the kind of a snapshot, and how far its copy is."""
    if row.kind == resources_pb2.SNAPSHOT_KIND_FULL:
        return f"full, {row.sync_percent} %"
    return _WORDS.get(row.kind, "-")


def check_full(row: resources_pb2.Snapshot) -> None:
    """Refuse to wait for a copy that nobody makes."""
    if row.kind != resources_pb2.SNAPSHOT_KIND_FULL:
        raise usage(
            "--copied: the snapshot is not of kind full, no copy of it is made",
            "slackwater snapshot create GROUP --kind full",
            "copied",
        )
