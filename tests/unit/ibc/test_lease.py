"""Leases on messages (C13): who takes one, keeps it, loses it, comes back."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from slackwater import errors
from slackwater.ibc.actions import Answer, EndHold, Phase, Receiver, Record, StoreTimers, Timers
from slackwater.ibc.delivery import Delivery
from slackwater.ibc.messages import Verdict, VerdictState
from slackwater.ibc.names import Application
from tests.unit.ibc.test_delivery import BACKUP, FREEZE, NOTIFY, known, none, only, standing_at

TICK = 0.25


def held_at(now: float = 0.0, **fields: object) -> tuple[Delivery, Receiver]:
    """A replica whose message was taken by the lease of `me`."""
    delivery = standing_at(replace(FREEZE, **fields), now)  # type: ignore[arg-type]
    delivery.tick(now)
    receiver = delivery.hold("backup", "me", "", now)
    delivery.actions()
    return delivery, receiver


def ticks(start: float, end: float) -> Iterator[float]:
    count = round((end - start) / TICK)
    return (start + TICK * number for number in range(1, count + 1))


def run(delivery: Delivery, start: float, end: float, *living: Receiver) -> None:
    """Let time pass as the shell does; the living give a sign of life each time."""
    for now in ticks(start, end):
        for receiver in living:
            delivery.heartbeat(receiver, now)
        delivery.tick(now)


def restarted(delivery: Delivery, now: float) -> Delivery:
    """The same replica after its service was started again."""
    timers = delivery.timers(now)
    assert timers is not None and delivery.standing is not None
    again = Delivery(known(BACKUP), timers=timers)
    again.reach(delivery.standing.message, 0)
    again.tick(0)
    return again


class TestGrace:
    def test_message_is_handed_to_a_lease_without_an_end_c13(self) -> None:
        delivery = standing_at()
        receiver = delivery.hold("backup", "me", "", 0)
        answer = only(delivery.actions(), Answer)
        assert answer.receiver is receiver and answer.delivered is not None
        assert answer.delivered.remaining_seconds is None
        assert delivery.standing is not None and delivery.standing.leased

    def test_lease_outlives_the_default_freeze_timeout_c13(self) -> None:
        delivery, receiver = held_at()
        run(delivery, 0, 700, receiver)
        assert not delivery.may_apply

    def test_timeout_the_sender_chose_ends_even_a_living_lease_c12(self) -> None:
        delivery, receiver = held_at(freeze_timeout_chosen=True, freeze_timeout_seconds=20.0)
        run(delivery, 0, 19, receiver)
        assert not delivery.may_apply
        run(delivery, 19, 20, receiver)
        actions = delivery.actions()
        assert only(actions, Record).verdict.state is VerdictState.FREEZE_TIMED_OUT
        told = only(actions, EndHold)
        assert told.receiver is receiver
        assert told.verdict is not None and told.verdict.state is VerdictState.FREEZE_TIMED_OUT

    def test_silence_for_the_grace_loses_the_lease_c13(self) -> None:
        delivery, receiver = held_at()
        run(delivery, 0, 10, receiver)
        run(delivery, 10, 14.75)
        assert not delivery.may_apply
        run(delivery, 14.75, 15)
        actions = delivery.actions()
        kinds = [type(action) for action in actions]
        assert kinds.index(Record) < kinds.index(EndHold), "durable before the holder is told"
        verdict = only(actions, Record).verdict
        assert (verdict.state, verdict.by) == (VerdictState.LEASE_LOST, "me")
        assert verdict.frozen_seconds == 15

    def test_grace_is_a_setting(self) -> None:
        delivery = Delivery(known(BACKUP), lease_grace=60)
        delivery.reach(FREEZE, 0)
        delivery.frozen_here(0)
        delivery.hold("backup", "me", "", 0)
        run(delivery, 0, 59)
        assert not delivery.may_apply
        run(delivery, 59, 60)
        assert delivery.may_apply

    def test_lost_lease_is_final_and_a_late_unfreeze_says_so_c12(self) -> None:
        delivery, receiver = held_at()
        run(delivery, 0, 6)
        delivery.actions()
        delivery.heartbeat(receiver, 6)
        delivery.release(receiver, 6)
        assert delivery.actions() == []
        with pytest.raises(errors.FailedPrecondition, match="LEASE_LOST"):
            delivery.unfreeze("m1", "me", 6)

    def test_release_thaws_by_the_holder_and_tells_it(self) -> None:
        delivery, receiver = held_at()
        delivery.release(receiver, 3)
        actions = delivery.actions()
        verdict = Verdict(VerdictState.UNFROZEN, by="me", frozen_seconds=3)
        assert only(actions, Record).verdict == verdict
        assert only(actions, EndHold) == EndHold(receiver, verdict)
        assert delivery.may_apply

    def test_operator_may_unfreeze_and_the_holder_is_told(self) -> None:
        delivery, receiver = held_at()
        delivery.unfreeze("m1", "operator", 3)
        told = only(delivery.actions(), EndHold)
        assert told.receiver is receiver and told.verdict is not None
        assert (told.verdict.state, told.verdict.by) == (VerdictState.UNFROZEN, "operator")

    def test_full_log_thaws_under_a_lease_and_tells_it_c8(self) -> None:
        delivery, _ = held_at()
        delivery.log_use(0.9, 1)
        told = only(delivery.actions(), EndHold)
        assert told.verdict is not None
        assert told.verdict.state is VerdictState.FREEZE_LOG_LIMIT

    def test_pause_of_this_machine_is_no_silence_of_the_holder(self) -> None:
        delivery, receiver = held_at()
        delivery.tick(60)  # it stood still; the heartbeats of that minute are not read yet
        assert not delivery.may_apply
        delivery.heartbeat(receiver, 60.1)
        run(delivery, 60.25, 64, receiver)
        assert not delivery.may_apply

    def test_ticks_that_are_always_late_do_not_keep_a_lost_lease(self) -> None:
        delivery, _ = held_at()
        for now in range(2, 40, 2):
            delivery.tick(now)
        assert delivery.may_apply

    def test_holder_silent_before_the_message_does_not_get_it(self) -> None:
        delivery = Delivery(known(BACKUP))
        delivery.tick(0)
        silent = delivery.hold("backup", "silent", "", 0)
        living = delivery.hold("backup", "living", "", 0)
        run(delivery, 0, 6, living)
        told = only(delivery.actions(), EndHold)
        assert told.receiver is silent and isinstance(told.error, errors.Unavailable)
        delivery.reach(FREEZE, 6)
        delivery.frozen_here(6)
        assert only(delivery.actions(), Answer).receiver is living

    @pytest.mark.parametrize("away", [0.0, 3600.0, -3600.0])
    def test_only_the_machines_own_monotonic_time_counts(self, away: float) -> None:
        delivery, receiver = held_at(now=10_000 + away)
        run(delivery, 10_000 + away, 10_004 + away, receiver)
        assert not delivery.may_apply


class TestComingBack:
    def test_stream_gone_leaves_the_grace_from_the_last_sign_of_life(self) -> None:
        delivery, receiver = held_at()
        run(delivery, 0, 2, receiver)
        delivery.cancel(receiver)
        assert delivery.remaining(3) == 4
        run(delivery, 2, 6.75)
        assert not delivery.may_apply
        run(delivery, 6.75, 7)
        assert only(delivery.actions(), Record).verdict.state is VerdictState.LEASE_LOST

    @pytest.mark.parametrize(("holder", "message_id"), [("me", ""), ("other", "m1"), ("", "m1")])
    def test_same_holder_or_who_names_the_message_comes_back(
        self, holder: str, message_id: str
    ) -> None:
        delivery, receiver = held_at()
        delivery.cancel(receiver)
        back = delivery.hold("backup", holder, message_id, 4)
        answer = only(delivery.actions(), Answer)
        assert answer.receiver is back and answer.delivered is not None
        assert answer.delivered.redelivered
        run(delivery, 4, 20, back)
        assert not delivery.may_apply
        delivery.release(back, 20)
        assert delivery.may_apply

    def test_holder_whose_old_stream_seems_alive_replaces_it(self) -> None:
        delivery, older = held_at()
        back = delivery.hold("backup", "me", "m1", 1)
        actions = delivery.actions()
        told = only(actions, EndHold)
        assert told.receiver is older and isinstance(told.error, errors.FailedPrecondition)
        assert only(actions, Answer).receiver is back
        delivery.release(older, 2)
        delivery.cancel(older)
        assert not delivery.may_apply, "the old stream has no say any more"

    def test_another_holder_is_refused_while_the_lease_lives(self) -> None:
        delivery, _ = held_at()
        with pytest.raises(errors.FailedPrecondition) as caught:
            delivery.hold("backup", "other", "m1", 1)
        assert caught.value.reason == "LEASE_HELD"
        assert delivery.actions() == []

    @pytest.mark.parametrize("holder", ["other", "me", ""])
    def test_second_holder_waits_for_the_next_message(self, holder: str) -> None:
        delivery, first = held_at()
        second = delivery.hold("backup", holder, "", 1)
        assert delivery.actions() == []
        run(delivery, 0, 2, first, second)
        delivery.release(first, 2)
        delivery.actions()
        delivery.reach(replace(FREEZE, message_id="m2"), 3)
        delivery.frozen_here(3)
        assert only(delivery.actions(), Answer).receiver is second

    def test_coming_back_to_a_message_not_stood_at_is_refused(self) -> None:
        delivery, _ = held_at()
        for message_id, reason in (("m2", "NOT_FROZEN"), ("none", "NOT_FROZEN")):
            with pytest.raises(errors.FailedPrecondition) as caught:
                delivery.hold("backup", "me", message_id, 1)
            assert caught.value.reason == reason

    def test_coming_back_for_another_application_is_refused(self) -> None:
        delivery, _ = held_at()
        delivery.register(Application("other", 0), 0)
        with pytest.raises(errors.InvalidRequest, match="backup"):
            delivery.hold("other", "me", "m1", 1)

    def test_unknown_application_is_not_found(self) -> None:
        with pytest.raises(errors.NotFound):
            Delivery(known()).hold("backup", "me", "", 0)


class TestUnaryReceiversAndLeases:
    @pytest.mark.parametrize(("holder", "request_id"), [("me", ""), ("other", "r"), ("", "")])
    def test_unary_receive_does_not_take_a_leased_message(
        self, holder: str, request_id: str
    ) -> None:
        delivery, receiver = held_at()
        delivery.cancel(receiver)
        delivery.receive("backup", holder, request_id, 0, 1)
        assert only(delivery.actions(), Answer).delivered is None

    def test_lease_does_not_take_a_message_received_without_one(self) -> None:
        delivery = standing_at()
        delivery.receive("backup", "me", "", 0, 0)
        delivery.actions()
        with pytest.raises(errors.FailedPrecondition) as caught:
            delivery.hold("backup", "me", "m1", 1)
        assert caught.value.reason == "NOT_LEASED"
        delivery.hold("backup", "me", "", 1)
        assert none(delivery.actions(), Answer)

    def test_message_received_without_a_lease_is_not_lost_by_silence_c13(self) -> None:
        delivery = standing_at()
        delivery.receive("backup", "me", "", 0, 0)
        run(delivery, 0, 100)
        assert not delivery.may_apply, "the freeze timeout alone guards it"

    def test_notify_is_handed_to_a_waiting_lease_without_freezing(self) -> None:
        delivery = Delivery(known(BACKUP))
        receiver = delivery.hold("backup", "me", "", 0)
        delivery.reach(NOTIFY, 1)
        answer = only(delivery.actions(), Answer)
        assert answer.receiver is receiver and delivery.standing is None

    def test_stop_receive_ends_waiting_leases_not_held_ones(self) -> None:
        delivery, _ = held_at()
        waiting = delivery.hold("backup", "other", "", 1)
        assert delivery.stop_receive("backup") == 1
        assert delivery.actions() == [Answer(waiting, None, stopped=True)]
        assert not delivery.may_apply

    def test_unregister_is_refused_while_a_lease_holds_c9(self) -> None:
        delivery, _ = held_at()
        with pytest.raises(errors.FailedPrecondition, match="pending"):
            delivery.check_unregister("backup")


class TestRestart:
    def test_lease_is_in_the_timers_and_its_grace_begins_anew_c15(self) -> None:
        delivery, _ = held_at()
        run(delivery, 0, 4)
        again = restarted(delivery, 4)
        run(again, 0, 100)  # replay takes long: nobody counts before the replica stands
        again.frozen_here(100)
        assert again.standing is not None and again.standing.leased
        run(again, 100, 104.75)
        assert not again.may_apply
        run(again, 104.75, 105)
        assert only(again.actions(), Record).verdict.state is VerdictState.LEASE_LOST

    def test_grace_begins_when_the_service_can_hear_again(self) -> None:
        delivery, _ = held_at()
        again = restarted(delivery, 1)
        again.listen(False, 0)
        again.frozen_here(0)
        run(again, 0, 50)
        again.listen(True, 50)
        run(again, 50, 54.75)
        assert not again.may_apply
        run(again, 54.75, 55)
        assert again.may_apply

    @pytest.mark.parametrize("early", [True, False])
    def test_holder_comes_back_before_or_after_the_replica_stands(self, early: bool) -> None:
        delivery, _ = held_at()
        timers = delivery.timers(1)
        again = Delivery(known(BACKUP), timers=timers)
        backs = []
        if early:
            backs.append(again.hold("backup", "me", "m1", 0))
            assert again.actions() == []
        again.reach(FREEZE, 1)
        again.frozen_here(1)
        if not early:
            assert none(again.actions(), Answer)
            backs.append(again.hold("backup", "me", "m1", 1))
        (back,) = backs
        answer = only(again.actions(), Answer)
        assert answer.receiver is back and answer.delivered is not None
        assert answer.delivered.redelivered
        run(again, 1, 10, back)
        assert not again.may_apply

    def test_stranger_does_not_get_a_leased_message_after_a_restart(self) -> None:
        delivery, _ = held_at()
        again = restarted(delivery, 1)
        again.frozen_here(0)
        again.actions()
        again.receive("backup", "stranger", "", 0, 0)
        assert only(again.actions(), Answer).delivered is None
        again.hold("backup", "stranger", "", 0)
        assert none(again.actions(), Answer)

    def test_message_received_without_a_lease_may_be_held_after_a_restart_c14(self) -> None:
        delivery = standing_at()
        delivery.receive("backup", "me", "", 0, 0)
        again = restarted(delivery, 1)
        again.frozen_here(0)
        again.actions()
        receiver = again.hold("backup", "other", "", 0)
        actions = again.actions()
        assert only(actions, Answer).receiver is receiver
        stored = only(actions, StoreTimers).timers
        assert stored == Timers("m1", Phase.FROZEN, None, 1, "other", "", True, leased=True)

    def test_who_waits_to_come_back_is_told_when_it_ends_first(self) -> None:
        delivery, _ = held_at()
        again = Delivery(known(BACKUP), timers=delivery.timers(1))
        back = again.hold("backup", "me", "m1", 0)
        again.log_use(0.9, 0)
        again.reach(FREEZE, 1)
        again.abandon(VerdictState.LINK_DETACHED, 2)
        told = only(again.actions(), EndHold)
        assert told.receiver is back and told.verdict is not None
        assert told.verdict.state is VerdictState.LINK_DETACHED

    def test_only_one_of_two_that_wait_to_come_back_gets_it(self) -> None:
        delivery, _ = held_at()
        again = Delivery(known(BACKUP), timers=delivery.timers(1))
        first = again.hold("backup", "a", "m1", 0)
        second = again.hold("backup", "b", "m1", 0)
        again.reach(FREEZE, 1)
        again.frozen_here(1)
        actions = again.actions()
        assert only(actions, Answer).receiver is first
        refused = only(actions, EndHold)
        assert refused.receiver is second and refused.error is not None
