"""Agents as processes, and what tests do to them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.scripted_primary import eventually

END_SECONDS = 30.0


class AgentProcess:
    """`slackwater agent run`, with a state directory of its own."""

    def __init__(
        self, primary: str, directory: Path, *words: str, application: str = "backup"
    ) -> None:
        """Start it; its log goes to a file."""
        self.state = directory / "state"
        self.application = application
        self.log = directory / f"agent-{os.urandom(3).hex()}.log"
        command = [
            sys.executable, "-m", "slackwater.cli", "agent", "run", "--primary", primary,
            "--group", "demo", "--application", application, "--state-dir", str(self.state),
            "--log-level", "debug", *words,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.pid = self._process.pid

    @property
    def record(self) -> Path:
        """What it has recorded as held."""
        return self.state / f"demo.{self.application}.json"

    @property
    def guards(self) -> list[int]:
        """Its guards."""
        found = []
        for listed in Path("/proc").glob(f"{self.pid}/task/*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in listed.read_text().split()]
        return [pid for pid in found if is_guard(pid)]

    def guard(self) -> int:
        """The guard that there must be."""
        (pid,) = self.guards
        return pid

    def says(self, words: str) -> bool:
        """Whether its log has these words."""
        return words in self.log.read_text()

    def wait_says(self, words: str) -> None:
        """Wait until its log has these words."""
        eventually(f"{words!r} in {self.log.read_text()}", lambda: self.says(words))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        return self._process.wait(END_SECONDS)

    def end(self) -> int:
        """Tell it to end."""
        self._process.terminate()
        return self.wait()

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait(END_SECONDS)


def is_guard(pid: int) -> bool:
    """Whether a process is a guard, as far as it can be seen."""
    with contextlib.suppress(OSError):
        return b"slackwater.agent.guard" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX"
    return True


@contextlib.contextmanager
def running(
    primary: str, directory: Path, *words: str, application: str = "backup"
) -> Iterator[AgentProcess]:
    """An agent for as long as the body runs; nothing of it is left behind."""
    agent = AgentProcess(primary, directory, *words, application=application)
    try:
        yield agent
    finally:
        guards = agent.guards
        with contextlib.suppress(ProcessLookupError):
            agent.signal(signal.SIGCONT)
        agent.kill()
        for pid in guards:
            eventually("its guard is gone", lambda pid=pid: is_gone(pid))  # type: ignore[misc]
        sys.stderr.write(agent.log.read_text())
