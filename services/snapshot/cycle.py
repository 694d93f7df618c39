"""One run, step by step: register, receive, snapshot, unfreeze, unregister.

The supervisor (`runs`) calls `work`, then, whatever became of it, `end_freeze` and
`take_back`. A freeze that this run may hold is noted durably before the call that could make
it so, and forgotten only when the Secondary says that it is over; so no end of `work` (failure,
cancellation, a crash and the next start) leaves a replica frozen.
"""

import asyncio
import time
from collections.abc import Callable

import grpc

from services.snapshot import steps, taking
from services.snapshot.peers import GONE, Peers, sentence
from services.snapshot.store import RunRecord
from slackwater.errors import DeadlineExceeded, FailedPrecondition
from slackwater.v1 import (
    common_pb2,
    resources_pb2,
    secondary_pb2,
    secondary_pb2_grpc,
    snapshot_pb2,
)

CALL_SECONDS = 15.0
RECEIVE_SECONDS = 30.0
"""One call waits so long for a message; the run asks again, with the same request id."""

LOOKS = 2
"""How often a replica is looked at for a message whose delivery may have crossed our hanging up."""

_STANDS = frozenset(
    {resources_pb2.Freeze.PHASE_FROZEN, resources_pb2.Freeze.PHASE_AWAITING_RECEIVER}
)


class Cycle:
    """The steps of one run."""

    def __init__(self, record: RunRecord, peers: Peers, save: Callable[[], None]) -> None:
        """Work on `record`; `save` makes what it says durable and shows it."""
        assert isinstance(record.request, snapshot_pb2.StartSnapshotRequest), "its own kind of run"
        self._record = record
        self._request = record.request
        self._run = record.run
        self._peers = peers
        self._save = save
        self._steps = steps.Steps(record.run, save)

    @property
    def holder(self) -> str:
        """How this run names itself to the Secondary."""
        return f"snapshot-run-{self._record.id}"

    @property
    def _application(self) -> str:
        """The name whose message it waits for, or ""."""
        return self._request.at_next_message.application

    async def work(self) -> None:
        """Take the snapshot, now or at the next message.

        Raises:
            grpc.aio.AioRpcError: a call was refused, or had no answer.
            DeadlineExceeded: no message came in time.
            FailedPrecondition: the message does not freeze the replica.
        """
        self._become(snapshot_pb2.Run.STATE_RUNNING)
        if self._application:
            await self._register()
            message = await self._receive()
            async with self._steps.step("snapshot", self._peers.secondary):
                self._took(await self._create(message, f"{self._record.id}-at"))
        else:
            async with self._steps.step("snapshot", self._peers.secondary):
                await self._snapshot_now()

    async def _register(self) -> None:
        """Make the application known on the Secondary, for as long as the run lasts."""
        group, application = self._run.group, self._application
        async with self._steps.step("register", self._peers.secondary):
            listing = secondary_pb2.SecondaryServiceListApplicationsRequest(
                group=group, page_size=100
            )
            known = await self._secondary.ListApplications(listing, timeout=CALL_SECONDS)
            if any(row.application == application for row in known.applications):
                return
            self._record.registered = True
            self._save()
            request = secondary_pb2.SecondaryServiceRegisterApplicationRequest(
                group=group, application=application
            )
            await self._secondary.RegisterApplication(request, timeout=CALL_SECONDS)

    async def _receive(self) -> str:
        """Wait for the message; afterwards the replica stands at it, and this run holds it."""
        patience = self._request.at_next_message.wait_timeout.ToNanoseconds() / 1e9
        deadline = time.monotonic() + patience
        self._record.holding = True
        self._become(snapshot_pb2.Run.STATE_WAITING)
        async with self._steps.step("receive", self._peers.secondary) as step:
            delay, answered = steps.FIRST_RETRY_SECONDS, False
            while (left := deadline - time.monotonic()) > 0:
                try:
                    message = await self._receive_once(min(left, RECEIVE_SECONDS))
                except grpc.aio.AioRpcError as error:
                    if error.code() not in GONE:
                        raise
                    answered = False
                    self._steps.note(step, sentence(error, self._peers.secondary))
                    await asyncio.sleep(min(delay, left))
                    delay = min(2 * delay, steps.LAST_RETRY_SECONDS)
                    continue
                answered = True
                if message is not None:
                    return self._delivered(step, message)
            # After an empty answer nothing is held; after none, something may be.
            self._record.holding = not answered
            what = f"the wait for a message of {self._application}"
            raise DeadlineExceeded(what, patience)

    async def _receive_once(self, seconds: float) -> secondary_pb2.DeliveredMessage | None:
        request = secondary_pb2.ReceiveMessageRequest(
            group=self._run.group,
            application=self._application,
            holder=self.holder,
            request_id=self._record.id,
        )
        request.wait_timeout.FromNanoseconds(round(seconds * 1e9))
        answer = await self._secondary.ReceiveMessage(request, timeout=seconds + CALL_SECONDS)
        return answer.message if answer.HasField("message") else None

    def _delivered(
        self, step: snapshot_pb2.RunStep, message: secondary_pb2.DeliveredMessage
    ) -> str:
        step.error = ""
        self._run.message = message.name
        self._run.position.CopyFrom(message.position)
        if message.behaviour != common_pb2.MESSAGE_BEHAVIOUR_FREEZE:
            # The replica went on: a snapshot now would be of some later point (C12).
            self._record.holding = False
            raise FailedPrecondition(
                "NOT_FROZEN", f"{message.name} does not freeze the replica", "Send it with FREEZE"
            )
        self._become(snapshot_pb2.Run.STATE_RUNNING)
        return message.name

    async def _snapshot_now(self) -> None:
        """Take it where the replica is: marked with the message if it stands at one."""
        for attempt in range(3):
            replica = await self._replica()
            stands = replica.HasField("freeze") and replica.freeze.phase in _STANDS
            message = replica.freeze.message if stands else ""
            try:
                self._took(await self._create(message, f"{self._record.id}-{attempt}"))
                return
            except grpc.aio.AioRpcError as error:
                # The freeze may have ended since we looked; then it is no snapshot of that point.
                moved = message and error.code() is grpc.StatusCode.FAILED_PRECONDITION
                if not moved or attempt == 2:
                    raise

    async def _create(self, message: str, request_id: str) -> resources_pb2.Snapshot:
        request = secondary_pb2.CreateSnapshotRequest(
            group=self._run.group,
            snapshot_id=self._request.snapshot_id,
            at_message=message,
            request_id=request_id,
            exclude_volumes=self._request.exclude_volumes,
            kind=self._request.kind,
        )
        return await taking.take(self._secondary, request)

    def _took(self, snapshot: resources_pb2.Snapshot) -> None:
        self._run.snapshot = snapshot.name
        self._run.grade = snapshot.grade
        self._run.message = snapshot.message
        self._run.position.CopyFrom(snapshot.position)
        self._run.snapshot_duration.CopyFrom(snapshot.create_duration)
        self._save()

    async def end_freeze(self) -> None:
        """End the freeze this run may hold; does not give up while the Secondary is away."""
        if not self._record.holding:
            return
        async with self._steps.step("unfreeze", self._peers.secondary) as step:
            await self._steps.insist(step, self._peers.secondary, self._unfreeze)
        self._record.holding = False
        self._save()

    async def take_back(self) -> None:
        """Unregister the name if this run registered it."""
        if not self._record.registered:
            return
        async with self._steps.step("unregister", self._peers.secondary) as step:
            request = secondary_pb2.SecondaryServiceUnregisterApplicationRequest(
                group=self._run.group, application=self._application
            )

            async def unregister() -> None:
                await self._secondary.UnregisterApplication(request, timeout=CALL_SECONDS)

            await self._steps.insist(step, self._peers.secondary, unregister)
        self._record.registered = False
        self._save()

    async def _unfreeze(self) -> None:
        message = self._run.message or await self._held()
        if not message:
            return
        self._run.message = message
        request = secondary_pb2.UnfreezeRequest(
            message=message, by=self.holder, request_id=f"{self._record.id}-unfreeze"
        )
        answer = await self._secondary.Unfreeze(request, timeout=CALL_SECONDS)
        self._run.frozen_for.CopyFrom(answer.frozen_for)

    async def _held(self) -> str:
        """The message that was handed to us without our having seen the answer, or ""."""
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)
            freeze = (await self._replica()).freeze
            if freeze.phase == resources_pb2.Freeze.PHASE_FROZEN and freeze.holder == self.holder:
                return freeze.message
        return ""

    async def _replica(self) -> resources_pb2.Replica:
        request = secondary_pb2.GetReplicaRequest(name=self._run.group)
        return (await self._secondary.GetReplica(request, timeout=CALL_SECONDS)).replica

    @property
    def _secondary(self) -> "secondary_pb2_grpc.SecondaryServiceAsyncStub":
        return self._peers.secondary_api

    def _become(self, state: snapshot_pb2.Run.State.ValueType) -> None:
        self._run.state = state
        self._save()
