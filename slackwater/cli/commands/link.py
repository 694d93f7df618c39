"""`slackwater link`: the connections of a group to its Secondaries."""

import enum
import time
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.failure import usage
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, primary_pb2, resources_pb2

app = typer.Typer(
    help="Attach, look at, hold and detach Secondaries (on the Primary).", no_args_is_help=True
)
Link = Annotated[str, typer.Argument(help="For example demo/site-b.", metavar="GROUP/LINK")]
Second = Annotated[str | None, typer.Argument(metavar="LINK", help="Or the link apart.")]


class Mode(enum.StrEnum):
    """How a link counts when writes are answered."""

    ASYNCHRONOUS = "asynchronous"
    SYNCHRONOUS_OVERRIDE = "synchronous-override"
    SYNCHRONOUS_FAIL = "synchronous-fail"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="link")


def state(link: resources_pb2.Link) -> str:
    """Its state, as one word, with the progress of a sync."""
    word = words.word(common_pb2.LinkState.Name(link.state), "LINK_STATE_")
    if link.HasField("sync") and link.sync.total_bytes:
        word += f" {words.percent(link.sync.done_bytes, link.sync.total_bytes)}"
    return word


def replica_state(value: common_pb2.ReplicaState.ValueType) -> str:
    """The state of a replica, as one word."""
    return words.word(common_pb2.ReplicaState.Name(value), "REPLICA_STATE_")


def create(
    session: Session,
    link: Link,
    second: Second = None,
    *,
    endpoint: Annotated[
        str,
        typer.Option("--endpoint", help="gRPC address of the Secondary.", metavar="HOST:PORT"),
    ],
    mode: Annotated[
        Mode, typer.Option(help="Whether writes wait for it; asynchronous only in this release.")
    ] = Mode.ASYNCHRONOUS,
) -> None:
    """Attach a Secondary and begin to replicate; it makes its replica by itself."""
    name = words.child_name(link, second, "links")
    group, link_id = words.split_child(name)
    request = primary_pb2.CreateLinkRequest(
        group=group, link_id=link_id, endpoint=endpoint, mode=_mode(mode)
    )
    answer = session.call(
        "primary",
        session.primary.CreateLink,
        request,
        hint=f"slackwater link list {words.last(group)}",
    )
    _show(session, answer.link)
    session.screen.done(f"link {words.last(group)}/{link_id} is attached", "slackwater status")


command(app, "create", "slackwater link create demo/site-b --endpoint 127.0.0.1:7461")(create)
command(app, "attach", "slackwater link attach demo/site-b --endpoint 127.0.0.1:7461", hidden=True)(
    create
)


@command(app, "list", "slackwater link list demo")
def list_links(session: Session, group: Group) -> None:
    """List the links of a group with their state and lag."""
    request = primary_pb2.ListLinksRequest(group=words.group_name(group))
    links = session.pages("primary", session.primary.ListLinks, request, "links")
    now = time.time()
    rows = [
        (
            words.last(link.name),
            link.endpoint,
            state(link),
            replica_state(link.replica_state),
            words.size(link.lag_bytes),
            words.duration(link.lag),
            words.age(link.heard_time, now),
        )
        for link in links
    ]
    session.screen.listing(
        "links",
        links,
        ("name", "endpoint", "state", "replica", "lag", "behind", "heard"),
        rows,
        f"no links; attach one: slackwater link create {words.last(group)}/site-b"
        " --endpoint HOST:PORT",
    )


@command(app, "get", "slackwater link get demo/site-b")
def get(session: Session, link: Link, second: Second = None) -> None:
    """Show one link."""
    name = words.child_name(link, second, "links")
    request = primary_pb2.GetLinkRequest(name=name)
    _show(
        session,
        session.call("primary", session.primary.GetLink, request, hint=_hint(name)).link,
    )


@command(app, "update", "slackwater link update demo/site-b --pause")
def update(
    session: Session,
    link: Link,
    second: Second = None,
    pause: Annotated[
        bool | None, typer.Option("--pause/--resume", help="Hold the link, or let it go on.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Leave FAILED: connect again.")] = False,
    discard_secondary: Annotated[
        bool,
        typer.Option(
            "--discard-secondary",
            help="Leave DIVERGED: give the Secondary's own history up (a snapshot of it is kept).",
        ),
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="A new address of the Secondary.", metavar="HOST:PORT"),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Whether writes wait for it; asynchronous only in this release."),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Hold a link, let it go on, or change it."""
    name = words.child_name(link, second, "links")
    request = primary_pb2.UpdateLinkRequest(
        name=name,
        paused=pause,
        retry=retry,
        discard_secondary=discard_secondary,
        endpoint=endpoint,
        mode=None if mode is None else _mode(mode),
    )
    if pause is None and not (retry or discard_secondary or endpoint or mode):
        raise usage(
            "nothing to change",
            f"slackwater link update {link} --pause (or --resume, --retry, --endpoint, --mode)",
        )
    if discard_secondary or dry_run:
        request.validate_only = True
        answer = session.call("primary", session.primary.UpdateLink, request, hint=_hint(name))
        if not confirm(session, list(answer.losses), "the Secondary's own history", yes, dry_run):
            return
        request.validate_only = False
    answer = session.call("primary", session.primary.UpdateLink, request, hint=_hint(name))
    _show(session, answer.link)


@command(app, "pause", "slackwater link pause demo/site-b", hidden=True)
def pause_link(session: Session, link: Link, second: Second = None) -> None:
    """Hold a link; the log is kept for it as long as there is room."""
    _pause(session, words.child_name(link, second, "links"), paused=True)


@command(app, "resume", "slackwater link resume demo/site-b", hidden=True)
def resume_link(session: Session, link: Link, second: Second = None) -> None:
    """Let a held link go on."""
    _pause(session, words.child_name(link, second, "links"), paused=False)


def delete(
    session: Session, link: Link, second: Second = None, yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Detach a Secondary; its replica stays where it is."""
    name = words.child_name(link, second, "links")
    request = primary_pb2.DeleteLinkRequest(name=name, validate_only=True)
    answer = session.call("primary", session.primary.DeleteLink, request, hint=_hint(name))
    if not confirm(session, list(answer.losses), f"link {words.last(name)}", yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("primary", session.primary.DeleteLink, request, hint=_hint(name))
    session.screen.removed(f"link {words.last(name)}", answer.losses)


command(app, "delete", "slackwater link delete demo/site-b --yes")(delete)
command(app, "detach", "slackwater link detach demo/site-b --yes", hidden=True)(delete)


def _pause(session: Session, name: str, *, paused: bool) -> None:
    request = primary_pb2.UpdateLinkRequest(name=name, paused=paused)
    answer = session.call("primary", session.primary.UpdateLink, request, hint=_hint(name))
    _show(session, answer.link)


def _hint(name: str) -> str:
    return f"slackwater link list {words.last(words.split_child(name)[0])}"


def _mode(mode: Mode) -> resources_pb2.LinkMode.ValueType:
    return resources_pb2.LinkMode.Value(f"LINK_MODE_{mode.name}")


def _show(session: Session, link: resources_pb2.Link) -> None:
    mode = words.word(resources_pb2.LinkMode.Name(link.mode), "LINK_MODE_")
    log = link.secondary_log
    rows = [
        ("name", link.name),
        ("endpoint", link.endpoint),
        ("mode", mode.lower().replace("_", "-")),
        ("state", state(link)),
        ("reason", link.state_reason),
        ("replica", replica_state(link.replica_state)),
        ("acked", words.position(link.acked)),
        ("applied", str(link.applied_lsn)),
        ("lag", f"{words.size(link.lag_bytes)}, {words.duration(link.lag)}"),
        ("apply lag", words.duration(link.apply_lag)),
        ("its log", f"{words.percent(log.used_bytes, log.capacity_bytes)} used"),
        ("heard", words.age(link.heard_time, time.time())),
    ]
    if link.HasField("diverged_secondary"):
        rows.append(("secondary ends", words.position(link.diverged_secondary)))
    session.screen.resource(link, rows)
