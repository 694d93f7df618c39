"""A backlog of 2 GiB builds and drains; no service ever needs more than its bound of memory."""

import threading
from collections.abc import Callable

import pytest

from demo.usage import Sampler
from slackwater.v1 import primary_pb2
from tests.support.processes import CALL_SECONDS, DATA, LINK, MIB, WAL, Cluster, wait_until

pytestmark = [pytest.mark.timeout(400)]

BACKLOG_BYTES = 2048 * MIB
LOG_BYTES = 4096 * MIB
VOLUME_BYTES = 512 * MIB
MOST_ANONYMOUS_BYTES = 256 * MIB
WRITE_BYTES = MIB


def flood(cluster: Cluster, volume: int, total: int, depth: int = 8) -> None:
    """Write that many bytes through one connection, round and round the volume."""
    piece = bytes(range(256)) * (WRITE_BYTES // 256)
    failures: list[int] = []

    def on_done(_tag: int, errno: int) -> None:
        if errno:
            failures.append(errno)

    with cluster.device(volume) as device:
        slots = device.size // WRITE_BYTES
        with device.pipeline(depth, on_done) as pipeline:
            for number in range(total // WRITE_BYTES):
                pipeline.write(number, number % slots * WRITE_BYTES, piece)
    assert not failures


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


def pause(cluster: Cluster, *, paused: bool) -> None:
    cluster.primary_api.UpdateLink(
        primary_pb2.UpdateLinkRequest(name=LINK, paused=paused), timeout=CALL_SECONDS
    )


def readings(cluster: Cluster) -> dict[str, Callable[[], float]]:
    return {
        service.role: lambda service=service: float(service.anonymous_bytes())  # type: ignore[misc]
        for service in cluster.services
    }


def refuse_too_much(sampler: Sampler) -> None:
    print({role: f"{peak / MIB:.0f} MiB" for role, peak in sampler.peaks.items()})  # noqa: T201
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
