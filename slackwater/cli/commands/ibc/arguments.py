"""What the verbs of `ibc` have in common: arguments, bodies, who somebody is."""

import getpass
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from slackwater.cli.failure import usage
from slackwater.v1 import primary_pb2

MAX_BODY_BYTES = 128 << 10
MAX_WAIT_SECONDS = 3600.0
"""How long one ReceiveMessage may wait."""

Application = Annotated[
    str,
    typer.Argument(help="Name under which both sides meet, for example backup.", metavar="APP"),
]
Holder = Annotated[
    str | None,
    typer.Option(help="Who you are, for status and the verdict. [user@host]", metavar="NAME"),
]


def whoami() -> str:
    """Who types this: user@host."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def add_body(request: primary_pb2.SendMessageRequest, text: str | None, file: str | None) -> None:
    """Put the body into a request: a text as it was typed, or the bytes of a file."""
    if text is not None and file is not None:
        raise usage("--text and --file are two bodies", "give one of them", "text")
    if text is not None:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise usage(
                "--text: not valid UTF-8", "give the bytes with --file, or --file -", "text"
            ) from None
        _check_size("--text", len(data))
        request.text = text
    elif file is not None:
        request.data = _read(file)
        _check_size("--file", len(request.data))


def _read(file: str) -> bytes:
    """At most one byte too many: whatever the file is, no more of it is of use."""
    if file == "-":
        return sys.stdin.buffer.read(MAX_BODY_BYTES + 1)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise usage(
            f"--file: {file} cannot be read: {error.strerror}",
            "give a file that is there, or - for standard input",
            "file",
        ) from error


def _check_size(option: str, size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise usage(
            f"{option}: the body is larger than {MAX_BODY_BYTES} bytes",
            "put the data where the receiver can get it, and its name into the message",
            "body",
        )
