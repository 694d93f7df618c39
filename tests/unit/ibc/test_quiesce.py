"""Rounds of a quiesce without I/O: what is asked, what counts, what a hold was worth."""

from itertools import count

import pytest

from slackwater.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
)
from slackwater.ibc import judging
from slackwater.ibc.judging import Asked, check_asked, cut, judge
from slackwater.ibc.names import Application, Applications
from slackwater.ibc.quiesce import AskHold, AskResume, EndSession, Quiescers, Session
from slackwater.ibc.quiesce_round import Round

GRACE = 5.0
BOTH = Asked(("fs", "db"), 30.0, 10.0, "backup", "tasks/t", ("site-b",))
DB = Asked(("db",), 30.0, 10.0)


class World:
    """The sessions of a group at a time that the test sets."""

    def __init__(self, **kinds: str) -> None:
        numbers = count(1)
        self.now = 100.0
        self.core = Quiescers("g", GRACE, lambda: f"h{next(numbers)}")
        self.agents = {name: self.open(name, kind) for name, kind in kinds.items()}

    def open(self, name: str, kind: str = "fsfreeze", host: str = "there") -> Session:
        return self.core.open(name, kind, host, self.now, 7)

    def begin(self, asked: Asked = DB) -> Round:
        return self.core.begin(asked, self.now)

    def hold_id(self, name: str = "db") -> str:
        hold = self.agents[name].hold
        assert hold is not None
        return hold.hold_id

    def after(self, seconds: float) -> None:
        """Let time pass in which every agent gives its signs of life."""
        self.now += seconds
        for session in self.core.sessions():
            session.heard_at = self.now
        self.core.tick(self.now)

    def quiesced(self, name: str = "db", hold_id: str = "", answer: str = "held") -> str:
        known = hold_id or self.hold_id(name)
        return self.core.quiesced(self.agents[name], known, answer, self.now)

    def resumed(
        self, name: str = "db", hold_id: str = "", answer: str = "on", *, unbroken: bool = True
    ) -> str:
        known = hold_id or self.hold_id(name)
        return self.core.resumed(self.agents[name], known, answer, self.now, is_unbroken=unbroken)

    def failed(self, name: str = "db", problem: str = "EIO") -> str:
        return self.core.failed(self.agents[name], self.hold_id(name), problem, self.now)

    def resume(self, message: str = "groups/g/messages/m") -> None:
        self.core.resume(message, self.now)

    def close(self, name: str = "db", why: str = "gone") -> None:
        self.core.close(self.agents[name], why, self.now)


def is_held(round_: Round) -> bool:
    """Look now: a type checker would keep what it saw before."""
    return round_.is_held


def is_over(round_: Round) -> bool:
    return round_.is_over


def held(world: World, asked: Asked = DB) -> Round:
    """Begin a round and have every agent hold."""
    round_ = world.begin(asked)
    for name in asked.applications:
        assert world.quiesced(name) == ""
    assert is_held(round_)
    return round_


class TestSessions:
    def test_second_of_a_name_is_refused_until_the_first_is_over(self) -> None:
        world = World(db="sync")
        with pytest.raises(AlreadyExists, match="there"):
            world.open("db")
        world.close()
        assert world.open("db").application == "db"

    def test_silent_one_is_dead_after_the_grace_and_makes_room(self) -> None:
        world = World(db="sync")
        world.now += GRACE
        with pytest.raises(AlreadyExists):
            world.open("db")
        world.now += 0.1
        fresh = world.open("db", host="")
        assert world.core.sessions() == [fresh]
        (end,) = world.core.actions()
        assert isinstance(end, EndSession)
        assert end.session is world.agents["db"]
        with pytest.raises(AlreadyExists, match="did not name"):
            world.open("db")

    def test_sign_of_life_after_the_grace_comes_too_late(self) -> None:
        world = World(db="sync")
        world.now += GRACE + 0.1
        world.core.heard(world.agents["db"], world.now)
        assert world.core.sessions() == []

    def test_signs_of_life_keep_it(self) -> None:
        world = World(db="sync")
        for _ in range(10):
            world.now += GRACE - 0.1
            world.core.heard(world.agents["db"], world.now)
        world.core.tick(world.now)
        assert len(world.core.sessions()) == 1

    def test_end_of_a_session_that_is_over_ends_no_later_one(self) -> None:
        world = World(db="sync")
        world.close()
        fresh = world.open("db")
        world.close()
        assert world.core.sessions() == [fresh]

    def test_kind_and_host_have_limits(self) -> None:
        world = World()
        with pytest.raises(InvalidRequest, match="kind"):
            world.open("db", "magic")
        world.open("db", host="h" * 200)
        with pytest.raises(InvalidRequest, match="host"):
            world.open("fs", host="h" * 201)

    def test_they_are_listed_by_name(self) -> None:
        world = World(fs="sync", db="command")
        assert [one.application for one in world.core.sessions()] == ["db", "fs"]


class TestBeginning:
    def test_all_are_asked_at_once_each_under_a_name_of_its_own(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        asks = world.core.actions()
        assert [(type(one), one.session.application) for one in asks] == [
            (AskHold, "db"),
            (AskHold, "fs"),
        ]
        assert len({world.hold_id("db"), world.hold_id("fs")}) == 2
        assert world.core.actions() == []
        assert not is_held(round_)
        assert not is_over(round_)

    def test_no_agent_nobody_asked(self) -> None:
        world = World(db="postgres")
        with pytest.raises(FailedPrecondition, match=r"'fs'.*slackwater agent") as caught:
            world.begin(BOTH)
        assert caught.value.reason == "NO_AGENT"
        assert world.core.actions() == []
        assert world.core.round is None

    def test_agent_that_died_unseen_is_no_agent(self) -> None:
        world = World(db="postgres")
        world.now += GRACE + 1
        with pytest.raises(FailedPrecondition):
            world.begin()

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (Asked(()), "0 names"),
            (Asked(tuple(f"a{n}" for n in range(33))), "33 names"),
            (Asked(("db", "fs", "db")), "twice"),
            (Asked(("db",), timeout_seconds=0.0), "quiesce.timeout"),
            (Asked(("db",), timeout_seconds=-1.0), "quiesce.timeout"),
            (Asked(("db",), timeout_seconds=3600.1), "quiesce.timeout"),
            (Asked(("db",), timeout_seconds=float("nan")), "quiesce.timeout"),
            (Asked(("db",), max_hold_seconds=0.0), "quiesce.max_hold"),
            (Asked(("db",), max_hold_seconds=-1.0), "quiesce.max_hold"),
            (Asked(("db",), max_hold_seconds=3600.1), "quiesce.max_hold"),
        ],
    )
    def test_what_cannot_be_asked_is_refused_by_field(self, asked: Asked, said: str) -> None:
        registered = Applications("demo", [Application("db", 1), Application("fs", 1)])
        with pytest.raises(InvalidRequest, match=said):
            check_asked(asked, registered)

    def test_names_at_the_limits_pass_and_unknown_ones_do_not(self) -> None:
        registered = Applications("demo", [Application(f"a{n}", 1) for n in range(32)])
        check_asked(Asked(tuple(f"a{n}" for n in range(32)), 3600.0, 3600.0), registered)
        with pytest.raises(FailedPrecondition, match="not registered") as caught:
            check_asked(Asked(("db",)), registered)
        assert caught.value.reason == "NO_AGENT"
        with pytest.raises(InvalidRequest, match="is not a name"):
            check_asked(Asked(("No",)), registered)


class TestHeld:
    def test_held_once_all_have_answered(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        world.quiesced("fs")
        assert not is_held(round_)
        world.quiesced("db")
        assert is_held(round_)
        assert round_.failure is None
        round_.check_held(world.now)

    def test_next_deadline_is_the_nearest(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        assert round_.deadline() == world.now + 30
        world.after(3)
        world.quiesced("fs")
        assert round_.deadline() == world.now + 10
        world.failed("db")
        assert round_.deadline() == world.now + 10
        world.resume("")
        assert round_.deadline() == world.now + 10 + GRACE
        world.resumed("fs")
        assert round_.deadline() is None

    def test_agent_that_never_answers_is_named(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(Asked(("fs", "db"), 30.0, 100.0))
        world.quiesced("fs")
        world.after(30)
        assert not any(hold.problem for hold in round_.holds)
        world.after(0.1)
        assert isinstance(round_.failure, DeadlineExceeded)
        assert "'db'" in str(round_.failure)
        assert not is_held(round_)
        assert world.quiesced("db") == "it came too late"
        world.failed("db", "something later")
        assert isinstance(round_.failure, DeadlineExceeded), "the first problem stands"

    def test_hold_that_runs_out_before_the_message_stops_it(self) -> None:
        """Also when only the check right before the append sees it."""
        world = World(db="postgres")
        round_ = held(world)
        round_.check_held(world.now + 10)
        with pytest.raises(DeadlineExceeded, match="'db'"):
            round_.check_held(world.now + 10.1)
        world.after(11)
        assert isinstance(round_.failure, DeadlineExceeded)

    def test_failure_names_application_and_problem(self) -> None:
        world = World(db="postgres")
        round_ = world.begin()
        assert world.failed(problem="no such disk" + "x" * 500) == ""
        assert isinstance(round_.failure, FailedPrecondition)
        assert "'db'" in str(round_.failure)
        assert "no such disk" in str(round_.failure)
        assert len(str(round_.failure)) < 500
        assert is_over(round_)

    def test_failure_without_words_has_some(self) -> None:
        world = World(db="postgres")
        round_ = world.begin()
        world.failed(problem="")
        assert "no reason" in str(round_.failure)

    def test_session_that_ends_breaks_the_hold(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = held(world, BOTH)
        world.now += GRACE + 1
        world.core.tick(world.now)
        with pytest.raises(FailedPrecondition, match="session"):
            round_.check_held(world.now)

    def test_thaw_of_its_own_breaks_the_hold(self) -> None:
        world = World(db="postgres")
        round_ = held(world)
        world.resumed()
        assert not is_held(round_)
        assert "before it was asked" in str(round_.failure)

    def test_going_on_without_having_held_is_a_failure(self) -> None:
        world = World(db="postgres")
        round_ = world.begin()
        world.resumed()
        assert "had not said" in str(round_.failure)


class TestResuming:
    def test_all_are_asked_also_those_that_have_not_answered(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        world.quiesced("db")
        world.core.actions()
        world.resume("")
        asks = world.core.actions()
        assert [(type(one), one.session.application) for one in asks] == [
            (AskResume, "db"),
            (AskResume, "fs"),
        ]
        assert not is_over(round_), "the one that held is waited for"
        world.resumed("db")
        assert is_over(round_)

    def test_dead_ones_are_not_asked_nor_waited_for(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = held(world, BOTH)
        world.close("db")
        world.agents["db"] = world.open("db")
        world.core.actions()
        world.resume()
        assert [one.session.application for one in world.core.actions()] == ["fs"]
        world.resumed("fs")
        assert is_over(round_)
        assert "session ended" in round_.judge(is_fenced=True).evidence

    def test_it_is_waited_for_until_max_hold_and_grace(self) -> None:
        world = World(db="postgres")
        round_ = held(world)
        world.resume()
        world.after(10 + GRACE)
        assert not is_over(round_)
        world.after(0.1)
        assert is_over(round_)
        judgement = round_.judge(is_fenced=True)
        assert not judgement.is_confirmed
        assert "in time" in judgement.evidence
        assert world.resumed() == "the hold is over"
        assert not round_.judge(is_fenced=True).is_confirmed

    def test_room_for_the_next_round(self) -> None:
        world = World(db="postgres")
        first = held(world)
        old = world.hold_id()
        world.resume()
        world.core.end()
        second = world.begin()
        assert "not one this session" in world.resumed(hold_id=old)
        assert "not one this session" in world.quiesced(hold_id=old)
        assert not is_held(second)
        assert not is_over(first)


class TestIgnored:
    def test_second_answers_count_for_nothing(self) -> None:
        world = World(db="postgres")
        round_ = held(world)
        assert "before" in world.quiesced(answer="other")
        world.resume()
        world.resumed(unbroken=False)
        assert "over" in world.resumed(unbroken=True)
        assert "over" in world.quiesced()
        assert "over" in world.failed()
        (report,) = round_.judge(is_fenced=True).reports
        assert (report.answer, report.is_unbroken) == ("held", False)

    def test_answers_of_a_dead_session_count_for_nothing(self) -> None:
        world = World(db="postgres")
        round_ = world.begin()
        world.close()
        assert "over" in world.quiesced()
        assert not is_held(round_)

    def test_answers_nobody_asked_for_count_for_nothing(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        session = world.agents["fs"]
        assert "not one" in world.core.failed(session, "h9", "x", world.now)
        round_ = world.begin()
        assert "not one" in world.core.quiesced(session, world.hold_id("db"), "", world.now)
        assert not is_held(round_)

    def test_unbroken_hold_of_an_aborted_round_changes_no_verdict(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        world.quiesced("db")
        world.failed("fs")
        world.resume("")
        world.resumed("db")
        assert isinstance(round_.failure, FailedPrecondition)
        assert not round_.judge(is_fenced=True).is_confirmed


class TestJudgement:
    @pytest.mark.parametrize(
        ("kinds", "grade"),
        [
            ({"db": "sync"}, judging.FILESYSTEM),
            ({"db": "fsfreeze"}, judging.FILESYSTEM),
            ({"db": "sync", "fs": "fsfreeze"}, judging.FILESYSTEM),
            ({"db": "command"}, judging.APPLICATION),
            ({"db": "postgres", "fs": "fsfreeze"}, judging.APPLICATION),
            ({"db": "checkpoint"}, judging.CRASH),
            ({"db": "checkpoint", "fs": "fsfreeze"}, judging.FILESYSTEM),
        ],
    )
    def test_confirmed_grade_follows_the_kinds(self, kinds: dict[str, str], grade: str) -> None:
        """C20."""
        world = World(**kinds)
        round_ = held(world, Asked(tuple(kinds)))
        world.resume()
        for name in kinds:
            world.resumed(name)
        judgement = round_.judge(is_fenced=True)
        assert (judgement.is_confirmed, judgement.grade) == (True, grade)
        unfenced = round_.judge(is_fenced=False)
        assert (unfenced.is_confirmed, unfenced.grade) == (True, judging.CRASH)

    def test_one_broken_hold_revokes_all(self) -> None:
        """C17."""
        world = World(db="postgres", fs="fsfreeze")
        round_ = held(world, BOTH)
        world.resume()
        world.resumed("db")
        world.resumed("fs", unbroken=False)
        judgement = round_.judge(is_fenced=True)
        assert (judgement.is_confirmed, judgement.grade) == (False, judging.CRASH)
        assert judgement.evidence.startswith("fs: ")
        assert [one.is_unbroken for one in judgement.reports] == [True, False]

    @pytest.mark.parametrize(("seconds", "confirmed"), [(10.0, True), (10.01, False)])
    def test_our_own_clock_decides_whether_max_hold_was_kept(
        self, seconds: float, *, confirmed: bool
    ) -> None:
        """An agent that confirms after its own thaw is not believed."""
        world = World(db="postgres")
        round_ = held(world)
        world.resume()
        world.after(seconds)
        world.resumed(unbroken=True)
        assert round_.judge(is_fenced=True).is_confirmed is confirmed

    def test_window_is_from_the_first_answer_to_the_last_end(self) -> None:
        world = World(db="postgres", fs="fsfreeze")
        round_ = world.begin(BOTH)
        world.quiesced("fs")
        world.after(1)
        world.quiesced("db")
        world.resume()
        world.after(2)
        world.resumed("fs")
        world.after(0.5)
        world.resumed("db")
        judgement = round_.judge(is_fenced=True)
        assert judgement.window_seconds == pytest.approx(3.5)
        assert [one.held_seconds for one in judgement.reports] == pytest.approx([2.5, 3.0])

    def test_nobody_held_no_window(self) -> None:
        world = World(db="postgres")
        round_ = world.begin()
        world.resume("")
        assert round_.window() == 0
        assert round_.judge(is_fenced=True).reports[0].held_seconds == 0

    def test_evidence_of_many_is_bounded(self) -> None:
        reports = [judging.Report(f"a{n}", "sync", problem="p" * 200) for n in range(32)]
        judgement = judge(reports, 1.0, is_fenced=True)
        assert len(judgement.evidence) < 1000
        assert "28 more" in judgement.evidence

    @pytest.mark.parametrize("number", [1, 2, 32])
    def test_answers_are_cut_so_that_all_fit_the_room_for_control(self, number: int) -> None:
        """D9."""
        names = tuple(f"a{n}" for n in range(number))
        world = World(**dict.fromkeys(names, "command"))
        round_ = world.begin(Asked(names))
        flood = "é" * (1 << 20)
        for name in names:
            world.quiesced(name, answer=flood)
        world.resume()
        for name in names:
            world.resumed(name, answer=flood)
        judgement = round_.judge(is_fenced=True)
        assert judgement.is_confirmed
        size = sum(
            len(one.answer.encode()) + len(one.resume_answer.encode()) for one in judgement.reports
        )
        assert size <= judging.EVIDENCE_BYTES
        assert judgement.reports[0].answer.endswith("bytes in all)")

    def test_what_fits_is_not_cut(self) -> None:
        assert cut("é" * 5, 10) == "é" * 5
        assert cut("x" * 100, 40) == "x" * 17 + " ... (100 bytes in all)"
