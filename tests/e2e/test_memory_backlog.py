"""A backlog of 2 GiB builds and drains; no service ever needs more than its bound of memory."""

import threading
from collections.abc import Callable

import pytest

from demo.usage import Sampler
from tests.support.processes import DATA, MIB, WAL, Cluster, flood, pause, wait_until

pytestmark = [pytest.mark.timeout(400)]

BACKLOG_BYTES = 2048 * MIB
LOG_BYTES = 4096 * MIB
VOLUME_BYTES = 512 * MIB
MOST_ANONYMOUS_BYTES = 256 * MIB


def flood_from_many(cluster: Cluster, total: int, connections: int = 4) -> None:
    """As `flood`, from several connections at once to both volumes."""
    threads = [
        threading.Thread(
            target=flood, args=(cluster, (DATA, WAL)[number % 2], total // connections)
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
