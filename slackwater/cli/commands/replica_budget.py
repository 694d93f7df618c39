"""`slackwater replica budget`: how many bytes the snapshots of a replica may keep."""

import enum
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.failure import usage
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, resources_pb2, secondary_pb2

Budget = resources_pb2.SnapshotBudget


class AtLimit(enum.StrEnum):
    """What is done when the budget is spent."""

    HOLD_APPLY = "hold-apply"
    EXPIRE = "expire-oldest-unheld"


_WIRE = {
    AtLimit.HOLD_APPLY: Budget.AT_LIMIT_HOLD_APPLY,
    AtLimit.EXPIRE: Budget.AT_LIMIT_EXPIRE_OLDEST_UNHELD,
}


def add_to(noun: typer.Typer) -> None:
    """Add the verbs."""
    example = "slackwater replica budget demo --bytes 20GiB --soft 80 --at-limit hold-apply"
    command(noun, "budget", example)(budget)
    command(noun, "expired", "slackwater replica expired demo")(expired)


def budget(
    session: Session,
    group: Group,
    size: Annotated[str | None, typer.Option("--bytes", help="The limit.", metavar="SIZE")] = None,
    soft: Annotated[
        str | None,
        typer.Option("--soft", help="From here on no new snapshot; of the limit. [80%]"),
    ] = None,
    at_limit: Annotated[
        AtLimit | None, typer.Option(help="What is done when it is spent. [hold-apply]")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="No limit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say where the use would be, change nothing.")
    ] = False,
) -> None:
    """Show, set or lift the limit of the bytes that a replica's snapshots keep.

    What is not given stays as it is.
    """
    name = words.group_name(group)
    now = session.call(
        "secondary",
        session.secondary.GetReplica,
        secondary_pb2.GetReplicaRequest(name=name),
        hint="slackwater replica list",
    ).replica
    changes = size is not None or soft is not None or at_limit is not None
    if not changes and not none:
        _show(session, now.snapshot_budget if now.HasField("snapshot_budget") else None, now)
        return
    if none and changes:
        raise usage("--none goes with no other option", "leave one out", "--none")
    request = secondary_pb2.SetSnapshotBudgetRequest(group=name, validate_only=dry_run)
    if not none:
        if size is None and not now.HasField("snapshot_budget"):
            raise usage("there is no budget to change", "give --bytes too", "--bytes")
        request.budget.CopyFrom(_wanted(now.snapshot_budget, size, soft, at_limit))
    answer = session.call("secondary", session.secondary.SetSnapshotBudget, request)
    _show(session, answer.budget if answer.HasField("budget") else None, now)


def _wanted(
    now: resources_pb2.SnapshotBudget,
    size: str | None,
    soft: str | None,
    at_limit: AtLimit | None,
) -> resources_pb2.SnapshotBudget:
    wanted = Budget(
        limit_bytes=now.limit_bytes, soft_percent=now.soft_percent, at_limit=now.at_limit
    )
    if size is not None:
        wanted.limit_bytes = max(0, words.parse_size(size, "--bytes"))
    if soft is not None:
        text = soft.removesuffix("%")
        if not text.isdecimal() or not 1 <= int(text) <= 100:
            raise usage(f"--soft: {soft!r} is not from 1% to 100%", "for example 80%", "--soft")
        wanted.soft_percent = int(text)
    if at_limit is not None:
        wanted.at_limit = _WIRE[at_limit]
    return wanted


def _show(
    session: Session, row: resources_pb2.SnapshotBudget | None, replica: resources_pb2.Replica
) -> None:
    if row is None:
        session.screen.summary(
            {"snapshotBytes": str(replica.snapshot_bytes)},
            f"no limit; snapshots of {words.last(replica.name)} keep"
            f" {words.size(replica.snapshot_bytes)}",
        )
        return
    policy = Budget.AtLimit.Name(row.at_limit).removeprefix("AT_LIMIT_").lower()
    session.screen.resource(
        row,
        [
            ("limit", words.size(row.limit_bytes)),
            ("soft mark", f"{row.soft_percent}%"),
            ("at limit", policy.replace("_", "-")),
            ("used", f"{words.size(row.used_bytes)}, {_percent(row)}"),
            ("state", words.word(Budget.State.Name(row.state), "STATE_")),
            ("spent in", words.duration(row.exhausted_in) if row.HasField("exhausted_in") else ""),
            ("expired", str(row.expired_total)),
        ],
    )


def _percent(row: resources_pb2.SnapshotBudget) -> str:
    return words.percent(row.used_bytes, row.limit_bytes)


def expired(session: Session, group: Group) -> None:
    """List the snapshots that the budget took, the latest first."""
    request = secondary_pb2.ListExpiredSnapshotsRequest(group=words.group_name(group))
    rows = session.pages("secondary", session.secondary.ListExpiredSnapshots, request, "snapshots")
    session.screen.listing(
        "snapshots",
        rows,
        ("name", "position", "grade", "made", "expired", "kept"),
        [
            (
                words.last(row.name),
                row.position,
                words.word(common_pb2.SnapshotGrade.Name(row.grade), "SNAPSHOT_GRADE_").lower(),
                words.moment(row.create_time),
                words.moment(row.expire_time),
                words.size(row.kept_bytes),
            )
            for row in rows
        ],
        "the budget took no snapshot",
    )
