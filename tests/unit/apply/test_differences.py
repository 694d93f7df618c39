"""What `Differences` tells of a replica, against the bytes."""

import pytest

from slackwater.apply.replica import Replica
from slackwater.clock import ManualClock
from slackwater.errors import InvalidRequest, NotFound, OutOfRange
from slackwater.snapshots import differences
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import CHUNK, Stream, apply_all, make_replica, receive

SIZE = 6 * CHUNK


def told(replica: Replica, older: str, newer: str) -> list[tuple[int, int, bool]]:
    """The ranges, in chunks, with whether they hold data."""
    found = replica.differences(older, newer, "data")
    ranges, at = found.page(0, 100)
    assert at == found.size
    return [(one.offset // CHUNK, one.next_offset // CHUNK, one.data) for one in ranges]


def write(replica: Replica, stream: Stream, chunk: int, data: bytes = b"x") -> None:
    stream.write(1, chunk * CHUNK, data * CHUNK)
    receive(replica, stream)
    apply_all(replica)


@pytest.mark.parametrize("window", [CHUNK, 2 * CHUNK, differences.WINDOW_BYTES])
def test_differences_tell_every_chunk_written_between_whoever_holds_it(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "WINDOW_BYTES", window)
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    write(replica, stream, 0)
    for number in range(1, 4):
        replica.create_snapshot(f"s{number}", chunk_bytes=CHUNK)
        write(replica, stream, number, b"y")
    assert told(replica, "s1", "s1") == []
    assert told(replica, "s1", "s2") == [(1, 2, True)]
    assert told(replica, "s1", "s3") == [(1, 3, True)]
    assert told(replica, "s1", "") == [(1, 4, True)]
    assert told(replica, "", "s2") == [(0, 2, True)]
    stream.zero(1, CHUNK, CHUNK)
    receive(replica, stream)
    apply_all(replica)
    assert told(replica, "s1", "") == [(1, 2, False), (2, 4, True)]
    replica.delete_snapshot("s2")  # going: what it holds still counts
    assert told(replica, "s1", "s3") == [(1, 3, True)]
    replica.maintain()
    assert told(replica, "s1", "s3") == [(1, 3, True)]
    found = replica.differences("s1", "", "data")
    first, at = found.page(0, 1)
    assert [one.offset for one in first] == [CHUNK] and at == 2 * CHUNK
    assert found.page(at, 1)[0][0].offset == 2 * CHUNK


def test_differences_tell_all_chunks_of_an_overlay_that_lost_records_without_a_name() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    write(replica, stream, 0)
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    replica.create_snapshot("s2")
    assert told(replica, "s1", "s2") == []
    replica.catalogue.entries()[0].overlays[1].unnamed_loss = True
    assert told(replica, "s1", "s2") == [(0, 1, True), (1, 6, False)]


def test_differences_leave_nothing_out_when_a_merge_ends_while_they_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    write(replica, stream, 0)
    for number in range(1, 4):
        replica.create_snapshot(f"s{number}", chunk_bytes=CHUNK)
        write(replica, stream, number)
    replica.delete_snapshot("s2")
    oldest = replica.catalogue.entries()[0].overlays[1]
    first_set, looks = oldest.first_set, 0

    def merge_after_the_look(first: int, next_chunk: int) -> int:
        nonlocal looks
        found = first_set(first, next_chunk)
        looks += 1
        if looks == 2:  # the oldest has been looked through: now what it lacks comes to it
            while replica.catalogue.merge_step():
                pass
        return found

    monkeypatch.setattr(oldest, "first_set", merge_after_the_look)
    assert told(replica, "s1", "s3") == [(1, 3, True)]
    assert looks > 2 and len(replica.catalogue.entries()) == 2


def test_differences_refuse_what_makes_no_sense() -> None:
    replica = make_replica(SimulatedStorage(), ManualClock())
    stream = Stream()
    stream.start()
    stream.add_volume(1, "data", SIZE)
    write(replica, stream, 0)
    replica.create_snapshot("s1", chunk_bytes=CHUNK)
    replica.create_snapshot("s2")
    with pytest.raises(InvalidRequest, match="newer than the other"):
        replica.differences("s2", "s1", "data")
    with pytest.raises(NotFound):
        replica.differences("s1", "gone", "data")
    with pytest.raises(NotFound):
        replica.differences("s1", "s2", "gone")
    found = replica.differences("s1", "s2", "data")
    with pytest.raises(OutOfRange):
        found.page(SIZE + 1, 1)
    replica.refresh_snapshot("s2")
    with pytest.raises(NotFound, match="refreshed meanwhile"):
        found.page(0, 1)
