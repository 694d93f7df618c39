"""`slackwater snapshot diff`: what may differ between two snapshots."""

from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.failure import usage
from slackwater.cli.session import Session
from slackwater.v1 import snapshot_pb2

_PATIENCE_SECONDS = 3600.0


def add_to(noun: typer.Typer) -> None:
    """Add the verb."""
    command(noun, "diff", "slackwater snapshot diff demo s1 s2")(diff)


def diff(
    session: Session,
    group: Group,
    older: Annotated[str | None, typer.Argument(metavar="OLDER", help="A snapshot.")] = None,
    newer: Annotated[str | None, typer.Argument(metavar="NEWER", help="A newer one.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="What changed since then until now.", metavar="SNAPSHOT"),
    ] = None,
    allocated: Annotated[
        str | None,
        typer.Option("--allocated", help="Everything allocated in it.", metavar="SNAPSHOT"),
    ] = None,
    volume: Annotated[
        str, typer.Option("--volume", help="Only this one; all without.", metavar="VOLUME")
    ] = "",
) -> None:
    """List the ranges that differ, or may, between two snapshots; none that does is left out."""
    pairs = [(older, newer), (since, None), (None, allocated)]
    asked = [pair for pair in pairs if any(pair)]
    if len(asked) != 1 or (asked[0] == (older, newer) and not newer and not since):
        raise usage(
            "name two snapshots, or one with --since or --allocated",
            f"slackwater snapshot diff {group} s1 s2",
        )
    owner = words.group_name(group)
    names = [f"{owner}/snapshots/{words.last(name)}" if name else "" for name in asked[0]]
    request = snapshot_pb2.SnapshotServiceDiffSnapshotsRequest(
        older=names[0], newer=names[1], volume=volume
    )
    rpc = session.snapshot.DiffSnapshots
    ranges = [
        one
        for part in session.stream("snapshot", rpc, request, _PATIENCE_SECONDS)
        for one in part.ranges
    ]
    session.screen.listing(
        "ranges",
        ranges,
        ("volume", "offset", "length", "zero"),
        [
            (one.volume, str(one.offset), str(one.length), "yes" if one.zero else "no")
            for one in ranges
        ],
        "nothing differs",
    )
