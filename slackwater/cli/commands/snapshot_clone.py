"""`slackwater snapshot clone`: writable copies of snapshots, through the snapshot service."""

from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.session import Session
from slackwater.v1 import resources_pb2, snapshot_pb2

app = typer.Typer(
    help="Make, export and remove writable clones.",
    epilog="Example:  slackwater snapshot clone create demo/s1 c1",
    no_args_is_help=True,
)
Clone = Annotated[str, typer.Argument(help="For example demo/c1.", metavar="GROUP/CLONE")]
Second = Annotated[str | None, typer.Argument(metavar="CLONE", help="Or its name apart.")]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="clone")


@command(app, "create", "slackwater snapshot clone create demo/s1 c1 --export")
def create(
    session: Session,
    source: Annotated[
        str, typer.Argument(help="For example demo/s1.", metavar="GROUP/SNAPSHOT|GROUP/CLONE")
    ],
    clone: Annotated[str, typer.Argument(help="The clone's name.", metavar="CLONE")],
    export_too: Annotated[
        bool, typer.Option("--export", help="Export it over NBD at once.")
    ] = False,
    from_clone: Annotated[
        bool,
        typer.Option("--from-clone", help="The first name is a clone's: copy it as it is now."),
    ] = False,
) -> None:
    """Make a writable clone of a snapshot, which never changes, or of another clone."""
    parent = words.child_name(source, None, "clones" if from_clone else "snapshots")
    group, _ = words.split_child(parent)
    request = snapshot_pb2.SnapshotServiceCreateCloneRequest(clone_id=clone)
    if from_clone:
        request.parent = parent
    else:
        request.snapshot = parent
    noun = "snapshot clone" if from_clone else "snapshot"
    hint = f"slackwater {noun} list {words.last(group)}"
    made = session.call("snapshot", session.snapshot.CreateClone, request, hint=hint).clone
    if export_too:
        _export(session, made.name)
        return
    _show(session, made)
    session.screen.follow(f"slackwater snapshot clone export {words.last(group)} {clone}")


@command(app, "list", "slackwater snapshot clone list demo")
def list_clones(session: Session, group: Group) -> None:
    """List the clones of a group."""
    request = snapshot_pb2.SnapshotServiceListClonesRequest(group=words.group_name(group))
    clones = session.pages("snapshot", session.snapshot.ListClones, request, "clones")
    rows = [
        (
            words.last(row.name),
            _state(row),
            words.last(row.snapshot),
            words.moment(row.create_time),
            words.size(sum(volume.own_bytes for volume in row.volumes)),
            "yes" if row.exported else "no",
        )
        for row in clones
    ]
    session.screen.listing(
        "clones",
        clones,
        ("name", "state", "snapshot", "made", "own", "exported"),
        rows,
        f"no clones; make one: slackwater snapshot clone create {group}/SNAPSHOT c1",
    )


@command(app, "get", "slackwater snapshot clone get demo c1")
def get(session: Session, clone: Clone, second: Second = None) -> None:
    """Show one clone."""
    name = words.child_name(clone, second, "clones")
    request = snapshot_pb2.SnapshotServiceGetCloneRequest(name=name)
    answer = session.call("snapshot", session.snapshot.GetClone, request, hint=_hint(name))
    _show(session, answer.clone)


@command(app, "delete", "slackwater snapshot clone delete demo c1 --yes")
def delete(
    session: Session,
    clone: Clone,
    second: Second = None,
    force: Annotated[
        bool, typer.Option("--force", help="End its export too; says so first.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a clone with all that was written to it; says first what would be lost."""
    name = words.child_name(clone, second, "clones")
    request = snapshot_pb2.SnapshotServiceDeleteCloneRequest(
        name=name, validate_only=True, force=force
    )
    hint = _hint(name)
    answer = session.call("snapshot", session.snapshot.DeleteClone, request, hint=hint)
    what = f"clone {words.last(name)}"
    if not confirm(session, list(answer.losses), what, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.DeleteClone, request, hint=hint)
    session.screen.removed(what, answer.losses)


@command(app, "export", "slackwater snapshot clone export demo c1")
def export(session: Session, clone: Clone, second: Second = None) -> None:
    """Export a clone's volumes over NBD, for reading and writing."""
    _export(session, words.child_name(clone, second, "clones"))


@command(app, "unexport", "slackwater snapshot clone unexport demo c1")
def unexport(session: Session, clone: Clone, second: Second = None) -> None:
    """End the export of a clone; connected clients are disconnected, the clone stays."""
    name = words.child_name(clone, second, "clones")
    request = snapshot_pb2.SnapshotServiceUnexportCloneRequest(name=name)
    answer = session.call("snapshot", session.snapshot.UnexportClone, request, hint=_hint(name))
    _show(session, answer.clone)


def _export(session: Session, name: str) -> None:
    request = snapshot_pb2.SnapshotServiceExportCloneRequest(name=name)
    answer = session.call("snapshot", session.snapshot.ExportClone, request, hint=_hint(name))
    session.screen.resource(
        answer,
        [
            ("clone", answer.clone.name),
            ("snapshot", answer.clone.snapshot),
            *(("nbd", uri) for uri in answer.nbd_uris),
        ],
    )
    if answer.nbd_uris:
        session.screen.follow(f"nbdinfo '{answer.nbd_uris[0]}'")


def _show(session: Session, row: resources_pb2.Clone) -> None:
    session.screen.resource(
        row,
        [
            ("name", row.name),
            ("state", _state(row)),
            ("reason", row.state_reason),
            ("uid", row.uid),
            ("snapshot", row.snapshot),
            ("clone of", row.parent),
            ("made", words.moment(row.create_time)),
            *(
                (
                    f"volume {volume.volume}",
                    f"{words.size(volume.size_bytes)}, {words.size(volume.own_bytes)} its own"
                    + _shared(volume.shared_bytes)
                    + (f", NBD {volume.export_name}" if volume.export_name else ""),
                )
                for volume in row.volumes
            ),
            ("exported", "yes" if row.exported else "no"),
        ],
    )


def _shared(count: int) -> str:
    return f", {words.size(count)} shared with other clones" if count else ""


def _state(row: resources_pb2.Clone) -> str:
    return words.word(resources_pb2.CloneState.Name(row.state), "CLONE_STATE_")


def _hint(name: str) -> str:
    return f"slackwater snapshot clone list {words.last(words.split_child(name)[0])}"
