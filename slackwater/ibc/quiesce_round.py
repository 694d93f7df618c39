"""One quiesce around one message: what every agent was asked, and what it has said.

A round goes through

    QUIESCING   every agent was asked to hold; `is_held` once all have answered
    RESUMING    every agent was asked to let go; `is_over` once none is waited for

and is judged then. Whatever goes wrong with a hold sets its problem, once and for good: nothing
that an agent says later makes a verdict better. Times are monotonic seconds of one clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slackwater.errors import DeadlineExceeded, FailedPrecondition, SlackwaterError
from slackwater.ibc.judging import Asked, Judgement, Report, judge


@dataclass(slots=True, eq=False)
class Hold:
    """One agent's part of a round. Invariants: `is_unbroken` implies no problem; answered first."""

    hold_id: str
    application: str
    kind: str
    answer_by: float
    max_hold_seconds: float
    answered_at: float | None = None
    answer: str = ""
    over_at: float | None = None
    resume_answer: str = ""
    is_unbroken: bool = False
    problem: str = ""
    error: SlackwaterError | None = None

    @property
    def is_holding(self) -> bool:
        """Whether the application is held, as far as is known."""
        return self.answered_at is not None and self.over_at is None

    def breaks(self, problem: str, error: SlackwaterError | None = None) -> None:
        """Note what went wrong; the first problem stands."""
        if not self.problem:
            self.problem = problem
            self.error = error or FailedPrecondition(
                "QUIESCE_FAILED",
                f"application {self.application!r} was not held: {problem}; nothing was placed",
                "Look at what its agent logged",
            )

    def report(self) -> Report:
        """Return what the quiescer said."""
        ended = self.over_at if self.over_at is not None else self.answered_at
        held = 0.0 if self.answered_at is None or ended is None else ended - self.answered_at
        return Report(
            self.application,
            self.kind,
            self.answer,
            self.resume_answer,
            self.is_unbroken,
            self.problem,
            held,
        )


class Round:
    """One quiesce around one message."""

    def __init__(self, asked: Asked, holds: Sequence[Hold], grace_seconds: float) -> None:
        """Begin in QUIESCING."""
        self.asked = asked
        self.holds = tuple(holds)
        self.is_resuming = False
        self._grace = grace_seconds

    @property
    def is_held(self) -> bool:
        """Whether every application is held and nothing has gone wrong."""
        return all(hold.is_holding and not hold.problem for hold in self.holds)

    @property
    def failure(self) -> SlackwaterError | None:
        """What went wrong first, in the order of the names."""
        return next((hold.error for hold in self.holds if hold.error is not None), None)

    @property
    def is_over(self) -> bool:
        """Whether no agent is waited for any more."""
        return all(hold.over_at is not None for hold in self.holds)

    def check_held(self, now: float) -> None:
        """Raise what went wrong unless every application is held right now.

        Raises:
            DeadlineExceeded: a hold ran out before the message was placed.
            FailedPrecondition: an agent failed, or its session ended.
        """
        self._watch_holds(now)
        if self.failure is not None:
            raise self.failure
        assert self.is_held, "asked only once all have answered"

    def deadline(self) -> float | None:
        """When the time alone changes something next; None: never."""
        times = [time for hold in self.holds if (time := self._ends(hold)) is not None]
        return min(times, default=None)

    def _ends(self, hold: Hold) -> float | None:
        if hold.over_at is not None or (hold.problem and not self.is_resuming):
            return None
        if hold.answered_at is None:
            return hold.answer_by
        grace = self._grace if self.is_resuming else 0.0
        return hold.answered_at + hold.max_hold_seconds + grace

    def watch(self, now: float) -> None:
        """Let the time act on holds."""
        self._watch_holds(now)
        for hold in self.holds:
            ends = self._ends(hold)
            if self.is_resuming and ends is not None and now > ends:
                hold.breaks("it did not say in time that it goes on")
                hold.over_at = now

    def _watch_holds(self, now: float) -> None:
        if self.is_resuming:
            return
        for hold in self.holds:
            ends = self._ends(hold)
            if ends is None or now <= ends:
                continue
            who = f"application {hold.application!r}"
            if hold.answered_at is None:
                limit = self.asked.timeout_seconds
                late = DeadlineExceeded(f"quiescing {who}", limit)
                hold.breaks(f"it was not held within {limit:g} s", late)
            else:
                limit = hold.max_hold_seconds
                late = DeadlineExceeded(f"holding {who} until the message was placed", limit)
                hold.breaks(f"its max_hold of {limit:g} s ran out", late)

    def judge(self, *, is_fenced: bool) -> Judgement:
        """Return what the round was worth; it is over."""
        assert self.is_over, "judged once nobody is waited for"
        return judge([hold.report() for hold in self.holds], self.window(), is_fenced=is_fenced)

    def window(self) -> float:
        """Return the seconds from the first answer to the last end of a hold."""
        held = [hold for hold in self.holds if hold.answered_at is not None]
        began = min((hold.answered_at or 0.0 for hold in held), default=0.0)
        return max((hold.over_at or began for hold in held), default=began) - began
