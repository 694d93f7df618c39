"""Batches of many requests, crashed in the middle; checkpoints in the middle of them (D1, D2)."""

import functools
import random
from typing import Any

import pytest

from slackwater.errors import GroupFailed
from slackwater.group import opening
from slackwater.group.batch import Change, write_change
from slackwater.group.opening import OpenGroup
from slackwater.group.volume import Volume
from slackwater.position import LogPoint
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from tests.support.simulation import calls_of, every_crash
from tests.unit.group.engine import (
    SIZE,
    SMALL,
    open_group,
    read,
    records,
    send,
    volumes_of,
    write,
)

WRITES = 30
"""Of 4 KiB in one batch: three commits' worth."""


def big_batch(volume: Volume) -> list[Change]:
    return [
        write_change(volume, number % 4 * 2048, number.to_bytes(4, "big") * 1024)
        for number in range(WRITES)
    ]


@functools.cache
def after(writes: int) -> bytes:
    """The volume after so many writes of the batch."""
    data = bytearray(SIZE)
    for number in range(writes):
        data[number % 4 * 2048 : number % 4 * 2048 + 4096] = number.to_bytes(4, "big") * 1024
    return bytes(data)


def checkpoint_at_sync(group: OpenGroup, number: int) -> None:
    """Run a checkpoint between the log's `number`-th sync from now and the volumes' writes."""
    sync = group.writer.log.sync
    left = [number]

    def then_checkpoint() -> LogPoint:
        point = sync()
        left[0] -= 1
        if left[0] == 0:
            group.writer.checkpoint()
        return point

    group.writer.log.sync = then_checkpoint  # type: ignore[method-assign]


def workload(storage: SimulatedStorage, journal: list[Any], at: int, durability: str) -> None:
    group = open_group(storage, durability=durability)
    volume = volumes_of(storage, group).add("data", SIZE)
    assert WRITES * 4096 > 2 * SMALL.max_commit_bytes
    checkpoint_at_sync(group, at)
    journal.append("issued")
    group.writer.submit(big_batch(volume))
    journal.append("answered")
    group.writer.submit((), sync=True)
    journal.append("durable")
    group.writer.checkpoint()
    group.close()


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("durability", [opening.WRITETHROUGH, opening.WRITEBACK])
def test_batch_with_a_checkpoint_in_its_middle_is_a_prefix_after_a_crash_at_every_call(
    at: int, durability: str
) -> None:
    def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
        group = open_group(storage, durability=durability)
        if "issued" not in journal:
            return
        (volume,) = group.writer.volumes.values()
        found = read(group, volume)
        least = WRITES if "durable" in journal else 0
        if durability == opening.WRITETHROUGH and "answered" in journal:
            least = WRITES
        assert found in [after(count) for count in range(least, WRITES + 1)]
        group.close(clean=False)

    def run(storage: SimulatedStorage, journal: list[Any]) -> None:
        workload(storage, journal, at, durability)

    # Dying in recovery too is the same from wherever the checkpoint was; once is enough.
    crashes = every_crash(run, verify, again=at == 2)
    assert crashes > 100


def test_all_records_of_an_oversize_batch_lie_on_one_side_of_a_message() -> None:
    """D8."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    before = group.writer.log.end.position.lsn
    group.writer.submit(big_batch(volume))
    sent = send(group.writer, "m", 1.0)
    assert sent.row.position.lsn == before + WRITES + 1
    assert volume.read(0, SIZE) == after(WRITES)


@pytest.mark.parametrize("durability", [opening.WRITETHROUGH, opening.WRITEBACK])
def test_checkpoint_crashed_at_each_of_its_calls_loses_nothing(durability: str) -> None:
    """D2: the checkpoint moves after the volumes are synced, and never past in_volumes."""
    for call in range(1, 12):
        for policy in Policy:
            storage = SimulatedStorage()
            group = open_group(storage, durability=durability)
            volumes = volumes_of(storage, group)
            pair = [volumes.add(name, SIZE) for name in ("data", "wal")]
            for volume in pair:
                write(group.writer, volume, 0, b"a" * 4096)
            group.writer.submit((), sync=True)
            for volume in pair:
                write(group.writer, volume, 512, b"b" * 512)
            storage.crash_at = storage.calls + call
            try:
                group.writer.checkpoint()
                group.writer.submit((), sync=True)
                group.writer.checkpoint()
                group.writer.close()
            except SimulatedCrash:
                pass
            lost = storage.after_crash(policy, random.Random(call))
            found = open_group(lost)
            for volume in pair:
                data = read(found, found.writer.volumes[volume.id], 0, 4096)
                assert data[:512] + data[1024:] == b"a" * 3584
                if durability == opening.WRITETHROUGH:
                    assert data[512:1024] == b"b" * 512


def test_sigkill_then_power_loss_at_every_call_of_the_recovery_loses_nothing_answered() -> None:
    """D5: what lies in the page cache is written again and synced before anyone sees it."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.submit(big_batch(volume))
    killed = storage.kill()
    probe = killed.kill()
    opened = open_group(probe)
    assert read(opened, opened.writer.volumes[volume.id]) == after(WRITES)
    assert probe.calls > 10
    for call in range(1, probe.calls + 1):
        dying = killed.kill()
        dying.crash_at = call
        with pytest.raises(SimulatedCrash):
            open_group(dying)
        for policy in Policy:
            again = dying.after_crash(policy, random.Random(call))
            found = open_group(again)
            assert read(found, found.writer.volumes[volume.id]) == after(WRITES)
    for policy in Policy:
        lost = probe.after_crash(policy, random.Random(1))
        found = open_group(lost)
        assert read(found, found.writer.volumes[volume.id]) == after(WRITES)


def test_log_sync_that_failed_and_marked_pages_clean_is_mended_by_the_next_start() -> None:
    """D3: EIO, then clean. The process restarts, the pages are readable, and then power fails."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    write(group.writer, volume, 0, b"a" * 512)
    point = group.writer.log.durable
    storage.fail("sync", ".seg")
    with pytest.raises(GroupFailed):
        write(group.writer, volume, 0, b"b" * 16384)  # pages that no later write touches
    killed = storage.kill()
    group, volume = _open(killed)
    lost = killed.after_crash(Policy.DROP)
    again, its_volume = _open(lost)
    assert read(group, volume) == read(again, its_volume)
    assert read(group, volume, 0, 512) in (b"a" * 512, b"b" * 512)
    # A sender may have shipped what the log showed after the first start: it must still hold it.
    shipped = records(killed, group, point)
    assert records(lost, again, point)[: len(shipped)] == shipped


def test_volume_sync_that_failed_and_marked_pages_clean_is_mended_by_the_next_start() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    write(group.writer, volume, 0, b"a" * 512)
    storage.fail("sync", "data.raw")
    with pytest.raises(Exception, match="sync"):
        group.writer.checkpoint()
    killed = storage.kill()
    shown = read(*_open(killed))
    assert shown[:512] == b"a" * 512
    assert shown == read(*_open(killed.after_crash(Policy.DROP)))


def test_volume_never_holds_what_the_log_does_not() -> None:
    """D1: else a crash leaves the Primary with bytes that no Secondary will ever get."""
    for operation in ("write", "sync"):
        storage = SimulatedStorage()
        group = open_group(storage)
        volume = volumes_of(storage, group).add("data", SIZE)
        write(group.writer, volume, 0, b"a" * 512)
        storage.fail(operation, ".seg")
        with pytest.raises(GroupFailed):
            write(group.writer, volume, 0, b"b" * 512)
        assert volume.read(0, 512) == b"a" * 512


def _open(storage: SimulatedStorage) -> tuple[OpenGroup, Volume]:
    group = open_group(storage)
    (volume,) = group.writer.volumes.values()
    return group, volume


def test_volume_file_that_lost_its_end_is_refused_by_name_not_filled_up() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.close()
    file = storage.open(volume.path)
    file.resize(SIZE - 512)
    file.close()
    with pytest.raises(Exception, match=r"data\.raw has 65024 bytes"):
        open_group(storage)
    file = storage.open(volume.path)
    assert file.size() == SIZE - 512


def test_workloads_reach_several_commits() -> None:
    """Keeps the crash tests above honest about where they crash."""
    total = calls_of(lambda storage, journal: workload(storage, journal, 2, opening.WRITETHROUGH))
    assert total > 30
