"""The Primary's view of a link: what the transcripts of tests/scenarios do not reach."""

from dataclasses import replace
from typing import TypeVar

import pytest

from slackwater.link import actions as act
from slackwater.link.actions import Cursor, LinkAction, LinkState, Region, VolumeInfo
from slackwater.link.sender import LinkSender
from slackwater.link.settings import LinkIdentity, LinkRow, SenderSettings, Stream
from slackwater.link.wire import to_wire
from slackwater.position import LogPoint, Position
from slackwater.v1 import common_pb2, replication_pb2

Response = replication_pb2.ReplicateResponse
Reject = replication_pb2.Reject
IDENTITY = LinkIdentity(bytes(16), "demo", "east", 2, frozenset({31}), 10_000)
SETTINGS = SenderSettings(window_bytes=1000, slice_bytes=500, region_bytes=64)
VOLUMES = (VolumeInfo(1, "data", 4096),)
SYNC = b"s" * 16
A = TypeVar("A")


def point(lsn: int) -> LogPoint:
    return LogPoint(lsn * 100, Position(1, lsn, lsn + 1000))


def only(actions: list[LinkAction], kind: type[A]) -> A:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, f"expected one {kind.__name__} in {actions}"
    return found[0]


def sender(row: LinkRow | None = None, settings: SenderSettings = SETTINGS) -> LinkSender:
    return LinkSender(IDENTITY, row or LinkRow(), settings, lambda: 1.0, lambda: SYNC)


def greeted(row: LinkRow | None = None, end: int = 10) -> LinkSender:
    """Hello is sent; the log holds lsn 0 to `end`."""
    link = sender(row)
    link.tick(0, 0)
    link.log_advanced(end * 100, end * 100, 0)
    link.connected(point(end), VOLUMES)
    link.actions()
    return link


def welcome(lsn: int = 5, **changes: object) -> Response:
    message = replication_pb2.Welcome(
        durable=to_wire(point(lsn).position),
        kinds=[31],
        replica_state=common_pb2.REPLICA_STATE_CONSISTENT,
        **changes,  # type: ignore[arg-type]
    )
    return Response(welcome=message)


def opened(lsn: int = 10, end: int = 10) -> LinkSender:
    """The stream is open, everything up to `lsn` is on the Secondary."""
    link = greeted(end=end)
    link.receive(welcome(lsn))
    link.placing.position_found(only(link.actions(), act.FindPosition), point(lsn), 0)
    return link


def ack(lsn: int, **changes: object) -> Response:
    values: dict[str, object] = {
        "durable": to_wire(point(lsn).position), "applied_lsn": lsn, "log_capacity_bytes": 9999,
        "replica_state": common_pb2.REPLICA_STATE_CONSISTENT,
    }  # fmt: skip
    return Response(ack=replication_pb2.Ack(**{**values, **changes}))  # type: ignore[arg-type]


def reject(reason: Reject.Reason.ValueType, lsn: int = 10) -> Response:
    return Response(reject=Reject(reason=reason, expected=to_wire(point(lsn).position)))


def syncing() -> LinkSender:
    """SyncStart was carried out; regions may be read."""
    link = greeted()
    link.receive(welcome(5))
    link.placing.position_found(only(link.actions(), act.FindPosition), None, 8)
    request = only(link.actions(), act.FindSyncPoint)
    link.sync.point_found(request, point(10), VOLUMES, 4096)
    link.actions()
    link.receive(ack(10, sync_id=SYNC, replica_state=common_pb2.REPLICA_STATE_INCONSISTENT))
    return link


class TestConnection:
    def test_backoff_grows_with_each_failure_and_is_bounded(self) -> None:
        link, now, waits = sender(), 0.0, []
        for _ in range(9):
            link.tick(now, 0)
            only(link.actions(), act.Dial)
            link.disconnected("refused")
            start = now
            while not any(isinstance(a, act.Dial) for a in link.actions()):
                now += 0.1
                link.tick(now, 0)
            waits.append(round(now - start, 1))
            link.disconnected("refused")
            now += 20
        assert waits[:3] == sorted(waits[:3])
        assert waits[0] < 1 < waits[-1] <= 10.1

    @pytest.mark.parametrize("stream", [Stream.GREETING, Stream.OPEN])
    def test_silent_peer_is_given_up(self, stream: Stream) -> None:
        link = opened() if stream is Stream.OPEN else greeted()
        link.actions()
        limit = SETTINGS.silence_seconds if stream is Stream.OPEN else SETTINGS.greeting_seconds
        link.tick(limit, 0)
        assert link.connection.stream is stream
        link.tick(limit + 0.1, 0)
        assert "no sign of life" in only(link.actions(), act.Disconnect).reason
        assert link.state is LinkState.CONNECTING

    def test_heartbeat_each_second_with_the_primarys_clock_d19(self) -> None:
        link = opened()
        link.actions()
        link.tick(0.9, 5)
        assert link.actions() == []
        link.tick(1.0, 77)
        beat = only(link.actions(), act.SendMessage).message.heartbeat
        assert (beat.time_unix_nanos, beat.durable.lsn) == (77, 10)

    def test_heartbeat_names_the_end_of_the_log_once_all_of_it_is_sent(self) -> None:
        link = opened()
        link.actions()
        link.log_advanced(1200, 1200, 0)
        request = only(link.actions(), act.ReadLog)
        link.tick(1.0, 77)
        assert not only(link.actions(), act.SendMessage).message.heartbeat.HasField("durable")
        link.records.slice_read(request, b"x" * 200, point(12), 0)
        link.actions()
        link.tick(2.0, 78)
        assert only(link.actions(), act.SendMessage).message.heartbeat.durable.lsn == 12

    @pytest.mark.parametrize("response", [welcome(), ack(1)])
    def test_message_out_of_order_ends_the_stream(self, response: Response) -> None:
        link = opened() if response.HasField("welcome") else greeted()
        link.actions()
        link.receive(response)
        assert "out of order" in only(link.actions(), act.Disconnect).reason

    def test_unknown_message_is_ignored(self) -> None:
        link = opened()
        link.actions()
        link.receive(Response())
        assert link.actions() == []

    def test_what_comes_after_the_end_is_ignored(self) -> None:
        link = opened()
        link.disconnected("cut")
        link.actions()
        link.receive(ack(10))
        link.connected(point(10), VOLUMES)
        link.disconnected("again")
        link.verdict_stored(1)
        assert link.actions() == []

    def test_fatal_end_waits_for_the_operator(self) -> None:
        link = opened()
        link.disconnected("fenced", fatal=True)
        link.tick(1e6, 0)
        assert link.state is LinkState.FAILED
        link.retry()
        link.tick(1e6, 0)
        assert any(isinstance(a, act.Dial) for a in link.actions())


class TestWelcome:
    @pytest.mark.parametrize(
        ("response", "state", "reason"),
        [
            (Response(welcome={"kinds": [17]}), LinkState.FAILED, "UNKNOWN_RECORD"),  # type: ignore[arg-type]
            (welcome(10), LinkState.CONNECTING, ""),
            (welcome(11), LinkState.DIVERGED, "histories differ"),
        ],
    )
    def test_welcome_decides(self, response: Response, state: LinkState, reason: str) -> None:
        link = greeted()
        link.receive(response)
        assert link.state is state
        assert reason in link.reason

    def test_failed_replica_fails_the_link(self) -> None:
        link = greeted()
        response = welcome()
        response.welcome.replica_state = common_pb2.REPLICA_STATE_FAILED
        link.receive(response)
        assert link.state is LinkState.FAILED

    def test_higher_epoch_fences(self) -> None:
        link = greeted()
        response = welcome()
        response.welcome.durable.epoch = 9
        link.receive(response)
        assert "FENCED" in link.reason

    @pytest.mark.parametrize(("acked", "chain"), [(6, 1006), (5, 77)])
    def test_below_or_beside_what_was_acked_is_diverged_d16(self, acked: int, chain: int) -> None:
        link = greeted(LinkRow(acked=Position(1, acked, chain)))
        link.receive(welcome(5))
        assert link.state is LinkState.DIVERGED
        assert link.diverged_secondary == point(5).position

    def test_same_lsn_as_our_end_with_another_chain_is_diverged(self) -> None:
        link = greeted()
        response = welcome(10)
        response.welcome.durable.chain_crc32c = 1
        link.receive(response)
        assert link.state is LinkState.DIVERGED

    def test_held_lsn_with_another_chain_is_diverged(self) -> None:
        link = greeted()
        link.receive(welcome(5))
        link.placing.position_found(only(link.actions(), act.FindPosition), None, 5)
        assert link.state is LinkState.DIVERGED

    def test_replica_in_another_sync_is_synchronised_anew(self) -> None:
        for held in (point(5), None):
            link = greeted()
            running = replication_pb2.RunningSync(sync_id=b"other")
            link.receive(welcome(5, running_sync=running))
            link.placing.position_found(only(link.actions(), act.FindPosition), held, 0)
            only(link.actions(), act.FindSyncPoint)
            link = greeted()
            response = welcome(5)
            response.welcome.replica_state = common_pb2.REPLICA_STATE_INCONSISTENT
            link.receive(response)
            link.placing.position_found(only(link.actions(), act.FindPosition), held, 0)
            only(link.actions(), act.FindSyncPoint)


OTHER_START = Position(1, 3, 77)
OUR_START = point(3).position


class TestStart:
    """The newest Start at or below the Secondary's end tells histories apart (D16)."""

    def placed(
        self,
        theirs: Position | None,
        ours: Position | None,
        *,
        row: LinkRow | None = None,
        held: LogPoint | None = None,
        **changes: object,
    ) -> LinkSender:
        link = greeted(row)
        said = None if theirs is None else to_wire(theirs)
        link.receive(welcome(5, last_start=said, **changes))
        link.placing.position_found(only(link.actions(), act.FindPosition), held, 8, ours)
        return link

    @pytest.mark.parametrize("held", [None, point(5)], ids=["trimmed", "held"])
    @pytest.mark.parametrize("dirty", [False, True])
    @pytest.mark.parametrize("theirs", [OTHER_START, point(2).position, point(4).position])
    def test_another_start_than_ours_is_diverged_and_overwrites_nothing(
        self, theirs: Position, dirty: bool, held: LogPoint | None
    ) -> None:
        link = self.placed(theirs, OUR_START, row=LinkRow(dirty=dirty), held=held)
        assert link.state is LinkState.DIVERGED
        assert link.diverged_secondary == point(5).position
        actions = link.actions()
        assert only(actions, act.StoreLink).state is LinkState.DIVERGED
        assert not [a for a in actions if isinstance(a, act.FindSyncPoint | act.SendMessage)]

    @pytest.mark.parametrize("running", [b"other", SYNC])
    def test_another_start_is_diverged_in_the_middle_of_a_sync_too(self, running: bytes) -> None:
        link = self.placed(
            OTHER_START,
            OUR_START,
            row=LinkRow(sync_id=SYNC),
            held=point(5),
            running_sync=replication_pb2.RunningSync(sync_id=running),
        )
        assert link.state is LinkState.DIVERGED

    def test_operator_may_give_the_other_history_up(self) -> None:
        link = self.placed(OTHER_START, OUR_START, row=LinkRow(discard_secondary=True))
        request = only(link.actions(), act.FindSyncPoint)
        link.sync.point_found(request, point(10), VOLUMES, 1, OUR_START)
        sent = [a.message for a in link.actions() if isinstance(a, act.SendMessage)]
        assert sent[0].sync_start.discard_secondary
        assert sent[0].sync_start.last_start == to_wire(OUR_START)

    @pytest.mark.parametrize(
        ("theirs", "ours"), [(OUR_START, OUR_START), (None, OUR_START), (OTHER_START, None)]
    )
    def test_dirty_link_of_one_history_or_an_unknown_one_syncs_by_itself(
        self, theirs: Position | None, ours: Position | None
    ) -> None:
        link = self.placed(theirs, ours, row=LinkRow(dirty=True))
        only(link.actions(), act.FindSyncPoint)

    def test_start_that_is_not_remembered_is_not_said(self) -> None:
        link = self.placed(None, None)
        link.sync.point_found(only(link.actions(), act.FindSyncPoint), point(10), VOLUMES, 1)
        sent = [a.message for a in link.actions() if isinstance(a, act.SendMessage)]
        assert not sent[0].sync_start.HasField("last_start")

    def test_records_sent_again_after_a_gap_are_looked_up_without_it(self) -> None:
        link = opened(lsn=10)
        link.actions()
        link.receive(reject(Reject.REASON_GAP, 7))
        link.placing.position_found(only(link.actions(), act.FindPosition), point(7), 0, OUR_START)
        assert link.connection.stream is Stream.OPEN


class TestRecords:
    def test_only_durable_bytes_are_asked_for_d13(self) -> None:
        link = opened(lsn=5)
        request = only(link.actions(), act.ReadLog)
        assert (request.start, request.limit) == (point(5), 1000)
        with pytest.raises(AssertionError):
            link.records.slice_read(request, b"x", point(11), 0)

    def test_answer_to_an_older_request_is_dropped(self) -> None:
        link = opened(lsn=5)
        request = only(link.actions(), act.ReadLog)
        link.disconnected("cut")
        link.actions()
        link.records.slice_read(request, b"x", point(6), 0)
        link.records.slice_trimmed(request)
        link.placing.position_found(act.FindPosition(point(5).position), point(5), 0)
        assert link.actions() == []

    def test_trimmed_log_makes_the_link_dirty(self) -> None:
        link = opened(lsn=5)
        link.records.slice_trimmed(only(link.actions(), act.ReadLog))
        assert (link.state, link.hold_offset) == (LinkState.DIRTY, None)
        link = opened(lsn=5)
        link.log_advanced(1000, 1000, 600)
        assert only(
            [a for a in link.actions() if isinstance(a, act.StoreLink)], act.StoreLink
        ).dirty

    def test_lag_is_counted_in_bytes_and_in_the_primarys_seconds_d19(self) -> None:
        link = opened(lsn=10)
        link.tick(0.5, 3_000_000_000)
        assert (link.lag_bytes, link.records.lag_seconds(9_000_000_000)) == (0, 0.0)
        link.log_advanced(1200, 1000, 0)
        assert (link.lag_bytes, link.records.lag_seconds(9_000_000_000)) == (200, 6.0)
        request = [a for a in link.actions() if isinstance(a, act.ReadLog)][-1]
        link.records.slice_read(request, b"x" * 200, point(12), 4_000_000_000)
        assert link.records.lag_seconds(9_000_000_000) == 5.0
        link.receive(ack(12))
        assert (link.lag_bytes, link.records.lag_seconds(9_000_000_000)) == (0, 0.0)

    def test_far_behind_is_catching_up_again(self) -> None:
        link = opened()
        states = [link.state]
        link.log_advanced(1000 + 2001, 1000, 0)
        states.append(link.state)
        assert states == [LinkState.STREAMING, LinkState.CATCHING_UP]

    def test_ack_of_the_future_is_diverged(self) -> None:
        link = opened()
        link.receive(ack(11))
        assert link.state is LinkState.DIVERGED

    def test_acks_are_passed_on_with_what_is_applied(self) -> None:
        link = opened()
        link.actions()
        link.receive(ack(10, applied_lsn=7, applied_time_unix_nanos=5, log_used_bytes=3))
        acked = only(link.actions(), act.Acked)
        assert (acked.point, acked.applied_lsn, acked.applied_time_ns) == (point(10), 7, 5)
        assert (link.hold_offset, link.secondary_log_used_bytes) == (1000, 3)


class TestReject:
    @pytest.mark.parametrize(
        ("reason", "state"),
        [
            (Reject.REASON_DIVERGED, LinkState.DIVERGED),
            (Reject.REASON_UNKNOWN_RECORD, LinkState.FAILED),
            (Reject.REASON_GROUP_MISMATCH, LinkState.FAILED),
            (Reject.REASON_FAILED, LinkState.FAILED),
            (Reject.REASON_NO_SPACE, LinkState.FAILED),
            (Reject.REASON_SYNC_MISMATCH, LinkState.CONNECTING),
            (Reject.REASON_FROZEN, LinkState.STREAMING),
        ],
    )
    def test_reason_decides_the_state(
        self, reason: Reject.Reason.ValueType, state: LinkState
    ) -> None:
        link = opened()
        link.receive(reject(reason))
        assert link.state is state

    def test_gap_past_what_was_sent_is_diverged(self) -> None:
        link = opened()
        link.receive(reject(Reject.REASON_GAP, lsn=11))
        assert link.state is LinkState.DIVERGED

    def test_gap_inside_a_slice_is_looked_up(self) -> None:
        link = opened(lsn=5)
        link.records.slice_read(only(link.actions(), act.ReadLog), b"x", point(10), 0)
        link.actions()
        link.receive(reject(Reject.REASON_GAP, lsn=7))
        request = only(link.actions(), act.FindPosition)
        link.placing.position_found(request, point(7), 0)
        assert only(link.actions(), act.ReadLog).start == point(7)

    def test_damage_three_times_in_a_row_fails(self) -> None:
        link = opened(lsn=5)
        for _ in range(3):
            request = [a for a in link.actions() if isinstance(a, act.ReadLog)][-1]
            link.records.slice_read(request, b"x", point(10), 0)
            link.receive(reject(Reject.REASON_CORRUPT, lsn=5))
        assert "CORRUPT" in link.reason

    def test_failed_replica_is_told_with_its_reason(self) -> None:
        link = opened()
        change = replication_pb2.ReplicaStateChange(
            state=common_pb2.REPLICA_STATE_FAILED, reason="disk"
        )
        link.receive(Response(state=change))
        assert link.reason == "the replica has failed: disk"

    def test_what_the_secondary_says_is_kept_until_it_says_otherwise_or_is_gone(self) -> None:
        link = opened()
        state = common_pb2.REPLICA_STATE_CONSISTENT
        full = replication_pb2.ReplicaStateChange(state=state, reason="the disk is full")
        link.receive(Response(state=full))
        link.receive(ack(5))
        assert (link.replica_reason, link.reason) == ("the disk is full", "")
        link.receive(Response(state=replication_pb2.ReplicaStateChange(state=state)))
        assert link.replica_reason == ""
        link.receive(Response(state=full))
        link.disconnected("hang-up", fatal=False)
        assert (link.replica_reason, link.reason) == ("", "hang-up")


class TestVerdicts:
    def test_verdict_is_confirmed_only_when_durable_d17(self) -> None:
        link = opened()
        link.actions()
        link.receive(Response(verdict=replication_pb2.VerdictReport(sequence=3)))
        assert [type(a) for a in link.actions()] == [act.VerdictReceived]
        link.verdict_stored(3)
        message = only(link.actions(), act.SendMessage).message
        assert message.verdicts_confirmed.sequence == 3


class TestSync:
    def test_start_forgets_what_was_acked_and_holds_the_log(self) -> None:
        link = greeted(LinkRow(acked=point(5).position))
        link.receive(welcome(5))
        link.placing.position_found(only(link.actions(), act.FindPosition), None, 8)
        link.sync.point_found(only(link.actions(), act.FindSyncPoint), point(9), VOLUMES, 1)
        actions = link.actions()
        store = only(actions, act.StoreLink)
        assert (store.sync_id, store.forget_acked, store.sync_point) == (SYNC, True, point(9))
        assert link.hold_offset == 900
        kinds = [type(action) for action in actions]
        assert kinds.index(act.StoreLink) < kinds.index(act.SendMessage)

    def test_nothing_follows_sync_start_until_it_is_carried_out(self) -> None:
        link = greeted()
        link.receive(welcome(5))
        link.placing.position_found(only(link.actions(), act.FindPosition), None, 8)
        link.sync.point_found(only(link.actions(), act.FindSyncPoint), point(9), VOLUMES, 1)
        assert not [a for a in link.actions() if isinstance(a, act.ReadLog | act.ReadRegions)]
        link.receive(ack(5))
        link.log_advanced(1200, 1200, 0)
        assert link.actions() == []
        assert link.acked_position is None, "the old log's acks do not count"

    def test_no_record_is_sent_while_regions_are_read_d25(self) -> None:
        link = syncing()
        request = only(link.actions(), act.ReadRegions)
        link.log_advanced(1300, 1300, 0)
        assert link.actions() == []
        region = Region(1, 0, 4, b"data")
        link.sync.regions_read(request, [region], Cursor(1, 64), 64, False, 13)
        actions = link.actions()
        assert only(actions, act.SendMessage).message.sync_regions.sequence == 1
        only(actions, act.ReadLog)

    def test_regions_wait_until_the_volumes_hold_what_was_sent_d25(self) -> None:
        link = syncing()
        request = only(link.actions(), act.ReadRegions)
        link.sync.regions_read(request, [], Cursor(1, 64), 64, False, 10)
        only([a for a in link.actions() if isinstance(a, act.ReadRegions)], act.ReadRegions)
        link = syncing()
        request = only(link.actions(), act.ReadRegions)
        link.log_advanced(1200, 1000, 0)
        link.sync.regions_read(request, [], Cursor(1, 64), 64, False, 10)
        slice_request = only(link.actions(), act.ReadLog)
        link.records.slice_read(slice_request, b"x" * 200, point(12), 0)
        assert not [a for a in link.actions() if isinstance(a, act.ReadRegions)]
        link.log_advanced(1200, 1199, 0)
        assert link.actions() == []
        link.log_advanced(1200, 1200, 0)
        only(link.actions(), act.ReadRegions)

    def test_records_go_first_past_half_of_the_log(self) -> None:
        link = syncing()
        request = only(link.actions(), act.ReadRegions)
        link.log_advanced(1000 + 5100, 1000 + 5100, 0)
        link.sync.regions_read(request, [], Cursor(1, 64), 64, False, 10)
        for lsn in (15, 20):
            actions = link.actions()
            assert not [a for a in actions if isinstance(a, act.ReadRegions)]
            read = only(actions, act.ReadLog)
            link.records.slice_read(read, b"x" * 500, point(lsn), 0)
        only(link.actions(), act.SendAppend)
        link.log_advanced(1000 + 5100, 1000 + 5100, 0)
        assert link.actions() == [], "a full window is no reason to read regions"

    def test_sync_given_up_by_the_secondary_breaks_the_stream(self) -> None:
        link = syncing()
        link.actions()
        link.receive(ack(10))
        assert "gave the sync up" in only(link.actions(), act.Disconnect).reason
        assert link.sync.sync_id == SYNC

    def test_sync_that_needs_nothing_more_waits_for_consistency(self) -> None:
        link = greeted(LinkRow(sync_id=SYNC))
        running = replication_pb2.RunningSync(sync_id=SYNC, done=True)
        link.receive(welcome(5, running_sync=running))
        link.placing.position_found(only(link.actions(), act.FindPosition), point(5), 0)
        assert not [a for a in link.actions() if isinstance(a, act.ReadRegions)]
        assert link.state is LinkState.SYNCING
        link.receive(ack(5))
        assert (link.state, link.sync.sync_id) == (LinkState.CATCHING_UP, b"")

    def test_sync_finished_unheard_is_settled_by_the_next_welcome(self) -> None:
        link = greeted(LinkRow(sync_id=SYNC))
        link.receive(welcome(5))
        link.placing.position_found(only(link.actions(), act.FindPosition), point(5), 0)
        assert link.sync.sync_id == b""

    def test_resumed_sync_on_a_dirty_link_holds_the_log_again(self) -> None:
        """The log let go of the link in the middle of its sync, and has what it needs after all."""
        link = greeted(LinkRow(state=LinkState.SYNCING, dirty=True, sync_id=SYNC, acked=None))
        assert (link.state, link.hold_offset) == (LinkState.DIRTY, None)
        running = replication_pb2.RunningSync(
            sync_id=SYNC, cursor=replication_pb2.SyncCursor(volume=1, offset=512)
        )
        link.receive(welcome(5, running_sync=running))
        link.placing.position_found(only(link.actions(), act.FindPosition), point(5), 0)
        actions = link.actions()
        stored = only(actions, act.StoreLink)
        assert (stored.dirty, stored.sync_id, stored.forget_acked) == (False, SYNC, False)
        # Durable before anything relies on the log being held (D26).
        assert actions.index(stored) < actions.index(only(actions, act.Acked))
        assert (link.state, link.hold_offset) == (LinkState.SYNCING, 500)
        assert not [a for a in actions if isinstance(a, act.FindSyncPoint)]

    def test_sync_of_a_dirty_link_whose_place_is_trimmed_starts_anew(self) -> None:
        link = greeted(LinkRow(state=LinkState.SYNCING, dirty=True, sync_id=b"o" * 16))
        running = replication_pb2.RunningSync(sync_id=b"o" * 16)
        link.receive(welcome(5, running_sync=running))
        link.placing.position_found(only(link.actions(), act.FindPosition), None, 8)
        link.sync.point_found(only(link.actions(), act.FindSyncPoint), point(9), VOLUMES, 1)
        stored = only(link.actions(), act.StoreLink)
        assert (stored.dirty, stored.sync_id, stored.forget_acked) == (False, SYNC, True)
        assert link.hold_offset == 900

    def test_frozen_before_the_start_came_waits_as_dirty(self) -> None:
        link = greeted()
        link.receive(welcome(5))
        link.placing.position_found(only(link.actions(), act.FindPosition), None, 8)
        link.sync.point_found(only(link.actions(), act.FindSyncPoint), point(9), VOLUMES, 1)
        link.receive(reject(Reject.REASON_FROZEN))
        assert (link.state, link.sync.sync_id) == (LinkState.DIRTY, b"")
        link.actions()
        link.receive(ack(5))
        only(link.actions(), act.FindSyncPoint)


class TestOperator:
    def test_detached_link_stays_detached(self) -> None:
        link = opened()
        link.detach()
        link.retry()
        link.pause()
        link.overflow()
        link.tick(100, 0)
        assert link.state is LinkState.DETACHED
        assert not [a for a in link.actions() if isinstance(a, act.Dial)]

    def test_overflow_is_noted_once(self) -> None:
        link = opened()
        link.overflow()
        link.actions()
        link.overflow()
        assert link.actions() == []
        link.tick(1, 0)
        link.disconnected("refused")
        assert (link.state, link.reason) == (LinkState.DIRTY, "refused")

    def test_durable_states_are_taken_up(self) -> None:
        assert sender(LinkRow(state=LinkState.STREAMING)).state is LinkState.CONNECTING
        assert sender(LinkRow(state=LinkState.SYNCING, dirty=True)).state is LinkState.DIRTY
        assert sender(LinkRow(state=LinkState.DIVERGED)).state is LinkState.DIVERGED
        row = replace(LinkRow(), state=LinkState.PAUSED, dirty=True)
        link = sender(row)
        link.retry()
        assert link.state is LinkState.DIRTY
