"""What an agent does at each event of a hold, and by when. Sans-I/O: events in, actions out.

    IDLE -- Hold --> QUIESCING -- quiesced --> HELD -- Resume --> RESUMING -- resumed --> IDLE

Whatever else happens leads to RESUMING as well, with the hold broken: the time-out of the quiesce,
a quiesce that failed (it may have half worked), max_hold, the end of the session, the end of the
guard, the end of the agent. A resume that fails is tried again until it succeeds; until then no
other hold is taken. A verdict never gets better: once broken, a hold stays broken.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0


class State(enum.Enum):
    """Where an agent stands."""

    IDLE = "idle"
    QUIESCING = "quiescing"
    HELD = "held"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class Request:
    """A hold as the Primary asks for it.

    Attributes:
        hold_id: Names the hold in the answers.
        timeout_seconds: By when to answer.
        max_hold_seconds: How long after its answer the agent resumes by itself.
        application: What the message is sent under.
        task: The task that sends it, or "".
        links: Where the message goes.
    """

    hold_id: str
    timeout_seconds: float
    max_hold_seconds: float
    application: str = ""
    task: str = ""
    links: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Quiesced:
    """Answer: the application is held."""

    hold_id: str
    answer: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """Answer: the application goes on."""

    hold_id: str
    unbroken: bool
    answer: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Answer: the application could not be held, or not be resumed."""

    hold_id: str
    problem: str


Answer = Quiesced | Resumed | Failed


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Action: hold the application; say `quiesced` or `quiesce_failed` when that is over."""

    request: Request


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Action: break off the quiesce that is running; it still ends with one of its two events."""

    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Action: let the application go on; say `resumed` or `resume_failed` when that is over.

    `message` is what was placed, if any; `why` the hold is broken, or "".
    """

    request: Request
    message: str
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Action: answer the Primary."""

    answer: Answer


Action = Quiesce | GiveUp | Resume | Tell


class Keeper:
    """One application's holds, one at a time.

    Attributes:
        state: Where it stands.
        broken: Why the hold is worth nothing, or "".
        deadline: When `tick` has something to do, or None.
    """

    def __init__(self) -> None:
        self.state = State.IDLE
        self.broken = ""
        self.deadline: float | None = None
        self._request: Request | None = None
        self._message = ""
        self._can_tell = False
        self._failure_told = False
        self._is_asked = False
        self._retry_seconds = RETRY_SECONDS
        self._last: Answer | None = None
        self._closing = ""

    @property
    def hold_id(self) -> str:
        """The hold that is under way, or ""."""
        return self._request.hold_id if self._request is not None else ""

    # What the Primary asks.

    def ask_hold(self, request: Request, now: float) -> list[Action]:
        """The Primary asks to hold the application."""
        if self.state is not State.IDLE:
            if request.hold_id == self.hold_id:
                return []
            problem = f"the hold before it is not over: {self.state.value}"
            return [Tell(Failed(request.hold_id, problem))]
        if self._closing:
            return [Tell(Failed(request.hold_id, self._closing))]
        if request.timeout_seconds <= 0 or request.max_hold_seconds <= 0:
            return [Tell(Failed(request.hold_id, "timeout and max_hold must be more than 0"))]
        self.state = State.QUIESCING
        self.broken, self._message, self._last = "", "", None
        self._request = request
        self._can_tell, self._failure_told, self._is_asked = True, False, False
        self._retry_seconds = RETRY_SECONDS
        self.deadline = now + request.timeout_seconds
        return [Quiesce(request)]

    def ask_resume(self, hold_id: str, message: str, now: float) -> list[Action]:
        """The Primary asks to let the application go on."""
        if hold_id != self.hold_id:
            if self._last is not None and self._last.hold_id == hold_id:
                return [Tell(self._last)]
            return [Tell(Failed(hold_id, "this agent knows no such hold"))]
        self._message, self._is_asked = message, True
        match self.state:
            case State.QUIESCING:
                return self._give_up("the Primary did not wait for the answer")
            case State.HELD:
                # A late tick must not make a hold look shorter than it was.
                if self.deadline is not None and now >= self.deadline:
                    return self._begin_resume(self._ran_out())
                return self._begin_resume("")
            case _:
                return []  # it is on its way; its end is told

    # What the quiescer reports.

    def quiesced(self, answer: str, now: float) -> list[Action]:
        """The application is held."""
        assert self.state is State.QUIESCING, self.state
        request = self._current()
        if self.broken:
            return self._begin_resume(self.broken)
        self.state = State.HELD
        self.deadline = now + request.max_hold_seconds
        return self._tell(Quiesced(request.hold_id, answer))

    def quiesce_failed(self, problem: str) -> list[Action]:
        """The application could not be held; what was begun is undone."""
        assert self.state is State.QUIESCING, self.state
        told = self._tell_failure(self.broken or problem)
        return [*told, *self._begin_resume(self.broken or problem)]

    def resumed(self, unbroken: bool, answer: str) -> list[Action]:
        """The application goes on; `unbroken` is what the quiescer can say about the hold."""
        assert self.state is State.RESUMING, self.state
        if not unbroken:
            self.broken = self.broken or answer
        if self.broken and self.broken not in answer:
            answer = f"{self.broken}; {answer}" if answer else self.broken
        last = Resumed(self._current().hold_id, not self.broken, answer)
        told = self._tell(last) if self._is_asked or not self._failure_told else []
        self.state, self.deadline, self._request, self._last = State.IDLE, None, None, last
        return told

    def resume_failed(self, problem: str, now: float) -> list[Action]:
        """The application could not be resumed; it is tried again."""
        assert self.state is State.RESUMING, self.state
        self.broken = self.broken or problem
        self.deadline = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)
        return self._tell_failure(problem)

    # What ends a hold before its time.

    def lose_session(self, why: str) -> list[Action]:
        """The session is over, so nobody will ask for the resume, or hear of it."""
        self._can_tell = False
        return self.break_hold(why)

    def break_hold(self, why: str) -> list[Action]:
        """End a hold now, if there is one."""
        match self.state:
            case State.QUIESCING:
                return [*self._tell_failure(why), *self._give_up(why)]
            case State.HELD:
                return self._begin_resume(why)
            case _:
                return []

    def close(self, why: str) -> list[Action]:
        """End a hold now, and take no other."""
        self._closing = why
        return self.break_hold(why)

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = None
        match self.state:
            case State.QUIESCING:
                seconds = self._current().timeout_seconds
                return self.break_hold(f"not quiesced within {seconds:g} s")
            case State.HELD:
                return self.break_hold(self._ran_out())
            case State.RESUMING:
                return [Resume(self._current(), self._message, self.broken)]
            case _:
                return []

    def _give_up(self, why: str) -> list[Action]:
        """Break off the quiesce; its end leads to the resume."""
        self.deadline = None
        if self.broken:
            return []
        self.broken = why
        return [GiveUp(why)]

    def _begin_resume(self, why: str) -> list[Action]:
        self.state, self.deadline = State.RESUMING, None
        self.broken = self.broken or why
        return [Resume(self._current(), self._message, self.broken)]

    def _tell(self, answer: Answer) -> list[Action]:
        return [Tell(answer)] if self._can_tell else []

    def _tell_failure(self, problem: str) -> list[Action]:
        """Say once that it failed; what follows is in the agent's log."""
        if self._failure_told:
            return []
        self._failure_told = True
        return self._tell(Failed(self._current().hold_id, problem))

    def _ran_out(self) -> str:
        return f"held for longer than max_hold, {self._current().max_hold_seconds:g} s"

    def _current(self) -> Request:
        assert self._request is not None, "only an idle keeper has none"
        return self._request
