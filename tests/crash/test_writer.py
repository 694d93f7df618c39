"""A Primary's group, crashed at every storage call: nothing answered is lost, nothing is half."""

import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from slackwater.clock import ManualClock
from slackwater.errors import GroupFailed, NoSpace, SlackwaterError, StorageFailed
from slackwater.group import opening
from slackwater.group.batch import write_change, zero_change
from slackwater.group.changes import VolumeSet, send_message
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings, OpenGroup
from slackwater.log.segment import LogSettings
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from slackwater.v1 import record_pb2
from tests.support.simulation import every_crash

ROOT = Path("/data")
UID = uuid.UUID(int=0x5EED)
SIZE = 64 << 10
SETTINGS = LogSettings(log_bytes=512 << 10, segment_bytes=64 << 10, max_commit_bytes=48 << 10)

Step = tuple[Any, ...]


def make(storage: SimulatedStorage, durability: str = opening.WRITETHROUGH) -> OpenGroup:
    data = DataDirectory.open(storage, ROOT, "primary")
    if not storage.exists(data.group("g").path):
        opening.create_group(storage, data, "g", UID, GroupSettings(SETTINGS, durability), clock())
    return opening.open_group(storage, data.group("g"), clock(), incarnation=lambda: 7)


def clock() -> ManualClock:
    return ManualClock()


def volumes_of(storage: SimulatedStorage, group: OpenGroup) -> VolumeSet:
    return VolumeSet(storage, group.directory, group.writer)


def steps(seed: int, count: int) -> list[Step]:
    """Writes and zeroes on two volumes, overlapping much, with what surrounds them."""
    rng = random.Random(seed)
    made: list[Step] = []
    for number in range(count):
        kind = rng.random()
        volume = rng.choice(("data", "wal"))
        offset = rng.randrange(0, 24) * 512
        if kind < 0.7:
            made.append(
                ("write", volume, offset, bytes([number % 255 + 1]) * rng.choice((512, 4096)))
            )
        elif kind < 0.85:
            made.append(("zero", volume, offset, rng.choice((512, 8192))))
        elif kind < 0.93:
            made.append(("checkpoint",))
        else:
            made.append(("message", f"m{number}"))
    return made


def apply(model: dict[str, bytearray], step: Step) -> None:
    if step[0] == "write":
        model[step[1]][step[2] : step[2] + len(step[3])] = step[3]
    elif step[0] == "zero":
        model[step[1]][step[2] : step[2] + step[3]] = bytes(step[3])


def perform(group: OpenGroup, volumes: VolumeSet, step: Step, *, sync: bool = False) -> None:
    writer = group.writer
    if step[0] == "write":
        writer.submit([write_change(volumes.by_name(step[1]), step[2], step[3])], sync=sync)
    elif step[0] == "zero":
        writer.submit([zero_change(volumes.by_name(step[1]), step[2], step[3])], sync=sync)
    elif step[0] == "checkpoint":
        writer.checkpoint()
    else:
        message = record_pb2.IbcMessage(message_id=step[1], application="app", request_id=step[1])
        send_message(writer, message, fence_timeout=1.0)


def contents(storage: SimulatedStorage, group: OpenGroup) -> dict[str, bytes]:
    result: dict[str, bytes] = {}
    for volume in group.writer.volumes.values():
        target = bytearray(SIZE)
        group.writer.read_into(volume, 0, memoryview(target))
        result[volume.name] = bytes(target)
    return result


PLAN = steps(seed=3, count=36)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    group = make(storage)
    volumes = volumes_of(storage, group)
    volumes.add("data", SIZE)
    journal.append("data")
    volumes.add("wal", SIZE)
    journal.append("wal")
    for number, step in enumerate(PLAN):
        journal.append(("issued", number))
        perform(group, volumes, step)
        journal.append(("answered", number))
    group.writer.checkpoint()


def prefixes(journal: list[Any]) -> list[dict[str, bytearray]]:
    """Return every content that a recovered group may have after what the journal says."""
    answered = max((entry[1] for entry in journal if entry[0] == "answered"), default=-1)
    issued = max((entry[1] for entry in journal if entry[0] == "issued"), default=-1)
    model = {"data": bytearray(SIZE), "wal": bytearray(SIZE)}
    for step in PLAN[: answered + 1]:
        apply(model, step)
    allowed = [{name: bytearray(data) for name, data in model.items()}]
    if issued > answered:
        apply(model, PLAN[issued])
        allowed.append(model)
    return allowed


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    group = make(storage)
    found = contents(storage, group)
    for name in ("data", "wal"):
        if name in journal:
            assert name in found, f"volume {name} was answered and is gone"
    allowed = [
        {name: bytes(data) for name, data in model.items() if name in found}
        for model in prefixes(journal)
    ]
    assert found in allowed, "the volumes are no prefix that holds everything answered"
    for entry in journal:
        if entry[0] == "answered" and PLAN[entry[1]][0] == "message":
            assert group.writer.database.message(PLAN[entry[1]][1]).position.lsn
    # What is in the volumes is what the log's prefix makes: opening again changes nothing.
    group.close()
    again = opening.open_group(storage, group.directory, clock(), incarnation=lambda: 8)
    assert contents(storage, again) == found
    again.close()


def test_everything_answered_survives_a_crash_at_every_storage_call() -> None:
    assert every_crash(workload, verify) > 400


def test_power_loss_after_sigkill_and_recovery_loses_nothing_answered() -> None:
    """D5: recovery may not take bytes for durable because it can read them."""
    for call in range(40, 170, 5):
        storage = SimulatedStorage()
        storage.crash_at = call
        journal: list[Any] = []
        with pytest.raises(SimulatedCrash):
            workload(storage, journal)
        killed = storage.kill()
        group = make(killed)
        found = contents(killed, group)
        after = killed.after_crash(Policy.DROP)
        again = make(after)
        assert contents(after, again) == found, f"crash at {call}: recovered bytes were lost"


def test_writeback_loses_nothing_answered_to_sigkill_nor_flushed_to_power_loss() -> None:
    """D7: SIGKILL after any answer; power loss after a flush."""
    for seed in range(12):
        storage = SimulatedStorage()
        group = make(storage, opening.WRITEBACK)
        volumes = volumes_of(storage, group)
        volumes.add("data", SIZE)
        volumes.add("wal", SIZE)
        model = {"data": bytearray(SIZE), "wal": bytearray(SIZE)}
        flushed = {name: bytes(data) for name, data in model.items()}
        for number, step in enumerate(steps(seed, 30)):
            perform(group, volumes, step)
            apply(model, step)
            assert contents(storage, group) == model, "a read misses an answered write"
            if number == 20:
                group.writer.submit((), sync=True)
                flushed = {name: bytes(data) for name, data in model.items()}
                lost = storage.after_crash(Policy.DROP)
                assert contents(lost, make(lost)) == flushed
        killed = storage.kill()
        assert contents(killed, make(killed)) == model


def test_failed_log_sync_is_final_and_leaves_nothing_answered_behind() -> None:
    """D3: the pages are marked clean, so a second sync would lie."""
    storage = SimulatedStorage()
    group = make(storage)
    volumes = volumes_of(storage, group)
    volume = volumes.add("data", SIZE)
    group.writer.submit([write_change(volume, 0, b"a" * 512)])
    storage.fail("sync", ".seg")
    with pytest.raises(GroupFailed):
        group.writer.submit([write_change(volume, 0, b"b" * 512)])
    syncs = sum(1 for call in storage.call_log if call[1] == "sync")
    for attempt in (
        lambda: group.writer.submit([write_change(volume, 0, b"c" * 512)]),
        group.writer.checkpoint,
        group.writer.maintain,
    ):
        try:
            attempt()
        except SlackwaterError as error:
            assert isinstance(error, GroupFailed)
    assert sum(1 for call in storage.call_log if call[1] == "sync") == syncs, "a sync was retried"
    assert group.writer.marks.failed
    after = storage.after_crash(Policy.DROP)
    assert contents(after, make(after))["data"][:512] == b"a" * 512


def test_failed_volume_sync_keeps_the_checkpoint_and_stops_the_group() -> None:
    storage = SimulatedStorage()
    group = make(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.checkpoint()
    before = group.writer.database.log_state().checkpoint
    group.writer.submit([write_change(volume, 0, b"a" * 512)])
    storage.fail("sync", "data.raw")
    with pytest.raises(GroupFailed):
        group.writer.checkpoint()
    assert group.writer.database.log_state().checkpoint == before
    with pytest.raises(GroupFailed):
        group.writer.submit([write_change(volume, 0, b"b" * 512)])
    after = storage.after_crash(Policy.DROP)
    assert contents(after, make(after))["data"][:512] == b"a" * 512


def test_full_volume_keeps_what_was_logged_and_goes_on_when_space_is_back() -> None:
    """D4: the record is history; reads see it, later writes are refused, nothing is lost."""
    storage = SimulatedStorage()
    group = make(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.submit([write_change(volume, 0, b"a" * 512)])
    storage.fail("write", "data.raw", 28, times=3)
    group.writer.submit([write_change(volume, 0, b"b" * 512)])
    target = bytearray(512)
    group.writer.read_into(volume, 0, memoryview(target))
    assert target == b"b" * 512
    assert volume.read(0, 512) == b"a" * 512
    checkpoint = group.writer.checkpoint()
    assert checkpoint.offset < group.writer.log.end.offset
    with pytest.raises(NoSpace):
        group.writer.submit([write_change(volume, 512, b"c" * 512)])
    killed = storage.kill()
    assert contents(killed, make(killed))["data"][:512] == b"b" * 512
    storage.heal()
    group.writer.maintain()
    group.writer.submit([write_change(volume, 512, b"c" * 512)])
    assert volume.read(0, 1024) == b"b" * 512 + b"c" * 512


def test_recovery_refuses_a_volume_that_cannot_be_synced() -> None:
    storage = SimulatedStorage()
    group = make(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.submit([write_change(volume, 0, b"a" * 512)])
    killed = storage.kill()
    killed.fail("sync", "data.raw")
    with pytest.raises(StorageFailed):
        make(killed)


def test_removed_volume_is_gone_and_its_id_never_comes_back() -> None:
    """D28."""
    storage = SimulatedStorage()
    group = make(storage)
    volumes = volumes_of(storage, group)
    first = volumes.add("data", SIZE)
    group.writer.submit([write_change(first, 0, b"a" * 512)])
    volumes.remove("data")
    second = volumes.add("data", SIZE)
    assert second.id > first.id
    assert second.read(0, 512) == bytes(512)
    killed = storage.kill()
    assert contents(killed, make(killed)) == {"data": bytes(SIZE)}
