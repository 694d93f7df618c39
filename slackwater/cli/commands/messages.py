"""`slackwater ibc status`: what became of messages, as the Primary knows it."""

from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, secondary_pb2


def add_to(noun: typer.Typer) -> None:
    """Add the verb to `ibc`."""
    command(noun, "status", "slackwater ibc status demo")(status)


def status(
    session: Session,
    message: Annotated[
        str,
        typer.Argument(
            help="A group for all its messages, or one message.", metavar="GROUP|MESSAGE"
        ),
    ],
    second: Annotated[str | None, typer.Argument(metavar="ID", help="Or the id apart.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="With one message: follow it until it is final.")
    ] = False,
    pending: Annotated[bool, typer.Option("--pending", help="Only what is not final.")] = False,
    limit: Annotated[int, typer.Option(help="Newest so many.", min=1, max=10_000)] = 20,
) -> None:
    """Show what became of messages, link by link."""
    if second is None and "/" not in message.removeprefix("groups/"):
        _list(session, words.group_name(message), limit, pending=pending)
        return
    name = words.child_name(message, second, "messages")
    if watch:
        request = primary_pb2.WatchMessageRequest(name=name)
        stream = session.stream("primary", session.primary.WatchMessage, request, 86_400)
        for change in stream:
            _show_message(session, change.message)
        return
    answer = session.call(
        "primary",
        session.primary.GetMessage,
        primary_pb2.GetMessageRequest(name=name),
        hint=f"slackwater ibc status {words.last(words.split_child(name)[0])}",
    )
    _show_message(session, answer.message)


def _list(session: Session, group: str, limit: int, *, pending: bool) -> None:
    request = primary_pb2.PrimaryServiceListMessagesRequest(group=group, pending_only=pending)
    messages = session.pages("primary", session.primary.ListMessages, request, "messages", limit)
    rows = [
        (
            words.last(message.name),
            message.application,
            words.word(
                common_pb2.MessageBehaviour.Name(message.behaviour), "MESSAGE_BEHAVIOUR_"
            ).lower(),
            words.position(message.position),
            words.moment(message.send_time),
            words.milliseconds(message.fence_held) if message.fenced else "-",
            words.listed(f"{_verdict(verdict)} at {verdict.link}" for verdict in message.verdicts),
        )
        for message in messages
    ]
    session.screen.listing(
        "messages",
        messages,
        ("message", "app", "behaviour", "position", "sent", "fence", "verdicts"),
        rows,
        f"no messages; send one: slackwater ibc send {words.last(group)} APP --fence",
    )


def _show_message(session: Session, message: resources_pb2.Message) -> None:
    rows = [
        ("message", message.name),
        ("application", message.application),
        ("position", words.position(message.position)),
        ("sent", words.moment(message.send_time)),
        ("fence", words.milliseconds(message.fence_held) if message.fenced else "none"),
        ("body", body(message)),
    ]
    for verdict in message.verdicts:
        detail = verdict.detail
        more = [
            f"by {detail.by}" if detail.by else "",
            f"frozen {words.duration(detail.frozen_for)}" if detail.HasField("frozen_for") else "",
            f"snapshot {detail.snapshot_id}" if detail.snapshot_id else "",
            detail.text,
        ]
        shown = ", ".join(part for part in more if part)
        rows.append((f"at {verdict.link}", f"{_verdict(verdict)}{' ' if shown else ''}{shown}"))
    session.screen.resource(message, rows)


def body(message: resources_pb2.Message | secondary_pb2.DeliveredMessage) -> str:
    """The body, if it is text; else what it begins with."""
    if message.WhichOneof("body") == "data":
        try:
            return message.data.decode()
        except UnicodeDecodeError:
            return f"{len(message.data)} bytes: {message.data[:32].hex()}..."
    return message.text


def _verdict(verdict: resources_pb2.Verdict) -> str:
    return words.word(common_pb2.VerdictState.Name(verdict.state), "VERDICT_STATE_")
