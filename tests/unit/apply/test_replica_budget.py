"""The budget of bytes that snapshots keep: never exceeded, never silent, always a way on."""

import errno
import random

import pytest

from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.apply.replica_budget import Expired
from slackwater.clock import ManualClock
from slackwater.snapshots.budget import EXPIRE, HARD, HOLD_APPLY, OK, SOFT, Budget, BudgetSettings
from slackwater.snapshots.codec import HEADER_BYTES
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2
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

CHUNKS = 16
LIMIT = 5 * (CHUNK + HEADER_BYTES) + 256
"""Room for five chunks with their headers, not for six."""


def made(policy: str = HOLD_APPLY, limit: int = LIMIT) -> tuple[SimulatedStorage, Replica, Stream]:
    storage = SimulatedStorage()
    replica, stream = make_replica(storage, ManualClock()), Stream()
    stream.start()
    stream.add_volume(1, "data", CHUNKS * CHUNK)
    for chunk in range(CHUNKS):
        stream.write(1, chunk * CHUNK, bytes([chunk + 1]) * CHUNK)
    receive(replica, stream)
    apply_all(replica)
    replica.set_budget(BudgetSettings(limit, 80, policy))
    return storage, replica, stream


def overwrite(replica: Replica, stream: Stream, chunks: range, fill: int = 200) -> None:
    for chunk in chunks:
        stream.write(1, chunk * CHUNK, bytes([fill]) * CHUNK)
    receive(replica, stream)
    apply_all(replica)
    assert replica.catalogue.used_bytes <= LIMIT


def upkeep(replica: Replica) -> None:
    """What the threads would do, until nothing moves any more."""
    for _ in range(20):
        replica.maintain()
        apply_all(replica)
        assert replica.catalogue.used_bytes <= LIMIT


def test_applying_waits_at_the_limit_receiving_goes_on_and_nothing_is_lost() -> None:
    _, replica, stream = made()
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    before = live(replica)
    overwrite(replica, stream, range(8))
    stall = replica.applier.stall
    assert stall is not None and stall.errno == errno.EDQUOT
    assert replica.catalogue.budget.state() == HARD
    # The very record it waits at: five chunks fit, and all before it is applied.
    assert replica.applied.lsn == stall.lsn - 1
    assert live(replica) == stream.states[replica.applied.lsn]
    stream.write(1, 0, b"y" * CHUNK)
    receive(replica, stream)
    assert replica.durable == stream.position
    assert shown(replica, "s1") == before

    replica.set_budget(BudgetSettings(20 * LIMIT))
    apply_all(replica)
    assert replica.applier.stall is None and live(replica) == stream.states[stream.position.lsn]
    assert shown(replica, "s1") == before and replica.catalogue.budget.state() == OK


def test_applying_goes_on_when_a_snapshot_goes() -> None:
    _, replica, stream = made()
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    overwrite(replica, stream, range(8))
    assert replica.applier.stall is not None
    replica.delete_snapshot("s1")
    upkeep(replica)
    assert live(replica) == stream.states[stream.position.lsn]


def test_oldest_that_nobody_relies_on_goes_and_is_told_and_noted() -> None:
    storage, replica, stream = made(EXPIRE)
    told: list[Expired] = []
    replica.on_expired = told.append
    for number in range(1, 4):
        replica.catalogue.budget.set(None)  # the soft mark is not what is looked at here
        replica.create_snapshot(f"s{number}", chunk_bytes=CHUNK)
        replica.open_budget()
        overwrite(replica, stream, range(2 * number - 2, 2 * number), fill=number)
        if number == 1:
            replica.hold_snapshot("s1", "audit")
    content = shown(replica, "s1")
    overwrite(replica, stream, range(10, 14))
    upkeep(replica)
    gone = [row.name for row in told]
    assert gone and gone[0] == "s2" and "s1" not in gone
    assert [row.name for row in replica.expired()] == gone[::-1]
    assert told[0].kept_bytes > 0 and replica.expired_total == len(gone)
    assert shown(replica, "s1") == content
    again = open_replica(storage.kill(), ManualClock())
    assert [row.name for row in again.expired()] == gone[::-1]
    settings = again.catalogue.budget.settings
    assert settings is not None and settings.at_limit == EXPIRE


def test_when_none_may_go_applying_waits() -> None:
    _, replica, stream = made(EXPIRE)
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    replica.export_snapshot("s1")
    overwrite(replica, stream, range(8))
    upkeep(replica)
    assert replica.applier.stall is not None and not replica.expired()
    replica.unexport_snapshot("s1")
    upkeep(replica)
    assert live(replica) == stream.states[stream.position.lsn]
    assert [row.name for row in replica.expired()] == ["s1"]


def test_cloned_snapshot_is_not_taken() -> None:
    _, replica, stream = made(EXPIRE)
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    replica.create_clone("c1", "s1")
    overwrite(replica, stream, range(8))
    upkeep(replica)
    assert replica.applier.stall is not None and not replica.expired()


def test_from_the_soft_mark_on_no_new_snapshot_but_at_a_message() -> None:
    _, replica, stream = made()
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    overwrite(replica, stream, range(5))
    assert replica.catalogue.budget.state() == SOFT
    with pytest.raises(errors.NoSpace, match=rf"{replica.catalogue.used_bytes} of {LIMIT} bytes"):
        replica.create_snapshot("s2")
    assert [row.name for row in replica.snapshots()] == ["s1"]
    replica.refresh_snapshot("s1")  # keeps no more than before
    stream.message("m1", common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT)
    receive(replica, stream)
    apply_all(replica)
    assert "m1" in [row.message_id for row in replica.snapshots()]


def test_budget_is_never_exceeded_whatever_is_written_and_made() -> None:
    choice = random.Random(5)
    _, replica, stream = made()
    contents: dict[str, dict[int, bytes]] = {}
    stalls = 0
    for step in range(120):
        for _ in range(choice.randrange(1, 7)):
            stream.write(1, choice.randrange(CHUNKS) * CHUNK, bytes([step]) * CHUNK)
        receive(replica, stream)
        upkeep(replica)
        while replica.applier.stall is not None:
            stalls += 1
            oldest = replica.snapshots()[0].name  # whose chunks nobody older needs
            replica.delete_snapshot(oldest)
            del contents[oldest]
            upkeep(replica)
        assert live(replica) == stream.states[stream.position.lsn]
        try:
            replica.create_snapshot(f"s{step}", chunk_bytes=CHUNK)
            contents[f"s{step}"] = live(replica)
        except errors.NoSpace:
            assert replica.catalogue.budget.state() != OK
        for name, content in contents.items():
            assert shown(replica, name) == content
    assert stalls > 5


def test_time_left_follows_the_growth_and_is_unknown_without_any() -> None:
    used = [0]
    budget = Budget(lambda: used[0])
    budget.set(BudgetSettings(1000))
    assert budget.seconds_left() is None
    for step in range(5):
        budget.sample(step * 10.0)
        used[0] += 50
    # Four samples apart: 200 bytes in 40 s, and 800 are left.
    assert budget.seconds_left() == pytest.approx(160.0)
    with budget.reserve(700), pytest.raises(OSError, match="spent"), budget.reserve(100):
        pass
    assert budget.state() == OK, "there is room for it now"
    with pytest.raises(OSError, match="spent"), budget.reserve(800):
        pass
    assert budget.state() == HARD
    used[0] -= 50
    assert budget.state() == OK
