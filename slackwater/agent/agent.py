"""The agent itself: a keeper, driven by the Primary's session, a clock, and a thread that holds.

What blocks runs in a thread, one step at a time; everything else happens in the event loop, so the
deadlines of a hold and the heartbeats go on whatever a quiesce does.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from slackwater.agent import keeper
from slackwater.agent.holding import Holding
from slackwater.agent.keeper import Action, Keeper, Request, State
from slackwater.agent.kinds.kind import Kind, KindFailed, Patience, Resumption
from slackwater.agent.ledger import Ledger
from slackwater.agent.session import Introduction, Session
from slackwater.errors import SlackwaterError
from slackwater.runtime import logs
from slackwater.runtime.tls import CertificateStore

EXIT_OK = 0
EXIT_FAILED = 1
OWNER_SECONDS = 1.0
RECOVER_SECONDS = 1.0
MAX_RECOVER_SECONDS = 30.0
END_MARGIN_SECONDS = 5.0

_log = logs.get("agent")
Step = Callable[[], list[Action]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is told at its start.

    Attributes:
        primary: Where the Primary is, host:port.
        group: The group's id.
        application: The name under which it holds its session.
        host: Where it runs, for status.
        state_directory: Where it records what it holds.
        resume_seconds: How long a resume may take.
        certificates: Its TLS files, or None for plaintext.
    """

    primary: str
    group: str
    application: str
    host: str
    state_directory: Path
    resume_seconds: float = 30.0
    certificates: CertificateStore | None = field(default=None, repr=False)


class Agent:
    """One application's agent, for as long as `run` runs."""

    def __init__(self, settings: Settings, kind: Kind) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._ledger = Ledger(settings.state_directory, settings.group, settings.application)
        self._kind = kind
        self._keeper = Keeper()
        self._steps: asyncio.Queue[Step] = asyncio.Queue()
        self._patience: Patience | None = None
        self._end = asyncio.Event()
        self._settled = asyncio.Event()
        self._holding = Holding(kind, self._ledger, settings.resume_seconds, self._on_guard_end)
        introduction = Introduction(
            settings.group, settings.application, kind.name, settings.host[:200]
        )
        self._session = Session(settings.primary, settings.certificates, introduction, self)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end.set)
        ending = asyncio.create_task(self._end.wait(), name="end")
        serving = asyncio.create_task(self._serve(), name="serve")
        await asyncio.wait((ending, serving), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not serving.done():
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        is_idle = self._keeper.state is State.IDLE
        if not is_idle:
            _log.error("ended while held", hold=self._keeper.hold_id, why=self._keeper.broken)
        _log.info("ended")
        return EXIT_OK if is_idle else EXIT_FAILED

    # What the session tells.

    def ask_hold(self, request: Request) -> None:
        """The Primary wants the application held."""
        self._post(lambda: self._keeper.ask_hold(request, time.monotonic()))

    def ask_resume(self, hold_id: str, message: str) -> None:
        """The Primary wants the application to go on."""
        self._post(lambda: self._keeper.ask_resume(hold_id, message, time.monotonic()))

    def lose_session(self, why: str) -> None:
        """The session is over."""
        self._post(lambda: self._keeper.lose_session(why))

    def _on_guard_end(self) -> None:
        def broken() -> list[Action]:
            return self._keeper.break_hold("the guard ended")

        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
            self._loop.call_soon_threadsafe(self._post, broken)

    def _post(self, step: Step) -> None:
        self._steps.put_nowait(step)

    # The life of an agent.

    async def _serve(self) -> None:
        self._ledger.prepare()
        with contextlib.ExitStack() as stack:
            await self._own(stack)
            await self._recover()
            session = asyncio.create_task(self._session.run(), name="session")
            turning = asyncio.create_task(self._turn(), name="turn")
            try:
                done, _ = await asyncio.wait(
                    (session, turning), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()  # neither ends by itself unless it is broken
            finally:
                if not turning.done():
                    await self._let_go()
                for task in (session, turning):
                    task.cancel()
                await asyncio.gather(session, turning, return_exceptions=True)

    async def _own(self, stack: contextlib.ExitStack) -> None:
        """Be the only agent of this name and state directory."""
        is_said = False
        while True:
            attempt = contextlib.ExitStack()
            if attempt.enter_context(self._ledger.owned()):
                stack.push(attempt)
                return
            attempt.close()
            if not is_said:
                _log.error(
                    "another agent of this name runs here",
                    group=self._settings.group,
                    application=self._settings.application,
                    next_step="stop it, or give this one a name of its own; it goes on trying",
                )
                is_said = True
            await asyncio.sleep(OWNER_SECONDS)

    async def _recover(self) -> None:
        """Resume what was left held; nothing else is begun before that."""
        wait = RECOVER_SECONDS
        while True:
            try:
                found = await asyncio.to_thread(self._holding.recover)
            except (KindFailed, SlackwaterError, OSError) as problem:
                _log.error("still held", problem=str(problem), again_in_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(2 * wait, MAX_RECOVER_SECONDS)
                continue
            if found:
                _log.warning("recovered", found=found)
            return

    async def _turn(self) -> None:
        """Take one event after the other, and what is due in between."""
        while True:
            deadline = self._keeper.deadline
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                step = await asyncio.wait_for(self._steps.get(), left)
            except TimeoutError:
                actions = self._keeper.tick(time.monotonic())
            else:
                actions = step()
            for action in actions:
                self._do(action)
            if self._steps.empty() and self._keeper.state is State.IDLE:
                self._settled.set()

    async def _let_go(self) -> None:
        """At the end: resume what is held, tell the Primary, within a bounded time."""
        self._settled.clear()
        self._post(lambda: self._keeper.close("the agent is ending"))
        seconds = self._settings.resume_seconds + END_MARGIN_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        await self._session.flush()

    # What a keeper wants done.

    def _do(self, action: Action) -> None:
        match action:
            case keeper.Quiesce(request):
                _log.info("quiescing", hold=request.hold_id, application=request.application)
                self._patience = Patience(request.timeout_seconds)
                self._start(self._quiesce(request, self._patience))
            case keeper.GiveUp(why):
                if self._patience is not None:
                    self._patience.give_up()
                _log.warning("giving up", hold=self._keeper.hold_id, why=why)
            case keeper.Resume(request, message, why):
                # First of all: whoever reads the log may be slow.
                self._start(self._resume(request, message, why))
                if why:
                    _log.warning("resuming", hold=request.hold_id, why=why)
            case keeper.Tell(answer):
                self._session.tell(answer)
            case _:
                assert_never(action)

    def _start(self, step: Callable[[], Step]) -> None:
        """Run a blocking step in a thread; what it returns is what follows."""

        def body() -> None:
            try:
                follows = step()
            except Exception as error:
                # A defect. The agent ends of it, so that its guard resumes.
                follows = _raising(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._post, follows)

        threading.Thread(target=body, name="hold", daemon=True).start()

    def _quiesce(self, request: Request, patience: Patience) -> Callable[[], Step]:
        def step() -> Step:
            try:
                answer = self._holding.hold(request, patience)
            except (KindFailed, OSError) as failure:
                problem = str(failure)
                _log.error("not quiesced", hold=request.hold_id, problem=problem)
                return lambda: self._keeper.quiesce_failed(problem)
            at = time.monotonic()
            _log.info("quiesced", hold=request.hold_id)
            return lambda: self._keeper.quiesced(answer, at)

        return step

    def _resume(self, request: Request, message: str, why: str) -> Callable[[], Step]:
        def step() -> Step:
            try:
                found: Resumption = self._holding.resume(request, message)
            except (KindFailed, OSError) as failure:
                problem = str(failure)
                _log.error("not resumed", hold=request.hold_id, problem=problem)
                return lambda: self._keeper.resume_failed(problem, time.monotonic())
            verdict = "unbroken" if found.unbroken and not why else "broken"
            _log.info("resumed", hold=request.hold_id, message=message, verdict=verdict)
            return lambda: self._keeper.resumed(found.unbroken, found.answer)

        return step


def _raising(error: Exception) -> Step:
    def step() -> list[Action]:
        raise error

    return step
