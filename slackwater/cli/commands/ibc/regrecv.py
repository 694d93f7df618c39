"""`slackwater ibc regrecv`: take a message by a lease, run a command while the replica stands.

The command's exit status is ours. What went wrong on our own side has the codes that `timeout` and
shells have for it, so that it is not taken for the command's.
"""

import contextlib
import dataclasses
import os
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.group import Name as Group
from slackwater.cli.commands.ibc import shown
from slackwater.cli.commands.ibc.arguments import Application, Holder, whoami
from slackwater.cli.commands.ibc.receive import ReceiveTimeout, patience
from slackwater.cli.commands.ibc.shift import EXIT_OWN_FAILURE, EXIT_THAWED, Shift
from slackwater.cli.failure import Failure, usage
from slackwater.cli.session import Session
from slackwater.cli.work import check, signals_into
from slackwater.v1 import secondary_pb2


def add_to(noun: typer.Typer) -> None:
    """Add the verb."""
    example = "slackwater ibc regrecv demo backup -- slackwater snapshot create demo nightly"
    command(noun, "regrecv", example)(regrecv)


def regrecv(
    session: Session,
    group: Group,
    application: Application,
    argv: Annotated[
        list[str],
        typer.Argument(
            help="What to run while the replica stands still; put -- before it.",
            metavar="-- COMMAND [ARG]...",
        ),
    ],
    receive_timeout: ReceiveTimeout = None,
    command_timeout: Annotated[
        str | None,
        typer.Option(
            help="End the command after so long: SIGTERM, 10 s later SIGKILL. [never]",
            metavar="DURATION",
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="Write the body to it. [a file that goes]", metavar="FILE"
        ),
    ] = None,
    holder: Holder = None,
) -> None:
    """Register if need be, wait for a message, run a command while the replica stands, unfreeze.

    The command finds SLACKWATER_GROUP, _APPLICATION, _MESSAGE_ID, _POSITION, _BEHAVIOUR, _TASK and
    _BODY_FILE in its environment. Ends as the command did, 128+n for signal n; or with 122: the
    freeze ended under the command, 123: the unfreeze could not be confirmed, 124: no message or no
    end in time, 125: failed before the command, 126, 127: it cannot be run, is not there.
    """
    limit = float("inf")
    if command_timeout is not None:
        limit = words.parse_duration(command_timeout, "--command-timeout")
        if limit <= 0:
            raise usage("--command-timeout: must be more than 0", "", "--command-timeout")
    name = words.group_name(group)
    seconds = patience(receive_timeout)
    check(argv[0])
    opening = secondary_pb2.HoldMessageRequest.Open(
        # Two of us on one host are two holders: a lease is not to be shared.
        group=name,
        application=application,
        holder=holder or f"{whoami()}:{os.getpid()}",
    )
    shift = Shift(session, opening, queue.SimpleQueue())
    with _own_failures(), signals_into(shift.events), shift.registered(), shift.holding():
        _check_writable(file)
        message = shift.wait(seconds)
        with _body(message, file) as body_file:
            shift.run(argv, message, body_file, limit)
    raise typer.Exit(shift.report(message))


@contextlib.contextmanager
def _own_failures() -> Iterator[None]:
    """Give our own failures a code that is not taken for the command's."""
    try:
        yield
    except OSError as error:
        raise Failure(str(error), EXIT_OWN_FAILURE, "FAILED", "OS_ERROR") from error
    except Failure as failure:
        if failure.exit_code >= EXIT_THAWED:
            raise
        raise dataclasses.replace(failure, exit_code=EXIT_OWN_FAILURE) from failure


def _check_writable(file: str | None) -> None:
    """Find out that a body cannot be written before the replica stands still for it."""
    if file:
        with Path(file).open("ab"):
            pass


@contextlib.contextmanager
def _body(message: secondary_pb2.DeliveredMessage, file: str | None) -> Iterator[Path]:
    """The body in a file: the one that was named, or one that is gone afterwards."""
    with contextlib.ExitStack() as stack:
        if file:
            path = Path(file).absolute()
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "body"
        path.write_bytes(shown.body_bytes(message))
        yield path
