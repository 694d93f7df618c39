"""`slackwater snapshot`: points of a replica that stay, through the snapshot service."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands import check, kinds, restore, snapshot_clone, snapshot_diff
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.tasks import shown
from slackwater.cli.failure import EXIT_TIMEOUT, Failure, not_found, usage
from slackwater.cli.session import Session
from slackwater.v1 import resources_pb2, secondary_pb2, snapshot_pb2

MAX_WAIT_SECONDS = 86_400.0
POLL_SECONDS = 0.2
app = typer.Typer(help="Take, list, export and remove snapshots of replicas.", no_args_is_help=True)
Snapshot = Annotated[str, typer.Argument(help="For example demo/s1.", metavar="GROUP/SNAPSHOT")]
Second = Annotated[str | None, typer.Argument(metavar="SNAPSHOT", help="Or its name apart.")]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    snapshot_clone.add_to(app)
    snapshot_diff.add_to(app)
    restore.add_verb_to(app)
    check.add_verb_to(app)
    root.add_typer(app, name="snapshot")


@command(app, "create", "slackwater snapshot create demo s1")
def create(
    session: Session,
    group: Annotated[str, typer.Argument(help="The group.", metavar="GROUP")],
    snapshot: Annotated[
        str | None,
        typer.Argument(help="Its name; made from the time without.", metavar="SNAPSHOT"),
    ] = None,
    at_next: Annotated[
        str | None,
        typer.Option(
            "--at-next", help="Not now: at the next message of this application.", metavar="APP"
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="Name it PREFIX-<UTC time>.", metavar="PREFIX"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Leave this volume out; may be repeated.", metavar="VOLUME"),
    ] = None,
    within: Annotated[
        str, typer.Option("--within", help="How long to wait for that message.", metavar="DURATION")
    ] = "10m",
    kind: kinds.Kind = "space-optimized",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when it is done, or at once.")
    ] = True,
) -> None:
    """Take a snapshot: of where the replica stands, if it is frozen exactly at the message."""
    if snapshot is None and "/" in group.removeprefix("groups/"):
        owner, snapshot = words.split_child(words.child_name(group, None, "snapshots"))
    else:
        owner = words.group_name(group)
    if prefix is not None:
        if snapshot is not None:
            raise usage("--prefix: the snapshot has a name already", "leave one out", "snapshot_id")
        snapshot = f"{prefix}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    request = snapshot_pb2.StartSnapshotRequest(
        group=owner, snapshot_id=snapshot or "", exclude_volumes=exclude or []
    )
    request.kind = kinds.parse(kind)
    patience = 0.0
    if at_next is not None:
        patience = words.parse_duration(within, "--within")
        if not 0 < patience <= MAX_WAIT_SECONDS:
            raise usage("--within: more than 0, at most 24h", "--within 10m", "wait_timeout")
        request.at_next_message.application = at_next
        request.at_next_message.wait_timeout.CopyFrom(words.as_duration(patience))
    else:
        request.now.SetInParent()
    run = session.call(
        "snapshot",
        session.snapshot.StartSnapshot,
        request,
        hint=f"slackwater snapshot list {words.last(owner)}",
    ).run
    if wait:
        run = _follow(session, run, patience + 120.0)
    shown.show_run(session, run)
    shown.refuse_failed(run)
    session.screen.follow(
        f"slackwater snapshot export {words.last(owner)} {words.last(run.snapshot)}"
        if run.snapshot
        else f"slackwater run get {shown.run_word(run.name)}",
    )


@command(app, "list", "slackwater snapshot list demo")
def list_snapshots(session: Session, group: Group) -> None:
    """List the snapshots of a group, as the Secondary has them."""
    snapshots = _all(session, words.group_name(group))
    now = time.time()
    rows = [
        (
            words.last(row.name),
            kinds.shown(row),
            _state(row),
            words.position(row.position),
            shown.grade(row.grade, row.grade_reason),
            shown.confirmed(row),
            words.last(row.message) if row.message else "-",
            words.moment(row.create_time),
            words.age(row.create_time, now),
            _keeps(row),
            "yes" if row.exported else "no",
            "yes" if row.held else "no",
        )
        for row in snapshots
    ]
    session.screen.listing(
        "snapshots",
        snapshots,
        (
            "name",
            "kind",
            "state",
            "position",
            "grade",
            "confirmed",
            "message",
            "made",
            "age",
            "keeps",
            "exported",
            "held",
        ),
        rows,
        f"no snapshots; take one: slackwater snapshot create {group} s1",
    )


@command(app, "get", "slackwater snapshot get demo s1")
def get(session: Session, snapshot: Snapshot, second: Second = None) -> None:
    """Show one snapshot."""
    _show(session, _one(session, words.child_name(snapshot, second, "snapshots")))


@command(app, "wait", "slackwater snapshot wait demo s1 --graded")
def wait(
    session: Session,
    snapshot: Snapshot,
    second: Second = None,
    graded: Annotated[
        bool,
        typer.Option("--graded", help="Also until the outcome of its message is known."),
    ] = False,
    copied: Annotated[
        bool,
        typer.Option("--copied", help="Also until the copy of one of kind full is whole."),
    ] = False,
    within: Annotated[
        str, typer.Option("--within", help="How long at most.", metavar="DURATION")
    ] = "10m",
) -> None:
    """Wait until a snapshot can be used."""
    name = words.child_name(snapshot, second, "snapshots")
    patience = words.parse_duration(within, "--within")
    deadline = time.monotonic() + patience
    while True:
        row = _one(session, name)
        is_ready = row.state == resources_pb2.SNAPSHOT_STATE_READY
        if copied:
            kinds.check_full(row)
        lacks_copy = copied and row.sync_percent < kinds.WHOLE
        if is_ready and not (graded and row.awaits_outcome) and not lacks_copy:
            _show(session, row)
            return
        if time.monotonic() >= deadline:
            lacks = "has no outcome yet" if is_ready else f"is {_state(row)}: {row.state_reason}"
            if is_ready and lacks_copy:
                lacks = f"is copied to {row.sync_percent} %"
            raise Failure(
                f"snapshot {words.last(name)} {lacks}, after {words.seconds(patience)}",
                EXIT_TIMEOUT,
                "DEADLINE_EXCEEDED",
                next_step=f"slackwater replica get {words.last(words.split_child(name)[0])}",
            )
        time.sleep(POLL_SECONDS)


@command(app, "refresh", "slackwater snapshot refresh demo s1 --yes")
def refresh(
    session: Session,
    snapshot: Snapshot,
    second: Second = None,
    at_message: Annotated[
        str,
        typer.Option(
            "--at-message", help="The replica must stand at this message.", metavar="MESSAGE"
        ),
    ] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take a snapshot in the place of the one of that name; says first what would be lost."""
    name = words.child_name(snapshot, second, "snapshots")
    group, _ = words.split_child(name)
    request = snapshot_pb2.SnapshotServiceRefreshSnapshotRequest(name=name, validate_only=True)
    if at_message:
        request.at_message = f"{group}/messages/{words.last(at_message)}"
    hint = _hint(name)
    answer = session.call("snapshot", session.snapshot.RefreshSnapshot, request, hint=hint)
    what = f"what snapshot {words.last(name)} shows now"
    if not confirm(session, list(answer.losses), what, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.RefreshSnapshot, request, hint=hint)
    _show(session, answer.snapshot)


@command(app, "delete", "slackwater snapshot delete demo s1 --yes")
def delete(
    session: Session,
    snapshot: Snapshot,
    second: Second = None,
    force: Annotated[
        bool, typer.Option("--force", help="End its export and clones too; says so first.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a snapshot; says first what would be lost."""
    name = words.child_name(snapshot, second, "snapshots")
    request = snapshot_pb2.SnapshotServiceDeleteSnapshotRequest(
        name=name, validate_only=True, force=force
    )
    hint = _hint(name)
    answer = session.call("snapshot", session.snapshot.DeleteSnapshot, request, hint=hint)
    shown = f"snapshot {words.last(name)}"
    if not confirm(session, list(answer.losses), shown, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.DeleteSnapshot, request, hint=hint)
    session.screen.removed(shown, answer.losses)


@command(app, "export", "slackwater snapshot export demo s1")
def export(session: Session, snapshot: Snapshot, second: Second = None) -> None:
    """Export a snapshot's volumes read-only over NBD."""
    name = words.child_name(snapshot, second, "snapshots")
    request = snapshot_pb2.SnapshotServiceExportSnapshotRequest(name=name)
    answer = session.call("snapshot", session.snapshot.ExportSnapshot, request, hint=_hint(name))
    session.screen.resource(
        answer,
        [
            ("snapshot", answer.snapshot.name),
            ("position", words.position(answer.snapshot.position)),
            ("grade", shown.grade(answer.snapshot.grade, answer.snapshot.grade_reason)),
            *(("nbd", uri) for uri in answer.nbd_uris),
        ],
    )
    if answer.nbd_uris:
        session.screen.follow(f"nbdinfo '{answer.nbd_uris[0]}'")


@command(app, "unexport", "slackwater snapshot unexport demo s1")
def unexport(session: Session, snapshot: Snapshot, second: Second = None) -> None:
    """End the export of a snapshot; connected clients are disconnected."""
    name = words.child_name(snapshot, second, "snapshots")
    request = snapshot_pb2.SnapshotServiceUnexportSnapshotRequest(name=name)
    answer = session.call("snapshot", session.snapshot.UnexportSnapshot, request, hint=_hint(name))
    _show(session, answer.snapshot)


@command(app, "hold", "slackwater snapshot hold demo s1 --note 'until the audit'")
def hold(
    session: Session,
    snapshot: Snapshot,
    second: Second = None,
    note: Annotated[str, typer.Option("--note", help="Why, for people.", metavar="TEXT")] = "",
) -> None:
    """Hold a snapshot: retention passes it by and it cannot be deleted."""
    name = words.child_name(snapshot, second, "snapshots")
    request = secondary_pb2.HoldSnapshotRequest(name=name, note=note)
    answer = session.call("secondary", session.secondary.HoldSnapshot, request, hint=_hint(name))
    _show(session, answer.snapshot)


@command(app, "release", "slackwater snapshot release demo s1")
def release(session: Session, snapshot: Snapshot, second: Second = None) -> None:
    """Take the hold of a snapshot back."""
    name = words.child_name(snapshot, second, "snapshots")
    request = secondary_pb2.ReleaseSnapshotRequest(name=name)
    answer = session.call("secondary", session.secondary.ReleaseSnapshot, request, hint=_hint(name))
    _show(session, answer.snapshot)


def _follow(session: Session, run: snapshot_pb2.Run, seconds: float) -> snapshot_pb2.Run:
    """Wait until a run is over."""
    if run.state in shown.OVER:
        return run
    request = snapshot_pb2.WatchRunRequest(name=run.name)
    told = ""
    for change in session.stream("snapshot", session.snapshot.WatchRun, request, seconds):
        run = change.run
        step = run.steps[-1].step if run.steps else ""
        if session.screen.is_terminal and step != told and run.state not in shown.OVER:
            session.screen.note(f"{words.last(run.name)}: {shown.state(run.state)} {step}")
            told = step
    return run


def _all(session: Session, group: str) -> list[resources_pb2.Snapshot]:
    request = snapshot_pb2.SnapshotServiceListSnapshotsRequest(group=group)
    return session.pages("snapshot", session.snapshot.ListSnapshots, request, "snapshots")


def _one(session: Session, name: str) -> resources_pb2.Snapshot:
    group, _ = words.split_child(name)
    for row in _all(session, group):
        if row.name == name:
            return row
    raise not_found("snapshot", name, f"slackwater snapshot list {words.last(group)}")


def _state(row: resources_pb2.Snapshot) -> str:
    return words.word(resources_pb2.SnapshotState.Name(row.state), "SNAPSHOT_STATE_")


def _keeps(row: resources_pb2.Snapshot) -> str:
    """The bytes it holds apart from the replica, of all its volumes."""
    return words.size(sum(volume.preserved_bytes for volume in row.volumes))


def _hint(name: str) -> str:
    return f"slackwater snapshot list {words.last(words.split_child(name)[0])}"


def _show(session: Session, row: resources_pb2.Snapshot) -> None:
    session.screen.resource(
        row,
        [
            ("name", row.name),
            ("kind", kinds.shown(row)),
            ("state", _state(row)),
            ("reason", row.state_reason),
            ("uid", row.uid),
            ("position", words.position(row.position)),
            ("grade", shown.grade(row.grade, row.grade_reason)),
            ("confirmed", shown.confirmed(row)),
            ("message", row.message),
            *_evidence(row),
            ("made", f"{words.moment(row.create_time)}, in {words.duration(row.create_duration)}"),
            ("age", words.age(row.create_time, time.time())),
            ("keeps", _keeps(row)),
            *(
                (
                    f"volume {volume.volume}",
                    f"{words.size(volume.size_bytes)}, keeps {words.size(volume.preserved_bytes)}"
                    + (f", NBD {volume.export_name}" if volume.export_name else ""),
                )
                for volume in row.volumes
            ),
            ("exported", "yes" if row.exported else "no"),
            ("held", (row.hold_note or "yes") if row.held else "no"),
            ("clones", ", ".join(words.last(clone) for clone in row.clones)),
            *(
                ("checked", f"{check.latest([found])}, {words.moment(found.start_time)}")
                for found in row.checks
            ),
        ],
    )


def _evidence(row: resources_pb2.Snapshot) -> list[tuple[str, str]]:
    """What the grade rests on."""
    return [
        ("fence held for", words.duration(row.fence_held) if row.HasField("fence_held") else ""),
        ("frozen before", words.duration(row.frozen_for) if row.HasField("frozen_for") else ""),
        ("outcome", "to come: the grade may rise" if row.awaits_outcome else ""),
        ("evidence", row.judgement.evidence),
        *(
            (
                f"quiesced {report.application}",
                f"{report.kind}, held {words.seconds(report.held_seconds)},"
                f" {'unbroken' if report.unbroken else report.problem or 'broken'}",
            )
            for report in row.judgement.reports
        ),
    ]
