"""group.db: messages, verdicts, outcomes, applications, effects, snapshots, delivery."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from slackwater.errors import FailedPrecondition, NotFound
from slackwater.group.database import GroupDatabase
from slackwater.group.rows import (
    SECONDARY,
    ApplicationRow,
    DeliveryRow,
    EffectRow,
    Identity,
    MessageRow,
    SnapshotRow,
    VerdictRow,
)
from slackwater.position import LogPoint, Position, origin
from slackwater.storage.simulated import Policy, SimulatedStorage
from slackwater.v1 import record_pb2

PATH = Path("/g/group.db")
UID = uuid.UUID(int=42)
IDENTITY = Identity(UID, "g", SECONDARY, 1, 1000, {})
START = LogPoint(0, origin(UID))


def message(lsn: int, name: str = "", request_id: str = "", time_ns: int = 99) -> MessageRow:
    return MessageRow(
        name or f"m{lsn}",
        Position(1, lsn, 7),
        "app",
        request_id,
        time_ns,
        b"record",
        ("a", "b"),
        0.25,
    )


def passed(database: GroupDatabase, lsn: int = 100) -> None:
    """The volumes are synced past it."""
    database.checkpoint(LogPoint(lsn, Position(1, lsn, 7)))


def verdict(
    message_id: str, state: str = "NOTIFIED", link: str = "", source: int = 0
) -> VerdictRow:
    return VerdictRow(0, message_id, link, source, 5, state, {"by": "me"}, 123, final=True)


def snapshot(name: str, lsn: int = 5) -> SnapshotRow:
    return SnapshotRow(
        0,
        name,
        uuid.UUID(int=lsn),
        LogPoint(10 * lsn, Position(1, lsn, 3)),
        "CREATING",
        "crash",
        "",
        False,
        False,
        65536,
        77,
        ((1, "data", 512), (2, "wal", 1024)),
        {"fence_ms": 1.5},
    )


@pytest.fixture
def storage() -> SimulatedStorage:
    storage = SimulatedStorage()
    storage.make_directory(PATH.parent)
    storage.sync_directory(Path("/"))
    return storage


@pytest.fixture
def database(storage: SimulatedStorage) -> GroupDatabase:
    return GroupDatabase.create(storage, PATH, IDENTITY, START)


class TestMessages:
    def test_message_is_found_by_id_and_by_request(self, database: GroupDatabase) -> None:
        row = message(5, "m", "r")
        database.put_message(row)
        assert database.message("m") == database.message_of_request("r") == row
        assert database.message_of_request("other") is database.message_of_request("") is None
        with pytest.raises(NotFound):
            database.message("absent")

    def test_row_that_is_there_stays_as_it_is(self, database: GroupDatabase) -> None:
        """Replay adds what is missing and changes nothing (D11); one request, one message (C3)."""
        database.put_message(message(5, "m", "r"))
        database.set_message_state("m", "TAKEN")
        database.put_message(message(5, "m", "r"))
        database.put_message(message(6, "n", "r"))
        assert database.message("m").state == "TAKEN"
        assert [row.id for row in database.messages()] == ["m"]

    def test_messages_without_a_request_do_not_meet(self, database: GroupDatabase) -> None:
        database.put_message(message(5))
        database.put_message(message(6))
        assert len(database.messages()) == 2

    def test_pages_follow_the_lsn(self, database: GroupDatabase) -> None:
        for lsn in (30, 10, 20):
            database.put_message(message(lsn))
        first = database.messages(limit=2)
        assert [row.id for row in first] == ["m10", "m20"]
        assert [row.id for row in database.messages(first[-1].position.lsn, 2)] == ["m30"]

    def test_inbox_is_what_stands_in_that_state(self, database: GroupDatabase) -> None:
        for lsn in (7, 5, 6):
            database.put_message(message(lsn))
        database.set_message_state("m7", "INBOX")
        database.set_message_state("m5", "INBOX")
        assert [row.id for row in database.messages_in_state("INBOX")] == ["m5", "m7"]

    def test_oldest_go_first_with_their_verdicts_and_outcomes(
        self, database: GroupDatabase
    ) -> None:
        database.keep_messages(3, "INBOX")
        passed(database)
        for lsn in range(1, 4):
            database.put_message(message(lsn))
            database.add_verdict(verdict(f"m{lsn}"))
            database.put_outcome(f"m{lsn}", lsn, "CONFIRMED", {})
        database.confirm_verdicts(100)
        database.put_message(message(4))
        assert [row.id for row in database.messages()] == ["m2", "m3", "m4"]
        assert database.verdicts("m1") == []
        assert database.outcome("m1") is None
        assert len(database.verdicts("m2")) == 1

    def test_what_is_still_to_be_done_is_kept(self, database: GroupDatabase) -> None:
        database.keep_messages(1, "INBOX")
        passed(database)
        for lsn in range(1, 5):
            database.put_message(message(lsn))
            if lsn == 1:
                database.set_message_state("m1", "INBOX")
            elif lsn == 2:
                database.add_verdict(verdict("m2"))
            elif lsn == 3:
                database.set_delivery(DeliveryRow("m3", 3, "WAITING", {}))
        database.put_message(message(5))
        assert [row.id for row in database.messages()] == ["m1", "m2", "m3", "m5"]
        database.confirm_verdicts(100)
        database.set_message_state("m1", "TAKEN")
        database.clear_delivery()
        database.put_message(message(6))
        assert [row.id for row in database.messages()] == ["m6"]

    def test_primary_keeps_what_is_not_final_and_what_owes_an_outcome(
        self, database: GroupDatabase
    ) -> None:
        """C16, C17: the states of rows are the Primary's; not final is the empty one."""
        database.keep_messages(1, "")
        passed(database)
        for lsn in range(1, 6):
            database.put_message(message(lsn), awaits_outcome=lsn == 3)
            if lsn != 2:
                database.set_message_state(f"m{lsn}", "final")
        assert [row.id for row in database.messages()] == ["m2", "m3", "m5"]
        assert database.count_messages_in_state("") == 1
        database.put_outcome("m3", 9, "REVOKED", {})
        database.set_message_state("m2", "final")
        database.put_message(message(6))
        assert [row.id for row in database.messages()] == ["m6"]
        assert database.outcome("m3") is None

    def test_what_replay_would_bring_back_is_kept(self, database: GroupDatabase) -> None:
        """D11: a forgotten message after the checkpoint would come back as one never delivered."""
        database.keep_messages(1, "INBOX")
        passed(database, 2)
        for lsn in range(1, 6):
            database.put_message(message(lsn))
        assert [row.id for row in database.messages()] == ["m3", "m4", "m5"]
        assert database.forget_messages_before(1000) == 0
        passed(database, 4)
        assert database.forget_messages_before(1000) == 2
        assert [row.id for row in database.messages()] == ["m5"]

    def test_too_old_ones_go_whatever_their_order(self, database: GroupDatabase) -> None:
        database.keep_messages(100, "INBOX")
        passed(database)
        for lsn, time_ns in ((1, 500), (2, 100), (3, 300), (4, 100)):
            database.put_message(message(lsn, time_ns=time_ns))
            database.put_outcome(f"m{lsn}", lsn, "CONFIRMED", {})
        database.set_message_state("m4", "INBOX")
        assert database.forget_messages_before(300) == 1
        assert [row.id for row in database.messages()] == ["m1", "m3", "m4"]
        assert database.outcome("m2") is None

    def test_all_are_kept_until_somebody_says_how_many(self, database: GroupDatabase) -> None:
        """Replay comes before the setting, and must not forget what the setting keeps."""
        for lsn in range(1, 30):
            database.put_message(message(lsn))
        assert len(database.messages()) == 29


class TestVerdicts:
    def test_sequence_grows_and_is_never_given_twice(self, database: GroupDatabase) -> None:
        """The Primary confirms up to a number: one given again would count as confirmed (D17)."""
        first = database.add_verdict(verdict("m1"))
        second = database.add_verdict(verdict("m2"))
        with database.transaction() as connection:
            connection.execute("DELETE FROM verdicts")
        third = database.add_verdict(verdict("m3"))
        assert first < second < third

    def test_secondary_names_its_own_number_as_the_source(self, database: GroupDatabase) -> None:
        sequence = database.add_verdict(verdict("m"))
        assert database.verdicts("m") == [replace(verdict("m"), sequence=sequence, source=sequence)]

    def test_unconfirmed_ones_are_repeated_in_order_until_confirmed(
        self, database: GroupDatabase
    ) -> None:
        sequences = [database.add_verdict(verdict(f"m{number}")) for number in range(4)]
        database.confirm_verdicts(sequences[1])
        assert [row.sequence for row in database.unconfirmed_verdicts()] == sequences[2:]
        assert database.verdicts("m0")[0].confirmed

    def test_primary_counts_a_repeated_verdict_once(self, database: GroupDatabase) -> None:
        first = database.add_verdict(verdict("m", link="l", source=4))
        assert database.add_verdict(verdict("m", link="l", source=4)) == first
        assert database.add_verdict(verdict("m", link="k", source=4)) != first
        assert [row.link for row in database.verdicts("m")] == ["l", "k"]

    def test_replica_made_anew_counts_from_one_and_is_heard(self, database: GroupDatabase) -> None:
        database.add_verdict(verdict("m1", link="l", source=1))
        database.add_verdict(verdict("m2", link="l", source=1))
        assert len(database.verdicts("m2")) == 1


class TestOutcomes:
    def test_first_outcome_stands(self, database: GroupDatabase) -> None:
        assert database.outcome("m") is None
        database.put_outcome("m", 5, "CONFIRMED", {"a": 1})
        database.put_outcome("m", 6, "REVOKED", {})
        assert database.outcome("m") == ("CONFIRMED", {"a": 1})

    def test_outcome_is_owed_until_it_comes_and_replay_changes_nothing(
        self, database: GroupDatabase
    ) -> None:
        """C17, D11."""
        database.put_message(message(5, "m"), awaits_outcome=True)
        database.put_message(message(6, "n"))
        assert [row.id for row in database.unjudged()] == ["m"]
        assert database.outcome("m") is None
        outcome = record_pb2.Outcome(message_id="m", evidence="because", window_seconds=0.5)
        database.put_outcome_record(outcome, 7)
        database.put_message(message(5, "m"), awaits_outcome=True)
        confirmed = record_pb2.Outcome.STATE_CONFIRMED
        database.put_outcome_record(record_pb2.Outcome(message_id="m", state=confirmed), 8)
        assert database.unjudged() == []
        found = database.outcome("m")
        assert found is not None and found[0] == "REVOKED"
        assert bytes.fromhex(found[1]["record"]) == outcome.SerializeToString()


class TestApplications:
    def test_registration_is_durable_and_repeatable(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        row = database.register_application("app", 5, 30.0)
        assert row == ApplicationRow("app", 30.0, 5)
        assert database.register_application("app", 9) == row
        after = GroupDatabase.open(storage.after_crash(Policy.DROP), PATH)
        assert after.applications() == [row]

    def test_thirty_two_names_and_no_more(self, database: GroupDatabase) -> None:
        """C9."""
        for number in range(32):
            database.register_application(f"app-{number}", 1)
        database.register_application("app-3", 2)
        with pytest.raises(FailedPrecondition, match="Unregister one") as caught:
            database.register_application("one-more", 1)
        assert caught.value.reason == "TOO_MANY_APPLICATIONS"
        database.unregister_application("app-3")
        database.register_application("one-more", 1)
        assert len(database.applications()) == 32

    def test_unknown_name_is_not_unregistered(self, database: GroupDatabase) -> None:
        with pytest.raises(NotFound, match="slackwater ibc"):
            database.unregister_application("app")


class TestEffects:
    def test_effect_comes_with_all_that_goes_with_it_in_one_step(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        """One row per record, committed before the next is applied (D20)."""
        number = database.add_snapshot(snapshot("s"))
        database.set_delivery(DeliveryRow("m5", 5, "FROZEN", {}))
        ready = replace(snapshot("s"), id=number, state="READY")
        before = storage.calls
        sequence = database.record_effect(
            5,
            "SNAPSHOTTED",
            {"snapshot": "s"},
            verdict=verdict("m5", "SNAPSHOTTED"),
            snapshot=ready,
            end_delivery=True,
        )
        assert storage.calls == before + 1
        assert database.effect(5) == EffectRow(5, "SNAPSHOTTED", {"snapshot": "s"})
        assert database.verdicts("m5")[0].sequence == sequence
        assert database.snapshots() == [ready]
        assert database.delivery() is None

    def test_effect_alone_has_no_verdict(self, database: GroupDatabase) -> None:
        assert database.record_effect(5, "SKIPPED") == 0
        database.record_effect(5, "NOTIFIED", {"a": 1})
        assert database.effect(5) == EffectRow(5, "NOTIFIED", {"a": 1})
        assert database.effect(6) is None


class TestSnapshots:
    def test_order_is_that_of_making_and_ids_are_not_reused(self, database: GroupDatabase) -> None:
        first = database.add_snapshot(snapshot("late", 9))
        second = database.add_snapshot(snapshot("early", 5))
        assert [(row.id, row.name) for row in database.snapshots()] == [
            (first, "late"),
            (second, "early"),
        ]
        database.remove_snapshot(second)
        assert database.add_snapshot(snapshot("third")) > second
        assert database.snapshots()[0] == replace(snapshot("late", 9), id=first)

    def test_row_is_replaced_whole(self, database: GroupDatabase) -> None:
        number = database.add_snapshot(snapshot("s"))
        changed = replace(
            snapshot("s2", 8),
            id=number,
            state="DELETING",
            guard=True,
            exported=True,
            message_id="m",
        )
        database.update_snapshot(changed)
        assert database.snapshots() == [changed]


class TestDelivery:
    def test_row_is_one_and_the_last_stands(
        self, storage: SimulatedStorage, database: GroupDatabase
    ) -> None:
        assert database.delivery() is None
        database.set_delivery(DeliveryRow("m", 5, "WAITING", {"remaining_seconds": 9.5}))
        frozen = DeliveryRow("m", 5, "FROZEN", {"holder": "h", "remaining_seconds": 4.25})
        database.set_delivery(frozen)
        after = GroupDatabase.open(storage.after_crash(Policy.DROP), PATH)
        assert after.delivery() == frozen
        database.clear_delivery()
        assert database.delivery() is None
