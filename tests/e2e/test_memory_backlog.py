"""A backlog of 2 GiB builds and drains; no service ever needs more than its bound of memory."""

import threading
from collections.abc import Callable

import pytest

from demo.usage import Sampler
from slackwater.v1 import common_pb2
from tests.support.processes import DATA, MIB, WAL, Cluster, flood, pause, wait_until

pytestmark = [pytest.mark.timeout(400)]

BACKLOG_BYTES = 2048 * MIB
SMALL_WRITES_BYTES = 256 * MIB
SMALL_WRITE_BYTES = 4096
LOG_BYTES = 4096 * MIB
VOLUME_BYTES = 512 * MIB
MOST_ANONYMOUS_BYTES = 256 * MIB


def flood_from_many(
    cluster: Cluster, total: int, connections: int = 4, depth: int = 8, piece_bytes: int = MIB
) -> None:
    """As `flood`, from several connections at once to both volumes."""
    threads = [
        threading.Thread(
            target=flood,
            args=(cluster, (DATA, WAL)[number % 2], total // connections, depth, piece_bytes),
        )
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def readings(cluster: Cluster) -> dict[str, Callable[[], float]]:
    return {
        service.role: lambda service=service: float(service.anonymous_bytes())  # type: ignore[misc]
        for service in cluster.services
    }


def refuse_too_much(sampler: Sampler) -> None:
    print({role: f"{peak / MIB:.0f} MiB" for role, peak in sampler.peaks.items()})
    for role, peak in sampler.peaks.items():
        assert 0 < peak < MOST_ANONYMOUS_BYTES, f"{role} used {peak / MIB:.0f} MiB"


def test_backlog_of_a_paused_link_builds_and_drains_in_bounded_memory(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=LOG_BYTES, data=VOLUME_BYTES, wal=VOLUME_BYTES)
    pause(cluster, paused=True)
    with Sampler(readings(cluster)) as sampler:
        flood_from_many(cluster, BACKLOG_BYTES)
        assert cluster.link().lag_bytes >= BACKLOG_BYTES
        pause(cluster, paused=False)
        cluster.wait_no_lag(180)
    refuse_too_much(sampler)


def test_backlog_under_a_freeze_builds_and_drains_in_bounded_memory(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=LOG_BYTES, data=VOLUME_BYTES, wal=VOLUME_BYTES)
    message = cluster.send()
    assert cluster.receive() is not None
    with Sampler(readings(cluster)) as sampler:
        flood_from_many(cluster, BACKLOG_BYTES)
        wait_until(
            "all of it was received",
            lambda: cluster.replica().freeze.backlog_bytes >= BACKLOG_BYTES,
            120,
        )
        cluster.unfreeze(message.name)
        cluster.wait_no_lag(180)
    refuse_too_much(sampler)
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")


def test_backlog_of_small_writes_builds_and_drains_in_bounded_memory(cluster: Cluster) -> None:
    """Sixty-five thousand records: what costs memory by the record shows here, not above."""
    cluster.replicate(log_bytes=LOG_BYTES // 4, data=VOLUME_BYTES, wal=VOLUME_BYTES)
    pause(cluster, paused=True)
    with Sampler(readings(cluster)) as sampler:
        flood_from_many(cluster, SMALL_WRITES_BYTES, 8, 32, SMALL_WRITE_BYTES)
        assert cluster.link().lag_bytes >= SMALL_WRITES_BYTES
        pause(cluster, paused=False)
        cluster.wait_no_lag(180)
    refuse_too_much(sampler)
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")


def test_full_sync_under_small_writes_runs_in_bounded_memory(cluster: Cluster) -> None:
    """Regions and records of four times a log, all at once."""
    cluster.start()
    cluster.create_group(log_bytes=64 * MIB, data=VOLUME_BYTES, wal=VOLUME_BYTES)
    flood_from_many(cluster, 2 * VOLUME_BYTES)
    with Sampler(readings(cluster)) as sampler:
        cluster.create_link()
        wait_until("a sync runs", lambda: cluster.link().sync.total_bytes > 0)
        synced = []
        flood = threading.Thread(
            target=flood_from_many, args=(cluster, SMALL_WRITES_BYTES, 8, 32, SMALL_WRITE_BYTES)
        )
        flood.start()
        while flood.is_alive():
            synced.append(cluster.link().state == common_pb2.LINK_STATE_SYNCING)
            flood.join(0.05)
        cluster.wait_streaming()
    refuse_too_much(sampler)
    assert any(synced), "no sync ran while the writers wrote"
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")
    assert cluster.read_volume("wal", "secondary") == cluster.read_volume("wal")
