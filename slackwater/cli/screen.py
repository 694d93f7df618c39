"""What a command shows: tables and facts for people, JSON for programs, errors for both.

On a terminal tables are drawn with colours; in a pipe they are aligned columns, never cut. JSON is
protobuf's own mapping, as grpcurl prints it, with fields at their default values included, so that
the names a program looks for are always there.
"""

import enum
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slackwater.cli.failure import Failure


def _all(style: str, states: str) -> dict[str, str]:
    return dict.fromkeys(states.split(), style)


_STYLES = {
    **_all(
        "green",
        "ok yes READY STREAMING CONSISTENT UNFROZEN NOTIFIED SNAPSHOTTED SUCCEEDED CONFIRMED",
    ),
    **_all("yellow", "CONNECTING SYNCING CATCHING_UP PAUSED DIRTY RECOVERING INCONSISTENT EMPTY"),
    **_all("yellow", "FROZEN WAITING RUNNING PENDING QUEUED SENT ARRIVED DELIVERED CREATING"),
    **_all("yellow", "AHEAD DELETING EXPIRED UNCLAIMED SKIPPED_INCONSISTENT DETACHED NOT"),
    **_all("bold red", "FAILED DIVERGED CANCELLED FREEZE_TIMED_OUT FREEZE_LOG_LIMIT UNREACHABLE"),
    **_all("bold red", "LEASE_LOST REVOKED LINK_DETACHED"),
}


class Form(enum.StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"


class Screen:
    """Standard output and standard error, in the form that was asked for."""

    def __init__(self, form: Form) -> None:
        """Look at where the output goes."""
        self.form = form
        self.console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
        self._errors = Console(
            stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False
        )

    @property
    def is_json(self) -> bool:
        """True if programs read this."""
        return self.form is Form.JSON

    @property
    def is_terminal(self) -> bool:
        """True if people watch this."""
        return self.console.is_terminal and not self.is_json

    def json(self, value: object) -> None:
        """Print a JSON document."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def json_line(self, value: object) -> None:
        """Print one of several JSON documents, on one line."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def resource(self, message: Message, rows: Iterable[tuple[str, str]]) -> None:
        """Show one thing: its JSON, or its facts."""
        if self.is_json:
            self.json(as_dict(message))
        else:
            self.facts(rows)

    def listing(
        self,
        field: str,
        messages: Sequence[Message],
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        empty: str,
    ) -> None:
        """Show many things: `{field: [...]}`, or a table, or what to do if there are none."""
        if self.is_json:
            self.json({field: [as_dict(message) for message in messages]})
        elif rows:
            self.table(heads, rows)
        else:
            self.note(empty)

    def facts(self, rows: Iterable[tuple[str, str]], indent: int = 0) -> None:
        """Print names and values, aligned; rows without a value are left out."""
        shown = [(name, value) for name, value in rows if value not in ("", "-")]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(" " * indent, (f"{name:<{width}}  ", "dim"), styled(value))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 0) -> None:
        """Print rows under heads."""
        if not self.is_terminal:
            self._columns(heads, rows, indent)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in heads:
            table.add_column(head.upper(), no_wrap=True)
        for row in rows:
            table.add_row(*(styled(value) for value in row))
        self.console.print(Padding(table, (0, 0, 0, indent)), soft_wrap=False)

    def line(self, *parts: str | Text | tuple[str, str]) -> None:
        """Print one line."""
        self.console.print(Text.assemble(*parts))

    def done(self, sentence: str, next_step: str = "") -> None:
        """Say what was done, and what usually follows."""
        if not self.is_json:
            self.line(sentence)
            self.follow(next_step)

    def follow(self, command: str) -> None:
        """Print what usually follows, for people only."""
        if command and not self.is_json:
            self.next_step(command)

    def removed(self, what: str, losses: Iterable[str]) -> None:
        """Say what is gone."""
        if self.is_json:
            self.json({"losses": list(losses)})
        else:
            self.line(f"{what} is removed")

    def next_step(self, command: str) -> None:
        """Print a command to type."""
        self.line(("next:  ", "dim"), (command, "cyan"))

    def note(self, sentence: str) -> None:
        """Say something beside the answer, on standard error."""
        self._errors.print(Text(sentence, "dim"))

    def alarm(self, sentence: str) -> None:
        """Say something that must not be missed, on standard error."""
        self._errors.print(Text(f"warning: {sentence}", "bold red"))

    def summary(self, value: object, sentence: str) -> None:
        """Say how it ended on standard error; standard output is somebody else's."""
        if self.is_json:
            print(json.dumps(value, ensure_ascii=False), file=sys.stderr)
        else:
            self.note(sentence)

    def fail(self, failure: Failure) -> None:
        """Say why it failed, on standard error."""
        if self.is_json:
            print(json.dumps(failure.as_json(), ensure_ascii=False), file=sys.stderr)
            return
        self._errors.print(Text(f"error: {' '.join(failure.message.split())}", "bold red"))
        if failure.next_step:
            self._errors.print(
                Text.assemble(("next:  ", "dim"), (" ".join(failure.next_step.split()), "cyan"))
            )

    def _columns(self, heads: Sequence[str], rows: Sequence[Sequence[str]], indent: int) -> None:
        lines = [[head.upper() for head in heads], *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        for line in lines:
            cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            print(" " * indent + "  ".join(cells).rstrip())


def as_dict(message: Message) -> Mapping[str, Any]:
    """A message as JSON sees it."""
    found: Mapping[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return found


def styled(value: str) -> Text:
    """A value in the colour of what it says."""
    first = value.partition(" ")[0].rstrip(",:")
    return Text.assemble((first, _STYLES.get(first, "")), value[len(first) :])


def is_interactive() -> bool:
    """True if somebody can answer a question."""
    return sys.stdin.isatty() and os.environ.get("CI") != "true"
