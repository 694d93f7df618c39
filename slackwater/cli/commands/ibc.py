"""`slackwater ibc`: messages in the stream, on both sides."""

import enum
import getpass
import socket
import sys
import uuid
from pathlib import Path
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands import messages
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.failure import EXIT_TIMEOUT, Failure, usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, primary_pb2, secondary_pb2

MAX_WAIT_SECONDS = 3600.0

app = typer.Typer(
    help="Send a message with the writes; stand still at it on the other side; go on.",
    no_args_is_help=True,
)
Application = Annotated[
    str,
    typer.Argument(help="Name under which both sides meet, for example backup.", metavar="APP"),
]


class Behaviour(enum.StrEnum):
    """What Secondaries do at a message."""

    FREEZE = "freeze"
    NOTIFY = "notify"
    SNAPSHOT = "snapshot"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    messages.add_to(app)
    root.add_typer(app, name="ibc")


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
        typer.Option("--file", help="The body, from a file; - is standard input.", metavar="FILE"),
    ] = None,
    fence: Annotated[
        bool | None,
        typer.Option(
            "--fence/--no-fence", help="Admit no write while it is placed: no doubt what is before."
        ),
    ] = None,
    fence_timeout: Annotated[
        str | None,
        typer.Option(help="How long writes may be held back. [1s]", metavar="DURATION"),
    ] = None,
    behaviour: Annotated[
        Behaviour, typer.Option(help="What they do at it; snapshot comes with a later release.")
    ] = Behaviour.FREEZE,
    no_freeze: Annotated[
        bool, typer.Option("--no-freeze", help="Short for --behaviour notify.")
    ] = False,
    deliver_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long it waits for a receiver; 0: for ever. [10m]", metavar="DURATION"
        ),
    ] = None,
    freeze_timeout: Annotated[
        str | None,
        typer.Option(help="How long a freeze may last; 0: for ever. [10m]", metavar="DURATION"),
    ] = None,
    unregistered_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long it waits where nobody is registered. [30s]", metavar="DURATION"
        ),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", help="Only along this link; may be repeated.", metavar="LINK"),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(help="Your own id: a repeated send gets the first answer.", metavar="ID"),
    ] = None,
) -> None:
    """Place a message in the stream: everything written before it is before it, for good."""
    name = words.group_name(group)
    if no_freeze:
        behaviour = Behaviour.NOTIFY
    request = primary_pb2.SendMessageRequest(
        group=name,
        application=application,
        behaviour=common_pb2.MessageBehaviour.Value(f"MESSAGE_BEHAVIOUR_{behaviour.name}"),
        links=link or [],
        fence=fence,
        request_id=request_id or str(uuid.uuid4()),
    )
    _add_body(request, text, file)
    waits = {
        "deliver_timeout": deliver_timeout,
        "freeze_timeout": freeze_timeout,
        "unregistered_timeout": unregistered_timeout,
        "fence_timeout": fence_timeout,
    }
    for field, given in waits.items():
        if given is not None:
            option = "--" + field.replace("_", "-")
            seconds = words.parse_duration(given, option)
            getattr(request, field).CopyFrom(words.as_duration(seconds))
    answer = session.call(
        "primary",
        session.primary.SendMessage,
        request,
        extra_seconds=request.fence_timeout.ToNanoseconds() / 1e9,
        hint=f"slackwater ibc register {words.last(name)} {application}",
    )
    session.screen.resource(
        answer,
        [
            ("message", answer.message.name),
            ("position", words.position(answer.message.position)),
            (
                "fence",
                f"writes held back for {words.milliseconds(answer.fence_held)}"
                if answer.HasField("fence_held")
                else "none",
            ),
            ("links", words.listed(verdict.link for verdict in answer.message.verdicts)),
        ],
    )
    session.screen.follow(f"slackwater ibc status {answer.message.name}")


command(app, "send", "slackwater ibc send demo backup --fence --text nightly")(send)


@command(app, "receive", "slackwater ibc receive demo backup --wait 60s")
def receive(
    session: Session,
    group: Group,
    application: Application,
    wait: Annotated[
        str, typer.Option("--wait", help="How long to wait; 0: do not.", metavar="DURATION")
    ] = "60s",
    holder: Annotated[
        str | None, typer.Option(help="Who you are, for status. [user@host]", metavar="NAME")
    ] = None,
    body_file: Annotated[
        str | None, typer.Option(help="Write the body to this file.", metavar="FILE")
    ] = None,
) -> None:
    """Take the next message; the replica stands still at it until you unfreeze it."""
    name = words.group_name(group)
    seconds = words.parse_duration(wait, "--wait")
    if seconds > MAX_WAIT_SECONDS:
        raise usage("--wait: at most 1h", "repeat the command for longer", "wait_timeout")
    request = secondary_pb2.ReceiveMessageRequest(
        group=name,
        application=application,
        wait_timeout=words.as_duration(seconds),
        holder=holder or _whoami(),
        request_id=str(uuid.uuid4()),
    )
    answer = session.call(
        "secondary",
        session.secondary.ReceiveMessage,
        request,
        extra_seconds=seconds,
        hint=f"slackwater ibc register {words.last(name)} {application}",
    )
    if not answer.HasField("message"):
        raise Failure(
            f"no message for {application} came within {words.seconds(seconds)}",
            EXIT_TIMEOUT,
            "DEADLINE_EXCEEDED",
            "NO_MESSAGE",
            next_step=f"see what is on its way: slackwater ibc status {words.last(name)}",
        )
    _show_delivered(session, answer.message, body_file)


@command(app, "unfreeze", "slackwater ibc unfreeze groups/demo/messages/0193f2a7")
def unfreeze(
    session: Session,
    message: Annotated[
        str,
        typer.Argument(
            help="The message as 'receive' printed it; a group alone: where it stands now.",
            metavar="MESSAGE|GROUP",
        ),
    ],
    second: Annotated[str | None, typer.Argument(metavar="ID", help="Or the id apart.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Who you are, for the verdict. [user@host]", metavar="NAME")
    ] = None,
) -> None:
    """Let applying go on after a message."""
    if second is None and "/" not in message.removeprefix("groups/"):
        name = _standing(session, words.group_name(message))
    else:
        name = words.child_name(message, second, "messages")
    group = words.last(words.split_child(name)[0])
    request = secondary_pb2.UnfreezeRequest(
        message=name, by=by or _whoami(), request_id=str(uuid.uuid4())
    )
    answer = session.call(
        "secondary",
        session.secondary.Unfreeze,
        request,
        hint=f"slackwater replica get {group}",
    )
    session.screen.resource(
        answer,
        [
            ("unfrozen", name),
            ("position", words.position(answer.position)),
            ("frozen for", words.duration(answer.frozen_for)),
            ("meanwhile", f"{words.size(answer.backlog_bytes)} received"),
        ],
    )


@command(app, "stop", "slackwater ibc stop demo backup")
def stop(session: Session, group: Group, application: Application) -> None:
    """End the 'receive' calls that wait for a message of an application."""
    request = secondary_pb2.StopReceiveRequest(
        group=words.group_name(group), application=application
    )
    answer = session.call("secondary", session.secondary.StopReceive, request)
    session.screen.resource(answer, [("stopped", str(answer.stopped))])


def _show_delivered(
    session: Session, message: secondary_pb2.DeliveredMessage, body_file: str | None
) -> None:
    if body_file:
        Path(body_file).write_bytes(message.data or message.text.encode())
    stands = message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
    unfreeze_command = f"slackwater ibc unfreeze {message.name}"
    if session.screen.is_json:
        shown = {"unfreezeCommand": unfreeze_command} if stands else {}
        session.screen.json({**as_dict(message), **shown})
        return
    left = (
        f"ends by itself in {words.duration(message.remaining)}"
        if message.HasField("remaining")
        else "until you unfreeze it"
    )
    session.screen.facts(
        [
            ("message", message.name),
            ("application", message.application),
            ("position", words.position(message.position)),
            ("sent", words.moment(message.send_time)),
            ("fenced", "yes" if message.fenced else "no"),
            ("again", "yes, it was handed over before" if message.redelivered else ""),
            ("dropped", f"{message.dropped} before it" if message.dropped else ""),
            ("replica", f"FROZEN here, {left}" if stands else "went on"),
            ("body", messages.body(message)),
        ]
    )
    if stands:
        session.screen.next_step(unfreeze_command)


def _standing(session: Session, group: str) -> str:
    """The message at which a replica stands."""
    request = secondary_pb2.GetReplicaRequest(name=group)
    answer = session.call(
        "secondary", session.secondary.GetReplica, request, hint="slackwater replica list"
    )
    if not answer.replica.freeze.message:
        raise Failure(
            f"replica {words.last(group)} does not stand at a message",
            5,
            "FAILED_PRECONDITION",
            "NOT_FROZEN",
            next_step=f"slackwater ibc status {words.last(group)}",
        )
    return answer.replica.freeze.message


def _add_body(request: primary_pb2.SendMessageRequest, text: str | None, file: str | None) -> None:
    if text is not None and file is not None:
        raise usage("--text and --file are two bodies", "give one of them", "text")
    if text is not None:
        request.text = text
    elif file == "-":
        request.data = sys.stdin.buffer.read()
    elif file is not None:
        request.data = Path(file).read_bytes()


def _whoami() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
