"""What the nouns of tasks have in common: names, files of definitions, messages to program."""

import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import Message

from slackwater.cli.failure import EXIT_USAGE, Failure, usage
from slackwater.cli.session import Session
from slackwater.runtime import yamlfile
from slackwater.v1 import snapshot_pb2

M = TypeVar("M", bound=Message)

Task = Annotated[str, typer.Argument(help="The task, for example nightly.", metavar="TASK")]
Link = Annotated[
    list[str] | None,
    typer.Option("--link", help="Only along this link; may be repeated.", metavar="LINK"),
]
File = Annotated[
    str | None,
    typer.Option("--file", "-f", help="The definition in YAML; - is standard input."),
]
Validate = Annotated[bool, typer.Option("--dry-run", help="Check it, change nothing.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the one of that name.")]


def resource(text: str, collection: str) -> str:
    """`nightly` or `tasks/nightly` as a resource name."""
    name = text.removeprefix(f"{collection}/")
    kind = collection.removesuffix("s")
    if not name or "/" in name:
        raise usage(f"{text!r} is not a {kind}", f"see which there are: slackwater {kind} list")
    return f"{collection}/{name}"


def run_name(session: Session, text: str) -> str:
    """`nightly/0193`, an id alone, or the resource name itself, as a resource name."""
    parts = text.split("/")
    if len(parts) == 4 and (parts[0], parts[2]) == ("tasks", "runs"):
        return text
    if len(parts) == 2 and all(parts):
        return f"tasks/{parts[0]}/runs/{parts[1]}"
    if len(parts) != 1 or not text:
        raise usage(f"{text!r} is not a run", "write TASK/ID as 'slackwater run list' does")
    request = snapshot_pb2.ListRunsRequest()
    for run in session.pages("snapshot", session.snapshot.ListRuns, request, "runs"):
        if run.name.endswith(f"/{text}"):
            return str(run.name)
    return f"tasks/snapshot/runs/{text}"


def read_definition(file: str, message: M) -> M:
    """Fill a message from YAML, in the form that the service's own files have."""
    limit = yamlfile.FILE_LIMIT_BYTES
    if file == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        with Path(file).open("rb") as opened:
            data = opened.read(limit + 1)
    if len(data) > limit:
        raise usage(f"{file}: is larger than 256 KiB", "", "file")
    try:
        yamlfile.read(
            data.decode(),
            message,
            {"name": "the command line names it", "source": "the service fills it in"},
        )
    except UnicodeDecodeError:
        raise usage(f"{file}: is not UTF-8", "", "file") from None
    except yamlfile.BadFile as error:
        where = f"{file}:{error.line}" if error.line else file
        sentence = ": ".join(part for part in (where, error.field, error.problem) if part)
        raise Failure(
            sentence, EXIT_USAGE, "INVALID_ARGUMENT", "BAD_FILE", error.field, "docs/tasks.md"
        ) from None
    return message
