"""`slackwater snapshot restore`, `slackwater restore`: a snapshot on the Primary again."""

import time
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.failure import EXIT_FAILED, EXIT_TIMEOUT, Failure
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2

app = typer.Typer(
    help="Look at and end restores of a Primary's volumes.",
    epilog="Begin one with:  slackwater snapshot restore demo/s1",
    no_args_is_help=True,
)
POLL_SECONDS = 0.2
DONE = primary_pb2.Restore.STATE_DONE
UNDER_WAY = {
    primary_pb2.Restore.STATE_WAITING,
    primary_pb2.Restore.STATE_COPYING,
    primary_pb2.Restore.STATE_VERIFYING,
}
Restore = Annotated[str, typer.Argument(help="For example demo/000001.", metavar="GROUP/RESTORE")]
Second = Annotated[str | None, typer.Argument(metavar="RESTORE", help="Or its name apart.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is over, or at once.")]
Within = Annotated[
    str, typer.Option("--within", help="How long to wait at most.", metavar="DURATION")
]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="restore")


def add_verb_to(noun: typer.Typer) -> None:
    """Add the verb that begins one to the snapshots."""
    command(noun, "restore", "slackwater snapshot restore demo s1 --dry-run")(restore)


def restore(
    session: Session,
    snapshot: Annotated[str, typer.Argument(help="For example demo/s1.", metavar="GROUP/SNAPSHOT")],
    second: Annotated[str | None, typer.Argument(metavar="SNAPSHOT", help="Or its name.")] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option("--volume", help="Only this one; may be repeated.", metavar="VOLUME"),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option("--link", help="To the Secondary that has it; the only one without."),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    wait: Wait = True,
    within: Within = "24h",
) -> None:
    """Give the Primary's volumes the content of a snapshot; says first what is overwritten.

    They are closed to everybody else meanwhile. Every Secondary follows by itself.
    """
    name = words.child_name(snapshot, second, "snapshots")
    group, _ = words.split_child(name)
    patience = words.parse_duration(within, "--within")
    request = primary_pb2.CreateRestoreRequest(
        snapshot=name,
        link=f"{group}/links/{words.last(link)}" if link else "",
        volumes=volume or [],
        validate_only=True,
    )
    hint = f"slackwater snapshot list {words.last(group)}"
    rpc = session.primary.CreateRestore
    answer = session.call("primary", rpc, request, hint=hint)
    if answer.restore.left_volumes and not session.screen.is_json:
        session.screen.note(f"left as they are: {words.listed(answer.restore.left_volumes)}")
    what = f"what the volumes of {words.last(group)} hold now"
    if not confirm(session, list(answer.losses), what, yes, dry_run):
        return
    request.validate_only = False
    made = session.call("primary", rpc, request, hint=hint).restore
    if not wait:
        _show(session, made)
        session.screen.follow(f"slackwater restore get {_short(made)}")
        return
    _show(session, _follow(session, made, patience))


@command(app, "list", "slackwater restore list demo")
def list_restores(session: Session, group: Group) -> None:
    """List the restores of a group, the oldest first."""
    request = primary_pb2.ListRestoresRequest(group=words.group_name(group))
    restores = session.pages("primary", session.primary.ListRestores, request, "restores")
    session.screen.listing(
        "restores",
        restores,
        ("name", "state", "snapshot", "volumes", "compared", "written", "began"),
        [
            (
                words.last(row.name),
                state(row),
                words.last(row.snapshot),
                words.listed(row.volumes),
                words.percent(row.done_bytes, row.total_bytes),
                words.size(row.written_bytes),
                words.moment(row.create_time),
            )
            for row in restores
        ],
        f"no restores; begin one: slackwater snapshot restore {words.last(group)}/SNAPSHOT",
    )


@command(app, "get", "slackwater restore get demo 000001")
def get(session: Session, restore: Restore, second: Second = None) -> None:
    """Show one restore."""
    _show(session, _one(session, words.child_name(restore, second, "restores")))


@command(app, "wait", "slackwater restore wait demo 000001")
def wait_for(
    session: Session, restore: Restore, second: Second = None, within: Within = "24h"
) -> None:
    """Wait until a restore is over; 0 if the volumes are as the snapshot is."""
    patience = words.parse_duration(within, "--within")
    found = _one(session, words.child_name(restore, second, "restores"))
    _show(session, _follow(session, found, patience))


@command(app, "cancel", "slackwater restore cancel demo 000001")
def cancel(
    session: Session,
    restore: Restore,
    second: Second = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the volumes are then a mixture; says so first.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """End a restore that is under way, and let its volumes be written to again."""
    name = words.child_name(restore, second, "restores")
    request = primary_pb2.CancelRestoreRequest(name=name, validate_only=True, force=force)
    hint = f"slackwater restore list {words.last(words.split_child(name)[0])}"
    answer = session.call("primary", session.primary.CancelRestore, request, hint=hint)
    if not confirm(session, list(answer.losses), f"restore {words.last(name)}", yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("primary", session.primary.CancelRestore, request, hint=hint)
    _show(session, answer.restore)


def state(row: primary_pb2.Restore) -> str:
    """Its state, as one word."""
    return words.word(primary_pb2.Restore.State.Name(row.state), "STATE_")


def progress(row: primary_pb2.Restore) -> str:
    """How far it is, in one line."""
    percent = words.percent(row.done_bytes, row.total_bytes)
    return (
        f"{words.last(row.name)} from {words.last(row.snapshot)}: {state(row)}, {percent} compared"
    )


def _short(row: primary_pb2.Restore) -> str:
    parts = row.name.split("/")
    return f"{parts[1]}/{parts[3]}"


def _one(session: Session, name: str) -> primary_pb2.Restore:
    request = primary_pb2.GetRestoreRequest(name=name)
    hint = f"slackwater restore list {words.last(words.split_child(name)[0])}"
    return session.call("primary", session.primary.GetRestore, request, hint=hint).restore


def _follow(session: Session, row: primary_pb2.Restore, patience: float) -> primary_pb2.Restore:
    """Wait until it is over, and say meanwhile how far it is."""
    deadline = time.monotonic() + patience
    said = ""
    while row.state in UNDER_WAY:
        if time.monotonic() >= deadline:
            raise Failure(
                f"restore {_short(row)} is {state(row)} after {words.seconds(patience)}",
                EXIT_TIMEOUT,
                "DEADLINE_EXCEEDED",
                next_step=f"slackwater restore wait {_short(row)}",
            )
        percent = words.percent(row.done_bytes, row.total_bytes)
        sentence = f"{state(row)}: {row.state_reason or f'{percent} compared'}"
        if sentence != said and not session.screen.is_json:
            session.screen.note(sentence)
            said = sentence
        time.sleep(POLL_SECONDS)
        row = _one(session, row.name)
    if row.state != DONE:
        raise Failure(
            f"restore {_short(row)} is {state(row)}",
            EXIT_FAILED,
            "NOT_RESTORED",
            next_step=f"slackwater restore get {_short(row)}",
        )
    return row


def _show(session: Session, row: primary_pb2.Restore) -> None:
    session.screen.resource(
        row,
        [
            ("name", row.name),
            ("state", state(row)),
            ("reason", row.state_reason),
            ("snapshot", row.snapshot),
            ("link", row.link),
            ("volumes", words.listed(row.volumes)),
            ("left as they are", words.listed(row.left_volumes)),
            ("may differ", words.size(row.total_bytes)),
            ("compared", words.percent(row.done_bytes, row.total_bytes)),
            ("written", words.size(row.written_bytes)),
            ("began", words.moment(row.create_time)),
            ("ended", words.moment(row.end_time) if row.HasField("end_time") else ""),
            ("sha256", row.sha256),
        ],
    )
