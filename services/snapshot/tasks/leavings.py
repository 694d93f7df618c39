"""What a run may have left elsewhere, ended by what was noted of it: also by a later process."""

import asyncio
import time
from functools import partial

import grpc

from services.snapshot.peers import Peer
from services.snapshot.store import Kind, Remainder
from services.snapshot.tasks.notes import Notes
from slackwater.runtime import status
from slackwater.v1 import primary_pb2, resources_pb2, secondary_pb2

CALL_SECONDS = 15.0
SETTLE_SECONDS = 900.0
"""A message that was not settled for so long has run into its own time-outs."""

SEND_SECONDS = 90.0
"""So long after a crash the send that it interrupted may still place its message."""

LOOK_SECONDS = 1.0

VERDICT_SECONDS = 10.0
"""So long the last verdict may take from a Secondary that is done to the Primary."""

VERDICT_LOOK_SECONDS = 0.1

_STANDS = frozenset(
    {resources_pb2.Freeze.PHASE_FROZEN, resources_pb2.Freeze.PHASE_AWAITING_RECEIVER}
)


class Leavings:
    """The remains of one run."""

    def __init__(self, notes: Notes) -> None:
        """See `Notes.remains`."""
        self._notes = notes

    async def end_freezes(self) -> None:
        """Thaw every replica that stands at this run's message now."""
        for row in self._notes.remains(Kind.MESSAGE):
            await self._look(row)

    async def settle_messages(self) -> None:
        """Wait until no message of this run can stop a replica any more; thaw each that does."""
        deadline = time.monotonic() + SETTLE_SECONDS
        placed_by = time.monotonic() + (0.0 if self._notes.run.message else SEND_SECONDS)
        while rows := self._notes.remains(Kind.MESSAGE):
            for row in rows:
                if time.monotonic() > deadline or await self._look(row, placed_by):
                    self._notes.forget(row)
            if self._notes.remains(Kind.MESSAGE):
                await asyncio.sleep(LOOK_SECONDS)

    async def end_exports(self) -> None:
        """End what this run exported."""
        for row in self._notes.remains(Kind.EXPORT):
            peer = self._peer(row)
            async with self._notes.steps.step("unexport", peer, row.link) as shown:
                await self._notes.steps.insist(shown, peer, partial(self._unexport, peer, row))
            for replica in self._notes.run.replicas:
                if replica.link == row.link:
                    del replica.nbd_uris[:]
            self._notes.forget(row)

    async def remove_clones(self) -> None:
        """Remove the clones that this run made, whoever is connected to them."""
        for row in self._notes.remains(Kind.CLONE):
            peer = self._peer(row)
            async with self._notes.steps.step("unclone", peer, row.link) as shown:
                await self._notes.steps.insist(shown, peer, partial(self._unclone, peer, row))
            for replica in self._notes.run.replicas:
                if replica.link == row.link:
                    replica.clone = ""
                    del replica.clone_nbd_uris[:]
            self._notes.forget(row)

    async def take_back_names(self) -> None:
        """Unregister what this run registered; a name that is still needed stays."""
        for row in self._notes.remains(Kind.NAME):
            peer = self._peer(row)
            async with self._notes.steps.step("unregister", peer, row.link) as shown:
                await self._notes.steps.insist(shown, peer, partial(self._unregister, peer, row))
            self._notes.forget(row)

    def _peer(self, row: Remainder) -> Peer:
        around = self._notes.around
        return around.secondaries.at(row.address) if row.link else around.peers.primary

    async def _unexport(self, peer: Peer, row: Remainder) -> None:
        request = secondary_pb2.SecondaryServiceUnexportSnapshotRequest(name=row.name)
        await peer.secondary_api.UnexportSnapshot(request, timeout=CALL_SECONDS)

    async def _unclone(self, peer: Peer, row: Remainder) -> None:
        request = secondary_pb2.SecondaryServiceDeleteCloneRequest(name=row.name, force=True)
        try:
            await peer.secondary_api.DeleteClone(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # it was never made, or is gone
                raise

    async def _unregister(self, peer: Peer, row: Remainder) -> None:
        if row not in self._notes.record.remains:
            return  # a later run has taken it over
        group = self._notes.run.group
        if row.link:
            there = secondary_pb2.SecondaryServiceUnregisterApplicationRequest(
                group=group, application=row.name
            )
            await peer.secondary_api.UnregisterApplication(there, timeout=CALL_SECONDS)
            return
        here = primary_pb2.PrimaryServiceUnregisterApplicationRequest(
            group=group, application=row.name
        )
        primary = self._notes.around.peers.primary_api
        deadline = time.monotonic() + VERDICT_SECONDS
        while True:
            try:
                await primary.UnregisterApplication(here, timeout=CALL_SECONDS)
                return
            except grpc.aio.AioRpcError as error:
                if time.monotonic() > deadline or not self._is_still_ours(error):
                    raise
            await asyncio.sleep(VERDICT_LOOK_SECONDS)

    def _is_still_ours(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether a name is refused for this run's message, whose verdict is on its way back."""
        refusal, message = status.decode(error), self._notes.run.message.rpartition("/")[2]
        return bool(message) and refusal.reason == "MESSAGE_PENDING" and message in refusal.message

    async def _look(self, row: Remainder, placed_by: float = 0.0) -> bool:
        """Thaw the replica of a row if it stands; True if its message is settled."""
        peer = self._notes.around.secondaries.at(row.address)
        try:
            freeze = await self._freeze(peer)
            if freeze.phase in _STANDS and freeze.application == row.name and self._is_ours(freeze):
                await self._thaw(peer, row, freeze)
            return await self._is_settled(row, placed_by)
        except grpc.aio.AioRpcError:
            return False  # looked at again; its own time-outs end it otherwise

    def _is_ours(self, freeze: resources_pb2.Freeze) -> bool:
        known = self._notes.run.message
        if freeze.phase == resources_pb2.Freeze.PHASE_FROZEN:
            return freeze.holder == self._notes.holder
        return not known or freeze.message == known

    async def _freeze(self, peer: Peer) -> resources_pb2.Freeze:
        request = secondary_pb2.GetReplicaRequest(name=self._notes.run.group)
        answer = await peer.secondary_api.GetReplica(request, timeout=CALL_SECONDS)
        return answer.replica.freeze

    async def _thaw(self, peer: Peer, row: Remainder, freeze: resources_pb2.Freeze) -> None:
        """Take the message if nobody has it, and unfreeze."""
        async with self._notes.steps.step("unfreeze", peer, row.link):
            if freeze.phase == resources_pb2.Freeze.PHASE_AWAITING_RECEIVER:
                take = secondary_pb2.ReceiveMessageRequest(
                    group=self._notes.run.group,
                    application=row.name,
                    holder=self._notes.holder,
                    request_id=f"{self._notes.record.id}-{row.link}",
                )
                await peer.secondary_api.ReceiveMessage(take, timeout=CALL_SECONDS)
            request = secondary_pb2.UnfreezeRequest(message=freeze.message, by=self._notes.holder)
            answer = await peer.secondary_api.Unfreeze(request, timeout=CALL_SECONDS)
            for replica in self._notes.run.replicas:
                if replica.link == row.link:
                    replica.frozen_for.CopyFrom(answer.frozen_for)

    async def _is_settled(self, row: Remainder, placed_by: float) -> bool:
        """Whether the Primary says that no message of this run is under way to a link."""
        request = primary_pb2.PrimaryServiceListMessagesRequest(
            group=self._notes.run.group, application=row.name, pending_only=True
        )
        primary = self._notes.around.peers.primary_api
        answer = await primary.ListMessages(request, timeout=CALL_SECONDS)
        task = f"tasks/{self._notes.record.task}"
        for message in answer.messages:
            is_ours = self._notes.run.message in ("", message.name) and message.task == task
            if is_ours and any(row.link == one.link and not one.final for one in message.verdicts):
                return False
        return time.monotonic() >= placed_by
