"""Delivery of messages on a Secondary, by the numbers of the contract."""

from dataclasses import replace
from typing import TypeVar

import pytest

from slackwater import errors
from slackwater.ibc.actions import (
    Answer,
    DeliveryAction,
    Freeze,
    KeepNotified,
    Phase,
    Record,
    Resume,
    StoreTimers,
    TakeNotified,
    Timers,
)
from slackwater.ibc.delivery import Delivery
from slackwater.ibc.inbox import INBOX_BYTES, INBOX_KEPT
from slackwater.ibc.messages import Behaviour, Message, Verdict, VerdictState
from slackwater.ibc.names import Application, Applications
from slackwater.position import Position

BACKUP = Application("backup", 0)
FREEZE = Message("m1", "backup", Behaviour.FREEZE, Position(1, 10, 0), b"body")
SECOND = replace(FREEZE, message_id="m2", position=Position(1, 20, 0))
NOTIFY = replace(FREEZE, message_id="n1", behaviour=Behaviour.NOTIFY)
A = TypeVar("A")


def only(actions: list[DeliveryAction], kind: type[A]) -> A:
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, f"expected one {kind.__name__} in {actions}"
    return found[0]


def none(actions: list[DeliveryAction], kind: type[object]) -> bool:
    return not any(isinstance(action, kind) for action in actions)


def known(*applications: Application) -> Applications:
    """The names registered here."""
    return Applications("demo", list(applications))


def standing_at(message: Message = FREEZE, now: float = 0.0) -> Delivery:
    """A replica that stands at a message, ready to hand it over."""
    delivery = Delivery(known(BACKUP))
    delivery.reach(message, now)
    delivery.frozen_here(now)
    delivery.actions()
    return delivery


def frozen_at(message: Message = FREEZE, now: float = 0.0) -> Delivery:
    """A replica whose message was taken by `me`."""
    delivery = standing_at(message, now)
    delivery.receive("backup", "me", "r1", 0, now)
    delivery.actions()
    return delivery


class TestFreeze:
    def test_nothing_is_handed_over_before_the_volumes_are_synced_d24(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.receive("backup", "me", "", 60, 0)
        delivery.reach(FREEZE, 1)
        assert delivery.actions() == [Freeze(FREEZE)]
        assert not delivery.may_apply
        delivery.frozen_here(2)
        actions = delivery.actions()
        answer = only(actions, Answer)
        assert answer.delivered is not None
        assert answer.delivered.message == FREEZE
        assert answer.delivered.remaining_seconds == 600

    def test_receive_that_comes_while_the_volumes_are_synced_waits_d24(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.reach(FREEZE, 0)
        delivery.actions()
        delivery.receive("backup", "me", "", 60, 1)
        assert delivery.actions() == []
        delivery.frozen_here(2)
        answer = only(delivery.actions(), Answer)
        assert answer.delivered is not None
        assert answer.delivered.message == FREEZE

    def test_delivered_verdict_is_durable_before_the_answer(self) -> None:
        delivery = standing_at()
        delivery.receive("backup", "me", "", 0, 5)
        kinds = [type(action) for action in delivery.actions()]
        assert kinds.index(Record) < kinds.index(Answer)

    def test_frozen_here_counts_once_and_only_at_a_message(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.frozen_here(0)
        assert delivery.actions() == []
        delivery = frozen_at()
        delivery.frozen_here(1)
        assert delivery.actions() == []

    def test_unfreeze_resumes_after_the_verdict_is_durable(self) -> None:
        delivery = frozen_at()
        assert delivery.unfreeze("m1", "me", 7) == 7
        actions = delivery.actions()
        verdict = Verdict(VerdictState.UNFROZEN, by="me", frozen_seconds=7)
        assert actions == [Record(FREEZE, verdict, effect=True), StoreTimers(None), Resume(FREEZE)]
        assert delivery.may_apply

    def test_second_message_is_reached_only_after_the_first_c10(self) -> None:
        with pytest.raises(AssertionError):
            frozen_at().reach(SECOND, 1)

    def test_message_for_other_links_is_passed(self) -> None:
        delivery = Delivery(known(BACKUP), link="here")
        delivery.reach(replace(FREEZE, links=("elsewhere",)), 0)
        assert delivery.actions() == []
        assert delivery.may_apply
        delivery.reach(replace(FREEZE, links=("here",)), 0)
        assert not delivery.may_apply

    def test_message_during_a_sync_is_skipped_c18(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.reach(FREEZE, 0, consistent=False)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.SKIPPED_INCONSISTENT
        assert delivery.may_apply

    def test_promotion_thaws_first_c19(self) -> None:
        delivery = frozen_at()
        delivery.abandon(VerdictState.LINK_DETACHED, 3)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.LINK_DETACHED
        delivery.abandon(VerdictState.LINK_DETACHED, 3)
        assert delivery.actions() == []


class TestUnfreezeRefused:
    def test_of_a_message_never_seen(self) -> None:
        with pytest.raises(errors.FailedPrecondition) as caught:
            Delivery(known(BACKUP)).unfreeze("m1", "me", 0)
        assert caught.value.reason == "NOT_FROZEN"

    def test_of_another_message(self) -> None:
        with pytest.raises(errors.FailedPrecondition):
            frozen_at().unfreeze("m2", "me", 0)

    def test_of_a_message_nobody_has_taken(self) -> None:
        with pytest.raises(errors.FailedPrecondition) as caught:
            standing_at().unfreeze("m1", "me", 0)
        assert caught.value.reason == "NOT_DELIVERED"

    @pytest.mark.parametrize("by", ["other", ""])
    def test_after_the_thaw_says_how_the_freeze_ended_c12(self, by: str) -> None:
        delivery = frozen_at()
        delivery.unfreeze("m1", by, 1)
        with pytest.raises(errors.FailedPrecondition, match="UNFROZEN") as caught:
            delivery.unfreeze("m1", "me", 2)
        assert caught.value.reason == "UNFROZEN"

    def test_how_freezes_ended_is_kept_for_the_last_hundred(self) -> None:
        delivery = Delivery(known(BACKUP))
        for number in range(120):
            delivery.reach(replace(FREEZE, message_id=f"m{number}"), 0, consistent=False)
        with pytest.raises(errors.FailedPrecondition, match="does not stand"):
            delivery.unfreeze("m0", "me", 0)
        with pytest.raises(errors.FailedPrecondition, match="over already"):
            delivery.unfreeze("m119", "me", 0)


class TestTimeouts:
    def ended(self, delivery: Delivery, before: float, at: float) -> VerdictState:
        applying = []
        for now in (before, at):
            delivery.tick(now)
            applying.append(delivery.may_apply)
        assert applying == [False, True]
        return only(delivery.actions(), Record).verdict.state

    def test_untaken_message_expires_after_its_deliver_timeout_c11(self) -> None:
        assert self.ended(standing_at(), 599, 600) is VerdictState.EXPIRED

    def test_freeze_times_out_counted_from_delivery_c12(self) -> None:
        delivery = standing_at()
        delivery.receive("backup", "me", "", 0, 100)
        delivery.actions()
        assert self.ended(delivery, 699, 700) is VerdictState.FREEZE_TIMED_OUT
        with pytest.raises(errors.FailedPrecondition, match="FREEZE_TIMED_OUT"):
            delivery.unfreeze("m1", "me", 701)

    @pytest.mark.parametrize("field", ["deliver_timeout_seconds", "freeze_timeout_seconds"])
    def test_zero_means_for_ever(self, field: str) -> None:
        delivery = standing_at(replace(FREEZE, **{field: 0.0}))  # type: ignore[arg-type]
        if field == "freeze_timeout_seconds":
            delivery.receive("backup", "me", "", 0, 0)
        delivery.tick(1e9)
        assert not delivery.may_apply

    def test_unregistered_name_waits_then_is_unclaimed_c11(self) -> None:
        delivery = Delivery(known())
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        delivery.actions()
        assert self.ended(delivery, 29, 30) is VerdictState.UNCLAIMED

    def test_registering_in_time_starts_the_deliver_timeout(self) -> None:
        delivery = Delivery(known())
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        delivery.register(Application("other", 0), 19)
        delivery.register(BACKUP, 20)
        delivery.actions()
        assert self.ended(delivery, 619, 620) is VerdictState.EXPIRED

    def test_preparing_does_not_time_out(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.reach(FREEZE, 0)
        delivery.tick(1e6)
        assert not delivery.may_apply

    def test_receiver_learns_how_many_were_dropped(self) -> None:
        delivery = standing_at()
        delivery.tick(600)
        delivery.reach(SECOND, 601)
        delivery.frozen_here(601)
        delivery.receive("backup", "me", "", 0, 602)
        answer = only(delivery.actions(), Answer)
        assert answer.delivered is not None
        assert (answer.delivered.message, answer.delivered.dropped) == (SECOND, 1)


class TestLogLimit:
    def test_freeze_ends_before_the_log_is_full_c8(self) -> None:
        delivery = frozen_at()
        delivery.log_use(0.79, 5)
        assert not delivery.may_apply
        delivery.log_use(0.8, 6)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.FREEZE_LOG_LIMIT

    def test_log_already_full_thaws_as_soon_as_it_stands(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.log_use(0.9, 0)
        delivery.reach(FREEZE, 1)
        delivery.log_use(0.9, 1)
        assert not delivery.may_apply
        delivery.frozen_here(2)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.FREEZE_LOG_LIMIT

    def test_limit_of_zero_never_thaws(self) -> None:
        delivery = Delivery(known(BACKUP), freeze_log_limit=0)
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        delivery.log_use(1.0, 1)
        assert not delivery.may_apply


class TestReceive:
    def test_unregistered_name_is_not_found(self) -> None:
        with pytest.raises(errors.NotFound):
            Delivery(known()).receive("backup", "me", "", 0, 0)

    def test_without_wait_returns_at_once_c10(self) -> None:
        delivery = Delivery(known(BACKUP))
        receiver = delivery.receive("backup", "me", "", 0, 5)
        assert delivery.actions() == [Answer(receiver, None)]

    def test_wait_ends_at_its_time(self) -> None:
        delivery = Delivery(known(BACKUP))
        receiver = delivery.receive("backup", "me", "", 10, 5)
        delivery.tick(14.9)
        assert delivery.actions() == []
        delivery.tick(15)
        assert delivery.actions() == [Answer(receiver, None)]

    def test_first_come_first_served(self) -> None:
        delivery = Delivery(known(BACKUP))
        first = delivery.receive("backup", "a", "", 60, 0)
        delivery.receive("backup", "b", "", 60, 0)
        delivery.reach(FREEZE, 1)
        delivery.frozen_here(1)
        assert only(delivery.actions(), Answer).receiver is first

    def test_other_application_waits_on(self) -> None:
        delivery = Delivery(known(BACKUP, Application("other", 0)))
        delivery.receive("other", "a", "", 60, 0)
        delivery.reach(FREEZE, 1)
        delivery.frozen_here(1)
        assert none(delivery.actions(), Answer)

    def test_stop_receive_ends_waiting_calls(self) -> None:
        delivery = Delivery(known(BACKUP))
        receiver = delivery.receive("backup", "a", "", 60, 0)
        assert delivery.stop_receive("backup") == 1
        assert delivery.actions() == [Answer(receiver, None, stopped=True)]
        assert delivery.stop_receive("backup") == 0
        with pytest.raises(errors.NotFound, match="ibc register demo other"):
            delivery.stop_receive("other")

    def test_cancelled_call_gets_nothing(self) -> None:
        delivery = Delivery(known(BACKUP))
        receiver = delivery.receive("backup", "a", "", 60, 0)
        delivery.cancel(receiver)
        delivery.cancel(receiver)
        delivery.reach(FREEZE, 1)
        delivery.frozen_here(1)
        assert none(delivery.actions(), Answer)

    @pytest.mark.parametrize(("holder", "request_id"), [("me", ""), ("", "r1"), ("other", "r1")])
    def test_holder_that_lost_the_answer_gets_it_again_c14(
        self, holder: str, request_id: str
    ) -> None:
        delivery = frozen_at()
        delivery.receive("backup", holder, request_id, 0, 100)
        answer = only(delivery.actions(), Answer)
        assert answer.delivered is not None
        assert answer.delivered.redelivered
        assert answer.delivered.remaining_seconds == 500, "the freeze timeout goes on"

    @pytest.mark.parametrize(("holder", "request_id"), [("other", "r2"), ("", "")])
    def test_anyone_else_does_not_get_a_message_that_is_held(
        self, holder: str, request_id: str
    ) -> None:
        delivery = frozen_at()
        delivery.receive("backup", holder, request_id, 0, 100)
        assert only(delivery.actions(), Answer).delivered is None

    def test_unregister_is_refused_while_a_message_is_pending_c9(self) -> None:
        delivery = standing_at()
        with pytest.raises(errors.FailedPrecondition) as caught:
            delivery.check_unregister("backup")
        assert caught.value.reason == "MESSAGE_PENDING"
        delivery.tick(600)
        delivery.check_unregister("backup")
        delivery.receive("backup", "me", "", 60, 601)
        delivery.actions()
        delivery.unregister("backup")
        assert only(delivery.actions(), Answer).stopped
        assert "backup" not in delivery.applications


class TestNotify:
    def test_applying_never_waits_c7(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.reach(NOTIFY, 0)
        assert delivery.actions() == [KeepNotified(NOTIFY, Verdict(VerdictState.NOTIFIED))]
        assert delivery.may_apply

    def test_is_taken_out_after_it_was_answered_c14(self) -> None:
        delivery = Delivery(known(BACKUP), inbox=[NOTIFY])
        receiver = delivery.receive("backup", "me", "", 0, 0)
        first, second = delivery.actions()
        assert isinstance(first, Answer)
        assert first.receiver is receiver
        assert second == TakeNotified(NOTIFY)
        delivery.receive("backup", "me", "", 0, 0)
        assert only(delivery.actions(), Answer).delivered is None

    def test_wakes_a_waiting_receiver(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.receive("backup", "me", "", 60, 0)
        delivery.reach(NOTIFY, 1)
        assert [type(a) for a in delivery.actions()] == [KeepNotified, Answer, TakeNotified]

    def test_unregistered_name_is_unclaimed_at_once(self) -> None:
        delivery = Delivery(known())
        delivery.reach(NOTIFY, 0)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.UNCLAIMED

    def test_comes_before_the_message_the_replica_stands_at(self) -> None:
        delivery = Delivery(known(BACKUP), inbox=[NOTIFY])
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        delivery.actions()
        for expected in (NOTIFY, FREEZE):
            delivery.receive("backup", "me", "", 0, 1)
            answer = only(delivery.actions(), Answer)
            assert answer.delivered is not None
            assert answer.delivered.message == expected

    def test_inbox_is_taken_in_order_of_the_messages_c10(self) -> None:
        later = replace(NOTIFY, message_id="n2")
        delivery = Delivery(known(BACKUP), inbox=[NOTIFY, later])
        for expected in (NOTIFY, later):
            delivery.receive("backup", "me", "", 0, 1)
            answer = only(delivery.actions(), Answer)
            assert answer.delivered is not None
            assert answer.delivered.message == expected

    def test_holds_its_name_and_is_bounded(self) -> None:
        delivery = Delivery(known(BACKUP), inbox=[NOTIFY] * INBOX_KEPT)
        with pytest.raises(errors.FailedPrecondition):
            delivery.check_unregister("backup")
        delivery.reach(replace(NOTIFY, message_id="n2"), 0)
        assert only(delivery.actions(), TakeNotified).message == NOTIFY
        delivery.receive("backup", "me", "", 0, 1)
        answer = only(delivery.actions(), Answer)
        assert answer.delivered is not None
        assert answer.delivered.dropped == 1

    def test_of_large_bodies_is_bounded_in_bytes(self) -> None:
        large = replace(NOTIFY, body=bytes(128 << 10))
        kept = INBOX_BYTES // len(large.body)
        delivery = Delivery(known(BACKUP), inbox=[large] * (kept - 1))
        delivery.reach(large, 0)
        assert none(delivery.actions(), TakeNotified)
        delivery.reach(replace(NOTIFY, message_id="n2"), 0)
        assert only(delivery.actions(), TakeNotified).message == large
        delivery.receive("backup", "me", "", 0, 1)
        delivery.actions()
        delivery.reach(large, 2)
        assert none(delivery.actions(), TakeNotified), "what was taken makes room"


class TestRestart:
    def restart(self, delivery: Delivery, now: float, registered: bool = True) -> Delivery:
        timers = delivery.timers(now)
        assert timers is not None
        again = Delivery(known(BACKUP) if registered else known(), timers=timers)
        again.reach(FREEZE, 1000)
        again.frozen_here(1000)
        return again

    def test_frozen_comes_back_frozen_with_what_was_left_c15(self) -> None:
        again = self.restart(frozen_at(), now=100)
        stored = only(again.actions(), StoreTimers).timers
        assert stored == Timers("m1", Phase.FROZEN, 500, 100, "me", "r1", True)
        again.tick(1499)
        assert not again.may_apply
        again.tick(1500)
        verdict = only([a for a in again.actions() if isinstance(a, Record)], Record).verdict
        assert verdict.state is VerdictState.FREEZE_TIMED_OUT
        assert verdict.frozen_seconds == 600, "downtime does not count (D19)"

    def test_first_receiver_after_a_restart_gets_the_message_again_c14(self) -> None:
        again = self.restart(frozen_at(), now=100)
        again.actions()
        again.receive("backup", "someone", "r9", 0, 1001)
        answer = only(again.actions(), Answer)
        assert answer.delivered is not None
        assert answer.delivered.redelivered
        again.receive("backup", "another", "r10", 0, 1002)
        assert only(again.actions(), Answer).delivered is None

    def test_awaiting_goes_on_waiting(self) -> None:
        again = self.restart(standing_at(), now=250)
        again.tick(1349)
        assert not again.may_apply
        again.tick(1350)
        assert again.may_apply

    @pytest.mark.parametrize(
        ("registered", "phase"), [(True, Phase.AWAITING), (False, Phase.UNREGISTERED)]
    )
    def test_unregistered_waits_on_unless_registered_meanwhile(
        self, registered: bool, phase: Phase
    ) -> None:
        delivery = Delivery(known())
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        again = self.restart(delivery, now=10, registered=registered)
        timers = again.timers(1000)
        assert timers is not None
        assert timers.phase is phase

    def test_timers_of_another_message_mean_nothing(self) -> None:
        delivery = Delivery(known(BACKUP), timers=Timers("m0", Phase.FROZEN, 1, 1, "x", "", True))
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        timers = delivery.timers(0)
        assert timers is not None
        assert timers.phase is Phase.AWAITING

    def test_for_ever_stays_for_ever(self) -> None:
        message = replace(FREEZE, freeze_timeout_seconds=0.0)
        timers = frozen_at(message).timers(50)
        assert timers is not None
        assert timers.remaining_seconds is None

    def test_timers_are_stored_every_five_seconds_d19(self) -> None:
        delivery = frozen_at()
        delivery.tick(4.9)
        assert delivery.actions() == []
        delivery.tick(5)
        assert only(delivery.actions(), StoreTimers).timers is not None
        delivery.tick(6)
        assert delivery.actions() == []

    def test_no_timers_without_a_message(self) -> None:
        delivery = Delivery(known(BACKUP))
        assert delivery.timers(0) is None
        delivery.reach(FREEZE, 0)
        assert delivery.timers(0) is None
