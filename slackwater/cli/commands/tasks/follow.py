"""Following a run to its end: a live table on a terminal, a line for each step elsewhere.

A thread reads the stream and puts what comes into a queue, in which our signals are too. The first
one asks for the end of the run and goes on watching, for what stands still has to be seen to go on;
the second one leaves, and says that the run may not be over.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import grpc
from rich.live import Live
from rich.table import Table

from slackwater.cli import words
from slackwater.cli.commands.tasks.shown import OVER, Run, RunStep, run_word, spent, state
from slackwater.cli.failure import Failure
from slackwater.cli.screen import styled
from slackwater.cli.session import Session
from slackwater.cli.work import EXIT_SIGNALLED, Signalled, signals_into
from slackwater.v1 import snapshot_pb2

AGAIN_SECONDS = 0.5
LOOK_SECONDS = 0.2
REFRESHES_PER_SECOND = 4
ONCE = "run"
"""Heads the column of steps that are done once, for no Secondary in particular."""


@dataclass(frozen=True)
class _Broken:
    """The stream ended for good before the run did."""

    error: grpc.RpcError


_Events = queue.SimpleQueue["Run | Signalled | _Broken"]


class Shown(Protocol):
    """How the run is shown while it goes on."""

    def update(self, run: Run) -> None:
        """Show the run as it is now."""
        ...


def follow(session: Session, run: Run, *, cancels: bool) -> Run:
    """Return the run once it is over.

    Args:
        session: Whose screen it is shown on.
        run: The run as last seen.
        cancels: True: a signal asks for the run's end first; False: it only ends the watching.

    Raises:
        Failure: a signal ended the watching, or the service cannot be reached.
    """
    events: _Events = queue.SimpleQueue()
    thread = threading.Thread(target=_read, args=(session, run.name, events), daemon=True)
    with signals_into(events), _shown(session) as shown:
        shown.update(run)
        thread.start()
        while run.state not in OVER:
            event = _next(events)
            if isinstance(event, _Broken):
                raise session.failure(event.error, "snapshot", _hint(run))
            if isinstance(event, Signalled):
                if not cancels:
                    raise _left(run, event.number)
                cancels = False
                session.screen.note("asking for the end of the run; once more leaves it alone")
                threading.Thread(target=_cancel, args=(session, run.name), daemon=True).start()
                continue
            run = event
            shown.update(run)
    return run


def _next(events: _Events) -> "Run | Signalled | _Broken":
    """Wait for the next event; wake now and then, for a signal may come just before the wait."""
    while True:
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=LOOK_SECONDS)


def _read(session: Session, name: str, events: _Events) -> None:
    """Put every change of a run into the queue; open a stream that breaks again for a while."""
    request = snapshot_pb2.WatchRunRequest(name=name)
    broken_at: float | None = None
    while True:
        try:
            for answer in session.snapshot.WatchRun(request):
                broken_at = None
                events.put(answer.run)
                if answer.run.state in OVER:
                    return
        except grpc.RpcError as error:
            now = time.monotonic()
            broken_at = broken_at if broken_at is not None else now
            passing = error.code() is grpc.StatusCode.UNAVAILABLE
            if not passing or now - broken_at > session.timeout_seconds:
                events.put(_Broken(error))
                return
        except ValueError:  # the session is closed: nobody follows any more
            return
        time.sleep(AGAIN_SECONDS)


def _cancel(session: Session, name: str) -> None:
    """Ask for the end of a run; what comes of it is seen by watching."""
    try:
        session.snapshot.CancelRun(
            snapshot_pb2.CancelRunRequest(name=name), timeout=session.timeout_seconds
        )
    except grpc.RpcError as error:
        session.screen.alarm(str(session.failure(error, "snapshot").message))


def _left(run: Run, number: int) -> Failure:
    return Failure(
        f"the run {run_word(run.name)} was {state(run.state)} when we left it",
        EXIT_SIGNALLED + number,
        "CANCELLED",
        "LEFT",
        next_step=_hint(run),
    )


def _hint(run: Run) -> str:
    return f"slackwater run watch {run_word(run.name)}"


@contextlib.contextmanager
def _shown(session: Session) -> Iterator[Shown]:
    if session.screen.is_json:
        yield _Nothing()
    elif session.screen.is_terminal:
        with Live(
            console=session.screen.console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        ) as live:
            yield _Board(live)
    else:
        yield _Lines(session)


class _Nothing:
    def update(self, run: Run) -> None:
        """Programs get the end."""


class _Lines:
    """A line when a step begins, and one when it ends."""

    def __init__(self, session: Session) -> None:
        self._screen = session.screen
        self._told: dict[int, str] = {}
        self._state = ""

    def update(self, run: Run) -> None:
        """Print what is new."""
        if state(run.state) != self._state:
            self._state = state(run.state)
            self._screen.line(f"{run_word(run.name)}  {self._state}")
        for number, step in enumerate(run.steps):
            took = spent(step)
            if self._told.get(number) == took:
                continue
            self._told[number] = took
            begun = step.end_time if step.HasField("end_time") else step.start_time
            words_ = (words.clock(begun), step.link or "-", step.where or "-", step.step, took)
            self._screen.line("  ".join(words_), f": {step.error}" if step.error else "")


class _Board:
    """A row for each step, a column for each Secondary."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def update(self, run: Run) -> None:
        """Draw it anew."""
        self._live.update(board(run))


def board(run: Run) -> Table:
    """A table of a run: a row for each step, a column for each Secondary."""
    links = [row.link for row in run.replicas]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in (f"{run_word(run.name)} {state(run.state)}", ONCE, *links):
        table.add_column(head, no_wrap=True)
    for (step, _), cells in _cells(run.steps).items():
        shown = (styled(cells[link]) if link in cells else "" for link in ("", *links))
        table.add_row(step, *shown)
    return table


def _cells(steps: Iterable[RunStep]) -> dict[tuple[str, int], dict[str, str]]:
    """What each cell says, by step and its how-many-eth of that name, and by link."""
    seen: dict[tuple[str, str], int] = {}
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for step in steps:
        number = seen[step.step, step.link] = seen.get((step.step, step.link), -1) + 1
        rows.setdefault((step.step, number), {})[step.link] = spent(step)
    return rows
