"""`slackwater agent`: quiesce an application when the Primary asks."""

import asyncio
import enum
import os
import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from slackwater import names
from slackwater.agent import agent
from slackwater.agent.kinds.command import Command
from slackwater.agent.kinds.fsfreeze import FsFreeze
from slackwater.agent.kinds.kind import Kind, KindFailed
from slackwater.agent.kinds.postgres import Postgres
from slackwater.agent.kinds.syncfs import Sync
from slackwater.agent.ledger import Ledger
from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.failure import EXIT_FAILED, EXIT_PRECONDITION, Failure, usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.errors import InvalidRequest, SlackwaterError
from slackwater.runtime import logs
from slackwater.v1 import primary_pb2

app = typer.Typer(
    help="Hold an application still around a message: the agent beside it.", no_args_is_help=True
)

ROOT_STATE = Path("/var/lib/slackwater/agent")


class KindName(enum.StrEnum):
    """How an application is held."""

    COMMAND = "command"
    SYNC = "sync"
    FSFREEZE = "fsfreeze"
    POSTGRES = "postgres"


class LogFormat(enum.StrEnum):
    """Form of the log."""

    JSON = "json"
    TEXT = "text"


class LogLevel(enum.StrEnum):
    """Least severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="agent")


@command(app, "run", "slackwater agent run --group demo --application files fsfreeze /srv/files")
def run(
    session: Session,
    kind: Annotated[
        KindName,
        typer.Argument(help="How the application is held.", show_default=False),
    ],
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="command QUIESCE RESUME; sync PATH...; fsfreeze MOUNTPOINT...; postgres [DSN].",
            metavar="TARGET",
        ),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", "-g", help="The group.", metavar="GROUP", show_default=False)
    ] = "",
    application: Annotated[
        str,
        typer.Option(
            "--application",
            "-a",
            help="The name it is asked by; registered on the Primary.",
            metavar="NAME",
            show_default=False,
        ),
    ] = "",
    light: Annotated[
        bool, typer.Option("--light", help="Kind postgres: only a CHECKPOINT.")
    ] = False,
    resume_timeout: Annotated[
        str,
        typer.Option("--resume-timeout", help="How long a resume may take.", metavar="DURATION"),
    ] = "30s",
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            help="Where it records what it holds."
            " Unset: /var/lib/slackwater/agent, or below $XDG_STATE_HOME if not root.",
            metavar="DIRECTORY",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Where it runs, for status; unset: the host's name.", metavar="NAME"
        ),
    ] = "",
    log_level: Annotated[LogLevel, typer.Option(help="Least severity.")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="Form of the log.")] = LogFormat.TEXT,
) -> None:
    """Run an agent: hold a session with the Primary, quiesce and resume when it asks.

    It runs until SIGTERM, which resumes what it holds. Its log goes to standard error.
    """
    seconds = words.parse_duration(resume_timeout, "--resume-timeout")
    if seconds <= 0:
        raise usage("--resume-timeout: must be more than 0", "", "--resume-timeout")
    try:
        settings = agent.Settings(
            primary=session.context.address("primary"),
            group=names.check_label("--group", group.removeprefix("groups/")),
            application=names.check_label("--application", application),
            host=host or socket.gethostname(),
            state_directory=(state_dir or default_state_directory()).absolute(),
            resume_seconds=seconds,
            certificates=session.certificates(),
        )
    except InvalidRequest as error:
        raise usage(f"{error.field}: {error.problem}", error.next_step, error.field) from error
    chosen = _kind(kind, target or [], light, settings)
    logs.configure(log_level.value, log_format.value)
    try:
        Ledger(settings.state_directory, settings.group, settings.application).prepare()
        chosen.check()
        status = asyncio.run(agent.Agent(settings, chosen).run())
    except KindFailed as failure:
        raise Failure(
            str(failure), EXIT_PRECONDITION, "FAILED_PRECONDITION", "CANNOT_HOLD"
        ) from failure
    except SlackwaterError as error:
        sentence = str(error).removesuffix(f". {error.next_step}")
        raise Failure(
            sentence, EXIT_FAILED, "FAILED", error.reason, next_step=error.next_step
        ) from error
    raise typer.Exit(status)


@command(app, "list", "slackwater agent list demo")
def list_agents(
    session: Session,
    group: Annotated[
        str, typer.Argument(help="Only this group.", metavar="GROUP", show_default=False)
    ] = "",
) -> None:
    """List the sessions of agents, and what they hold right now."""
    request = primary_pb2.PrimaryServiceGetStatusRequest(
        group=words.group_name(group) if group else ""
    )
    answer = session.call("primary", session.primary.GetStatus, request, hint="slackwater status")
    found = [(row.group.name, agent) for row in answer.groups for agent in row.agents]
    if session.screen.is_json:
        session.screen.json({"agents": [_as_dict(name, agent) for name, agent in found]})
        return
    if not found:
        session.screen.note(
            "none; slackwater agent run --group demo --application files fsfreeze /srv/files"
        )
        return
    now = time.time()
    session.screen.table(
        ("group", "application", "kind", "host", "connected", "holds"),
        [
            (
                words.last(name),
                agent.application,
                agent.kind,
                words.or_none(agent.host),
                words.age(agent.connect_time, now),
                f"for {words.duration(agent.held_for)}" if agent.HasField("held_for") else "no",
            )
            for name, agent in found
        ],
    )


def default_state_directory() -> Path:
    """Where an agent records what it holds unless told otherwise."""
    if os.geteuid() == 0:
        return ROOT_STATE
    below = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(below) / "slackwater" / "agent"


def _kind(kind: KindName, target: list[str], light: bool, settings: agent.Settings) -> Kind:
    """The kind that was typed, with what it holds."""
    if light and kind is not KindName.POSTGRES:
        raise usage("--light is for kind postgres only", "leave it out", "--light")
    match kind:
        case KindName.COMMAND:
            if len(target) != 2:
                raise usage(
                    "kind command takes two programs",
                    "slackwater agent run -g demo -a app command /etc/app/quiesce /etc/app/resume",
                    "target",
                )
            quiesce, resume = target
            return Command(
                settings.group, settings.application, quiesce, resume, settings.resume_seconds
            )
        case KindName.POSTGRES:
            if len(target) > 1:
                raise usage(
                    "kind postgres takes one connection string",
                    "put it in quotes: 'host=/run/postgresql dbname=postgres'",
                    "target",
                )
            return Postgres("".join(target), light=light)
    if not target:
        raise usage(f"kind {kind} needs a path", f"... {kind} /srv/files", "target")
    paths = [str(Path(path).absolute()) for path in target]
    if kind is KindName.SYNC:
        return Sync(paths)
    return FsFreeze(paths, settings.state_directory)


def _as_dict(group: str, agent: primary_pb2.AgentStatus) -> dict[str, object]:
    return {"group": group, **as_dict(agent)}
