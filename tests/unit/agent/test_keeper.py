"""What an agent does at each event of a hold, on a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from slackwater.agent.keeper import (
    Action,
    Answer,
    Failed,
    GiveUp,
    Keeper,
    Quiesce,
    Quiesced,
    Request,
    Resume,
    Resumed,
    State,
    Tell,
)

ASKED = Request("h1", 30.0, 10.0, "backup", "tasks/nightly", ("site-b",))


def told(actions: list[Action]) -> list[Answer]:
    return [action.answer for action in actions if isinstance(action, Tell)]


def held(now: float = 100.0) -> Keeper:
    keeper = Keeper()
    assert keeper.ask_hold(ASKED, now) == [Quiesce(ASKED)]
    assert told(keeper.quiesced("frozen", now)) == [Quiesced("h1", "frozen")]
    return keeper


def test_keeper_confirms_a_hold_that_the_primary_ends() -> None:
    keeper = held()
    assert keeper.ask_resume("h1", "groups/g/messages/m", 105.0) == [
        Resume(ASKED, "groups/g/messages/m", "")
    ]
    assert told(keeper.resumed(True, "thawed")) == [Resumed("h1", True, "thawed")]
    assert keeper.state is State.IDLE and keeper.deadline is None


def test_keeper_resumes_by_itself_at_max_hold_and_says_so() -> None:
    keeper = held(100.0)
    assert keeper.tick(109.9) == []
    (resume,) = keeper.tick(110.0)
    assert isinstance(resume, Resume) and "max_hold" in resume.why
    (answer,) = told(keeper.resumed(True, "thawed"))
    assert isinstance(answer, Resumed) and not answer.unbroken and "max_hold" in answer.answer


def test_keeper_counts_max_hold_from_its_answer() -> None:
    keeper = Keeper()
    keeper.ask_hold(ASKED, 100.0)
    keeper.quiesced("frozen", 125.0)
    assert keeper.deadline == 135.0


def test_keeper_whose_clock_was_looked_at_late_does_not_call_the_hold_unbroken() -> None:
    """The process stood still: the question comes before the tick that was due."""
    keeper = held(100.0)
    (resume,) = keeper.ask_resume("h1", "", 110.5)
    assert isinstance(resume, Resume) and "max_hold" in resume.why
    assert told(keeper.resumed(True, "")) == [Resumed("h1", False, resume.why)]


def test_keeper_answers_a_late_question_about_the_last_hold_again() -> None:
    keeper = held()
    keeper.tick(110.0)
    (first,) = told(keeper.resumed(True, ""))
    assert told(keeper.ask_resume("h1", "m", 111.0)) == [first]


def test_keeper_says_that_it_knows_no_such_hold() -> None:
    assert told(Keeper().ask_resume("h9", "", 1.0)) == [
        Failed("h9", "this agent knows no such hold")
    ]
    assert held().ask_resume("h9", "", 101.0) == [
        Tell(Failed("h9", "this agent knows no such hold"))
    ]


def test_keeper_gives_up_a_quiesce_at_its_time_out_and_undoes_it() -> None:
    keeper = Keeper()
    keeper.ask_hold(ASKED, 100.0)
    actions = keeper.tick(130.0)
    assert told(actions) == [Failed("h1", "not quiesced within 30 s")]
    assert [type(action) for action in actions] == [Tell, GiveUp]
    # It comes about after all: too late.
    (resume,) = keeper.quiesced("frozen", 131.0)
    assert isinstance(resume, Resume)
    assert keeper.resumed(True, "") == [], "the failure was told"
    assert keeper.state is State.IDLE


def test_keeper_undoes_a_quiesce_that_failed() -> None:
    """It may have half worked, so the resume runs as well."""
    keeper = Keeper()
    keeper.ask_hold(ASKED, 100.0)
    actions = keeper.quiesce_failed("ended with 1")
    assert told(actions) == [Failed("h1", "ended with 1")]
    assert isinstance(actions[-1], Resume)


def test_keeper_gives_up_when_the_primary_does_not_wait() -> None:
    keeper = Keeper()
    keeper.ask_hold(ASKED, 100.0)
    assert [type(action) for action in keeper.ask_resume("h1", "", 101.0)] == [GiveUp]
    keeper.quiesced("frozen", 102.0)
    (answer,) = told(keeper.resumed(True, ""))
    assert isinstance(answer, Resumed) and not answer.unbroken


def test_keeper_resumes_when_the_session_ends_and_tells_nobody() -> None:
    keeper = held()
    (resume,) = keeper.lose_session("silent")
    assert isinstance(resume, Resume)
    assert keeper.resumed(True, "") == []


def test_keeper_resumes_when_the_guard_ends_and_says_so() -> None:
    keeper = held()
    (resume,) = keeper.break_hold("the guard ended")
    assert isinstance(resume, Resume)
    assert told(keeper.resumed(True, "")) == [Resumed("h1", False, "the guard ended")]


def test_keeper_tries_a_failed_resume_again_until_it_succeeds() -> None:
    keeper = held()
    keeper.ask_resume("h1", "m", 101.0)
    assert told(keeper.resume_failed("ended with 1", 102.0)) == [Failed("h1", "ended with 1")]
    assert keeper.deadline == 103.0
    assert keeper.tick(103.0) == [Resume(ASKED, "m", "ended with 1")]
    assert told(keeper.resume_failed("ended with 1", 104.0)) == []
    assert keeper.deadline == 106.0
    keeper.tick(106.0)
    (answer,) = told(keeper.resumed(True, "well"))
    assert answer == Resumed("h1", False, "ended with 1; well"), "never better than told"


def test_keeper_takes_one_hold_at_a_time() -> None:
    keeper = held()
    other = Request("h2", 1.0, 1.0)
    assert told(keeper.ask_hold(other, 101.0)) == [
        Failed("h2", "the hold before it is not over: held")
    ]
    assert keeper.ask_hold(ASKED, 101.0) == [], "the same question again"
    assert keeper.state is State.HELD and keeper.hold_id == "h1"


def test_keeper_that_closes_resumes_and_takes_no_other_hold() -> None:
    keeper = held()
    (resume,) = keeper.close("the agent is ending")
    assert isinstance(resume, Resume)
    keeper.resumed(True, "")
    assert told(keeper.ask_hold(Request("h2", 1.0, 1.0), 102.0)) == [
        Failed("h2", "the agent is ending")
    ]


def test_keeper_refuses_a_hold_without_time() -> None:
    for asked in (Request("h", 0.0, 1.0), Request("h", 1.0, 0.0), Request("h", -1.0, 1.0)):
        (answer,) = told(Keeper().ask_hold(asked, 0.0))
        assert isinstance(answer, Failed)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["hold", "resume", "done", "fails", "unbroken", "broken", "lose", "guard", "tick"]
        ),
        st.floats(min_value=0.0, max_value=8.0),
    ),
    max_size=40,
)


@given(EVENTS)
def test_keeper_never_keeps_a_hold_past_its_time_nor_betters_a_verdict(
    events: list[tuple[str, float]],
) -> None:
    """Whatever comes in whatever order: what is begun is undone, a broken hold stays broken."""
    keeper, now, number = Keeper(), 0.0, 0
    running = 0  # steps that run: a quiesce or a resume, never two
    held_at: float | None = None
    spoiled = False
    for event, step in events:
        now += step
        actions = keeper.tick(now)
        if keeper.state is State.HELD:
            assert keeper.deadline is not None and now < keeper.deadline
        match event:
            case "hold":
                number += 1
                was_idle = keeper.state is State.IDLE
                actions += keeper.ask_hold(Request(f"h{number}", 5.0, 6.0), now)
                if was_idle:
                    held_at, spoiled = None, False
            case "resume":
                actions += keeper.ask_resume(keeper.hold_id or "h0", "", now)
            case "done" if keeper.state is State.QUIESCING and running:
                running -= 1
                actions += keeper.quiesced("", now)
                held_at = now
            case "fails" if keeper.state is State.QUIESCING and running:
                running -= 1
                spoiled = True
                actions += keeper.quiesce_failed("no")
            case "fails" if keeper.state is State.RESUMING and running:
                running -= 1
                spoiled = True
                actions += keeper.resume_failed("no", now)
            case "unbroken" | "broken" if keeper.state is State.RESUMING and running:
                running -= 1
                spoiled |= event == "broken"
                actions += keeper.resumed(event == "unbroken", "")
            case "lose" | "guard":
                spoiled |= keeper.state is not State.IDLE and keeper.state is not State.RESUMING
                actions += (
                    keeper.lose_session("lost") if event == "lose" else keeper.break_hold("guard")
                )
            case _:
                pass
        running += sum(isinstance(action, Quiesce | Resume) for action in actions)
        assert running <= 1
        if keeper.state in (State.QUIESCING, State.RESUMING) and not running:
            assert keeper.deadline is not None, "a resume that failed is tried again"
        for answer in told(actions):
            if isinstance(answer, Resumed) and answer.unbroken:
                assert held_at is not None and not spoiled
        if keeper.state is State.IDLE:
            assert not running
