"""`slackwater ibc status|watch`: names, messages and what became of them, the freeze."""

import time
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.ibc import overview, shown
from slackwater.cli.failure import EXIT_NOT_REACHABLE, EXIT_TIMEOUT, Failure
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import primary_pb2, resources_pb2

WATCH_SECONDS = 86_400.0
AGAIN_SECONDS = 1.0

Message = Annotated[str, typer.Argument(help="A message, as 'send' printed it.", metavar="MESSAGE")]
Second = Annotated[str | None, typer.Argument(metavar="ID", help="Or the id apart.")]


def add_to(noun: typer.Typer) -> None:
    """Add the verbs."""
    command(noun, "status", "slackwater ibc status demo")(status)
    command(noun, "watch", "slackwater ibc watch demo/0193f2a7")(watch)


def status(
    session: Session,
    message: Annotated[
        str, typer.Argument(help="A group for all of it, or one message.", metavar="GROUP|MESSAGE")
    ],
    second: Second = None,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only messages that are not final.")
    ] = False,
    application: Annotated[
        str | None, typer.Option("--application", help="Only messages of this name.", metavar="APP")
    ] = None,
    limit: Annotated[int, typer.Option(help="Newest so many.", min=1, max=10_000)] = 20,
) -> None:
    """Show the names of both sides, the messages with their verdicts, the freeze.

    Ends with 3 if one side could not be reached; what the other knows is shown all the same.
    """
    if second is None and "/" not in message.removeprefix("groups/"):
        group = words.group_name(message)
        wanted = overview.Wanted(group, application or "", limit, pending=pending)
        overview.show(session, wanted)
        return
    found = _get(session, words.child_name(message, second, "messages"))
    session.screen.resource(found, shown.message_rows(found))


def watch(
    session: Session,
    message: Message,
    second: Second = None,
    within: Annotated[
        str,
        typer.Option(help="How long to follow it; past it ends with 6.", metavar="DURATION"),
    ] = "24h",
) -> None:
    """Follow a message, verdict by verdict, until all are final.

    Ends with 7 if one is not UNFROZEN, NOTIFIED or SNAPSHOTTED, or the quiesce is REVOKED.
    """
    patience = words.parse_duration(within, "--within")
    name = words.child_name(message, second, "messages")
    shown.refuse_bad_end(follow(session, name, patience))


def follow(session: Session, name: str, seconds: float = WATCH_SECONDS) -> resources_pb2.Message:
    """Print each change of a message until it is final; a broken stream is taken up again."""
    seen: dict[str, str] = {}
    deadline = time.monotonic() + seconds
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            found = _follow_once(session, name, left, seen)
            if found.final:
                return found
        except Failure as failure:
            if failure.exit_code == EXIT_TIMEOUT:
                raise _too_long(name, seconds) from failure
            if failure.exit_code != EXIT_NOT_REACHABLE or not seen:
                raise
            session.screen.note(f"{failure.message}; trying again")
        time.sleep(min(AGAIN_SECONDS, left))


def _follow_once(
    session: Session, name: str, seconds: float, seen: dict[str, str]
) -> resources_pb2.Message:
    request = primary_pb2.WatchMessageRequest(name=name)
    last = resources_pb2.Message()
    with session.explained("primary", extra_seconds=seconds):
        for change in session.primary.WatchMessage(request, timeout=seconds):
            last = change.message
            _show_change(session, last, seen)
    return last


def _show_change(session: Session, message: resources_pb2.Message, seen: dict[str, str]) -> None:
    if session.screen.is_json:
        session.screen.json_line(as_dict(message))
    rows = {row.link: shown.verdict(row) for row in message.verdicts}
    if message.quiesced:
        rows["outcome"] = shown.outcome(message)
    for where, text in rows.items():
        if seen.get(where) != text and not session.screen.is_json:
            session.screen.line((time.strftime("%H:%M:%S  "), "dim"), f"{where}  ", text)
    seen.update(rows or {"": "on no link"})


def _too_long(name: str, seconds: float) -> Failure:
    return Failure(
        f"message {words.last(name)} is not final after {words.seconds(seconds)}",
        EXIT_TIMEOUT,
        "DEADLINE_EXCEEDED",
        "NOT_FINAL",
        next_step=f"slackwater ibc status {words.last(words.split_child(name)[0])}",
    )


def _get(session: Session, name: str) -> resources_pb2.Message:
    return session.call(
        "primary",
        session.primary.GetMessage,
        primary_pb2.GetMessageRequest(name=name),
        hint=f"slackwater ibc status {words.last(words.split_child(name)[0])}",
    ).message
