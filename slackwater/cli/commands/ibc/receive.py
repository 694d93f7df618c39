"""`slackwater ibc receive|unfreeze|stoprecv`: take a message, and let the replica go on."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.ibc import shown
from slackwater.cli.commands.ibc.arguments import (
    MAX_WAIT_SECONDS,
    Application,
    Holder,
    whoami,
)
from slackwater.cli.failure import EXIT_PRECONDITION, EXIT_TIMEOUT, Failure, usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, secondary_pb2


def add_to(noun: typer.Typer) -> None:
    """Add the verbs."""
    command(noun, "receive", "slackwater ibc receive demo backup --receive-timeout 60s")(receive)
    command(noun, "unfreeze", "slackwater ibc unfreeze groups/demo/messages/0193f2a7")(unfreeze)
    command(noun, "stoprecv", "slackwater ibc stoprecv demo backup")(stop)
    command(noun, "stop", "slackwater ibc stop demo backup", hidden=True)(stop)


ReceiveTimeout = Annotated[
    str | None,
    typer.Option(
        "--receive-timeout",
        "-R",
        "--wait",
        help="How long to wait for a message; 0: do not. [until one comes]",
        metavar="DURATION",
    ),
]


def receive(
    session: Session,
    group: Group,
    application: Application,
    receive_timeout: ReceiveTimeout = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", "-n", help="Short for --receive-timeout 0.")
    ] = False,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", "--body-file", help="Write the body to it.", metavar="FILE"),
    ] = None,
    holder: Holder = None,
) -> None:
    """Take the next message; the replica stands still at it until you unfreeze it.

    Without a message in time it ends with 6. Nothing but the sender's freeze timeout ends a freeze
    taken like this; 'regrecv' holds one by a lease, which ends with its process.
    """
    if no_wait and receive_timeout is not None:
        raise usage("--no-wait and --receive-timeout are two waits", "give one of them")
    name = words.group_name(group)
    seconds = patience("0" if no_wait else receive_timeout)
    with _writable(file):
        message = _next(session, name, application, seconds, holder or whoami())
        if message is None:
            raise no_message(name, application, seconds)
        if file:
            Path(file).write_bytes(shown.body_bytes(message))
    _show_delivered(session, message)


def patience(receive_timeout: str | None) -> float:
    """How long to wait for a message: what was typed, else for ever."""
    if receive_timeout is None:
        return float("inf")
    return words.parse_duration(receive_timeout, "--receive-timeout")


def no_message(
    group: str, application: str, seconds: float, exit_code: int = EXIT_TIMEOUT
) -> Failure:
    """Nothing came in time."""
    return Failure(
        f"no message for {application} came within {words.seconds(seconds)}",
        exit_code,
        "DEADLINE_EXCEEDED",
        "NO_MESSAGE",
        next_step=f"see what is on its way: slackwater ibc status {words.last(group)}",
    )


def _next(
    session: Session, group: str, application: str, seconds: float, holder: str
) -> secondary_pb2.DeliveredMessage | None:
    """Ask for the next message, again if one call cannot wait so long."""
    request = secondary_pb2.ReceiveMessageRequest(
        group=group, application=application, holder=holder
    )
    deadline = time.monotonic() + seconds
    left = seconds
    while True:
        waits = min(left, MAX_WAIT_SECONDS)
        request.request_id = str(uuid.uuid4())
        request.wait_timeout.CopyFrom(words.as_duration(waits))
        answer = session.call(
            "secondary",
            session.secondary.ReceiveMessage,
            request,
            extra_seconds=waits,
            hint=f"slackwater ibc register {words.last(group)} {application}",
        )
        if answer.HasField("message"):
            return answer.message
        left = deadline - time.monotonic()
        if left <= 0:
            return None


@contextlib.contextmanager
def _writable(file: str | None) -> Iterator[None]:
    """Find out that a body cannot be written before the replica stands still for it."""
    if file:
        with Path(file).open("ab"):
            pass
    yield


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
    by: Holder = None,
) -> None:
    """Let applying go on after a message."""
    if second is None and "/" not in message.removeprefix("groups/"):
        name = _standing(session, words.group_name(message))
    else:
        name = words.child_name(message, second, "messages")
    group = words.last(words.split_child(name)[0])
    request = secondary_pb2.UnfreezeRequest(
        message=name, by=by or whoami(), request_id=str(uuid.uuid4())
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


def stop(session: Session, group: Group, application: Application) -> None:
    """End the calls that wait for a message of an application."""
    request = secondary_pb2.StopReceiveRequest(
        group=words.group_name(group), application=application
    )
    answer = session.call("secondary", session.secondary.StopReceive, request)
    session.screen.resource(answer, [("stopped", str(answer.stopped))])


def _show_delivered(session: Session, message: secondary_pb2.DeliveredMessage) -> None:
    stands = message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
    unfreeze_command = f"slackwater ibc unfreeze {message.name}"
    if session.screen.is_json:
        next_command = {"unfreezeCommand": unfreeze_command} if stands else {}
        session.screen.json({**as_dict(message), **next_command})
        return
    session.screen.facts(delivered_rows(message))
    if stands:
        session.screen.next_step(unfreeze_command)


def delivered_rows(message: secondary_pb2.DeliveredMessage) -> list[tuple[str, str]]:
    """What a receiver wants to know."""
    stands = message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
    left = (
        f"ends by itself in {words.duration(message.remaining)}"
        if message.HasField("remaining")
        else "until you unfreeze it"
    )
    return [
        ("message", message.name),
        ("application", message.application),
        ("position", words.position(message.position)),
        ("sent", words.moment(message.send_time)),
        ("task", words.last(message.task)),
        ("fenced", "yes" if message.fenced else "no"),
        ("again", "yes, it was handed over before" if message.redelivered else ""),
        ("dropped", f"{message.dropped} before it" if message.dropped else ""),
        ("replica", f"FROZEN here, {left}" if stands else "went on"),
        ("snapshot", message.snapshot),
        ("body", shown.body(message)),
    ]


def _standing(session: Session, group: str) -> str:
    """The message at which a replica stands."""
    request = secondary_pb2.GetReplicaRequest(name=group)
    answer = session.call(
        "secondary", session.secondary.GetReplica, request, hint="slackwater replica list"
    )
    if not answer.replica.freeze.message:
        raise Failure(
            f"replica {words.last(group)} does not stand at a message",
            EXIT_PRECONDITION,
            "FAILED_PRECONDITION",
            "NOT_FROZEN",
            next_step=f"slackwater ibc status {words.last(group)}",
        )
    return answer.replica.freeze.message
