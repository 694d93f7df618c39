"""The Secondary's side of a stream: what it takes, and how it refuses."""

import uuid
from dataclasses import replace
from typing import TypeVar

import pytest

from slackwater import errors, record
from slackwater.link import receiver_actions as ract
from slackwater.link.actions import Cursor
from slackwater.link.receiver import MAX_REQUEST_BYTES, SILENCE_SECONDS, LinkReceiver
from slackwater.link.wire import append_prefix, to_wire
from slackwater.position import Position, origin
from slackwater.v1 import common_pb2, replication_pb2

UID = uuid.UUID(int=9)
START = origin(UID)
Request = replication_pb2.ReplicateRequest
Reject = replication_pb2.Reject
SYNC = bytes(range(16))
A = TypeVar("A")


def hello(**changes: object) -> bytes:
    values: dict[str, object] = {
        "group_uid": UID.bytes, "group": "demo", "link": "east", "epoch": 2,
        "durable": to_wire(START), "protocol_version": 1,
    }  # fmt: skip
    values.update(changes)
    return Request(hello=replication_pb2.Hello(**values)).SerializeToString()  # type: ignore[arg-type]


def progress(durable: Position = START, **changes: object) -> ract.Progress:
    state = common_pb2.REPLICA_STATE_CONSISTENT
    return replace(ract.Progress(durable, 0, 0, 0, 0, 1 << 30, state), **changes)  # type: ignore[arg-type]


def opened(**changes: object) -> LinkReceiver:
    receiver = LinkReceiver(0.0)
    receiver.receive(hello())
    standing = ract.Opened(uuid.UUID(int=1), 2, progress())
    receiver.opened(replace(standing, **changes))  # type: ignore[arg-type]
    receiver.actions()
    return receiver


def run_from(previous: Position, count: int, kind: int = 0) -> tuple[bytes, Position]:
    run, chain, lsn = b"", previous.chain, previous.lsn
    for index in range(count):
        lsn += 1
        if kind and index == count - 1:
            framed, chain = record.frame(chain, 1, lsn, 0, None, kind, b"")
        else:
            head, chain = record.write_head(chain, 1, lsn, 0, None, 1, 0, b"data")
            framed = head + b"data"
        run += framed
    return run, Position(1, lsn, chain)


def append(previous: Position, run: bytes) -> bytes:
    return append_prefix(previous, len(run)) + run


def only(receiver: LinkReceiver, kind: type[A]) -> A:
    actions = receiver.actions()
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, f"expected one {kind.__name__} in {actions}"
    return found[0]


def rejected(receiver: LinkReceiver) -> replication_pb2.Reject:
    response = only(receiver, ract.SendResponse).message
    assert response.WhichOneof("message") == "reject"
    return response.reject


class TestHello:
    def test_welcome_tells_where_the_replica_stands(self) -> None:
        receiver = LinkReceiver(0.0)
        receiver.receive(hello())
        assert only(receiver, ract.OpenReplica).hello.group == "demo"
        running = ract.RunningSync(SYNC, Cursor(1, 512), False)
        receiver.opened(ract.Opened(uuid.UUID(int=1), 1, progress(), running))
        welcome = only(receiver, ract.SendResponse).message.welcome
        assert set(welcome.kinds) == record.KNOWN_KINDS
        assert welcome.durable == to_wire(START)
        assert (welcome.running_sync.sync_id, welcome.running_sync.cursor.offset) == (SYNC, 512)
        assert not welcome.HasField("last_start")

    def test_welcome_names_the_newest_start_d16(self) -> None:
        receiver = LinkReceiver(0.0)
        receiver.receive(hello())
        receiver.actions()
        start = Position(1, 3, 99)
        receiver.opened(ract.Opened(uuid.UUID(int=1), 1, progress(), None, start))
        assert only(receiver, ract.SendResponse).message.welcome.last_start == to_wire(start)

    def test_older_epoch_is_fenced(self) -> None:
        with pytest.raises(errors.Fenced):
            opened(epoch=3)

    @pytest.mark.parametrize(
        "change",
        [
            {"group_uid": b"short"},
            {"group": "No"},
            {"link": ""},
            {"epoch": 0},
            {"volumes": [replication_pb2.VolumeInfo(volume=1, name="v", size_bytes=1)]},
            {"volumes": [replication_pb2.VolumeInfo(volume=1, name="v", size_bytes=512)] * 2},
        ],
    )
    def test_malformed_hello_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(errors.InvalidRequest):
            LinkReceiver(0.0).receive(hello(**change))

    def test_other_version_of_the_link_is_refused(self) -> None:
        with pytest.raises(errors.FailedPrecondition, match="version 9"):
            LinkReceiver(0.0).receive(hello(protocol_version=9))

    def test_hello_comes_once_and_first(self) -> None:
        with pytest.raises(errors.InvalidRequest):
            opened().receive(hello())
        with pytest.raises(errors.InvalidRequest):
            LinkReceiver(0.0).receive(append(START, b""))
        with pytest.raises(errors.InvalidRequest):
            LinkReceiver(0.0).receive(Request(heartbeat={}).SerializeToString())  # type: ignore[arg-type]

    @pytest.mark.parametrize("request_bytes", [b"", b"\xff\xff", bytes(MAX_REQUEST_BYTES + 1)])
    def test_garbage_ends_the_call(self, request_bytes: bytes) -> None:
        with pytest.raises(errors.InvalidRequest):
            opened().receive(request_bytes)


class TestAppend:
    def test_records_that_continue_are_appended_as_they_stand(self) -> None:
        receiver = opened()
        run, end = run_from(START, 3)
        receiver.receive(append(START, run))
        action = only(receiver, ract.AppendRun)
        assert (bytes(action.run), action.end, len(action.views)) == (run, end, 3)
        assert receiver.end == end

    def test_padding_after_the_records_is_left_out(self) -> None:
        receiver = opened()
        run, _ = run_from(START, 1)
        receiver.receive(append(START, run + record.pad(20)))
        assert bytes(only(receiver, ract.AppendRun).run) == run

    def test_append_after_gap_is_rejected_with_expected_position(self) -> None:
        receiver = opened()
        reject_run, end = run_from(Position(1, 5, 5), 1)
        receiver.receive(append(Position(1, 5, 5), reject_run))
        reject = rejected(receiver)
        assert (reject.reason, reject.expected) == (Reject.REASON_GAP, to_wire(START))
        assert receiver.end == START != end

    def test_append_of_another_history_is_rejected_as_diverged(self) -> None:
        receiver = opened()
        run, _ = run_from(START, 1)
        receiver.receive(append(Position(1, 0, 12345), run))
        assert rejected(receiver).reason == Reject.REASON_DIVERGED

    def test_damaged_append_is_rejected_whole(self) -> None:
        receiver = opened()
        run, _ = run_from(START, 3)
        damaged = run[:-1] + bytes((run[-1] ^ 1,))
        receiver.receive(append(START, damaged))
        assert rejected(receiver).reason == Reject.REASON_CORRUPT
        assert receiver.end == START

    def test_unknown_kind_fails_the_replica_with_what_came_before_kept(self) -> None:
        receiver = opened()
        run, _ = run_from(START, 3, kind=99)
        receiver.receive(append(START, run))
        actions = receiver.actions()
        assert [type(a) for a in actions] == [ract.AppendRun, ract.FailReplica, ract.SendResponse]
        assert isinstance(actions[0], ract.AppendRun)
        assert actions[0].end.lsn == 2
        more, _ = run_from(actions[0].end, 1)
        receiver.receive(append(actions[0].end, more))
        assert rejected(receiver).reason == Reject.REASON_FAILED

    def test_full_log_is_said_and_nothing_taken_c8(self) -> None:
        receiver = opened()
        run, _ = run_from(START, 2)
        receiver.log_room_bytes = len(run) - 1
        receiver.receive(append(START, run))
        assert rejected(receiver).reason == Reject.REASON_LOG_FULL
        assert receiver.end == START


class TestSync:
    def start(self, receiver: LinkReceiver, position: Position, **changes: object) -> None:
        values: dict[str, object] = {"sync_id": SYNC, "position": to_wire(position), **changes}
        start = replication_pb2.SyncStart(**values)  # type: ignore[arg-type]
        receiver.receive(Request(sync_start=start).SerializeToString())

    def syncing(self, position: Position) -> LinkReceiver:
        receiver = opened()
        self.start(receiver, position)
        receiver.sync_started(only(receiver, ract.StartSync))
        receiver.actions()
        return receiver

    def regions(self, receiver: LinkReceiver, sequence: int, **region: object) -> None:
        message = replication_pb2.SyncRegions(sync_id=SYNC, sequence=sequence)
        message.regions.add(**{"volume": 1, "length": 4, "data": b"data", **region})
        receiver.receive(Request(sync_regions=message).SerializeToString())

    def test_sync_starts_the_log_over_and_the_ack_names_it(self) -> None:
        receiver = opened()
        position = Position(2, 50, 5)
        self.start(receiver, position)
        start = only(receiver, ract.StartSync)
        run, _ = run_from(START, 1)
        receiver.receive(append(START, run))
        assert rejected(receiver).reason == Reject.REASON_SYNC_MISMATCH
        receiver.sync_started(start)
        ack = only(receiver, ract.SendResponse).message.ack
        assert (ack.sync_id, ack.durable) == (SYNC, to_wire(position))
        assert receiver.end == position
        receiver.sync_started(start)
        assert receiver.actions() == []

    def test_frozen_replica_refuses_a_sync(self) -> None:
        receiver = opened()
        receiver.replica_state_changed(common_pb2.REPLICA_STATE_FROZEN, "at m1")
        receiver.actions()
        self.start(receiver, Position(2, 50, 5))
        assert rejected(receiver).reason == Reject.REASON_FROZEN

    def test_sync_below_our_end_needs_the_operators_word_d16(self) -> None:
        ahead = progress(Position(1, 90, 9))
        self.start(receiver := opened(progress=ahead), Position(2, 50, 5))
        assert rejected(receiver).reason == Reject.REASON_DIVERGED
        self.start(receiver, Position(2, 50, 5), discard_secondary=True)
        assert only(receiver, ract.StartSync).discard_secondary

    def test_without_room_for_the_guard_the_sync_stops_d27(self) -> None:
        receiver = opened()
        self.start(receiver, Position(2, 50, 5))
        start = only(receiver, ract.StartSync)
        receiver.sync_refused(start, "no space")
        assert rejected(receiver).reason == Reject.REASON_NO_SPACE
        receiver.sync_refused(start, "no space")
        assert receiver.actions() == []

    def test_regions_come_in_sequence(self) -> None:
        receiver = self.syncing(Position(2, 50, 5))
        self.regions(receiver, 1)
        assert only(receiver, ract.ApplyRegions).regions[0].data == b"data"
        self.regions(receiver, 3)
        assert rejected(receiver).reason == Reject.REASON_SYNC_MISMATCH
        self.regions(receiver, 2, zero=True, length=1 << 40)
        assert only(receiver, ract.ApplyRegions).regions[0].data is None

    @pytest.mark.parametrize("region", [{"length": 0}, {"length": 5}])
    def test_region_that_lies_about_its_length_is_refused(self, region: dict[str, object]) -> None:
        with pytest.raises(errors.InvalidRequest):
            self.regions(self.syncing(Position(2, 50, 5)), 1, **region)

    @pytest.mark.parametrize(("last", "taken"), [(0, True), (1, False)])
    def test_done_counts_only_after_every_region(self, last: int, taken: bool) -> None:
        receiver = self.syncing(Position(2, 50, 5))
        done = replication_pb2.SyncDone(sync_id=SYNC, consistent_lsn=60, last_sequence=last)
        receiver.receive(Request(sync_done=done).SerializeToString())
        if taken:
            assert only(receiver, ract.FinishSync).consistent_lsn == 60
        else:
            assert rejected(receiver).reason == Reject.REASON_SYNC_MISMATCH

    def test_sync_id_has_16_bytes(self) -> None:
        with pytest.raises(errors.InvalidRequest):
            self.start(opened(), START, sync_id=b"x")


class TestToThePrimary:
    def test_ack_comes_with_news_and_once_a_second(self) -> None:
        receiver = opened()
        run, end = run_from(START, 1)
        receiver.receive(append(START, run))
        receiver.actions()
        receiver.progress(progress(end))
        assert only(receiver, ract.SendResponse).message.ack.durable == to_wire(end)
        receiver.progress(progress(end))
        assert receiver.actions() == []
        receiver.tick(0.9)
        assert receiver.actions() == []
        receiver.tick(1.0)
        assert only(receiver, ract.SendResponse).message.ack.durable == to_wire(end)

    def test_only_what_was_received_can_be_durable(self) -> None:
        with pytest.raises(AssertionError):
            opened().progress(progress(Position(1, 5, 5)))

    def test_nothing_is_said_before_welcome(self) -> None:
        receiver = LinkReceiver(0.0)
        receiver.progress(progress())
        receiver.verdict(replication_pb2.VerdictReport())
        receiver.replica_state_changed(common_pb2.REPLICA_STATE_FROZEN, "")
        assert receiver.actions() == []

    def test_verdicts_go_out_and_confirmations_come_in_d17(self) -> None:
        receiver = opened()
        receiver.verdict(replication_pb2.VerdictReport(sequence=4))
        assert only(receiver, ract.SendResponse).message.verdict.sequence == 4
        confirmed = replication_pb2.VerdictsConfirmed(sequence=4)
        receiver.receive(Request(verdicts_confirmed=confirmed).SerializeToString())
        assert only(receiver, ract.VerdictsConfirmed).sequence == 4

    def test_heartbeat_carries_the_primarys_clock_d19(self) -> None:
        receiver = opened()
        beat = replication_pb2.Heartbeat(time_unix_nanos=77, durable=to_wire(START))
        receiver.receive(Request(heartbeat=beat).SerializeToString())
        assert only(receiver, ract.PrimaryHeard).time_ns == 77

    def test_silent_stream_is_ended_once(self) -> None:
        receiver = opened()
        receiver.tick(SILENCE_SECONDS + 1)
        assert only(receiver, ract.EndStream).reason.startswith("no sign of life")
        receiver.tick(SILENCE_SECONDS + 1.5)
        assert not [a for a in receiver.actions() if isinstance(a, ract.EndStream)]
