"""A run of a task: the whole cycle around one message, on one or many Secondaries.

The order is the contract's: prefreeze, register and start waiting, SendMessage (the quiesce, the
fence and the resume are inside it), delivery and freeze, onfreeze, unfreeze, postfreeze,
unregister. On the Primary a run only registers a name and calls SendMessage, so it cannot strand a
quiesce.

The supervisor (`services.snapshot.runs`) calls `work`, and whatever became of it `end_freeze` and
`take_back`. What a run may leave elsewhere is noted durably before it is so; a run that is found
interrupted at the next start has nothing but those notes, and ends what they name.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from services.snapshot import steps
from services.snapshot.peers import says_nothing
from services.snapshot.store import Kind, Remainder, RunRecord
from services.snapshot.tasks import model
from services.snapshot.tasks.half import Half, alive
from services.snapshot.tasks.leavings import Leavings
from services.snapshot.tasks.notes import Notes, Surroundings
from services.snapshot.tasks.verdicts import Verdicts
from slackwater.errors import FailedPrecondition
from slackwater.v1 import primary_pb2, record_pb2, resources_pb2, snapshot_pb2

CALL_SECONDS = 15.0
SEND_PATIENCE_SECONDS = 60.0
"""So long the send is repeated, under one request id, while the Primary does not answer."""

JUDGEMENT_SECONDS = 30.0
UNREGISTERED_SECONDS = 5
"""A message that arrives when its run is gone waits no longer than this for a receiver."""

_Run = snapshot_pb2.Run
_Answer = TypeVar("_Answer")


class TaskRun:
    """One run, from its start to the last thing it takes back."""

    def __init__(self, record: RunRecord, around: Surroundings, save: Callable[[], None]) -> None:
        """Work on `record`; `save` makes what it says durable and shows it."""
        self._notes = Notes(record, around, save)
        self._run = record.run
        self._peers = around.peers
        self._leavings = Leavings(self._notes)
        self._halves: list[Half] = []
        self._placing: asyncio.Future[resources_pb2.Message] | None = None

    async def work(self) -> None:
        """Do the cycle.

        Raises:
            grpc.aio.AioRpcError: the Primary refused.
            SlackwaterError: it failed, on the Primary or on one of the Secondaries.
        """
        notes = self._notes
        self._run.state = _Run.STATE_RUNNING
        for row in self._run.replicas:
            peer = notes.around.secondaries.at(row.endpoint)
            self._halves.append(Half(notes, row, peer))
        await self._prefreeze()
        await self._register()
        if notes.task.behaviour == model.FREEZE:
            await self._each(lambda half: half.register)
            await self._each(lambda half: half.hold)
        self._check_alive("nothing was sent")
        verdicts = await self._send()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(verdicts.follow(), name="verdicts")
            await self._each(lambda half: lambda: half.finish(verdicts))
            await self._judge(verdicts)
            following.cancel()
        self._show_single()
        self._check_worth()

    async def end_freeze(self) -> None:
        """Thaw what stands because of this run."""
        async with asyncio.TaskGroup() as group:
            for half in self._halves:
                group.create_task(half.thaw())
        for half in self._halves:
            half.let_go()
        await self._leavings.end_freezes()

    async def take_back(self) -> None:
        """End exports, messages that are still under way, and registrations."""
        await self._leavings.remove_clones()
        await self._leavings.end_exports()
        if self._placing is not None and not self._placing.done():
            # The Primary does not break a round off because its caller is gone.
            await asyncio.wait({self._placing})
        await self._leavings.settle_messages()
        await self._leavings.take_back_names()

    # -- the parts of the cycle --------------------------------------------------------------

    async def _prefreeze(self) -> None:
        """Do prefreeze everywhere; the first failure ends the run, before anything is sent."""
        chosen = alive(self._halves)
        await self._each(lambda half: half.prefreeze, stop_at_first=True)
        for half in chosen:
            if not half.is_alive:
                raise FailedPrecondition(
                    "PREFREEZE_FAILED", f"{half.replica.link}: {half.replica.error}"
                )

    async def _register(self) -> None:
        """Make the application known on the Primary, for as long as the run lasts."""
        group, application = self._run.group, self._notes.task.application
        primary = self._peers.primary_api
        async with self._notes.steps.step("register", self._peers.primary):
            listing = primary_pb2.PrimaryServiceListApplicationsRequest(group=group, page_size=100)
            known = await self._ask(primary.ListApplications(listing, timeout=CALL_SECONDS))
            if any(row.application == application for row in known.applications):
                return
            address = self._peers.primary.address
            self._notes.leave(Remainder(Kind.NAME, "", address, application))
            request = primary_pb2.PrimaryServiceRegisterApplicationRequest(
                group=group, application=application
            )
            await self._ask(primary.RegisterApplication(request, timeout=CALL_SECONDS))

    async def _send(self) -> Verdicts:
        """Place the message; the agents are held, and let go, inside this one call."""
        chosen = alive(self._halves)
        if self._notes.task.behaviour == model.FREEZE:
            for half in chosen:
                self._notes.leave(half.pending)
        request = self._request([half.replica.link for half in chosen])
        async with self._notes.steps.step("send", self._peers.primary) as shown:
            self._placing = asyncio.get_running_loop().create_future()
            self._placing.add_done_callback(_seen)
            self._notes.around.spawn(self._place(request, shown, self._placing), "send")
            message = await asyncio.shield(self._placing)
        return Verdicts(self._peers, message)

    async def _place(
        self,
        request: primary_pb2.SendMessageRequest,
        shown: snapshot_pb2.RunStep,
        placing: "asyncio.Future[resources_pb2.Message]",
    ) -> None:
        """Send until there is an answer: the request id makes it one message."""
        deadline = time.monotonic() + SEND_PATIENCE_SECONDS
        primary = self._peers.primary
        while True:
            try:
                answer = await self._peers.primary_api.SendMessage(
                    request, timeout=self._send_seconds()
                )
            except asyncio.CancelledError:
                placing.cancel()
                raise
            except grpc.aio.AioRpcError as error:
                if not says_nothing(error):
                    # An answer: nothing was placed, and no replica will stand.
                    self._notes.forget(*(half.pending for half in self._halves))
                    placing.set_exception(error)
                    return
                if time.monotonic() > deadline:
                    placing.set_exception(primary.unavailable())
                    return
                self._notes.steps.note(shown, steps.describe(error, primary))
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)
                continue
            shown.error = ""
            self._sent(answer)
            placing.set_result(answer.message)
            return

    def _request(self, links: list[str]) -> primary_pb2.SendMessageRequest:
        task = self._notes.task
        request = primary_pb2.SendMessageRequest(
            group=self._run.group,
            application=task.application,
            behaviour=task.behaviour,
            text=task.body,
            links=links,
            deliver_timeout=task.deliver_timeout,
            fence=task.fence,
            request_id=f"{self._notes.record.id}-send",
            task=task.name,
        )
        request.unregistered_timeout.FromSeconds(UNREGISTERED_SECONDS)
        if task.fence:
            request.fence_timeout.CopyFrom(task.fence_timeout)
        if task.HasField("quiesce"):
            request.quiesce.CopyFrom(task.quiesce)
        if task.behaviour == model.SNAPSHOT:
            request.snapshot_id = self._notes.snapshot_id
        return request

    def _send_seconds(self) -> float:
        """How long the Primary may take, by what it was told."""
        task = self._notes.task
        spans = (task.quiesce.timeout, task.quiesce.max_hold, task.fence_timeout)
        return sum(model.seconds(span) for span in spans) + 2 * CALL_SECONDS

    def _sent(self, answer: primary_pb2.SendMessageResponse) -> None:
        message = answer.message
        self._run.message = message.name
        self._run.position.CopyFrom(message.position)
        if answer.HasField("quiesce_window"):
            self._run.quiesce_window.CopyFrom(answer.quiesce_window)
        if answer.HasField("fence_held"):
            self._run.fence_held.CopyFrom(answer.fence_held)
        self._judged(message)
        self._notes.save()

    async def _judge(self, verdicts: Verdicts) -> None:
        """Learn what the quiesce was worth, if the send's answer did not say."""
        if not self._notes.task.HasField("quiesce") or self._run.HasField("judgement"):
            return
        async with self._notes.steps.step("outcome", self._peers.primary):
            await verdicts.judged(JUDGEMENT_SECONDS)
        self._judged(verdicts.message)
        self._notes.save()

    def _judged(self, message: resources_pb2.Message) -> None:
        if message.HasField("judgement"):
            self._run.judgement.CopyFrom(message.judgement)

    # -- how it went -------------------------------------------------------------------------

    def _check_alive(self, what: str) -> None:
        if not alive(self._halves):
            raise FailedPrecondition("SECONDARIES_FAILED", f"{what}: {self._failures()}")

    def _check_worth(self) -> None:
        """Everything was done, or this is why it was not."""
        failures = self._failures()
        if failures:
            raise FailedPrecondition("SECONDARIES_FAILED", failures)
        if not self._notes.task.HasField("quiesce"):
            return
        judgement = self._run.judgement
        if judgement.state != record_pb2.Outcome.STATE_CONFIRMED:
            why = judgement.evidence or "its outcome is not known"
            raise FailedPrecondition(
                "QUIESCE_REVOKED", f"the snapshots stay and are of grade crash: {why}"
            )

    def _failures(self) -> str:
        rows = [half.replica for half in self._halves if not half.is_alive]
        return "; ".join(f"{row.link}: {row.error}" for row in rows if row.error)

    def _show_single(self) -> None:
        """With one Secondary the run itself tells what that one has."""
        if len(self._halves) != 1:
            return
        row = self._halves[0].replica
        self._run.snapshot = row.snapshot
        self._run.grade = row.grade
        if row.HasField("frozen_for"):
            self._run.frozen_for.CopyFrom(row.frozen_for)

    async def _each(
        self,
        part: Callable[[Half], Callable[[], Awaitable[None]]],
        *,
        stop_at_first: bool = False,
    ) -> None:
        """Do a part on every Secondary at once; what fails on one ends that one."""

        async def attempt(half: Half) -> None:
            await half.attempt(part(half))
            if stop_at_first and not half.is_alive:
                for other in doing:
                    if other is not asyncio.current_task():
                        other.cancel()

        async with asyncio.TaskGroup() as group:
            doing = [group.create_task(attempt(half)) for half in alive(self._halves)]

    async def _ask(self, call: Awaitable[_Answer]) -> _Answer:
        """Return the Primary's answer.

        Raises:
            Unavailable: there was none.
        """
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            if says_nothing(error):
                raise self._peers.primary.unavailable() from error
            raise


def _seen(future: "asyncio.Future[resources_pb2.Message]") -> None:
    """Look at an error that nobody may be waiting for."""
    if not future.cancelled():
        future.exception()
