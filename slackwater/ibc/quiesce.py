"""Quiescing applications around a message: sessions of agents, and one round at a time.

Sans-I/O. The shell hands in what agents say and the time, monotonic seconds of one clock, and
carries out `actions()`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from slackwater.errors import AlreadyExists, FailedPrecondition, InvalidRequest
from slackwater.ibc.judging import KINDS, PROBLEM_CHARACTERS, Asked, answer_limit, cut
from slackwater.ibc.quiesce_round import Hold, Round

HOST_CHARACTERS = 200
GRACE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Session:
    """An agent that stands beside an application.

    `hold` is the newest one it was asked for, over or not.
    """

    application: str
    kind: str
    host: str
    opened_ns: int
    heard_at: float
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class AskHold:
    """Ask an agent to hold its application."""

    session: Session
    hold_id: str
    asked: Asked


@dataclass(frozen=True, slots=True)
class AskResume:
    """Ask an agent to let its application go on; `message` is empty if none was placed."""

    session: Session
    hold_id: str
    message: str


@dataclass(frozen=True, slots=True)
class EndSession:
    """End the stream of a session that is over."""

    session: Session
    why: str


QuiesceAction = AskHold | AskResume | EndSession


class Quiescers:
    """The agents' sessions of one group, and the round that runs."""

    def __init__(self, group: str, grace_seconds: float, new_id: Callable[[], str]) -> None:
        """Start with no session.

        Args:
            group: its name, for next steps.
            grace_seconds: without a sign of life for so long a session is dead.
            new_id: makes ids of holds, none of them twice.
        """
        self.grace_seconds = grace_seconds
        self.round: Round | None = None
        self._group = group
        self._new_id = new_id
        self._sessions: dict[str, Session] = {}
        self._actions: list[QuiesceAction] = []

    def actions(self) -> list[QuiesceAction]:
        """Return what is to be done, once."""
        taken, self._actions = self._actions, []
        return taken

    # -- sessions -----------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        """Return the sessions in the order of their applications."""
        return [session for _, session in sorted(self._sessions.items())]

    def open(self, application: str, kind: str, host: str, now: float, now_ns: int) -> Session:
        """Begin a session; the application is registered.

        Raises:
            InvalidRequest: kind or host is no good.
            AlreadyExists: another agent stands beside the application.
        """
        if kind not in KINDS:
            raise InvalidRequest("kind", f"{kind[:80]!r} is none of {', '.join(KINDS)}")
        if len(host) > HOST_CHARACTERS:
            raise InvalidRequest("host", f"is longer than {HOST_CHARACTERS} characters")
        self.tick(now)
        there = self._sessions.get(application)
        if there is not None:
            raise AlreadyExists(
                "agent of application",
                application,
                f"It runs on {there.host or 'a host it did not name'}; end it first",
            )
        session = Session(application, kind, host, now_ns, now)
        self._sessions[application] = session
        return session

    def heard(self, session: Session, now: float) -> None:
        """Note a sign of life; one that comes after the grace does not bring a session back."""
        self.tick(now)
        session.heard_at = now

    def close(self, session: Session, why: str, now: float) -> None:
        """End a session; a hold of it ends with it."""
        if self._sessions.get(session.application) is not session:
            return
        del self._sessions[session.application]
        self._actions.append(EndSession(session, why))
        hold = session.hold
        if hold is not None and hold.over_at is None:
            hold.breaks(f"its agent's session ended: {why}")
            hold.over_at = now

    def tick(self, now: float) -> None:
        """Let the time act: on sessions that are silent, on holds."""
        for session in self.sessions():
            if now - session.heard_at > self.grace_seconds:
                self.close(session, f"not heard of for {self.grace_seconds:g} s", now)
        if self.round is not None:
            self.round.watch(now)

    # -- a round ------------------------------------------------------------------------------

    def begin(self, asked: Asked, now: float) -> Round:
        """Ask all the agents at once to hold.

        Raises:
            FailedPrecondition: an application has no agent; nobody was asked.
        """
        assert self.round is None, "one round at a time"
        self.tick(now)
        for name in asked.applications:
            if name not in self._sessions:
                raise FailedPrecondition(
                    "NO_AGENT",
                    f"application {name!r} has no agent that could quiesce it; nothing was placed",
                    "Start one beside it: slackwater agent run"
                    f" --group {self._group} --application {name} KIND",
                )
        holds = []
        for name in sorted(asked.applications):
            session = self._sessions[name]
            hold = Hold(
                self._new_id(),
                name,
                session.kind,
                now + asked.timeout_seconds,
                asked.max_hold_seconds,
            )
            session.hold = hold
            holds.append(hold)
            self._actions.append(AskHold(session, hold.hold_id, asked))
        self.round = Round(asked, holds, self.grace_seconds)
        return self.round

    def resume(self, message: str, now: float) -> None:
        """Ask all agents of the round to let go, those too that have not answered.

        Nobody waits for an agent that never held.
        """
        assert self.round is not None, "a round runs"
        self.round.watch(now)
        self.round.is_resuming = True
        for hold in self.round.holds:
            session = self._sessions.get(hold.application)
            if session is not None and session.hold is hold:
                self._actions.append(AskResume(session, hold.hold_id, message))
            if hold.answered_at is None and hold.over_at is None:
                hold.over_at = now

    def end(self) -> None:
        """Make room for the next round."""
        self.round = None

    # -- what agents say ----------------------------------------------------------------------

    def quiesced(self, session: Session, hold_id: str, answer: str, now: float) -> str:
        """Take the answer that an application is held; return why it was ignored, or nothing."""
        hold = self._expected(session, hold_id, now)
        if isinstance(hold, str):
            return hold
        if hold.answered_at is not None:
            return "it has answered before"
        if hold.problem:
            return "it came too late"
        hold.answered_at = now
        hold.answer = self._cut(answer)
        return ""

    def resumed(
        self, session: Session, hold_id: str, answer: str, now: float, *, is_unbroken: bool
    ) -> str:
        """Take the answer that an application goes on; return why it was ignored, or nothing."""
        hold = self._expected(session, hold_id, now)
        if isinstance(hold, str):
            return hold
        assert self.round is not None, "a hold that is not over is of the round that runs"
        hold.over_at = now
        hold.resume_answer = self._cut(answer)
        if hold.answered_at is None:
            hold.breaks("it went on and had not said that it was held")
        elif not self.round.is_resuming:
            hold.breaks("it went on before it was asked to")
        elif not is_unbroken:
            hold.breaks("its agent says that the hold did not last until it was asked to go on")
        elif now - hold.answered_at > hold.max_hold_seconds:
            held, limit = now - hold.answered_at, hold.max_hold_seconds
            hold.breaks(f"it went on after {held:.3g} s, past its max_hold of {limit:g} s")
        hold.is_unbroken = not hold.problem
        return ""

    def failed(self, session: Session, hold_id: str, problem: str, now: float) -> str:
        """Take the news that a hold or a resume failed; return why it was ignored, or nothing."""
        hold = self._expected(session, hold_id, now)
        if isinstance(hold, str):
            return hold
        hold.breaks(problem[:PROBLEM_CHARACTERS] or "its agent gives no reason")
        hold.over_at = now
        return ""

    def _expected(self, session: Session, hold_id: str, now: float) -> Hold | str:
        """Return the hold that an answer is about, or why the answer counts for nothing."""
        self.tick(now)
        if self._sessions.get(session.application) is not session:
            return "its session is over"
        hold = session.hold
        if hold is None or hold.hold_id != hold_id:
            return f"hold {hold_id[:80]!r} is not one this session was last asked for"
        if hold.over_at is not None:
            return "the hold is over"
        return hold

    def _cut(self, answer: str) -> str:
        assert self.round is not None, "a hold that is not over is of the round that runs"
        return cut(answer, answer_limit(len(self.round.holds)))
