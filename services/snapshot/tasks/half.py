"""One Secondary's half of a run: wait, stand at the message, work, go on, work.

An error of one half is noted in it and ends it alone. A freeze is ended whatever became of the
steps; if this process dies, the lease ends it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc

from services.snapshot import steps
from services.snapshot.peers import Peer, says_nothing
from services.snapshot.steps import describe
from services.snapshot.store import OVER, Kind, Remainder
from services.snapshot.tasks import model
from services.snapshot.tasks.actions import Actions
from services.snapshot.tasks.lease import Delivered, Lease, first_of
from services.snapshot.tasks.notes import Notes
from services.snapshot.tasks.verdicts import Verdict, Verdicts, word
from slackwater.errors import DeadlineExceeded, FailedPrecondition, SlackwaterError
from slackwater.v1 import common_pb2, secondary_pb2, snapshot_pb2

CALL_SECONDS = 15.0
DELIVER_SPARE_SECONDS = 15.0
"""The Secondary counts the deliver timeout later than we do."""

UNFREEZE_SECONDS, UNLEASED_SECONDS = 5.0, 30.0
OUTCOME_SECONDS = 30.0
"""The outcome's record follows the message closely."""

_Run = snapshot_pb2.Run


class Half:
    """What a run does on one Secondary.

    Attributes:
        replica: Its row in the run.
    """

    def __init__(self, notes: Notes, replica: snapshot_pb2.RunReplica, peer: Peer) -> None:
        """Do nothing yet."""
        self.replica = replica
        self._notes = notes
        self._task = notes.task
        self._peer = peer
        self._actions = Actions(notes, replica, peer)
        self._lease: Lease | None = None
        self._judged = False
        """The outcome is applied there."""

    @property
    def is_alive(self) -> bool:
        """True until it is over."""
        return self.replica.state not in OVER

    @property
    def pending(self) -> Remainder:
        """How it is noted that a message may stop the replica."""
        return Remainder(
            Kind.MESSAGE, self.replica.link, self._peer.address, self._task.application
        )

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the half; an error ends this half and no other."""
        try:
            await work()
        except (grpc.aio.AioRpcError, SlackwaterError) as error:
            self.fail(describe(error, self._peer))

    def fail(self, error: str) -> None:
        """Say that it failed, and why."""
        self.replica.state = _Run.STATE_FAILED
        self.replica.error = error
        self._notes.save()

    async def prefreeze(self) -> None:
        """Do what comes before anything is sent."""
        self._become(_Run.STATE_RUNNING)
        for step in self._task.prefreeze:
            await self._actions.perform(step)

    async def register(self) -> None:
        """Make the application known on the Secondary, for as long as the run lasts."""
        group, application = self._notes.run.group, self._task.application
        secondary = self._peer.secondary_api
        async with self._notes.steps.step("register", self._peer, self.replica.link):
            listing = secondary_pb2.SecondaryServiceListApplicationsRequest(
                group=group, page_size=100
            )
            known = await secondary.ListApplications(listing, timeout=CALL_SECONDS)
            if any(row.application == application for row in known.applications):
                return
            address = self._peer.address
            self._notes.leave(Remainder(Kind.NAME, self.replica.link, address, application))
            request = secondary_pb2.SecondaryServiceRegisterApplicationRequest(
                group=group, application=application
            )
            await secondary.RegisterApplication(request, timeout=CALL_SECONDS)

    async def hold(self) -> None:
        """Start waiting for the message."""
        async with self._notes.steps.step("hold", self._peer, self.replica.link):
            await self._new_lease()
        self._become(_Run.STATE_WAITING)

    async def finish(self, verdicts: Verdicts) -> None:
        """Do all that comes after the message was placed."""
        if self._task.behaviour == model.FREEZE:
            await self._stand(verdicts)
        elif self._task.behaviour == model.SNAPSHOT:
            await self._snapshotted(verdicts)
        else:
            await self._notified(verdicts)
        await self._outcome()
        for step in self._task.postfreeze:
            await self._actions.perform(step)
        await self._outcome()
        self._become(_Run.STATE_SUCCEEDED)

    def let_go(self) -> None:
        """Close the lease; a freeze under it is ended by others, or by itself."""
        if self._lease is not None:
            self._lease.close()

    async def thaw(self) -> None:
        """End the freeze if there is one, after whatever happened to the run."""
        lease = self._lease
        if lease is not None and lease.delivered.done() and not lease.over.done():
            await self.attempt_quietly(self._unfreeze)

    async def attempt_quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something whose failure its step shows, and nothing else waits for."""
        try:
            await work()
        except (grpc.aio.AioRpcError, SlackwaterError) as error:
            self.replica.error = self.replica.error or describe(error, self._peer)

    # -- at the message ----------------------------------------------------------------------

    async def _stand(self, verdicts: Verdicts) -> None:
        """Wait for the message, do onfreeze, and thaw whatever became of it."""
        message = verdicts.message.name
        async with self._notes.steps.step("receive", self._peer, self.replica.link) as shown:
            await self._receive(message, verdicts, shown)
        self.replica.verdict = common_pb2.VERDICT_STATE_DELIVERED
        self._become(_Run.STATE_RUNNING)
        failed: Exception | None = None
        try:
            for step in self._task.onfreeze:
                await self._while_held(self._actions.perform(step))
        except (grpc.aio.AioRpcError, SlackwaterError) as error:
            failed = error
        try:
            await self._unfreeze()
        except SlackwaterError as error:
            failed = failed or error
        if failed is not None:
            raise failed

    async def _receive(self, message: str, verdicts: Verdicts, shown: snapshot_pb2.RunStep) -> None:
        """Wait until the replica stands at the run's message."""
        seconds = model.seconds(self._task.deliver_timeout) + DELIVER_SPARE_SECONDS
        deadline = time.monotonic() + seconds
        while True:
            delivered = await self._delivered(verdicts, deadline, seconds)
            if delivered.name == message:
                shown.error = ""
                return
            # Left by a run that was interrupted, or sent by hand: nobody else receives it.
            self._notes.steps.note(shown, f"unfreezes {delivered.name}, which is not this run's")
            lease = self._lease
            assert lease is not None, "something was delivered under it"
            await lease.unfreeze(UNFREEZE_SECONDS)
            lease.close()
            await self._new_lease()

    async def _delivered(self, verdicts: Verdicts, deadline: float, seconds: float) -> Delivered:
        assert self._lease is not None, "hold came first"
        left = max(0.0, deadline - time.monotonic())
        final = asyncio.ensure_future(verdicts.final(self.replica.link, left))
        try:
            await first_of(final, self._lease.delivered, self._lease.over)
            if self._lease.delivered.done():
                return self._lease.delivered.result()
            if self._lease.over.done():
                self._lease.over.result()
            verdict = await final
        finally:
            final.cancel()
        if verdict is None:
            raise DeadlineExceeded(f"the message's way to {self.replica.link}", seconds)
        self._ended_there(verdict.state)
        raise FailedPrecondition(word(verdict.state), verdict.detail.text or "it was not delivered")

    async def _while_held(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a step, but no longer than the replica stands at the message."""
        assert self._lease is not None, "the replica stands under a lease"
        doing = asyncio.ensure_future(work)
        try:
            await first_of(doing, self._lease.over)
            if doing.done():
                await doing
                return
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        thawed = self._lease.over.result()
        self._ended_there(thawed.state)
        raise FailedPrecondition(
            word(thawed.state),
            f"the replica went on before {self._task.onfreeze[-1].name} was done",
        )

    async def _unfreeze(self) -> None:
        """End the freeze, over the lease or, if that does not answer, by a call."""
        lease = self._lease
        assert lease is not None, "the replica stood under a lease"
        async with self._notes.steps.step("unfreeze", self._peer, self.replica.link) as shown:
            thawed = await lease.unfreeze(UNFREEZE_SECONDS)
            if thawed is None:
                lease.close()
                await self._unfreeze_unleased(shown)
                return
            self._notes.forget(self.pending)
            self.replica.frozen_for.CopyFrom(thawed.frozen_for)
            self._ended_there(thawed.state)
            if thawed.state != common_pb2.VERDICT_STATE_UNFROZEN:
                raise FailedPrecondition(
                    word(thawed.state), "the freeze had ended before it was given back"
                )

    async def _unfreeze_unleased(self, shown: snapshot_pb2.RunStep) -> None:
        """Insist for a while; without the lease the freeze ends by itself."""
        try:
            async with asyncio.timeout(UNLEASED_SECONDS):
                await self._notes.steps.insist(shown, self._peer, self._unfreeze_by_call)
        except TimeoutError:
            raise self._peer.unavailable() from None
        self._notes.forget(self.pending)

    async def _unfreeze_by_call(self) -> None:
        request = secondary_pb2.UnfreezeRequest(
            message=self._notes.run.message,
            by=self._notes.holder,
            request_id=f"{self._notes.record.id}-{self.replica.link}-unfreeze",
        )
        answer = await self._peer.secondary_api.Unfreeze(request, timeout=CALL_SECONDS)
        self.replica.frozen_for.CopyFrom(answer.frozen_for)
        self._ended_there(common_pb2.VERDICT_STATE_UNFROZEN)

    # -- without a freeze --------------------------------------------------------------------

    async def _snapshotted(self, verdicts: Verdicts) -> None:
        async with self._notes.steps.step("snapshot", self._peer, self.replica.link):
            state = await self._final(verdicts, common_pb2.VERDICT_STATE_SNAPSHOTTED)
            name = f"{self._notes.run.group}/snapshots/{state.detail.snapshot_id}"
            await self._look(name)

    async def _notified(self, verdicts: Verdicts) -> None:
        async with self._notes.steps.step("notify", self._peer, self.replica.link):
            await self._final(verdicts, common_pb2.VERDICT_STATE_NOTIFIED)

    async def _final(
        self, verdicts: Verdicts, wanted: common_pb2.VerdictState.ValueType
    ) -> Verdict:
        seconds = model.seconds(self._task.deliver_timeout) + DELIVER_SPARE_SECONDS
        verdict = await verdicts.final(self.replica.link, seconds)
        if verdict is None:
            raise DeadlineExceeded(f"the message's way to {self.replica.link}", seconds)
        self._ended_there(verdict.state)
        if verdict.state != wanted:
            raise FailedPrecondition(
                word(verdict.state), verdict.detail.text or "the Secondary passed the message by"
            )
        return verdict

    # -- afterwards --------------------------------------------------------------------------

    async def _outcome(self) -> None:
        """Wait until the outcome of the quiesce is applied there: only then the grade is known."""
        if not self._task.HasField("quiesce") or not self.replica.snapshot:
            return
        if self._judged:
            return
        deadline = time.monotonic() + OUTCOME_SECONDS
        async with self._notes.steps.step("outcome", self._peer, self.replica.link) as shown:
            while not self._judged:
                if time.monotonic() > deadline:
                    self._notes.steps.note(
                        shown, "not applied yet: the grade may still rise, see the snapshot"
                    )
                    return
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)
                await self._look(self.replica.snapshot)

    async def _look(self, name: str) -> None:
        """Learn what the snapshot is now; a Secondary that is away is asked again."""
        request = secondary_pb2.GetSnapshotRequest(name=name)
        deadline = time.monotonic() + OUTCOME_SECONDS
        while True:
            try:
                answer = await self._peer.secondary_api.GetSnapshot(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if not says_nothing(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)
                continue
            self._judged = not answer.snapshot.awaits_outcome
            self._actions.took(answer.snapshot)
            return

    async def _new_lease(self) -> None:
        self._lease = Lease(
            self._peer, self._notes.run.group, self._task.application, self._notes.holder
        )
        await self._lease.start(self._notes.around.spawn)

    def _ended_there(self, state: common_pb2.VerdictState.ValueType) -> None:
        self.replica.verdict = state
        self._notes.save()

    def _become(self, state: _Run.State.ValueType) -> None:
        self.replica.state = state
        self._notes.save()


def alive(halves: Sequence[Half]) -> list[Half]:
    """Return those that are not over."""
    return [half for half in halves if half.is_alive]
