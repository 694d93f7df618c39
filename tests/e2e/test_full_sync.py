"""A link to a group that has data, and one that fell too far behind: full syncs, by themselves."""

import json
import threading
import time

import pytest

from slackwater.v1 import common_pb2, primary_pb2
from tests.support.oracle import Journal
from tests.support.oracle_cycle import (
    SIZES,
    check_point,
    freeze_at,
    live_images,
    snapshot_images,
    start_load,
)
from tests.support.processes import (
    CALL_SECONDS,
    DATA,
    GROUP,
    MIB,
    WAIT_SECONDS,
    WAL,
    Cluster,
    flood,
    pause,
    wait_until,
)

pytestmark = pytest.mark.timeout(240)

SMALL_LOG_BYTES = 64 * MIB
LARGE_VOLUME_BYTES = 512 * MIB


def link_states(cluster: Cluster, states: set[int], stop: threading.Event) -> None:
    """Note every state the link is seen in."""
    while not stop.wait(0.02):
        states.add(cluster.link().state)


def syncs_begun(cluster: Cluster) -> list[str]:
    """Ids of the syncs that began at nothing, as the Secondary logged them."""
    lines = cluster.secondary.log_path.read_text().splitlines()
    said = [json.loads(line) for line in lines if "sync_begun" in line]
    return [line["sync"] for line in said]


def forget_the_log(cluster: Cluster) -> None:
    """Write more than a small log holds, so that a new link cannot start from it."""
    flood(cluster, DATA, 2 * SMALL_LOG_BYTES)


def test_link_to_a_group_with_data_syncs_and_then_stops_at_messages(cluster: Cluster) -> None:
    cluster.start()
    cluster.create_group(log_bytes=SMALL_LOG_BYTES, data=128 * MIB, wal=SIZES[WAL])
    forget_the_log(cluster)
    cluster.create_link()
    cluster.wait_streaming()
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")
    cluster.register()
    message = cluster.send()
    delivered = cluster.receive()
    assert delivered is not None
    assert delivered.name == message.name
    cluster.unfreeze(message.name)


def test_link_made_after_a_checkpoint_syncs_though_the_log_has_all_on_its_disk(
    cluster: Cluster,
) -> None:
    """Removing a volume takes a checkpoint; with no link the log is let go of up to there."""
    cluster.start()
    cluster.create_group(data=MIB, wal=MIB)
    with cluster.device(DATA) as device:
        device.write(0, b"before".ljust(512), fua=True)
    cluster.primary_api.DeleteVolume(
        primary_pb2.DeleteVolumeRequest(name=f"{GROUP}/volumes/wal"), timeout=CALL_SECONDS
    )
    cluster.create_link()
    cluster.wait_streaming()
    cluster.wait_no_lag()
    assert len(syncs_begun(cluster)) == 1
    assert cluster.read_volume("data", "secondary")[:512] == b"before".ljust(512)


@pytest.mark.parametrize("victim", ["primary", "secondary"])
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_sync_goes_on_where_it_was_after_a_restart(
    cluster: Cluster, victim: str, kill: bool
) -> None:
    cluster.start()
    cluster.create_group(log_bytes=SMALL_LOG_BYTES, data=LARGE_VOLUME_BYTES, wal=SIZES[WAL])
    flood(cluster, DATA, LARGE_VOLUME_BYTES)
    cluster.create_link()
    deadline = time.monotonic() + WAIT_SECONDS
    while not (sync := cluster.link().sync).done_bytes:  # no pause: it may be over in a second
        assert time.monotonic() < deadline
    service = cluster.primary if victim == "primary" else cluster.secondary
    service.restart(kill=kill)
    cluster.wait_streaming()
    cluster.wait_no_lag()
    assert syncs_begun(cluster) == [sync.sync_id]
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")


def test_sync_of_a_busy_group_ends_with_a_log_far_smaller_than_the_volume(
    cluster: Cluster,
) -> None:
    cluster.start()
    cluster.create_group(log_bytes=SMALL_LOG_BYTES, data=LARGE_VOLUME_BYTES, wal=SIZES[WAL])
    flood(cluster, DATA, LARGE_VOLUME_BYTES)
    stopping = threading.Event()
    written = []

    def write_on() -> None:
        with cluster.device(DATA) as device:
            number = 0
            while not stopping.is_set():
                place = number * 37 * MIB % (LARGE_VOLUME_BYTES - MIB)
                device.write(place // 4096 * 4096, number.to_bytes(8, "little") * 8192)
                number += 1
                stopping.wait(0.002)
            written.append(number)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        cluster.create_link()
        wait_until(
            "the sync ends under load",
            lambda: cluster.link().state == common_pb2.LINK_STATE_STREAMING,
            150,
        )
    finally:
        stopping.set()
        writer.join()
    assert written[0] > 100
    cluster.wait_no_lag()
    assert cluster.replica().state == common_pb2.REPLICA_STATE_CONSISTENT
    assert cluster.read_volume("data", "secondary") == cluster.read_volume("data")


def test_overflown_link_goes_dirty_and_comes_back_by_itself(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=SMALL_LOG_BYTES, data=SIZES[DATA], wal=SIZES[WAL])
    states: set[int] = set()
    stop = threading.Event()
    cluster.secondary.kill()
    watcher = threading.Thread(target=link_states, args=(cluster, states, stop))
    watcher.start()
    try:
        flood(cluster, DATA, 3 * SMALL_LOG_BYTES)  # no write fails and none waits for ever
        wait_until("DIRTY", lambda: common_pb2.LINK_STATE_DIRTY in states)
        cluster.secondary.start(same_ports=True)
        cluster.wait_streaming()
    finally:
        stop.set()
        watcher.join()
    assert live_images(cluster) == live_images(cluster, "primary")
    journal = Journal()
    for volume in SIZES:  # the oracle wants volumes of which it knows every sector
        with cluster.device(volume) as device:
            device.zero(0, device.size)
    with start_load(cluster, journal) as load:
        load.wait_for(200)
        point = freeze_at(cluster, journal)
        cluster.take_snapshot("after", at_message=point.message.name)
        cluster.unfreeze(point.message.name)
    check_point(journal, point, snapshot_images(cluster, "after"))


def test_frozen_replica_is_not_overwritten_by_a_sync(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=SMALL_LOG_BYTES, data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(100)
        point = freeze_at(cluster, journal)
        load.wait_for(20)
    pause(cluster, paused=True)
    flood(cluster, DATA, 3 * SMALL_LOG_BYTES)
    pause(cluster, paused=False)
    wait_until("DIRTY", lambda: cluster.link().state == common_pb2.LINK_STATE_DIRTY)
    check_point(journal, point, live_images(cluster))
    cluster.unfreeze(point.message.name)
    cluster.wait_streaming()
    assert live_images(cluster) == live_images(cluster, "primary")


def test_message_under_way_while_a_link_overflows_ends_as_skipped(cluster: Cluster) -> None:
    cluster.replicate(log_bytes=SMALL_LOG_BYTES, data=SIZES[DATA], wal=SIZES[WAL])
    pause(cluster, paused=True)
    message = cluster.send()
    flood(cluster, DATA, 3 * SMALL_LOG_BYTES)
    pause(cluster, paused=False)

    def verdict() -> int:
        answer = cluster.primary_api.GetMessage(
            primary_pb2.GetMessageRequest(name=message.name), timeout=CALL_SECONDS
        )
        return answer.message.verdicts[0].state

    wait_until(
        "the sender learns", lambda: verdict() == common_pb2.VERDICT_STATE_SKIPPED_INCONSISTENT
    )
    cluster.wait_streaming()
