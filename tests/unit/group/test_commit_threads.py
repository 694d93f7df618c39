"""Group commit and the fence with real threads (D1, D3, D8, C1, C2)."""

import random
import threading
from collections.abc import Iterator

import pytest

from slackwater import record
from slackwater.errors import DeadlineExceeded, GroupFailed, StorageFailed
from slackwater.group.batch import write_change
from slackwater.group.opening import OpenGroup
from slackwater.group.volume import Volume
from slackwater.storage.simulated import Policy, SimulatedStorage
from tests.unit.group.engine import (
    LARGE,
    PATIENCE_SECONDS,
    SIZE,
    Crew,
    GatedSync,
    open_group,
    read,
    records,
    send,
    volumes_of,
    wait_for,
    write,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def storage() -> SimulatedStorage:
    return SimulatedStorage()


@pytest.fixture
def group(storage: SimulatedStorage) -> Iterator[OpenGroup]:
    opened = open_group(storage, settings=LARGE)
    yield opened
    opened.close(clean=False)


@pytest.fixture
def volume(storage: SimulatedStorage, group: OpenGroup) -> Volume:
    return volumes_of(storage, group).add("data", SIZE)


def waiting(group: OpenGroup) -> int:
    """How many threads wait at the gate or for room."""
    return len(group.writer.committer._changed._waiters)  # type: ignore[attr-defined]


def queued(group: OpenGroup) -> int:
    return len(group.writer.committer._queue)


def test_connections_overwriting_the_same_blocks_leave_the_last_record_in_the_volume(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    """D1: volumes are written in lsn order, whoever leads and whoever checkpoints."""
    writer = group.writer
    before = writer.log.durable
    rounds, hands = 60, 4
    barrier = threading.Barrier(hands + 1)

    def overwrite(number: int) -> None:
        rng = random.Random(number)
        for _ in range(rounds):
            barrier.wait(PATIENCE_SECONDS)
            changes = [
                write_change(volume, rng.randrange(4) * 512, rng.randbytes(rng.choice((512, 1536))))
                for _ in range(rng.randrange(1, 4))
            ]
            writer.submit(changes)
            barrier.wait(PATIENCE_SECONDS)

    crew = Crew()
    for number in range(hands):
        crew.start(overwrite, number)
    model = bytearray(SIZE)
    point = before
    for turn in range(rounds):
        barrier.wait(PATIENCE_SECONDS)
        if turn % 7 == 0:
            writer.checkpoint()
        barrier.wait(PATIENCE_SECONDS)
        for _, kind, _, offset, payload in records(storage, group, point):
            if kind == record.KIND_WRITE:
                model[offset : offset + len(payload)] = payload
        point = writer.log.durable
        assert volume.read(0, SIZE) == model, f"round {turn}"
    assert not crew.join()


def test_every_answered_write_of_many_threads_survives_power_loss(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    hands, writes = 8, 40
    answered = [0] * hands

    def work(number: int) -> None:
        for turn in range(1, writes + 1):
            write(group.writer, volume, number * 512, bytes([turn]) * 512)
            answered[number] = turn

    crew = Crew()
    for number in range(hands):
        crew.start(work, number)
    # In mid-flight: nothing after this may be counted, so the promise is read first.
    wait_for(lambda: min(answered) > 3)
    promise = list(answered)
    lost = storage.after_crash(Policy.DROP)
    assert not crew.join()
    found = open_group(lost)
    data = read(found, found.writer.volumes[volume.id])
    for number, turn in enumerate(promise):
        assert data[number * 512] >= turn
        assert len(set(data[number * 512 : number * 512 + 512])) == 1
    lost = storage.after_crash(Policy.DROP)
    found = open_group(lost)
    data = read(found, found.writer.volumes[volume.id])
    assert all(data[number * 512] == writes for number in range(hands))


def test_all_that_queued_behind_a_leader_go_in_one_commit(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    gate, crew = GatedSync(group.writer), Crew()
    before = group.writer.committer.commits_total
    crew.start(write, group.writer, volume, 0, b"0" * 512)
    assert gate.entered.wait(PATIENCE_SECONDS)
    for number in range(1, 7):
        crew.start(write, group.writer, volume, number * 512, bytes([48 + number]) * 512)
    wait_for(lambda: queued(group) == 6)
    gate.release.set()
    assert not crew.join()
    assert group.writer.committer.commits_total == before + 2
    assert volume.read(0, 7 * 512) == b"".join(bytes([48 + n]) * 512 for n in range(7))
    assert queued(group) == 0
    write(group.writer, volume, 0, b"x" * 512)  # nobody leads any more, so this one does


def test_failure_wakes_leader_followers_gate_and_room_and_answers_none(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    """D3: waiting writes get an error, all of them, at once."""
    gate, crew = GatedSync(group.writer), Crew()
    crew.start(write, group.writer, volume, 0, b"0" * 512)
    assert gate.entered.wait(PATIENCE_SECONDS)
    for number in range(3):
        crew.start(write, group.writer, volume, number * 512, b"1" * 512)
    wait_for(lambda: queued(group) == 3)
    group.writer.committer._has_room = lambda size: False  # type: ignore[method-assign]
    group.writer.committer._relieve = lambda needed: None
    crew.start(write, group.writer, volume, 0, b"2" * 512)
    wait_for(lambda: waiting(group) == 1)
    crew.start(send, group.writer, "m", PATIENCE_SECONDS)
    wait_for(lambda: group.writer.committer._gate_closed)
    crew.start(write, group.writer, volume, 0, b"3" * 512)
    wait_for(lambda: waiting(group) >= 3)
    gate.error = StorageFailed("log", "sync", 5)
    gate.release.set()
    errors = crew.join()
    assert len(errors) == 7
    assert all(isinstance(error, GroupFailed) for error in errors)
    assert group.writer.marks.failed
    with pytest.raises(GroupFailed):
        group.writer.submit((), sync=True)


def test_fence_lets_nothing_in_between_and_everything_answered_lies_before(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    """C1, C2, under load: the log itself is the witness."""
    hands = 6
    answered = [0] * hands
    issued = [0] * hands
    stop = threading.Event()
    point = group.writer.log.durable

    def work(number: int) -> None:
        turn = 0
        while not stop.is_set() and turn < 1200:
            turn += 1
            issued[number] = turn
            payload = turn.to_bytes(8, "big") * 64
            write(group.writer, volume, number * 512, payload)
            answered[number] = turn

    crew = Crew()
    for number in range(hands):
        crew.start(work, number)
    promises: list[tuple[list[int], list[int], int]] = []
    for name in range(4):
        wait_for(lambda: sum(answered) > 10 + (sum(promises[-1][1]) if promises else 0))
        before = list(answered)
        sent = send(group.writer, f"m{name}", PATIENCE_SECONDS)
        promises.append((before, list(issued), sent.row.position.lsn))
    stop.set()
    assert not crew.join()
    last: dict[int, int] = dict.fromkeys(range(hands), 0)
    fenced = {lsn: (before, after) for before, after, lsn in promises}
    for lsn, kind, _, offset, payload in records(storage, group, point):
        if kind == record.KIND_WRITE:
            turn = int.from_bytes(payload[:8], "big")
            assert turn == last[offset // 512] + 1, "a thread's writes are in its order"
            last[offset // 512] = turn
        elif lsn in fenced:
            before, after = fenced.pop(lsn)
            for number in range(hands):
                assert before[number] <= last[number] <= after[number]
    assert not fenced


def test_nothing_but_the_fencing_thread_gets_through_a_closed_gate(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    writer, crew = group.writer, Crew()
    with writer.fenced(PATIENCE_SECONDS):
        end = writer.log.end
        for number in range(4):
            crew.start(write, writer, volume, number * 512, b"w" * 512)
        crew.start(writer.append_control, record.KIND_START, b"")
        wait_for(lambda: waiting(group) == 5)
        assert writer.log.end == end
        point = writer.append_control(record.KIND_START, b"", through_gate=True)
        assert point.position.lsn == end.position.lsn + 1 == writer.log.end.position.lsn
    assert not crew.join()
    assert writer.log.end.position.lsn == end.position.lsn + 6


def test_fence_waits_for_what_is_in_flight(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    """D8: admitted and not yet logged lies before the message."""
    gate, crew = GatedSync(group.writer), Crew()
    point = group.writer.log.durable
    crew.start(write, group.writer, volume, 0, b"0" * 512)
    assert gate.entered.wait(PATIENCE_SECONDS)
    crew.start(write, group.writer, volume, 512, b"1" * 512)
    wait_for(lambda: queued(group) == 1)
    crew.start(send, group.writer, "m", PATIENCE_SECONDS)
    wait_for(lambda: group.writer.committer._gate_closed)
    crew.start(write, group.writer, volume, 1024, b"2" * 512)
    wait_for(lambda: waiting(group) == 2)
    gate.release.set()
    assert not crew.join()
    order = [(kind, offset) for _, kind, _, offset, _ in records(storage, group, point)]
    assert order == [
        (record.KIND_WRITE, 0),
        (record.KIND_WRITE, 512),
        (record.KIND_IBC_MESSAGE, 0),
        (record.KIND_WRITE, 1024),
    ]


def test_fence_that_takes_too_long_inserts_nothing_and_opens_again(
    storage: SimulatedStorage, group: OpenGroup, volume: Volume
) -> None:
    """C2."""
    gate, crew = GatedSync(group.writer), Crew()
    crew.start(write, group.writer, volume, 0, b"0" * 512)
    assert gate.entered.wait(PATIENCE_SECONDS)
    with pytest.raises(DeadlineExceeded):
        send(group.writer, "m", fence=0.01)
    crew.start(write, group.writer, volume, 512, b"1" * 512)
    wait_for(lambda: queued(group) == 1)  # the gate is open: it was admitted behind the leader
    gate.release.set()
    assert not crew.join()
    assert group.writer.database.message_of_request("m") is None
    assert not [
        kind
        for _, kind, *_ in records(storage, group, group.writer.checkpoint_point)
        if kind == record.KIND_IBC_MESSAGE
    ]
    assert send(group.writer, "m", fence=PATIENCE_SECONDS).repeated is False


def test_second_fence_waits_for_the_first_and_gives_up_in_time(group: OpenGroup) -> None:
    """D8: two fences at once never overlap; one that gives up opens nobody else's gate."""
    committer = group.writer.committer
    inside: list[str] = []
    crew = Crew()

    def second() -> None:
        with group.writer.fenced(PATIENCE_SECONDS):
            inside.append("second")

    with group.writer.fenced(PATIENCE_SECONDS):
        crew.start(second)
        wait_for(lambda: waiting(group) == 1)
        with pytest.raises(DeadlineExceeded), group.writer.fenced(0.01):
            inside.append("third")
        assert committer._gate_closed, "the third opened the first one's gate"
        inside.append("first")
    assert not crew.join()
    assert inside == ["first", "second"]
    assert not committer._gate_closed


def test_repeated_send_at_the_same_time_gets_the_one_message(
    storage: SimulatedStorage, group: OpenGroup
) -> None:
    """C3."""
    point = group.writer.log.durable
    barrier = threading.Barrier(4)
    sent = []

    def work() -> None:
        barrier.wait(PATIENCE_SECONDS)
        sent.append(send(group.writer, "m", PATIENCE_SECONDS))

    crew = Crew()
    for _ in range(4):
        crew.start(work)
    assert not crew.join()
    assert sorted(one.repeated for one in sent) == [False, True, True, True]
    assert len({one.row.position for one in sent}) == 1
    kinds = [kind for _, kind, *_ in records(storage, group, point)]
    assert kinds.count(record.KIND_IBC_MESSAGE) == 1
