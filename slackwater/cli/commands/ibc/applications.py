"""`slackwater ibc register|unregister|applications`: the names under which both sides meet."""

import enum
import time
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.ibc.arguments import Application
from slackwater.cli.commands.ibc.overview import name_rows
from slackwater.cli.failure import EXIT_NOT_FOUND, Failure
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2, secondary_pb2

POLL_SECONDS = 0.1


class Side(enum.StrEnum):
    """Where a name is registered."""

    BOTH = "both"
    PRIMARY = "primary"
    SECONDARY = "secondary"

    def covers(self, side: "Side") -> bool:
        """Whether `side` is meant."""
        return self in (Side.BOTH, side)


SideOption = Annotated[Side, typer.Option(help="On which side.")]


def add_to(noun: typer.Typer) -> None:
    """Add the verbs to `ibc`."""
    command(noun, "register", "slackwater ibc register demo backup")(register)
    command(noun, "unregister", "slackwater ibc unregister demo backup")(unregister)
    command(noun, "applications", "slackwater ibc applications demo")(applications)


def register(
    session: Session,
    group: Group,
    application: Application,
    side: SideOption = Side.BOTH,
    wait: Annotated[
        str,
        typer.Option("--wait", help="How long the replica may take to appear.", metavar="DURATION"),
    ] = "15s",
) -> None:
    """Register a name, on both sides unless told otherwise; it stays over restarts."""
    name = words.group_name(group)
    patience = words.parse_duration(wait, "--wait")
    done: dict[str, resources_pb2.Application] = {}
    if side.covers(Side.PRIMARY):
        done["primary"] = register_on_primary(session, name, application)
    if side.covers(Side.SECONDARY):
        done["secondary"] = register_on_secondary(session, name, application, patience)
    if session.screen.is_json:
        session.screen.json({where: as_dict(row) for where, row in done.items()})
        return
    session.screen.done(
        f"{application} is registered on the {' and the '.join(done)}",
        f"slackwater ibc send {words.last(name)} {application} --fence",
    )


def unregister(
    session: Session, group: Group, application: Application, side: SideOption = Side.BOTH
) -> None:
    """Take a name back; refused while a message of it is pending."""
    name = words.group_name(group)
    done = []
    if side.covers(Side.PRIMARY):
        unregister_on_primary(session, name, application)
        done.append("primary")
    if side.covers(Side.SECONDARY):
        unregister_on_secondary(session, name, application)
        done.append("secondary")
    if session.screen.is_json:
        session.screen.json({where: {} for where in done})
        return
    session.screen.done(f"{application} is no longer registered on the {' and the '.join(done)}")


def applications(session: Session, group: Group, side: SideOption = Side.BOTH) -> None:
    """List the registered names, side by side."""
    name = words.group_name(group)
    found: dict[str, list[resources_pb2.Application]] = {}
    if side.covers(Side.PRIMARY):
        request = primary_pb2.PrimaryServiceListApplicationsRequest(group=name)
        rpc = session.primary.ListApplications
        found["primary"] = session.pages("primary", rpc, request, "applications")
    if side.covers(Side.SECONDARY):
        there = secondary_pb2.SecondaryServiceListApplicationsRequest(group=name)
        rpc_there = session.secondary.ListApplications
        found["secondary"] = session.pages("secondary", rpc_there, there, "applications")
    if session.screen.is_json:
        session.screen.json(
            {where: [as_dict(row) for row in rows] for where, rows in found.items()}
        )
        return
    rows = name_rows(found)
    if not rows:
        session.screen.note(f"none; slackwater ibc register {words.last(name)} backup")
        return
    session.screen.table(rows[0], rows[1:])


def is_on_primary(session: Session, group: str, application: str) -> bool:
    """True if the Primary has the name."""
    request = primary_pb2.PrimaryServiceListApplicationsRequest(group=group)
    rows = session.pages("primary", session.primary.ListApplications, request, "applications")
    return any(row.application == application for row in rows)


def is_on_secondary(session: Session, group: str, application: str) -> bool:
    """True if the Secondary has the name."""
    request = secondary_pb2.SecondaryServiceListApplicationsRequest(group=group)
    rows = session.pages("secondary", session.secondary.ListApplications, request, "applications")
    return any(row.application == application for row in rows)


def register_on_primary(
    session: Session, group: str, application: str
) -> resources_pb2.Application:
    """Register on the Primary."""
    request = primary_pb2.PrimaryServiceRegisterApplicationRequest(
        group=group, application=application
    )
    return session.call(
        "primary", session.primary.RegisterApplication, request, hint="slackwater group list"
    ).application


def unregister_on_primary(session: Session, group: str, application: str) -> None:
    """Take the name back on the Primary."""
    request = primary_pb2.PrimaryServiceUnregisterApplicationRequest(
        group=group, application=application
    )
    rpc = session.primary.UnregisterApplication
    session.call("primary", rpc, request, hint=_pending(group))


def unregister_on_secondary(session: Session, group: str, application: str) -> None:
    """Take the name back on the Secondary."""
    request = secondary_pb2.SecondaryServiceUnregisterApplicationRequest(
        group=group, application=application
    )
    rpc = session.secondary.UnregisterApplication
    session.call("secondary", rpc, request, hint=_pending(group))


def _pending(group: str) -> str:
    return f"slackwater ibc status {words.last(group)} --pending"


def register_on_secondary(
    session: Session, group: str, application: str, patience: float
) -> resources_pb2.Application:
    """Register on the Secondary; right after a link was made, its replica is still to come."""
    request = secondary_pb2.SecondaryServiceRegisterApplicationRequest(
        group=group, application=application
    )
    deadline = time.monotonic() + patience
    while True:
        try:
            return session.call(
                "secondary",
                session.secondary.RegisterApplication,
                request,
                hint=f"slackwater link list {words.last(group)}",
            ).application
        except Failure as failure:
            if failure.exit_code != EXIT_NOT_FOUND or time.monotonic() >= deadline:
                raise
            time.sleep(POLL_SECONDS)
