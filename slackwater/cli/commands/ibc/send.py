"""`slackwater ibc send|regsend`: place a message in the stream."""

import enum
import inspect
import uuid
from typing import Annotated, Any

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.ibc import applications, shown, status
from slackwater.cli.commands.ibc.arguments import Application, add_body
from slackwater.cli.failure import Failure, usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, primary_pb2

QUIESCE_SECONDS = 30.0
HOLD_SECONDS = 10.0
_PANEL = "How the point is made"


class Behaviour(enum.StrEnum):
    """What Secondaries do at a message."""

    FREEZE = "freeze"
    NOTIFY = "notify"
    SNAPSHOT = "snapshot"


def add_to(noun: typer.Typer) -> None:
    """Add the verbs."""
    command(noun, "send", "slackwater ibc send demo backup --fence --text nightly")(send)
    command(noun, "regsend", "slackwater ibc regsend demo backup --fence --text nightly")(regsend)


def send(
    session: Session,
    group: Group,
    application: Application,
    text: Annotated[
        str | None,
        typer.Option("--text", "--message", "-m", help="The body, as text.", metavar="TEXT"),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="The body, from a file; - is standard input.", metavar="FILE"
        ),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", help="Only along this link; may be repeated.", metavar="LINK"),
    ] = None,
    behaviour: Annotated[Behaviour, typer.Option(help="What they do at it.")] = Behaviour.FREEZE,
    no_freeze: Annotated[
        bool, typer.Option("--no-freeze", "-N", help="Short for --behaviour notify.")
    ] = False,
    snapshot_id: Annotated[
        str | None,
        typer.Option(
            help="With --behaviour snapshot: its name; where it is taken, -LSN is added."
            " [from the message's id]",
            metavar="NAME",
        ),
    ] = None,
    deliver_timeout: Annotated[
        str | None,
        typer.Option(
            "--deliver-timeout",
            "-D",
            help="How long it waits for a receiver; 0: for ever. [10m]",
            metavar="DURATION",
        ),
    ] = None,
    freeze_timeout: Annotated[
        str | None,
        typer.Option(
            "--freeze-timeout",
            "-F",
            help="How long a freeze may last; 0: for ever. [10m]",
            metavar="DURATION",
        ),
    ] = None,
    unregistered_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long it waits where nobody is registered. [30s]", metavar="DURATION"
        ),
    ] = None,
    fence: Annotated[
        bool | None,
        typer.Option(
            "--fence/--no-fence",
            help="Admit no write while it is placed: no doubt what is before. [on with --quiesce]",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    fence_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long writes may be held back. [1s]",
            metavar="DURATION",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    quiesce: Annotated[
        list[str] | None,
        typer.Option(
            "--quiesce",
            help="Hold this application, by its agent, around the message; may be repeated.",
            metavar="APP",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    quiesce_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long all agents may take to answer. [30s]",
            metavar="DURATION",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    max_hold: Annotated[
        str | None,
        typer.Option(
            help="How long each may be held; past it the agent resumes by itself. [10s]",
            metavar="DURATION",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(help="Your own id: a repeated send gets the first answer.", metavar="ID"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it until every verdict is final.")
    ] = False,
) -> None:
    """Place a message in the stream: everything written before it is before it, for good.

    Ends with 7 if the message was placed but the quiesce around it is REVOKED, and with --wait also
    if a verdict is final and is not UNFROZEN, NOTIFIED or SNAPSHOTTED.
    """
    if no_freeze and behaviour is Behaviour.SNAPSHOT:
        raise usage(
            "--no-freeze and --behaviour snapshot exclude each other", "Give one of the two"
        )
    if no_freeze:
        behaviour = Behaviour.NOTIFY
    request = primary_pb2.SendMessageRequest(
        group=words.group_name(group),
        application=application,
        behaviour=common_pb2.MessageBehaviour.Value(f"MESSAGE_BEHAVIOUR_{behaviour.name}"),
        links=link or [],
        fence=fence,
        snapshot_id=snapshot_id or "",
        request_id=request_id or str(uuid.uuid4()),
    )
    add_body(request, text, file)
    _add_waits(
        request,
        {
            "deliver_timeout": deliver_timeout,
            "freeze_timeout": freeze_timeout,
            "unregistered_timeout": unregistered_timeout,
            "fence_timeout": fence_timeout,
        },
    )
    _add_quiesce(request, quiesce or [], quiesce_timeout, max_hold)
    _place(session, request, wait=wait)


def regsend(session: Session, /, **given: Any) -> None:
    """Register the name on the Primary if need be, send, wait for the verdicts, take it back.

    A name that was registered before is left as it is. With --no-wait a name that was registered
    for this stays, since a name with a pending message cannot be taken back.
    """
    group, application = words.group_name(given["group"]), given["application"]
    is_new = not applications.is_on_primary(session, group, application)
    if is_new:
        applications.register_on_primary(session, group, application)
    wait = given.pop("wait")
    is_over = True
    try:
        send(session, **given, wait=wait)
        is_over = wait
    finally:
        if is_new and is_over:
            _take_back(session, group, application)
        elif is_new:
            session.screen.note(
                f"{application} stays registered on the Primary; once the message is final:"
                f" slackwater ibc unregister {words.last(group)} {application} --side primary"
            )


def _waiting_by_default() -> inspect.Signature:
    """The signature of `send`, with `--wait` on."""
    signature = inspect.signature(send)
    option = typer.Option("--wait/--no-wait", help="Follow it until every verdict is final.")
    rows = dict(signature.parameters)
    rows["wait"] = rows["wait"].replace(annotation=Annotated[bool, option], default=True)
    return signature.replace(parameters=list(rows.values()))


regsend.__signature__ = _waiting_by_default()  # type: ignore[attr-defined]


def _take_back(session: Session, group: str, application: str) -> None:
    """Take back a name; if that cannot be, say so, and let the answer stand."""
    try:
        applications.unregister_on_primary(session, group, application)
    except Failure as failure:
        session.screen.note(
            f"{application} stays registered on the Primary: {failure.message}; later:"
            f" slackwater ibc unregister {words.last(group)} {application} --side primary"
        )


def _place(session: Session, request: primary_pb2.SendMessageRequest, *, wait: bool) -> None:
    """Send it and show what came of it."""
    group = words.last(request.group)
    answer = session.call(
        "primary",
        session.primary.SendMessage,
        request,
        extra_seconds=_longest_seconds(request),
        hint=f"slackwater ibc register {group} {request.application}",
    )
    message = answer.message
    if session.screen.is_json and wait:
        session.screen.json_line(as_dict(answer))
    else:
        session.screen.resource(
            answer,
            [
                ("message", message.name),
                ("position", words.position(message.position)),
                (
                    "fence",
                    f"writes held back for {words.milliseconds(answer.fence_held)}"
                    if answer.HasField("fence_held")
                    else "none",
                ),
                (
                    "window",
                    words.milliseconds(answer.quiesce_window)
                    if answer.HasField("quiesce_window")
                    else "",
                ),
                *shown.judgement_rows(message),
                ("links", words.listed(verdict.link for verdict in message.verdicts)),
            ],
        )
    if wait:
        message = status.follow(session, message.name)
    else:
        session.screen.follow(f"slackwater ibc watch {message.name}")
    shown.refuse_bad_end(message, only_outcome=not wait)


def _add_waits(request: primary_pb2.SendMessageRequest, waits: dict[str, str | None]) -> None:
    for field, given in waits.items():
        if given is not None:
            seconds = words.parse_duration(given, "--" + field.replace("_", "-"))
            getattr(request, field).CopyFrom(words.as_duration(seconds))


def _add_quiesce(
    request: primary_pb2.SendMessageRequest,
    names: list[str],
    timeout: str | None,
    max_hold: str | None,
) -> None:
    request.quiesce.applications.extend(names)
    waits = (("--quiesce-timeout", "timeout", timeout), ("--max-hold", "max_hold", max_hold))
    for option, field, given in waits:
        if given is None:
            continue
        if not names:
            raise usage(f"{option} needs --quiesce", "name what to hold: --quiesce APP", option)
        seconds = words.parse_duration(given, option)
        getattr(request.quiesce, field).CopyFrom(words.as_duration(seconds))
    if not names:
        request.ClearField("quiesce")


def _longest_seconds(request: primary_pb2.SendMessageRequest) -> float:
    """How long the Primary itself was asked to wait: for agents, for the fence, for the resume."""
    seconds = request.fence_timeout.ToNanoseconds() / 1e9
    if not request.HasField("quiesce"):
        return seconds
    asked = request.quiesce
    timeout = asked.timeout.ToNanoseconds() / 1e9 if asked.HasField("timeout") else QUIESCE_SECONDS
    hold = asked.max_hold.ToNanoseconds() / 1e9 if asked.HasField("max_hold") else HOLD_SECONDS
    return seconds + timeout + hold
