"""A pair of programs that hold a file-shaped application: it is held while the file is there."""

from pathlib import Path

from tests.support.scripted_primary import eventually

AT_ONCE_SECONDS = 1.0
SLACK_SECONDS = 10.0


def write(path: Path, body: str, mode: int = 0o755) -> Path:
    """A shell program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


class Pair:
    """Programs that count what they did."""

    def __init__(self, directory: Path, quiesce: str = "", resume: str = "") -> None:
        """`quiesce` and `resume` are lines that run before the counting."""
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.held = directory / "held"
        self.calls = directory / "calls"
        self.quiesce = write(
            directory / "quiesce",
            f'{quiesce}\necho quiesce "$@" >>{self.calls}; touch {self.held}; echo "held $#: $3"',
        )
        self.resume = write(
            directory / "unquiesce",
            f'{resume}\necho resume "$@" >>{self.calls}; rm -f {self.held}; echo "goes on $3"',
        )

    @property
    def words(self) -> tuple[str, str, str]:
        """As the command line takes them."""
        return ("command", str(self.quiesce), str(self.resume))

    def is_held(self) -> bool:
        """Whether the application stands still."""
        return self.held.exists()

    def goes_on(self, within: float = AT_ONCE_SECONDS) -> None:
        """Wait until it does: as long as docs/agents.md states, and what a busy machine adds."""
        eventually("the application goes on", lambda: not self.is_held(), within + SLACK_SECONDS)

    def count(self, word: str) -> int:
        """How often a program ran to its end."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return sum(line.startswith(word) for line in lines)
