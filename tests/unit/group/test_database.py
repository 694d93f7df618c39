"""group.db: identity, log, volumes, sync, links, remembered calls."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from slackwater.errors import AlreadyExists, DataCorrupt, FailedPrecondition, NotFound
from slackwater.group import database_links, database_starts, schema
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import (
    PRIMARY,
    DeliveryRow,
    Identity,
    LinkRow,
    SyncRow,
    VolumeRow,
)
from slackwater.position import LogPoint, Position, origin
from slackwater.storage.simulated import SimulatedStorage

PATH = Path("/g/group.db")
UID = uuid.UUID(int=42)
IDENTITY = Identity(UID, "g", PRIMARY, 1, 1000, {"log_bytes": 4096})
START = LogPoint(0, origin(UID))
LINK = LinkRow("l", uuid.UUID(int=9), "host:1", "DETACHED", "", False, None, "", 5, {"mode": "a"})


def point(lsn: int, epoch: int = 1) -> LogPoint:
    return LogPoint(1000 * lsn, Position(epoch, lsn, 7 * lsn))


@pytest.fixture
def storage() -> SimulatedStorage:
    storage = SimulatedStorage()
    storage.make_directory(PATH.parent)
    return storage


@pytest.fixture
def database(storage: SimulatedStorage) -> GroupDatabase:
    return GroupDatabase.create(storage, PATH, IDENTITY, START)


class TestFormat:
    def test_created_database_opens_with_what_it_was_given(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        database.close()
        again = GroupDatabase.open(storage, PATH)
        assert again.identity() == IDENTITY
        assert again.epochs() == [(1, 0)]
        state = again.log_state()
        assert (state.start, state.checkpoint, state.clean_end) == (START, START, None)

    def test_newer_format_is_refused_naming_the_next_step(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        with database.transaction() as connection:
            connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        with pytest.raises(FailedPrecondition, match="Start a release") as caught:
            GroupDatabase.open(storage, PATH)
        assert caught.value.reason == "NEWER_FORMAT"

    def test_older_format_is_refused_and_stays_as_it_is(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        with database.transaction() as connection:
            connection.execute(f"PRAGMA user_version = {schema.VERSION - 1}")
        with pytest.raises(FailedPrecondition, match="the build that wrote it") as caught:
            GroupDatabase.open(storage, PATH)
        assert caught.value.reason == "OLDER_FORMAT"

    def test_empty_database_and_a_missing_one_are_no_group(self, storage: SimulatedStorage) -> None:
        with pytest.raises(FailedPrecondition) as missing:
            GroupDatabase.open(storage, PATH)
        assert missing.value.reason == "NOT_A_GROUP"
        assert not storage.exists(PATH)
        storage.open_database(PATH).close()
        with pytest.raises(FailedPrecondition) as empty:
            GroupDatabase.open(storage, PATH)
        assert empty.value.reason == "NOT_A_GROUP"

    def test_damaged_file_is_corrupt_by_name(self, storage: SimulatedStorage) -> None:
        file = storage.open(PATH, create=True)
        file.write([b"anything else " * 1000], 0)
        with pytest.raises(DataCorrupt, match=r"group\.db"):
            GroupDatabase.open(storage, PATH)

    def test_creation_that_fails_is_no_group(self, storage: SimulatedStorage) -> None:
        storage.fail("commit")
        with pytest.raises(OSError):
            GroupDatabase.create(storage, PATH, IDENTITY, START)
        with pytest.raises(FailedPrecondition):
            GroupDatabase.open(storage, PATH)


class TestIdentity:
    def test_epoch_only_rises_and_each_is_noted_once(self, database: GroupDatabase) -> None:
        database.set_epoch(3, Position(1, 10, 5), 2000)
        database.set_epoch(3, Position(1, 11, 6), 3000)
        database.set_epoch(2, Position(1, 4, 4), 3000)
        assert database.identity().epoch == 3
        assert database.epochs() == [(1, 0), (2, 4), (3, 10)]


class TestLog:
    def test_checkpoint_moves_forward_only(self, database: GroupDatabase) -> None:
        database.checkpoint(point(5))
        database.checkpoint(point(3))
        state = database.log_state()
        assert (state.start, state.checkpoint) == (START, point(5))

    def test_checkpoint_forgets_the_effects_it_has_passed(self, database: GroupDatabase) -> None:
        """Replay begins after it, so it cannot ask for them again (D20)."""
        for lsn in (4, 5, 6):
            database.record_effect(lsn, "NOTIFIED")
        database.checkpoint(point(5))
        assert [database.effect(lsn) is not None for lsn in (4, 5, 6)] == [False, False, True]

    def test_clean_end_is_set_and_cleared(self, database: GroupDatabase) -> None:
        database.set_clean_end(8)
        assert database.log_state().clean_end == 8
        database.clear_clean_end()
        assert database.log_state().clean_end is None


class TestVolumes:
    def test_ids_are_never_given_twice(self, database: GroupDatabase) -> None:
        """Records name volumes by id (D28)."""
        first = database.reserve_volume("a", 512, "volumes/a.raw")
        assert first == VolumeRow(1, "a", 512, "CREATING", "volumes/a.raw", 0)
        database.remove_volume(1)
        assert database.reserve_volume("a", 512, "volumes/a.raw").id == 2
        database.put_volume(VolumeRow(7, "b", 512, "ACTIVE", "volumes/b.raw", 3))
        database.remove_volume(7)
        assert database.reserve_volume("c", 512, "volumes/c.raw").id == 8

    def test_row_is_replaced_whole(self, database: GroupDatabase) -> None:
        row = database.reserve_volume("a", 512, "volumes/a.raw")
        database.put_volume(replace(row, state="ACTIVE", lsn=4, size=1024))
        assert database.volumes() == [VolumeRow(1, "a", 1024, "ACTIVE", "volumes/a.raw", 4)]


class TestSync:
    def test_beginning_is_one_step_away_from_all_that_was(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        database.put_volume(VolumeRow(1, "old", 512, "ACTIVE", "volumes/old.raw", 1))
        database.set_delivery(DeliveryRow("m", 4, "FROZEN", {}))
        database.record_effect(4, "NOTIFIED")
        database.set_clean_end(9)
        new = VolumeRow(3, "new", 1024, "CREATING", "volumes/new.raw", 0)
        before = storage.calls
        database.begin_sync("aa", point(5), guard="guard-1", total_bytes=77, volumes=[new])
        assert storage.calls == before + 1
        assert database.identity().replica_state == "INCONSISTENT"
        state = database.log_state()
        assert (state.start, state.checkpoint, state.clean_end) == (point(5), point(5), None)
        assert database.sync() == SyncRow("aa", None, None, "guard-1", 77)
        assert database.volumes() == [new]
        assert database.effect(4) is None
        assert database.delivery() is None
        assert database.reserve_volume("x", 512, "x").id == 4

    def test_it_may_begin_behind_the_checkpoint_that_was(self, database: GroupDatabase) -> None:
        database.checkpoint(point(50))
        database.begin_sync("aa", point(5))
        assert database.log_state().checkpoint == point(5)

    def test_cursor_moves_with_the_checkpoint(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        """A region is acked when the checkpoint stands at its place, and never without (D25)."""
        database.begin_sync("aa", point(5))
        before = storage.calls
        database.advance_sync((1, 4096), point(6))
        assert storage.calls == before + 1
        database.advance_sync(None, point(7))
        sync = database.sync()
        assert sync is not None
        assert (sync.cursor, database.log_state().checkpoint) == ((1, 4096), point(7))

    def test_end_is_consistent_in_one_step(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        database.begin_sync("aa", point(5))
        database.sync_sent(9)
        sync = database.sync()
        assert sync is not None
        assert sync.consistent_lsn == 9
        before = storage.calls
        database.finish_sync(point(10))
        assert storage.calls == before + 1
        assert database.sync() is None
        assert database.identity().replica_state == "CONSISTENT"
        assert database.log_state().checkpoint == point(10)

    def test_newer_sync_takes_the_place_of_the_older(self, database: GroupDatabase) -> None:
        database.begin_sync("aa", point(5))
        database.advance_sync((1, 4096), point(6))
        database.begin_sync("bb", point(7), guard="g")
        assert database.sync() == SyncRow("bb", None, None, "g", 0)


class TestStarts:
    def test_origin_is_before_the_first(self, database: GroupDatabase) -> None:
        assert database.newest_start(0) == START.position
        database.put_start(Position(1, 4, 9))
        assert database.newest_start(3) == START.position
        assert database.newest_start(4) == database.newest_start(99) == Position(1, 4, 9)

    def test_start_that_is_met_again_changes_nothing(self, database: GroupDatabase) -> None:
        database.put_start(Position(1, 4, 9))
        database.put_start(Position(1, 9, 2))
        database.put_start(Position(1, 4, 9))
        assert database.newest_start(8) == Position(1, 4, 9)

    def test_oldest_go_and_below_the_kept_ones_nothing_is_known(
        self, database: GroupDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list that is not complete any more must not be taken for another history (D16)."""
        monkeypatch.setattr(database_starts, "STARTS_KEPT", 3)
        for lsn in (2, 4, 6, 8):
            database.put_start(Position(1, lsn, lsn))
        assert [database.newest_start(lsn) for lsn in (0, 2, 3)] == [None] * 3
        assert database.newest_start(5) == Position(1, 4, 4)
        assert database.newest_start(8) == Position(1, 8, 8)

    def test_sync_replaces_those_of_the_old_history(self, database: GroupDatabase) -> None:
        database.put_start(Position(1, 4, 9))
        database.begin_sync("aa", point(8), last_start=Position(1, 6, 3))
        assert [database.newest_start(lsn) for lsn in (5, 6)] == [None, Position(1, 6, 3)]
        database.begin_sync("bb", point(9))
        assert database.newest_start(99) is None


class TestLinks:
    def test_link_is_found_as_it_was_added(self, database: GroupDatabase) -> None:
        acked = replace(LINK, name="k", acked=point(3), dirty=True, discard=True, sync_id="ab")
        database.add_link(LINK)
        database.add_link(acked)
        assert database.links() == [acked, LINK]
        assert database.link("k") == acked
        with pytest.raises(AlreadyExists):
            database.add_link(LINK)

    def test_missing_link_names_the_next_step(self, database: GroupDatabase) -> None:
        with pytest.raises(NotFound, match="slackwater link list"):
            database.link("l")
        database.add_link(LINK)
        database.remove_link("l")
        assert database.links() == []

    def test_acked_position_never_goes_back(self, database: GroupDatabase) -> None:
        """What was acked is the floor below which no Secondary may come back (D16)."""
        database.add_link(LINK)
        for lsn in (5, 3, 4):
            database.set_link_acked("l", point(lsn))
        assert database.link("l").acked == point(5)

    def test_transition_is_stored_in_one_step(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        database.add_link(replace(LINK, acked=point(5)))
        before = storage.calls
        database.store_link(
            "l",
            state="DIRTY",
            reason="the log is full",
            dirty=True,
            sync_id="cd",
            discard=True,
            forget_acked=True,
        )
        assert storage.calls == before + 1
        assert database.link("l") == replace(
            LINK, state="DIRTY", reason="the log is full", dirty=True, sync_id="cd", discard=True
        )
        database.set_link_acked("l", point(2))
        assert database.link("l").acked == point(2)

    def test_operators_settings_leave_the_rest_alone(self, database: GroupDatabase) -> None:
        database.add_link(replace(LINK, acked=point(5)))
        database.set_link_settings("l", endpoint="other:2", paused=True, settings={"b": 1})
        assert database.link("l") == replace(
            LINK, acked=point(5), endpoint="other:2", paused=True, settings={"b": 1}
        )


class TestRememberedCalls:
    def test_repeated_call_gets_the_first_answer(self, database: GroupDatabase) -> None:
        assert database.remembered("r", "CreateVolume") is None
        database.remember("r", "CreateVolume", b"first", 1)
        database.remember("r", "CreateVolume", b"second", 2)
        assert database.remembered("r", "CreateVolume") == b"first"
        assert database.remembered("r", "DeleteVolume") is None

    def test_call_without_an_id_is_not_kept(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        before = storage.calls
        database.remember("", "CreateVolume", b"first", 1)
        assert storage.calls == before
        assert database.remembered("", "CreateVolume") is None

    def test_oldest_go_first(
        self, database: GroupDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_links, "REQUESTS_KEPT", 3)
        for number in range(5):
            database.remember(str(number), "M", b"", number)
        kept = [database.remembered(str(number), "M") is not None for number in range(5)]
        assert kept == [False, False, True, True, True]
