"""A full snapshot being copied, crashed at every storage call: whole, or gone on with, or lost."""

from typing import Any

import pytest

from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.clock import ManualClock
from slackwater.snapshots import copying
from slackwater.storage.simulated import SimulatedStorage
from tests.support.simulation import every_crash
from tests.unit.apply.stream import (
    CHUNK,
    Stream,
    apply_all,
    live,
    make_replica,
    open_replica,
    receive,
    shown,
)

CHUNKS = 6


def overwrite(replica: Replica, stream: Stream, chunks: range, fill: int) -> None:
    for chunk in chunks:
        stream.write(1, chunk * CHUNK, bytes([fill]) * CHUNK)
    receive(replica, stream)
    apply_all(replica)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    clock = ManualClock()
    stream, replica = Stream(), make_replica(storage, clock)
    replica.copy_bytes_per_second = CHUNK
    stream.start()
    stream.add_volume(1, "data", CHUNKS * CHUNK)
    overwrite(replica, stream, range(CHUNKS - 1), 1)
    for name, kind in (
        ("older", copying.SPACE_OPTIMIZED),
        ("full", copying.FULL),
        ("newer", copying.SPACE_OPTIMIZED),
    ):
        replica.create_snapshot(name, chunk_bytes=CHUNK, kind=kind)
        journal.append((name, live(replica)))
        overwrite(replica, stream, range(1, 3), 10 + len(journal))
        tick(replica, clock)
    journal.append(("deleted", "newer"))
    replica.delete_snapshot("newer")
    for fill in range(CHUNKS):
        overwrite(replica, stream, range(fill % 4, fill % 4 + 1), 100 + fill)
        tick(replica, clock)
    if replica.snapshot("full").copied:
        journal.append(("copied", "full"))


def tick(replica: Replica, clock: ManualClock) -> None:
    clock.advance(1.0)
    replica.maintain()


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    contents = {name: content for name, content in journal if name not in ("deleted", "copied")}
    if "full" not in contents:
        return
    clock = ManualClock()
    replica = open_replica(storage, clock)
    if ("copied", "full") in journal:
        assert replica.snapshot("full").copied, "what was said durably is so"
    for _ in range(3 * CHUNKS):
        apply_all(replica)
        clock.advance(1.0)
        replica.maintain()
        for row in replica.snapshots():
            assert shown(replica, row.name) == contents[row.name]
    assert replica.snapshot("full").copied
    storage = storage.kill()
    storage.remove(replica.directory.volumes / "data.raw")
    replica = open_replica(storage, ManualClock())
    assert isinstance(replica.failure, errors.DataCorrupt)
    assert shown(replica, "full") == contents["full"]
    with pytest.raises((errors.DataCorrupt, errors.FailedPrecondition)):
        shown(replica, "older")


def test_full_snapshot_is_whole_without_its_volume_over_a_crash_at_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "COPY_BYTES", CHUNK)
    journal: list[Any] = []
    workload(SimulatedStorage(), journal)
    assert ("copied", "full") in journal, "the crashes reach the end of the copy"
    assert every_crash(workload, verify, stride=4) > 150
