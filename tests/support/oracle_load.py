"""Writers for the prefix oracle: several connections to each volume, overlapping on purpose."""

import random
import threading
from collections.abc import Callable
from typing import Protocol

from tests.support.oracle import SECTOR, Journal, label_write


class Device(Protocol):
    """What a writer needs of a connection to a volume."""

    def write(self, offset: int, data: bytes) -> None:
        """Write and wait for the reply."""

    def close(self) -> None:
        """Hang up."""


class Load:
    """Threads that write labelled sectors until stopped, each on a connection of its own.

    A writer whose connection breaks leaves its write unanswered and dials again, so that services
    may be killed under it. Every extent is small and the volumes are too, so writers keep
    overwriting each other's blocks.
    """

    def __init__(
        self,
        journal: Journal,
        connect: Callable[[int], Device],
        volume_bytes: dict[int, int],
        *,
        connections: int = 3,
        seed: int = 1,
        largest_sectors: int = 64,
        pause_seconds: float = 0.0,
    ) -> None:
        """Plan `connections` writers for each volume; nothing is dialled before `start`."""
        self.journal = journal
        self._connect = connect
        self._volume_bytes = volume_bytes
        self._largest = largest_sectors
        self._pause = pause_seconds
        self._stopping = threading.Event()
        self._problems: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(number, volume, random.Random(seed * 1000 + number))
            )
            for number, volume in enumerate(sorted(volume_bytes) * connections, start=1)
        ]
        for thread in self._threads:
            thread.daemon = True

    def start(self) -> "Load":
        """Start all writers."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """End all writers after the write each is at; raises what one of them tripped over."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_seconds)
            if thread.is_alive():
                raise TimeoutError("a writer did not come back from a write")
        if self._problems:
            raise self._problems[0]

    def answered(self) -> int:
        """How many writes have been answered so far."""
        return sum(1 for write in list(self.journal.writes) if write.answered is not None)

    def wait_for(self, writes: int, timeout_seconds: float = 30.0) -> None:
        """Wait until `writes` more writes have been answered than now."""
        goal = self.answered() + writes
        deadline = threading.Event()
        timer = threading.Timer(timeout_seconds, deadline.set)
        timer.start()
        try:
            while self.answered() < goal:
                if self._problems:
                    raise self._problems[0]
                if deadline.wait(0.02):
                    raise TimeoutError(f"{self.answered()} writes answered, {goal} wanted")
        finally:
            timer.cancel()

    def __enter__(self) -> "Load":
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self, writer: int, volume: int, choice: random.Random) -> None:
        device: Device | None = None
        try:
            while not self._stopping.is_set():
                try:
                    if device is None:
                        device = self._connect(volume)
                    self._write_one(device, writer, volume, choice)
                except (OSError, EOFError):
                    if device is not None:
                        device.close()
                    device = None
                    self._stopping.wait(0.05)
                if self._pause:
                    self._stopping.wait(self._pause)
        except BaseException as problem:  # handed to the thread that calls stop
            self._problems.append(problem)
        finally:
            if device is not None:
                device.close()

    def _write_one(self, device: Device, writer: int, volume: int, choice: random.Random) -> None:
        room = self._volume_bytes[volume] // SECTOR
        sectors = min(room, choice.choice((1, 1, 2, 3, 8, 8, 8, 24, self._largest)))
        first = choice.randrange(0, room - sectors + 1)
        write = self.journal.issue(writer, volume, first, sectors)
        device.write(first * SECTOR, label_write(write))
        self.journal.answer(write)
