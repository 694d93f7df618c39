"""`slackwater volume`: the logical disks of a group."""

from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2

app = typer.Typer(help="Make, look at and remove volumes (on the Primary).", no_args_is_help=True)
Volume = Annotated[str, typer.Argument(help="For example demo/data.", metavar="GROUP/VOLUME")]
Second = Annotated[str | None, typer.Argument(metavar="VOLUME", help="Or the volume apart.")]
Size = Annotated[
    str, typer.Option("--size", help="Size, for example 256MiB or 10GiB.", metavar="SIZE")
]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="volume")


@command(app, "create", "slackwater volume create demo/data --size 256MiB")
def create(session: Session, volume: Volume, *, second: Second = None, size: Size) -> None:
    """Make a volume of zeroes; it is there over NBD at once."""
    name = words.child_name(volume, second, "volumes")
    group, volume_id = words.split_child(name)
    request = primary_pb2.CreateVolumeRequest(
        group=group, volume_id=volume_id, size_bytes=words.parse_size(size, "--size")
    )
    answer = session.call(
        "primary",
        session.primary.CreateVolume,
        request,
        hint=f"slackwater volume list {words.last(group)}",
    )
    _show(session, answer.volume)
    session.screen.done(f"volume {words.last(group)}/{volume_id} is made; NBD export name {name}")


@command(app, "list", "slackwater volume list demo")
def list_volumes(session: Session, group: Group) -> None:
    """List the volumes of a group."""
    request = primary_pb2.ListVolumesRequest(group=words.group_name(group))
    volumes = session.pages("primary", session.primary.ListVolumes, request, "volumes")
    rows = [
        (
            words.last(volume.name),
            words.size(volume.size_bytes),
            words.size(volume.allocated_bytes),
            words.moment(volume.create_time),
            volume.name,
        )
        for volume in volumes
    ]
    session.screen.listing(
        "volumes",
        volumes,
        ("name", "size", "allocated", "made", "nbd export"),
        rows,
        f"no volumes; make one: slackwater volume create {words.last(group)}/data --size 1GiB",
    )


@command(app, "get", "slackwater volume get demo/data")
def get(session: Session, volume: Volume, second: Second = None) -> None:
    """Show one volume."""
    name = words.child_name(volume, second, "volumes")
    answer = session.call(
        "primary",
        session.primary.GetVolume,
        primary_pb2.GetVolumeRequest(name=name),
        hint=f"slackwater volume list {words.last(words.split_child(name)[0])}",
    )
    _show(session, answer.volume)


@command(app, "grow", "slackwater volume grow demo/data --size 512MiB")
def grow(session: Session, volume: Volume, *, second: Second = None, size: Size) -> None:
    """Make a volume larger (comes with a later release)."""
    request = primary_pb2.GrowVolumeRequest(
        name=words.child_name(volume, second, "volumes"),
        size_bytes=words.parse_size(size, "--size"),
    )
    _show(session, session.call("primary", session.primary.GrowVolume, request).volume)


@command(app, "delete", "slackwater volume delete demo/data --dry-run")
def delete(
    session: Session,
    volume: Volume,
    second: Second = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a volume, here and on every Secondary; says first what would be lost."""
    name = words.child_name(volume, second, "volumes")
    group = words.last(words.split_child(name)[0])
    hint = f"slackwater volume list {group}"
    request = primary_pb2.DeleteVolumeRequest(name=name, validate_only=True)
    answer = session.call("primary", session.primary.DeleteVolume, request, hint=hint)
    shown = f"volume {group}/{words.last(name)}"
    if not confirm(session, list(answer.losses), shown, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("primary", session.primary.DeleteVolume, request, hint=hint)
    session.screen.removed(shown, answer.losses)


def _show(session: Session, volume: resources_pb2.Volume) -> None:
    session.screen.resource(
        volume,
        [
            ("name", volume.name),
            ("size", words.size(volume.size_bytes)),
            ("allocated", words.size(volume.allocated_bytes)),
            ("made", words.moment(volume.create_time)),
        ],
    )
