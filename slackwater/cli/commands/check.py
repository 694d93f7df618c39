"""`slackwater check` and `slackwater snapshot check`: named checks, and running one."""

import enum
import time
import uuid
from collections.abc import Sequence
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.failure import EXIT_TIMEOUT, Failure, not_found
from slackwater.cli.session import Session
from slackwater.v1 import resources_pb2, snapshot_pb2

HINT = "slackwater check list"
LOOK_SECONDS = 0.5

app = typer.Typer(
    help="Name checks of snapshots; `slackwater snapshot check` runs one.", no_args_is_help=True
)
Check = Annotated[str, typer.Argument(help="For example fsck.", metavar="CHECK")]


class Kind(enum.StrEnum):
    """What a check does."""

    FILE_SYSTEMS = "file-systems"
    E2FSCK = "e2fsck"
    XFS_REPAIR = "xfs-repair"
    BTRFS_CHECK = "btrfs-check"
    COMMAND = "command"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="check")


def add_verb_to(snapshots: typer.Typer) -> None:
    """Add the verb to the commands of snapshots."""
    command(snapshots, "check", "slackwater snapshot check demo s1 --check fsck")(run)


@command(app, "create", "slackwater check create fsck")
def create(
    session: Session,
    check: Check,
    kind: Annotated[Kind, typer.Option(help="What it does.")] = Kind.FILE_SYSTEMS,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Only for snapshots of this group.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option(help="Look at this volume; more than one may be named.")
    ] = None,
    program: Annotated[
        str, typer.Option(help="For the kind command: a program of the check's directory.")
    ] = "",
    argument: Annotated[list[str] | None, typer.Option(help="Its arguments, one by one.")] = None,
    within: Annotated[
        str, typer.Option("--within", help="How long it may take.", metavar="DURATION")
    ] = "5m",
    replace: Annotated[bool, typer.Option("--replace", help="Replace one that is there.")] = False,
) -> None:
    """Name a check."""
    made = snapshot_pb2.Check(
        name=f"checks/{check}",
        kind=snapshot_pb2.CheckKind.Value(f"CHECK_KIND_{kind.name}"),
        group=words.group_name(group) if group else "",
        volumes=volume,
        command=program,
        arguments=argument,
        timeout=words.as_duration(words.parse_duration(within, "--within")),
    )
    if replace:
        update = snapshot_pb2.UpdateCheckRequest(check=made, request_id=str(uuid.uuid4()))
        _show(session, session.call("snapshot", session.snapshot.UpdateCheck, update).check)
    else:
        request = snapshot_pb2.CreateCheckRequest(check=made, request_id=str(uuid.uuid4()))
        _show(session, session.call("snapshot", session.snapshot.CreateCheck, request).check)
    session.screen.follow(f"slackwater snapshot check GROUP SNAPSHOT --check {check}")


@command(app, "list", "slackwater check list")
def list_checks(session: Session) -> None:
    """List the checks."""
    found = session.pages(
        "snapshot", session.snapshot.ListChecks, snapshot_pb2.ListChecksRequest(), "checks"
    )
    rows = [
        (words.last(row.name), _kind(row), words.last(row.group) or "any", row.source)
        for row in found
    ]
    empty = "no checks; make one: slackwater check create fsck"
    session.screen.listing("checks", found, ("check", "kind", "group", "source"), rows, empty)


@command(app, "get", "slackwater check get fsck")
def get(session: Session, check: Check) -> None:
    """Show one check."""
    request = snapshot_pb2.GetCheckRequest(name=f"checks/{check}")
    _show(session, session.call("snapshot", session.snapshot.GetCheck, request, hint=HINT).check)


@command(app, "delete", "slackwater check delete fsck --yes")
def delete(session: Session, check: Check, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a check; what it found stays with the snapshots."""
    request = snapshot_pb2.DeleteCheckRequest(name=f"checks/{check}", validate_only=True)
    answer = session.call("snapshot", session.snapshot.DeleteCheck, request, hint=HINT)
    if not confirm(session, list(answer.losses), f"check {check}", yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.DeleteCheck, request, hint=HINT)
    session.screen.removed(f"check {check}", answer.losses)


def run(
    session: Session,
    snapshot: Annotated[str, typer.Argument(help="For example demo/s1.", metavar="GROUP/SNAPSHOT")],
    second: Annotated[
        str | None, typer.Argument(metavar="SNAPSHOT", help="Or its name apart.")
    ] = None,
    check: Annotated[str, typer.Option("--check", help="The check.", metavar="CHECK")] = "fsck",
    within: Annotated[
        str, typer.Option("--within", help="How long to wait at most.", metavar="DURATION")
    ] = "10m",
) -> None:
    """Check a snapshot on a temporary clone; the result stays with it."""
    name = words.child_name(snapshot, second, "snapshots")
    patience = words.parse_duration(within, "--within")
    request = snapshot_pb2.RunCheckRequest(
        check=f"checks/{check}", snapshot=name, request_id=str(uuid.uuid4())
    )
    started = session.call("snapshot", session.snapshot.RunCheck, request, hint=HINT).run
    deadline = time.monotonic() + patience
    while True:
        found = _found(session, name, started.id)
        if found is not None:
            _tell(session, found)
            return
        if time.monotonic() >= deadline:
            group, last = words.last(words.split_child(name)[0]), words.last(name)
            raise Failure(
                f"check {check} is not over after {words.seconds(patience)}; it goes on",
                EXIT_TIMEOUT,
                "DEADLINE_EXCEEDED",
                next_step=f"slackwater snapshot get {group} {last}",
            )
        time.sleep(LOOK_SECONDS)


def _found(session: Session, snapshot: str, run_id: str) -> resources_pb2.CheckResult | None:
    """Return the result of a run, once it is there."""
    group, _ = words.split_child(snapshot)
    request = snapshot_pb2.SnapshotServiceListSnapshotsRequest(group=group)
    rows = session.pages("snapshot", session.snapshot.ListSnapshots, request, "snapshots")
    for row in rows:
        if row.name == snapshot:
            return next((found for found in row.checks if found.id == run_id), None)
    raise not_found("snapshot", snapshot, f"slackwater snapshot list {words.last(group)}")


def _tell(session: Session, found: resources_pb2.CheckResult) -> None:
    session.screen.resource(
        found,
        [
            ("check", words.last(found.check)),
            ("verdict", verdict(found)),
            ("reason", found.reason),
            ("took", words.duration(found.took)),
            ("output", found.output.strip()),
        ],
    )
    if found.verdict != resources_pb2.CHECK_VERDICT_PASSED:
        raise Failure(
            f"check {words.last(found.check)} did not pass: {verdict(found)}",
            reason=f"CHECK_{verdict(found)}",
        )


def verdict(found: resources_pb2.CheckResult) -> str:
    """A verdict as a word."""
    return words.word(resources_pb2.CheckVerdict.Name(found.verdict), "CHECK_VERDICT_")


def latest(checks: Sequence[resources_pb2.CheckResult]) -> str:
    """The latest result of a snapshot, for a list."""
    return f"{words.last(checks[0].check)}: {verdict(checks[0])}" if checks else ""


def _kind(row: snapshot_pb2.Check) -> str:
    word = words.word(snapshot_pb2.CheckKind.Name(row.kind), "CHECK_KIND_")
    return word.lower().replace("_", "-")


def _show(session: Session, row: snapshot_pb2.Check) -> None:
    session.screen.resource(
        row,
        [
            ("check", words.last(row.name)),
            ("kind", _kind(row)),
            ("group", words.last(row.group) or "any"),
            ("volumes", ", ".join(row.volumes)),
            ("command", " ".join([row.command, *row.arguments]).strip()),
            ("within", words.duration(row.timeout) if row.HasField("timeout") else "5m"),
            ("source", row.source),
        ],
    )
