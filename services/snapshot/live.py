"""One run while it lives: its work, who waits for it, and how it is shown."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from services.snapshot.peers import Peers
from services.snapshot.steps import describe
from services.snapshot.store import OVER, RunRecord
from slackwater.v1 import snapshot_pb2

_Run = snapshot_pb2.Run


class Work(Protocol):
    """What a run does; the supervisor calls it, and shows what it saves."""

    async def work(self) -> None:
        """Do it; any error of ours or of a call is how it failed."""
        ...

    async def end_freeze(self) -> None:
        """End what stands still because of it, however long that takes. Before the run is over."""
        ...

    async def take_back(self) -> None:
        """End and take back all else. May go on when the run is over."""
        ...


MakeWork = Callable[[RunRecord, Callable[[], None]], Work]


class Live:
    """A run that is not over, or whose freeze is not ended yet."""

    def __init__(self, record: RunRecord, make: "Callable[[Live], Work]") -> None:
        self.record = record
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Task[None] | None = None
        self.end_state: _Run.State.ValueType = _Run.STATE_CANCELLED
        self.end_reason = "CANCELLED: by CancelRun"
        self.is_ending = False
        self.cycle = make(self)

    def show(self) -> None:
        """Wake everybody who watches."""
        self.changed.set()
        self.changed = asyncio.Event()


def brief(run: snapshot_pb2.Run) -> snapshot_pb2.Run:
    """Return a run without the outputs of its commands, which would make a list too long."""
    short = _Run()
    short.CopyFrom(run)
    for step in short.steps:
        step.ClearField("output")
    return short


def close_replicas(run: snapshot_pb2.Run) -> None:
    """Say of each Secondary that the run was not done with why it is over there too."""
    for replica in run.replicas:
        if replica.state not in OVER:
            replica.state = _Run.STATE_CANCELLED
            replica.error = replica.error or run.error


def is_over(run: snapshot_pb2.Run) -> bool:
    """Whether the state of a run will not change any more."""
    return run.state in OVER


def first_sentence(failed: BaseExceptionGroup[Exception], peers: Peers) -> str:
    """The sentence of the one error that the work ended with."""
    error = failed.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return first_sentence(error, peers)
    return describe(error, peers.secondary)
