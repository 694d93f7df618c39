"""`slackwater group`: sets of volumes that share one write order, on their Primary."""

import enum
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2

app = typer.Typer(
    help="Make, look at and remove groups of volumes (on the Primary).", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(help="The group, for example demo.", metavar="GROUP")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be lost, do nothing.")]


class Durability(enum.StrEnum):
    """When a write is answered."""

    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="group")


def state(group: resources_pb2.Group) -> str:
    """Its state, as one word."""
    return words.word(resources_pb2.GroupState.Name(group.state), "GROUP_STATE_")


@command(app, "create", "slackwater group create demo --log 1GiB")
def create(
    session: Session,
    group: Annotated[str, typer.Argument(help="A new name, for example demo.", metavar="GROUP")],
    log: Annotated[
        str | None,
        typer.Option(
            "--log", help="Size of its log; the service's default without.", metavar="SIZE"
        ),
    ] = None,
    durability: Annotated[
        Durability, typer.Option(help="When writes are answered.")
    ] = Durability.WRITETHROUGH,
) -> None:
    """Make a group without volumes."""
    name = words.group_name(group)
    request = primary_pb2.CreateGroupRequest(
        group_id=words.last(name),
        log_bytes=max(0, words.parse_size(log, "--log")) if log else 0,
        durability=resources_pb2.Durability.Value(f"DURABILITY_{durability.name}"),
    )
    answer = session.call(
        "primary", session.primary.CreateGroup, request, hint=f"slackwater group get {group}"
    )
    _show(session, answer.group)
    session.screen.done(
        f"group {words.last(name)} is made",
        f"slackwater volume create {words.last(name)}/data --size 1GiB",
    )


@command(app, "list", "slackwater group list")
def list_groups(session: Session) -> None:
    """List the groups of the Primary."""
    groups = session.pages(
        "primary", session.primary.ListGroups, primary_pb2.ListGroupsRequest(), "groups"
    )
    rows = [
        (
            words.last(group.name),
            state(group),
            str(group.epoch),
            words.position(group.durable),
            words.size(group.log_bytes),
            words.moment(group.create_time),
        )
        for group in groups
    ]
    heads = ("name", "state", "epoch", "durable", "log", "made")
    session.screen.listing(
        "groups", groups, heads, rows, "there are no groups; make one: slackwater group create demo"
    )


@command(app, "get", "slackwater group get demo")
def get(session: Session, group: Name) -> None:
    """Show one group."""
    request = primary_pb2.GetGroupRequest(name=words.group_name(group))
    answer = session.call(
        "primary", session.primary.GetGroup, request, hint="slackwater group list"
    )
    _show(session, answer.group)


@command(app, "delete", "slackwater group delete demo --dry-run")
def delete(session: Session, group: Name, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a group with its log and its volumes; says first what would be lost."""
    name = words.group_name(group)
    request = primary_pb2.DeleteGroupRequest(name=name, validate_only=True)
    hint = f"detach its links first: slackwater link list {words.last(name)}"
    answer = session.call("primary", session.primary.DeleteGroup, request, hint=hint)
    if not confirm(session, list(answer.losses), f"group {words.last(name)}", yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("primary", session.primary.DeleteGroup, request, hint=hint)
    session.screen.removed(f"group {words.last(name)}", answer.losses)


def _show(session: Session, group: resources_pb2.Group) -> None:
    durability = resources_pb2.Durability.Name(group.durability)
    session.screen.resource(
        group,
        [
            ("name", group.name),
            ("state", state(group)),
            ("reason", group.state_reason),
            ("uid", group.uid),
            ("epoch", str(group.epoch)),
            ("durable", words.position(group.durable)),
            ("log", words.size(group.log_bytes)),
            ("durability", words.word(durability, "DURABILITY_").lower()),
            ("made", words.moment(group.create_time)),
        ],
    )
