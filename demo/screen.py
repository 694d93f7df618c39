"""What the demo shows: numbered steps, the commands as typed, facts as they come, a last table."""

import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

MIB = 1 << 20


class Screen:
    """Writes to one console; safe to use from several threads."""

    def __init__(self, console: Console | None = None) -> None:
        """Start the clock."""
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._steps = 0
        self._lock = threading.Lock()

    def title(self, text: str, subtitle: str) -> None:
        """Open the show."""
        self._console.print(Panel(Text(subtitle), title=Text(text, "bold"), expand=False))

    def step(self, text: str) -> None:
        """Begin the next numbered step."""
        self._steps += 1
        with self._lock:
            self._console.print()
            self._console.print(Text(f"{self._steps}  {text}", "bold cyan"))

    def command(self, words: Sequence[str]) -> None:
        """Show a command as somebody would type it."""
        self._line(Text.assemble(("   $ ", "dim"), (" ".join(words), "green")))

    def fact(self, text: str) -> None:
        """Show what was found."""
        self._line(Text(f"   {text}"))

    def good(self, text: str) -> None:
        """Show something that had to be so and is."""
        self._line(Text.assemble(("   ok  ", "bold green"), text))

    def bad(self, text: str) -> None:
        """Show something that had to be so and is not."""
        self._line(Text.assemble(("   NO  ", "bold red"), text))

    def loud(self, text: str, explanation: str) -> None:
        """Large letters for what must not be overlooked."""
        body = Text.assemble((" ".join(text), "bold yellow"), "\n", explanation)
        self._console.print(Panel(body, border_style="yellow", expand=False))

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """The last table."""
        table = Table(title=Text(title, "bold"), title_justify="left", show_header=False)
        table.add_column(style="cyan")
        table.add_column(justify="right")
        for name, value in rows:
            table.add_row(name, value)
        self._console.print()
        self._console.print(table)

    def verdict(self, problems: Sequence[str]) -> None:
        """The last word."""
        took = time.monotonic() - self._begun
        if problems:
            for problem in problems:
                self.bad(problem)
            self._line(Text(f"FAILED in {took:.1f} s", "bold red"))
        else:
            self._line(Text(f"All of it held, in {took:.1f} s.", "bold green"))

    def _line(self, text: Text) -> None:
        with self._lock:
            self._console.print(text)


def mebibytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / MIB:.1f} MiB"


def milliseconds(seconds: float) -> str:
    """A span of time for people."""
    return f"{seconds * 1000:.1f} ms"
