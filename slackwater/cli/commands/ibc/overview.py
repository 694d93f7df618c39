"""`slackwater ibc status GROUP`: what both sides know of a group's messages, on one screen."""

import time
from dataclasses import dataclass, field
from typing import Any

import typer

from slackwater.cli import words
from slackwater.cli.commands.ibc import shown
from slackwater.cli.commands.replica import freeze_rows
from slackwater.cli.failure import EXIT_NOT_FOUND, EXIT_NOT_REACHABLE, EXIT_TIMEOUT, Failure
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2, secondary_pb2

_NOT_THERE = (EXIT_NOT_FOUND, EXIT_NOT_REACHABLE, EXIT_TIMEOUT)
_INDENT = 2


@dataclass(frozen=True)
class Wanted:
    """What to look at."""

    group: str
    application: str
    limit: int
    pending: bool


@dataclass
class _Side:
    """What one side knows; `failure` says why if it knows nothing."""

    names: list[resources_pb2.Application] = field(default_factory=list)
    messages: list[resources_pb2.Message] = field(default_factory=list)
    freeze: resources_pb2.Freeze | None = None
    agents: list[primary_pb2.AgentStatus] = field(default_factory=list)
    failure: Failure | None = None


def show(session: Session, wanted: Wanted) -> None:
    """Ask both sides and show what they say; end with 3 if one could not be reached."""
    sides = {
        role: _asked(look, session, wanted)
        for role, look in (("primary", _primary), ("secondary", _secondary))
    }
    failures = [side.failure for side in sides.values() if side.failure is not None]
    if len(failures) == len(sides):
        raise failures[0]
    if session.screen.is_json:
        session.screen.json(_as_json(sides))
    else:
        _print(session, wanted, sides)
    for failure in failures:
        session.screen.note(f"missing: {failure.message}")
    if any(failure.exit_code != EXIT_NOT_FOUND for failure in failures):
        raise typer.Exit(EXIT_NOT_REACHABLE)


def _asked(look: Any, session: Session, wanted: Wanted) -> _Side:
    try:
        side: _Side = look(session, wanted)
    except Failure as failure:
        if failure.exit_code not in _NOT_THERE:
            raise
        return _Side(failure=failure)
    return side


def _primary(session: Session, wanted: Wanted) -> _Side:
    names = primary_pb2.PrimaryServiceListApplicationsRequest(group=wanted.group)
    messages = primary_pb2.PrimaryServiceListMessagesRequest(
        group=wanted.group, application=wanted.application, pending_only=wanted.pending
    )
    whole = primary_pb2.PrimaryServiceGetStatusRequest(group=wanted.group)
    service = session.primary
    groups = session.call("primary", service.GetStatus, whole).groups
    return _Side(
        names=session.pages("primary", service.ListApplications, names, "applications"),
        messages=session.pages("primary", service.ListMessages, messages, "messages", wanted.limit),
        agents=[agent for group in groups for agent in group.agents],
    )


def _secondary(session: Session, wanted: Wanted) -> _Side:
    names = secondary_pb2.SecondaryServiceListApplicationsRequest(group=wanted.group)
    messages = secondary_pb2.SecondaryServiceListMessagesRequest(
        group=wanted.group, application=wanted.application, pending_only=wanted.pending
    )
    service = session.secondary
    replica = session.call(
        "secondary", service.GetReplica, secondary_pb2.GetReplicaRequest(name=wanted.group)
    ).replica
    rpc = service.ListMessages
    return _Side(
        names=session.pages("secondary", service.ListApplications, names, "applications"),
        messages=session.pages("secondary", rpc, messages, "messages", wanted.limit),
        freeze=replica.freeze if replica.HasField("freeze") else None,
    )


def _as_json(sides: dict[str, _Side]) -> dict[str, Any]:
    here, there = sides["primary"], sides["secondary"]
    return {
        "applications": {
            role: None if side.failure else [as_dict(row) for row in side.names]
            for role, side in sides.items()
        },
        "agents": [as_dict(row) for row in here.agents],
        "freeze": as_dict(there.freeze) if there.freeze is not None else None,
        "messages": [as_dict(row) for row in _messages(sides)],
        "missing": {
            role: side.failure.as_json()["error"]
            for role, side in sides.items()
            if side.failure is not None
        },
    }


def _messages(sides: dict[str, _Side]) -> list[resources_pb2.Message]:
    """As the Primary knows them, with the verdicts of all links; else as the Secondary does."""
    here = sides["primary"]
    return sides["secondary"].messages if here.failure else here.messages


def _print(session: Session, wanted: Wanted, sides: dict[str, _Side]) -> None:
    screen, group = session.screen, words.last(wanted.group)
    names = name_rows({role: side.names for role, side in sides.items() if not side.failure})
    if names:
        screen.line(("names", "bold"))
        screen.table(names[0], names[1:], _INDENT)
    agents = sides["primary"].agents
    if agents:
        screen.line(("agents", "bold"))
        screen.table(
            ("application", "kind", "host", "since", "holds"), [_agent(one) for one in agents], 2
        )
    _print_messages(session, _messages(sides))
    freeze = sides["secondary"].freeze
    if freeze is not None:
        screen.line(("freeze", "bold"))
        screen.facts(freeze_rows(freeze, time.time()), _INDENT)
        screen.follow(freeze.next_command)
    elif not _messages(sides):
        registered = not names and not sides["primary"].failure
        screen.note(
            f"no messages; send one: slackwater ibc send {group} APP --fence"
            + (f"; register the name first: slackwater ibc register {group} APP" * registered)
        )


def _print_messages(session: Session, messages: list[resources_pb2.Message]) -> None:
    if not messages:
        return
    session.screen.line(("messages", "bold"))
    session.screen.table(
        ("message", "app", "behaviour", "position", "sent", "fence", "outcome", "verdicts"),
        [
            (
                words.last(message.name),
                message.application,
                shown.behaviour(message.behaviour),
                words.position(message.position),
                words.moment(message.send_time),
                words.milliseconds(message.fence_held) if message.fenced else "-",
                shown.outcome(message),
                words.listed(
                    f"{shown.state(verdict.state)} at {verdict.link or 'this replica'}"
                    for verdict in message.verdicts
                ),
            )
            for message in messages
        ],
        _INDENT,
    )


def name_rows(found: dict[str, list[resources_pb2.Application]]) -> list[tuple[str, ...]]:
    """Heads and one row for each name, with when each side registered it; nothing if none."""
    names = sorted({row.application for rows in found.values() for row in rows})
    if not names:
        return []
    return [
        ("application", *found),
        *((name, *(_since(rows, name) for rows in found.values())) for name in names),
    ]


def _since(rows: list[resources_pb2.Application], name: str) -> str:
    times = [row.register_time for row in rows if row.application == name]
    return words.moment(times[0]) if times else "not registered"


def _agent(agent: primary_pb2.AgentStatus) -> tuple[str, ...]:
    return (
        agent.application,
        agent.kind,
        agent.host,
        words.moment(agent.connect_time),
        f"for {words.duration(agent.held_for)}" if agent.HasField("held_for") else "no",
    )
