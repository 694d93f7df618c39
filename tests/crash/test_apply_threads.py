"""Readers, the applier, snapshots that come and go, checkpoints and merges at the same time.

Real files and real threads: whoever reads a snapshot reads exactly the prefix at its position,
whatever happens beside it (D22, D23).
"""

import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from slackwater import errors, record
from slackwater.apply.opening import ReplicaSpec
from slackwater.apply.replica import Replica
from slackwater.clock import SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.log.log import LogSettings
from slackwater.storage.real import RealStorage
from tests.unit.apply.stream import CHUNK, UID, Stream, shown

SIZE = 24 * CHUNK + 512
SECONDS = 60.0
ROUNDS = 30
WRITES = 60


class Scene:
    """A replica fed by one thread, with snapshots whose content the stream knows."""

    def __init__(self, root: Path) -> None:
        data = DataDirectory.open(RealStorage(), root, "secondary")
        settings = LogSettings(
            log_bytes=16 << 20, segment_bytes=(1 << 20) + 4096, max_commit_bytes=256 << 10
        )
        spec = ReplicaSpec(UID, "demo", "link", 1, settings)
        self.replica = Replica.create(RealStorage(), data, spec, SystemClock())
        self.stream = Stream()
        self.stream.start()
        self.stream.add_volume(1, "data", SIZE)
        self.done = threading.Event()
        self.failures: list[BaseException] = []
        self.reads = 0

    def beside(self, work: Callable[[random.Random], None], seed: int) -> threading.Thread:
        def run() -> None:
            rng = random.Random(seed)
            try:
                while not self.done.is_set():
                    work(rng)
            except BaseException as error:
                self.failures.append(error)
                self.done.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def send(self, rng: random.Random) -> None:
        for _ in range(WRITES):
            offset = rng.randrange(SIZE - 1)
            length = min(rng.choice([1, 512, CHUNK, 3 * CHUNK]), SIZE - offset)
            if rng.random() < 0.1:
                self.stream.zero(1, offset, length)
            else:
                self.stream.write(1, offset, rng.randbytes(length))
        received = self.replica.receiver.received
        run = self.stream.run_after(received.lsn)
        views, _, _ = record.scan(run, 0, len(run), received)
        durable = threading.Event()
        self.replica.append_run(run, views, lambda _: durable.set())
        self.stream.records = self.stream.records[-1:]
        assert durable.wait(SECONDS)

    def read(self, rng: random.Random) -> None:
        rows = self.replica.snapshots()
        if not rows:
            time.sleep(0)
            return
        name = rng.choice(rows).name
        try:
            row = self.replica.snapshot(name)
            found = shown(self.replica, name)
        except errors.NotFound:
            return  # it was deleted under the reader
        assert found == self.stream.states[row.point.position.lsn], f"snapshot {name} has changed"
        self.reads += 1

    def upkeep(self, _: random.Random) -> None:
        self.replica.maintain()
        self.replica.checkpoint()


@pytest.mark.timeout(120)
def test_readers_race_the_applier_merges_and_checkpoints(tmp_path: Path) -> None:
    scene, rng = Scene(tmp_path), random.Random(5)
    replica = scene.replica
    replica.start()
    threads = [scene.beside(scene.read, seed) for seed in range(3)]
    threads.append(scene.beside(scene.upkeep, 9))
    try:
        for number in range(ROUNDS):
            if scene.done.is_set():
                break
            scene.send(rng)
            name = f"s{number}-{uuid.uuid4().hex[:4]}"
            chunk_bytes = 0 if replica.catalogue.used_volumes() else CHUNK
            replica.create_snapshot(name, chunk_bytes=chunk_bytes)
            scene.send(rng)
            rows = replica.snapshots()
            if len(rows) > 4:
                replica.delete_snapshot(rng.choice(rows).name)
    finally:
        scene.done.set()
        for thread in threads:
            thread.join(SECONDS)
        replica.close()
    assert not scene.failures, scene.failures
    assert replica.failure is None, replica.failure
    assert scene.reads > 20
