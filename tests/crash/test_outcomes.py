"""Quiesced messages and Outcomes, crashed at every storage call: one each, never too good."""

from typing import Any

from slackwater import record
from slackwater.clock import ManualClock
from slackwater.group import opening
from slackwater.group.changes import send_message
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import OpenGroup
from slackwater.group.outcomes import STOPPED, append_outcome
from slackwater.log.reader import LogReader, replay
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2, record_pb2
from tests.support.simulation import every_crash
from tests.unit.group.engine import ROOT, SMALL, UID

CONFIRMED = record_pb2.Outcome.STATE_CONFIRMED
REVOKED = record_pb2.Outcome.STATE_REVOKED


def start(storage: SimulatedStorage) -> OpenGroup:
    """Make or open the group, and keep a link's worth of log, so that all records can be read."""
    clock = ManualClock()
    data = DataDirectory.open(storage, ROOT, "primary")
    try:
        directory = data.group("g")
        if not storage.exists(directory.path):
            opening.create_group(storage, data, "g", UID, opening.GroupSettings(SMALL), clock)
        return opening.open_group(storage, directory, clock, incarnation=lambda: 7)
    finally:
        data.close()


def place(group: OpenGroup, name: str, *quiesced: str) -> None:
    message = record_pb2.IbcMessage(
        message_id=name, application="app", request_id=name, quiesced=quiesced
    )
    send_message(group.writer, message, fence_timeout=1.0)


def confirm(group: OpenGroup, name: str) -> None:
    outcome = record_pb2.Outcome(
        message_id=name,
        state=CONFIRMED,
        grade=common_pb2.SNAPSHOT_GRADE_APPLICATION,
        evidence="held",
    )
    append_outcome(group.writer, outcome)


def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
    """Messages with and without a quiesce; one is never judged, as when a Primary dies."""
    group = start(storage)
    for name in ("m1", "m2"):
        place(group, name, "db", "fs")
        journal.append(("placed", name))
        journal.append(("confirming", name))
        confirm(group, name)
        journal.append(("confirmed", name))
        place(group, f"plain-{name}")
        if name == "m1":
            group.writer.checkpoint()
    place(group, "m3", "db")
    journal.append(("placed", "m3"))
    group.writer.checkpoint()


def found(storage: SimulatedStorage, group: OpenGroup) -> tuple[list[Any], list[Any]]:
    """Return the messages and the Outcomes in the log, all of it."""
    log = group.writer.log
    messages, outcomes = [], []
    reader = LogReader(storage, group.directory.log, UID, log.settings)
    try:
        for data, view in replay(reader, group.writer.database.log_state().start, log.durable):
            if view.kind == record.KIND_IBC_MESSAGE:
                messages.append(record.body(data, view))
            elif view.kind == record.KIND_OUTCOME:
                outcomes.append(record.body(data, view))
    finally:
        reader.close()
    return messages, outcomes


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    group = start(storage)
    messages, outcomes = found(storage, group)
    quiesced = [one.message_id for one in messages if one.quiesced]
    for kind, name in journal:
        if kind == "placed":
            assert name in quiesced
    assert [one.message_id for one in outcomes] == quiesced, "one Outcome each, in order"
    assert group.writer.database.unjudged() == []
    for outcome in outcomes:
        name = outcome.message_id
        row = group.writer.database.outcome(name)
        assert row is not None
        assert bytes.fromhex(row[1]["record"]) == outcome.SerializeToString()
        if ("confirmed", name) in journal:
            assert (row[0], outcome.state) == ("CONFIRMED", CONFIRMED)
        elif ("confirming", name) not in journal or outcome.state != CONFIRMED:
            assert (row[0], outcome.state) == ("REVOKED", REVOKED)
            assert outcome.grade == common_pb2.SNAPSHOT_GRADE_CRASH
            assert outcome.evidence == STOPPED
            assert [one.problem for one in outcome.reports] == [STOPPED] * len(outcome.reports)
            assert outcome.reports
    assert all(group.writer.database.outcome(f"plain-{one}") is None for one in ("m1", "m2"))
    group.close()
    again = start(storage)
    assert found(storage, again)[1] == outcomes, "opening again judges nothing twice"
    assert again.revoked_messages == 0
    again.close()


def test_each_quiesced_message_has_one_outcome_after_a_crash_at_every_call() -> None:
    """C17: the Primary dies in the fence, before, in or after the Outcome; also in recovery."""
    assert every_crash(workload, verify) > 200


def test_restart_says_how_many_messages_it_revoked() -> None:
    storage = SimulatedStorage()
    workload(storage, [])
    group = start(storage.kill())
    assert group.revoked_messages == 1
