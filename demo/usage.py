"""What a tree of processes uses: CPU time and anonymous memory, read from /proc."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """A process and everything it started that still lives."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:
        return


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of the whole tree."""
    total = 0
    for process in set(tree(pid)):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in rollup.splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pid: int) -> float:
    """User and system time of the whole tree so far."""
    ticks = 0
    for process in set(tree(pid)):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def command_line(pid: int) -> str:
    """The command line of a process, empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Sampler:
    """Keeps the highest value that some readings reach while it runs."""

    def __init__(
        self, readings: dict[str, Callable[[], float]], period_seconds: float = 0.2
    ) -> None:
        """Plan to take all readings every `period_seconds`."""
        self.peaks: dict[str, float] = dict.fromkeys(readings, 0.0)
        self._readings = readings
        self._period = period_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, after one last round."""
        self._stopping.set()
        self._thread.join()
        self._take()

    def _run(self) -> None:
        while not self._stopping.wait(self._period):
            self._take()

    def _take(self) -> None:
        for name, read in self._readings.items():
            self.peaks[name] = max(self.peaks[name], read())
