"""Runs the quiesce rounds of one group: the shell of `slackwater.ibc.quiesce`.

All of it belongs to the event loop but for placing the message and its Outcome, which wait for
disks in threads. A round that has begun runs to its end whether or not its caller is still there,
so that no application stays held and no message without its Outcome.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from slackwater.clock import Clock
from slackwater.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    SlackwaterError,
    Unavailable,
)
from slackwater.group.changes import RowOwed
from slackwater.group.rows import MessageRow
from slackwater.histogram import Histogram
from slackwater.ibc.judging import Asked, Judgement
from slackwater.ibc.quiesce import AskHold, AskResume, EndSession, Quiescers, Session
from slackwater.ibc.quiesce_round import Round
from slackwater.runtime.calls import in_thread
from slackwater.runtime.events import EventHub
from slackwater.runtime.wire import duration
from slackwater.v1 import common_pb2, record_pb2
from slackwater.v1 import primary_pb2 as api

if TYPE_CHECKING:
    from services.primary.group import PrimaryGroup

WINDOW_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONFIRMED, REVOKED, TIMED_OUT, FAILED = "confirmed", "revoked", "timed_out", "failed"
INTERRUPTED = "interrupted"
RESULTS = (CONFIRMED, REVOKED, TIMED_OUT, FAILED, INTERRUPTED)

Find = Callable[[], MessageRow | None]
"""Finds the message that an earlier call with the same request id has placed."""

Place = Callable[[Callable[[], None]], MessageRow]
"""Places the message; right before, it calls what it is given, which raises to prevent it."""


@dataclass(frozen=True)
class Quiesced:
    """A message that was placed in a round, and what the round was worth."""

    row: MessageRow
    outcome: record_pb2.Outcome | None
    """None: an earlier call had placed it."""


class AgentSession:
    """One agent's stream as the rounds see it: what is still to be told, and whether it is over."""

    def __init__(self, session: Session) -> None:
        """Begin with nothing to tell."""
        self.session = session
        self.outbox: asyncio.Queue[api.HoldQuiesceResponse | None] = asyncio.Queue()
        self.end = ""


class QuiesceDesk:
    """The sessions and rounds of one group."""

    def __init__(
        self, group: "PrimaryGroup", events: EventHub, log: structlog.BoundLogger, grace: float
    ) -> None:
        """Serve a group; `grace` is after how many silent seconds a session is dead."""
        self.core = Quiescers(group.name, grace, lambda: str(uuid.uuid4()))
        self.window_seconds = Histogram(WINDOW_SECONDS)
        self.rounds_total = dict.fromkeys(RESULTS, 0)
        self._group = group
        self._events = events
        self._log = log.bind(group=group.name)
        self._clock: Clock = group.writer.clock
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._agents: dict[Session, AgentSession] = {}
        self._rounds: set[asyncio.Task[Quiesced]] = set()
        self._stopping = ""

    @property
    def holding(self) -> int:
        """Applications held right now."""
        holds = [one.hold for one in self.core.sessions()]
        return sum(1 for hold in holds if hold is not None and hold.is_holding)

    def held_for(self, session: Session) -> float | None:
        """Return how long an agent has been holding its application; None if it does not."""
        hold = session.hold
        if hold is None or hold.answered_at is None or not hold.is_holding:
            return None
        return self._clock.monotonic() - hold.answered_at

    async def stop(self, why: str, grace_seconds: float) -> None:
        """Begin nothing any more; end the sessions once the round that runs is over, or in time."""
        self._stopping = why
        if self._rounds:
            await asyncio.wait(self._rounds, timeout=grace_seconds)
        for agent in list(self._agents.values()):
            self.close(agent, why)

    # -- agents -------------------------------------------------------------------------------

    def check_open(self, application: str) -> None:
        """Raise unless an agent of this application may open a session; waits for the disk.

        Raises:
            NotFound: the application is not registered.
            Unavailable: the group is going.
        """
        if self._stopping:
            raise Unavailable(f"quiescing group {self._group.name!r}", self._stopping)
        if application not in self._group.messages.applications():
            known = f"slackwater ibc register {self._group.name} {application[:63]}"
            raise NotFound("application", application, f"Register it: {known}")

    def open(self, request: api.HoldQuiesceRequest.Open) -> AgentSession:
        """Begin a session.

        Raises:
            AlreadyExists: the application has an agent.
            InvalidRequest: kind or host is no good.
        """
        now, now_ns = self._clock.monotonic(), self._clock.time_ns()
        session = self.core.open(request.application, request.kind, request.host, now, now_ns)
        agent = self._agents[session] = AgentSession(session)
        self._carry_out()  # another session may have ended over it
        self._tell("AGENT_CONNECTED", session, f"{session.kind} on {session.host or '?'}")
        return agent

    def close(self, agent: AgentSession, why: str) -> None:
        """End a session, if it is not over yet."""
        self.core.close(agent.session, why, self._clock.monotonic())
        self._carry_out()

    def tick(self) -> None:
        """Let the time act."""
        self.core.tick(self._clock.monotonic())
        self._carry_out()

    def take(self, agent: AgentSession, request: api.HoldQuiesceRequest) -> None:
        """Take what an agent says; what it says out of turn changes nothing and is logged."""
        now = self._clock.monotonic()
        session, core = agent.session, self.core
        core.heard(session, now)
        ignored = ""
        kind = request.WhichOneof("message")
        if kind == "quiesced":
            said = request.quiesced
            ignored = core.quiesced(session, said.hold_id, said.answer, now)
        elif kind == "resumed":
            gone_on = request.resumed
            ignored = core.resumed(
                session, gone_on.hold_id, gone_on.answer, now, is_unbroken=gone_on.unbroken
            )
        elif kind == "failed":
            ignored = core.failed(session, request.failed.hold_id, request.failed.problem, now)
        elif kind != "heartbeat":
            ignored = "it is not known here" if kind is None else "a session is opened once"
        if ignored:
            self._log.warning(
                "agent ignored", application=session.application, said=kind, why=ignored
            )
        self._carry_out()

    def _carry_out(self) -> None:
        for action in self.core.actions():
            agent = self._agents.get(action.session)
            if agent is None:
                continue
            match action:
                case AskHold():
                    agent.outbox.put_nowait(_hold(action))
                case AskResume(_, hold_id, message):
                    resume = api.HoldQuiesceResponse.Resume(hold_id=hold_id, message=message)
                    agent.outbox.put_nowait(api.HoldQuiesceResponse(resume=resume))
                case EndSession(session, why):
                    agent.end = why
                    agent.outbox.put_nowait(None)
                    del self._agents[session]
                    self._tell("AGENT_GONE", session, why)
        self._changed.set()

    def _tell(self, kind: str, session: Session, text: str) -> None:
        self._log.info("agent", application=session.application, kind=kind, text=text)
        self._events.publish(
            f"groups/{self._group.name}", kind, text, application=session.application
        )

    # -- rounds -------------------------------------------------------------------------------

    async def run(self, asked: Asked, find: Find, place: Place, *, is_fenced: bool) -> Quiesced:
        """Quiesce, place a message, resume, judge: one round at a time.

        Raises:
            DeadlineExceeded: the applications were not held in time; nothing was placed.
            FailedPrecondition: no agent, or one failed; nothing was placed.
            SlackwaterError: the message was not placed, or could not be judged; see `place`.
        """
        try:
            async with asyncio.timeout(asked.timeout_seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                "waiting for the quiesce of an earlier message", asked.timeout_seconds
            ) from None
        # A task of its own: a caller that hangs up must not leave the applications held.
        task = asyncio.create_task(self._round(asked, find, place, is_fenced=is_fenced))
        self._rounds.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Quiesced]) -> None:
        self._turn.release()
        self._rounds.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.info("quiesce failed", error=str(task.exception()))

    async def _round(self, asked: Asked, find: Find, place: Place, *, is_fenced: bool) -> Quiesced:
        known = await in_thread(find)
        if known is not None:
            return Quiesced(known, None)
        if self._stopping:
            raise Unavailable(f"quiescing group {self._group.name!r}", self._stopping)
        try:
            round_ = self.core.begin(asked, self._clock.monotonic())
        except FailedPrecondition as refused:
            self._count(FAILED, str(refused))
            raise
        try:
            self._tell_round("QUIESCE_BEGAN", ", ".join(asked.applications))
            self._carry_out()
            return await self._hold_and_place(round_, is_fenced, place)
        finally:
            self.core.end()

    async def _hold_and_place(self, round_: Round, is_fenced: bool, place: Place) -> Quiesced:
        owed: RowOwed | None = None
        try:
            await self._wait(round_, lambda: round_.is_held or round_.failure is not None)
            row = await in_thread(place, lambda: round_.check_held(self._clock.monotonic()))
        except RowOwed as row_owed:
            owed, row = row_owed, row_owed.row
        except SlackwaterError as error:
            self._resume(round_, "")
            await self._wait(round_, lambda: round_.is_over)
            late = isinstance(error, DeadlineExceeded)
            self._count(TIMED_OUT if late else FAILED, str(error), round_.window())
            raise
        self._resume(round_, self._group.messages.resource(row.id))
        await self._wait(round_, lambda: round_.is_over)
        judgement = round_.judge(is_fenced=is_fenced)
        outcome = _outcome(row.id, judgement)
        result = CONFIRMED if judgement.is_confirmed else REVOKED
        self._count(result, judgement.evidence, judgement.window_seconds)
        await in_thread(self._group.messages.judged, outcome)
        if owed is not None:
            raise owed
        return Quiesced(row, outcome)

    def _resume(self, round_: Round, message: str) -> None:
        assert self.core.round is round_, "one round at a time"
        self.core.resume(message, self._clock.monotonic())
        self._carry_out()

    async def _wait(self, round_: Round, condition: Callable[[], bool]) -> None:
        while True:
            self.tick()
            self._changed.clear()
            if condition():
                return
            deadline = round_.deadline()
            left = 1.0 if deadline is None else deadline - self._clock.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(left, 0.0) + 0.001, 1.0)):
                    await self._changed.wait()

    def _count(self, result: str, text: str, window: float | None = None) -> None:
        self.rounds_total[result] += 1
        if window is not None:
            self.window_seconds.observe(window)
        self._tell_round("QUIESCE_ENDED", text, result=result)

    def _tell_round(self, kind: str, text: str, **attributes: str) -> None:
        self._log.info("quiesce", kind=kind, text=text, **attributes)
        self._events.publish(f"groups/{self._group.name}", kind, text, **attributes)


def _hold(action: AskHold) -> api.HoldQuiesceResponse:
    asked = action.asked
    hold = api.HoldQuiesceResponse.Hold(
        hold_id=action.hold_id,
        timeout=duration(asked.timeout_seconds),
        max_hold=duration(asked.max_hold_seconds),
        application=asked.application,
        task=asked.task,
        links=asked.links,
    )
    return api.HoldQuiesceResponse(hold=hold)


def _outcome(message_id: str, judgement: Judgement) -> record_pb2.Outcome:
    """Return the record of a judgement."""
    states = record_pb2.Outcome
    return record_pb2.Outcome(
        message_id=message_id,
        state=states.STATE_CONFIRMED if judgement.is_confirmed else states.STATE_REVOKED,
        grade=common_pb2.SnapshotGrade.Value(f"SNAPSHOT_GRADE_{judgement.grade.upper()}"),
        evidence=judgement.evidence,
        window_seconds=judgement.window_seconds,
        reports=[
            record_pb2.QuiesceReport(
                application=one.application,
                kind=one.kind,
                answer=one.answer,
                resume_answer=one.resume_answer,
                unbroken=one.is_unbroken,
                problem=one.problem,
                held_seconds=one.held_seconds,
            )
            for one in judgement.reports
        ],
    )
