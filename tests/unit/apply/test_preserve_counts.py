"""What applying costs with many snapshots present, counted in storage calls (D22)."""

import pytest

from slackwater.clock import ManualClock
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import CHUNK, Stream, apply_all, make_replica, receive, shown

CHUNKS = 8


@pytest.mark.parametrize("snapshots", [1, 10, 50])
def test_batch_costs_one_overlay_sync_and_one_preserve_a_chunk(snapshots: int) -> None:
    storage = SimulatedStorage()
    replica, stream = make_replica(storage, ManualClock()), Stream()
    stream.start()
    stream.add_volume(1, "data", CHUNKS * CHUNK)
    for chunk in range(CHUNKS):
        stream.write(1, chunk * CHUNK, bytes([chunk + 1]) * CHUNK)
    receive(replica, stream)
    apply_all(replica)
    for number in range(snapshots):
        replica.create_snapshot(f"s{number}", chunk_bytes=CHUNK)
    newest = f"s{snapshots - 1}"
    for round_ in range(2):
        for chunk in range(CHUNKS):
            stream.write(1, chunk * CHUNK, bytes([100 + round_]) * CHUNK)
    receive(replica, stream)
    start = len(storage.call_log)
    apply_all(replica)
    calls = storage.call_log[start:]
    syncs = [path for _, kind, path in calls if kind == "sync" and path.endswith(".overlay")]
    assert len(syncs) == 1
    kept = [sum(replica.catalogue.preserved_bytes(f"s{n}").values()) for n in range(snapshots)]
    assert kept[-1] < 2 * CHUNKS * CHUNK, "a chunk was preserved twice"
    assert len(set(kept[:-1])) <= 1, "an older snapshot took a chunk as well"
    assert shown(replica, "s0") == shown(replica, newest)
