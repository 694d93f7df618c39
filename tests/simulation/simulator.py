"""A virtual machine room: one heap of timed events, one clock, one source of chance, one network.

A stream is what gRPC gives: in order, nothing missing, until it breaks. Injected: latency of every
message, a stream cut with any part of what was under way lost on either side, each end learning of
it at its own time or by silence only, partitions. Assumed away: a message lost, doubled or
reordered inside a living stream (the link's scenarios cover the cores' answers to those).
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedCrash

TRACE = 400


class Life:
    """From a process's start to its end; its events die with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False


@dataclass(order=True)
class Event:
    due: float
    number: int
    life: Life = field(compare=False)
    act: Callable[[], None] = field(compare=False)


class Simulator:
    """The heap, the clock and the dice."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = ManualClock(100.0, 1_700_000_000_000_000_000)
        self.events: list[Event] = []
        self.trace: deque[str] = deque(maxlen=TRACE)
        self.faults: list[str] = []
        self.steps = 0
        self.crashed: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None
        self._numbers = itertools.count()

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def note(self, text: str) -> None:
        """Say what happens; the last lines are shown with a failure."""
        self.trace.append(f"{self.now:10.4f} {text}")

    def fault(self, text: str) -> None:
        """Note an injected fault."""
        self.faults.append(f"{self.now:10.4f} {text}")
        self.note(f"*** {text}")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def after(self, seconds: float, life: Life, act: Callable[[], None]) -> None:
        """Let `act` happen later, if `life` goes on until then."""
        event = Event(self.now + seconds, next(self._numbers), life, act)
        heapq.heappush(self.events, event)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; stops early, and says so, when `until` is true after an event."""
        end = self.now + seconds
        while self.events and self.events[0].due <= end:
            event = heapq.heappop(self.events)
            self.clock.advance(max(0.0, event.due - self.now))
            if event.life.is_over:
                continue
            self.steps += 1
            try:
                event.act()
            except SimulatedCrash:
                self.crashed()
            self.after_step()
            if until():
                return True
        self.clock.advance(max(0.0, end - self.now))
        return False

    def run_early(self, lives: Sequence[Life], end: float) -> bool:
        """Run an event of other processes, due by `end`, in the middle of one; False: none.

        The first of `lives` dies with who is in the middle, and its events keep their order; the
        end of another is its own.
        """
        ready = [
            one
            for one in self.events
            if one.life in lives and not one.life.is_over and one.due <= end
        ]
        near = [one for one in ready if one.life is lives[0]]
        if not ready:
            return False
        event = min(near) if near and self.chance(0.5) else self.rng.choice(ready)
        if event.life is lives[0]:
            event = min(near)
        self.events.remove(event)
        heapq.heapify(self.events)
        self.clock.advance(max(0.0, event.due - self.now))
        try:
            event.act()
        except SimulatedCrash:
            if event.life is lives[0]:
                raise
            self.crashed()
        return True


class Direction:
    """One way of a stream."""

    def __init__(
        self,
        network: "Network",
        life: Life,
        take: Callable[[Any], None],
        ended: Callable[[str, bool], None],
        has_room: Callable[[], bool],
    ) -> None:
        self.waiting: deque[tuple[float, Any, tuple[str, bool] | None]] = deque()
        self.is_closed = False
        self._network = network
        self._life = life
        self._take, self._ended, self._has_room = take, ended, has_room
        self._is_planned = False

    def send(self, message: Any, end: tuple[str, bool] | None = None) -> None:
        if self.is_closed:
            return
        sim = self._network.sim
        due = sim.now + sim.rng.uniform(0.0002, self._network.latency)
        if self.waiting:
            due = max(due, self.waiting[-1][0])
        self.waiting.append((due, message, end))
        if end is not None:
            self.is_closed = True
        self._plan(due - sim.now)

    def break_off(self, reason: str, fatal: bool = False, told: bool = True) -> None:
        """End this way of the stream; what is under way arrives in part."""
        if self.is_closed:
            return
        for _ in range(self._network.sim.rng.randint(0, len(self.waiting))):
            self.waiting.pop()
        if told:
            self.send(None, (reason, fatal))
        self.is_closed = True

    def drop(self) -> None:
        """The receiving end is gone."""
        self.is_closed = True
        self.waiting.clear()

    def _plan(self, seconds: float) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._network.sim.after(max(0.0, seconds), self._life, self._arrive)

    def _arrive(self) -> None:
        self._is_planned = False
        sim = self._network.sim
        if not self.waiting:
            return
        if self._network.is_down or not self._has_room():
            self._plan(sim.rng.uniform(0.005, 0.05))
            return
        due = self.waiting[0][0]
        if due > sim.now:
            self._plan(due - sim.now)
            return
        _, message, end = self.waiting.popleft()
        if self.waiting:
            self._plan(self.waiting[0][0] - sim.now)
        if end is None:
            self._take(message)
        else:
            self._ended(*end)


class Stream:
    """One call of Replicate."""

    def __init__(self, to_secondary: Direction, to_primary: Direction) -> None:
        self.to_secondary = to_secondary
        self.to_primary = to_primary

    def cut(self) -> None:
        """The connection breaks; each end learns of it in its own time."""
        self.to_secondary.break_off("the connection was reset")
        self.to_primary.break_off("the connection was reset")


class Network:
    """The way between the two sites."""

    def __init__(self, sim: Simulator, latency: float) -> None:
        self.sim = sim
        self.latency = latency
        self.is_down = False
        self.streams: list[Stream] = []
