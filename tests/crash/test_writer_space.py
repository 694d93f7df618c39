"""What a Primary's group does without space: in the log, a volume, group.db (D4, D9, D11)."""

import errno
import threading

import pytest

from slackwater import record
from slackwater.clock import ManualClock
from slackwater.errors import GroupFailed, NoSpace, Unavailable
from slackwater.group import commit, opening, writer
from slackwater.group.opening import OpenGroup
from slackwater.group.volume import Volume
from slackwater.group.writer import SHORTAGE_SECONDS
from slackwater.storage.simulated import Policy, SimulatedStorage
from tests.unit.group.engine import (
    PATIENCE_SECONDS,
    SIZE,
    SMALL,
    Crew,
    open_group,
    read,
    records,
    send,
    volumes_of,
    wait_for,
    write,
)


def is_content(group: OpenGroup) -> bool:
    return group.writer.shortage is None


def test_writers_go_round_the_log_many_times_and_never_wait_for_a_dead_link() -> None:
    """D9: the checkpoint frees what it can, then the dead link is let go of, once."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    acked: list[int | None] = [group.writer.log.durable.offset]
    pressed: list[int] = []

    def let_go(checkpoint: int) -> None:
        pressed.append(checkpoint)
        acked[0] = None

    group.writer.links_floor = lambda: acked[0]
    group.writer.log_pressure = let_go
    model = bytearray(SIZE)
    for number in range(5 * SMALL.log_bytes // 4096):
        data, offset = bytes([number % 255 + 1]) * 4096, number % 16 * 4096
        write(group.writer, volume, offset, data)
        model[offset : offset + 4096] = data
    assert len(pressed) == 1
    after = storage.after_crash(Policy.DROP)
    found = open_group(after)
    assert read(found, found.writer.volumes[volume.id]) == model


def test_link_that_keeps_up_is_never_let_go_of() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.links_floor = lambda: group.writer.log.durable.offset
    pressed: list[int] = []
    group.writer.log_pressure = pressed.append
    for number in range(3 * SMALL.log_bytes // 4096):
        write(group.writer, volume, number % 16 * 4096, b"x" * 4096)
    assert not pressed


def test_second_waiter_for_room_lets_go_of_no_link_when_the_first_has_made_the_room() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    floors = {"dead": 0}
    group.writer.links_floor = lambda: min(floors.values())
    group.writer.log_pressure = lambda _: floors.__delitem__(
        min(floors, key=lambda one: floors[one])
    )
    while group.writer.log.has_room(8192):
        write(group.writer, volume, 0, b"x" * 4096)
        if "slow" not in floors and group.writer.log.used_bytes > SMALL.log_bytes // 2:
            floors["slow"] = group.writer.log.durable.offset
    group.writer.make_room(8192)
    group.writer.make_room(8192)
    assert list(floors) == ["slow"]
    assert group.writer.log.has_room(8192)


def test_no_link_is_let_go_of_while_the_checkpoint_itself_is_held() -> None:
    """Letting go would cost a full sync and free nothing."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.links_floor = lambda: 0
    pressed: list[int] = []
    group.writer.log_pressure = pressed.append
    with group.writer.hold():
        while group.writer.log.has_room(8192):
            write(group.writer, volume, 0, b"x" * 4096)
        group.writer.make_room(8192)
        assert not pressed
    group.writer.make_room(8192)
    assert len(pressed) == 1


def test_writer_waiting_for_room_holds_up_no_message_and_goes_on_when_a_link_acks() -> None:
    """D9: control records have their reserve and their way past."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    floor = [0]
    group.writer.links_floor = lambda: floor[0]
    while group.writer.log.has_room(4192):
        write(group.writer, volume, 0, b"x" * 4096)
    pressed, crew = threading.Event(), Crew()
    group.writer.log_pressure = lambda _offset: pressed.set()
    crew.start(write, group.writer, volume, 512, b"y" * 4096)
    assert pressed.wait(PATIENCE_SECONDS)
    sent = send(group.writer, "m", PATIENCE_SECONDS)
    assert sent.row.position == group.writer.log.end.position
    floor[0] = group.writer.log.durable.offset
    group.writer.trim()
    assert not crew.join()
    assert volume.read(512, 4096) == b"y" * 4096


def test_control_records_past_the_reserve_are_refused_and_change_nothing() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    group.writer.links_floor = lambda: 0
    end = group.writer.log.end
    with pytest.raises(NoSpace):
        while True:
            end = group.writer.append_control(record.KIND_START, bytes(2048))
    assert group.writer.log.end == end
    assert group.writer.failure is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_stalled_volume_refuses_writes_before_the_log_even_while_it_is_retried(
    number: int,
) -> None:
    """D4."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    storage.fail("write", "data.raw", number, times=1000)
    write(group.writer, volume, 0, b"a" * 512)  # in the log, so answered
    refused: list[BaseException] = []
    drain = group.writer.committer.pending.drain

    def retried() -> None:
        crew = Crew()
        crew.start(write, group.writer, volume, 512, b"b" * 512)
        refused.extend(crew.join())
        drain()

    group.writer.committer.pending.drain = retried  # type: ignore[method-assign]
    group.writer.maintain()
    assert [type(error) for error in refused] == [NoSpace if number == 28 else Unavailable]
    assert read(group, volume, 0, 1024) == b"a" * 512 + bytes(512)
    assert group.writer.checkpoint().offset < group.writer.log.end.offset
    group.writer.committer.pending.drain = drain  # type: ignore[method-assign]
    storage.heal()
    group.writer.maintain()
    write(group.writer, volume, 512, b"b" * 512)
    assert volume.read(0, 1024) == b"a" * 512 + b"b" * 512


def test_stalled_volume_does_not_keep_a_flush_from_being_kept() -> None:
    """D7: a flush asks for durability, which the log gives."""
    storage = SimulatedStorage()
    group = open_group(storage, durability=opening.WRITEBACK)
    volume = volumes_of(storage, group).add("data", SIZE)
    storage.fail("write", "data.raw", errno.ENOSPC, times=1000)
    write(group.writer, volume, 0, b"a" * 512)
    group.writer.submit((), sync=True)
    assert group.writer.log.durable == group.writer.log.end
    after = storage.after_crash(Policy.DROP)
    found = open_group(after)
    assert read(found, found.writer.volumes[volume.id], 0, 512) == b"a" * 512


def test_writeback_holds_no_more_than_its_bound_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """D7: past it writers wait for a sync."""
    monkeypatch.setattr(commit, "PENDING_LIMIT_BYTES", 16 << 10)
    storage = SimulatedStorage()
    group = open_group(storage, durability=opening.WRITEBACK)
    volume = volumes_of(storage, group).add("data", SIZE)
    for number in range(64):
        write(group.writer, volume, number % 16 * 4096, bytes([number + 1]) * 4096)
        assert group.writer.committer.pending.held_bytes <= 20 << 10
        assert read(group, volume, number % 16 * 4096, 4096) == bytes([number + 1]) * 4096


def test_message_whose_row_finds_no_room_is_answered_later_and_never_sent_twice() -> None:
    """C3, D11: until the row is written the checkpoint stays before the message."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    point = group.writer.checkpoint()
    storage.fail("commit", "group.db", errno.ENOSPC, times=3)
    for _ in range(2):
        with pytest.raises(NoSpace, match=r"group\.db"):
            send(group.writer, "m", 1.0)
    write(group.writer, volume, 0, b"a" * 512)  # a full group.db stops no writer
    assert group.writer.checkpoint() == point, "the log may be trimmed past a message without a row"
    killed = storage.kill()
    assert open_group(killed).writer.database.message("m").request_id == "m"
    storage.heal()
    sent = send(group.writer, "m", 1.0)
    assert sent.repeated
    kinds = [kind for _, kind, *_ in records(storage, group, point)]
    assert kinds.count(record.KIND_IBC_MESSAGE) == 1
    assert group.writer.checkpoint() == group.writer.log.end


def test_volume_whose_row_finds_no_room_appears_once_there_is_some() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volumes = volumes_of(storage, group)
    reserve = group.writer.database.reserve_volume

    def then_full(name: str, size: int, path: str) -> object:
        row = reserve(name, size, path)
        storage.fail("commit", "group.db", errno.ENOSPC)
        return row

    group.writer.database.reserve_volume = then_full  # type: ignore[method-assign, assignment]
    with pytest.raises(NoSpace):
        volumes.add("data", SIZE)
    group.writer.maintain()
    assert volumes.by_name("data").size == SIZE


def test_maintenance_survives_a_full_disk_says_so_and_is_patient() -> None:
    storage = SimulatedStorage()
    clock = ManualClock()
    group = open_group(storage, clock=clock)
    volume = volumes_of(storage, group).add("data", SIZE)
    for number in range(40):
        write(group.writer, volume, number % 16 * 4096, b"x" * 4096)
    assert group.writer.is_checkpoint_due()
    before = group.writer.checkpoint_point
    storage.fail("commit", "group.db", errno.ENOSPC)
    group.writer.maintain()
    assert group.writer.shortage is not None
    assert group.writer.checkpoint_point == before
    syncs = sum(1 for _, operation, _ in storage.call_log if operation == "sync")
    group.writer.maintain()
    assert sum(1 for _, operation, _ in storage.call_log if operation == "sync") == syncs
    clock.advance(SHORTAGE_SECONDS)
    group.writer.maintain()
    assert is_content(group)
    assert group.writer.checkpoint_point == group.writer.log.end


def test_full_file_system_under_the_log_refuses_writes_and_takes_them_again() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    answered = 0
    storage.fail("write", ".tmp", errno.ENOSPC, times=1000)
    with pytest.raises(NoSpace):
        while True:
            write(group.writer, volume, answered % 16 * 4096, b"x" * 4096)
            answered += 1
    assert answered
    group.writer.maintain()
    assert group.writer.shortage is not None
    assert group.writer.failure is None
    storage.heal()
    write(group.writer, volume, 0, b"y" * 4096)
    after = storage.after_crash(Policy.DROP)
    found = open_group(after)
    assert read(found, found.writer.volumes[volume.id], 0, 4096) == b"y" * 4096


@pytest.mark.parametrize(
    ("operation", "match"),
    [("commit", "group.db"), ("sync", "data.raw"), ("sync", ".tmp"), ("rename", "log")],
)
def test_failure_of_maintenance_stops_the_group_and_its_senders_at_once(
    operation: str, match: str
) -> None:
    """D3: also what no writer has met yet."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    group.writer.checkpoint()
    write(group.writer, volume, 0, b"a" * 512)
    storage.fail(operation, match, errno.EIO)
    with pytest.raises(GroupFailed):
        for _ in range(20):
            group.writer.maintain()
            group.writer.checkpoint()
            if operation == "rename" or match == ".tmp":
                for number in range(16):
                    write(group.writer, volume, number * 4096, b"x" * 4096)
    assert group.writer.marks.failed
    with pytest.raises(GroupFailed):
        write(group.writer, volume, 0, b"b" * 512)
    trimmed = group.writer.marks.trim_offset
    group.writer.trim()
    assert group.writer.marks.trim_offset == trimmed
    group.close()
    after = storage.after_crash(Policy.DROP)
    found = open_group(after)
    assert read(found, found.writer.volumes[volume.id], 0, 1) in (b"a", b"x")


def test_removed_volume_goes_with_the_checkpoint_that_passes_its_removal() -> None:
    """D28."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volumes = volumes_of(storage, group)
    volume = volumes.add("data", SIZE)
    write(group.writer, volume, 0, b"a" * 512)
    with group.writer.hold():
        volumes.remove("data")
        assert volume.id not in group.writer.volumes
        assert storage.exists(volume.path), "a replay from the checkpoint still needs it"
        killed = storage.kill()
        assert not open_group(killed).writer.volumes
    group.writer.checkpoint()
    assert not storage.exists(volume.path)
    assert not group.writer.database.volumes()


def test_volume_may_be_removed_while_checkpoints_run() -> None:
    """The file is closed where no checkpoint can be syncing it: that would fail the group."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volumes = volumes_of(storage, group)
    stop, crew = threading.Event(), Crew()

    def checkpoints() -> None:
        while not stop.is_set():
            group.writer.checkpoint()

    crew.start(checkpoints)
    for turn in range(30):
        volume = volumes.add(f"v{turn}", SIZE)
        write(group.writer, volume, 0, b"a" * 512)
        volumes.remove(volume.name)
    stop.set()
    assert not crew.join()
    wait_for(lambda: group.writer.failure is None)
    assert not group.writer.volumes


def test_log_is_kept_for_a_link_from_its_acked_position_on() -> None:
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    acked = group.writer.log.durable
    group.writer.links_floor = lambda: acked.offset
    for number in range(80):
        write(group.writer, volume, number % 16 * 4096, b"x" * 4096)
        group.writer.maintain()
    group.writer.checkpoint()
    assert group.writer.checkpoint_point == group.writer.log.end
    assert len(records(storage, group, acked)) == 80


def test_trim_mark_moves_before_any_segment_does() -> None:
    """D14: a sender that reads looks at the mark afterwards."""
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    trim = group.writer.log.trim
    seen: list[tuple[int, int]] = []

    def watched(offset: int) -> None:
        seen.append((group.writer.marks.trim_offset, offset))
        trim(offset)

    group.writer.log.trim = watched  # type: ignore[method-assign]
    for number in range(80):
        write(group.writer, volume, number % 16 * 4096, b"x" * 4096)
    group.writer.checkpoint()
    assert seen
    assert all(mark >= offset for mark, offset in seen)
    assert group.writer.log.oldest > 0


def test_volumes_are_written_back_bit_by_bit_between_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D10."""
    monkeypatch.setattr(writer, "SPREAD_BYTES", 8192)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        Volume, "start_writeback", lambda _, offset, length: asked.append((offset, length))
    )
    storage = SimulatedStorage()
    group = open_group(storage)
    volume = volumes_of(storage, group).add("data", SIZE)
    for _ in range(6):
        write(group.writer, volume, 0, b"x" * 4096)
        group.writer.maintain()
    assert asked == [(0, SIZE)] * 3
