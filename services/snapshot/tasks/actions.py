"""What a step of a task does on one Secondary."""

import asyncio
import contextlib
from collections.abc import Sequence

import grpc

from services.snapshot import taking
from services.snapshot.peers import Peer
from services.snapshot.store import Kind, Remainder
from services.snapshot.tasks import command, trust
from services.snapshot.tasks.notes import Notes, position_text
from services.snapshot.tasks.volume_check import VolumeCheck
from slackwater.errors import FailedPrecondition, NotFound
from slackwater.runtime import calls
from slackwater.v1 import record_pb2, resources_pb2, secondary_pb2, snapshot_pb2

CALL_SECONDS = 15.0
THERE = frozenset({"snapshot", "refresh", "export", "clone"})
"""Steps that the Secondary does."""


class Actions:
    """The steps of one run on one Secondary."""

    def __init__(self, notes: Notes, replica: snapshot_pb2.RunReplica, peer: Peer) -> None:
        """Work for one row of the run's replicas."""
        self._notes = notes
        self._replica = replica
        self._peer = peer

    async def perform(self, step: snapshot_pb2.TaskStep) -> None:
        """Do one step, within its time.

        Raises:
            grpc.aio.AioRpcError, SlackwaterError: it failed.
        """
        action = step.WhichOneof("action")
        peer = self._peer if action in THERE else None
        async with self._notes.steps.step(step.name, peer, self._replica.link) as shown:
            seconds = step.timeout.ToNanoseconds() / 1e9
            if action == "command":
                await self._command(step, shown, seconds)
                return
            try:
                async with asyncio.timeout(seconds):
                    if action == "snapshot":
                        await self._snapshot()
                    elif action == "refresh":
                        await self._refresh(step.refresh.snapshot)
                    elif action == "export":
                        await self.export()
                    elif action == "clone":
                        await self._clone()
                    else:
                        await self._fsck(step.fsck.volumes, shown, seconds)
            except TimeoutError:
                raise FailedPrecondition(
                    "STEP_TIMED_OUT", f"{step.name} took longer than {seconds:g} s and was ended"
                ) from None

    def took(self, snapshot: resources_pb2.Snapshot) -> None:
        """Show the run's snapshot as it is there now."""
        self._replica.snapshot = snapshot.name
        self._replica.grade = snapshot.grade
        self._replica.position.CopyFrom(snapshot.position)
        self._replica.confirmed = (
            not snapshot.awaits_outcome
            and snapshot.judgement.state == record_pb2.Outcome.STATE_CONFIRMED
        )
        self._notes.save()

    async def export(self) -> None:
        """Export the run's snapshot until the run is over."""
        name = self._replica.snapshot
        if not name:
            raise FailedPrecondition("NO_SNAPSHOT", "the run made no snapshot on this Secondary")
        self._notes.leave(Remainder(Kind.EXPORT, self._replica.link, self._peer.address, name))
        request = secondary_pb2.SecondaryServiceExportSnapshotRequest(
            name=name, request_id=f"{self._notes.record.id}-export"
        )
        answer = await self._peer.secondary_api.ExportSnapshot(request, timeout=CALL_SECONDS)
        self._replica.nbd_uris[:] = answer.nbd_uris
        self._notes.save()

    async def _snapshot(self) -> None:
        notes = self._notes
        request = secondary_pb2.CreateSnapshotRequest(
            group=notes.run.group,
            snapshot_id=notes.snapshot_id,
            at_message=notes.run.message,
            request_id=f"{notes.record.id}-{self._replica.link}",
        )
        self.took(await taking.take(self._peer.secondary_api, request))

    async def _refresh(self, snapshot: str) -> None:
        """Move the named snapshot on to the message; the first time it is made."""
        notes = self._notes
        name = f"{notes.run.group}/snapshots/{snapshot}"
        request = secondary_pb2.SecondaryServiceRefreshSnapshotRequest(
            name=name,
            at_message=notes.run.message,
            request_id=f"{notes.record.id}-{self._replica.link}-refresh",
        )
        try:
            self.took(await taking.refresh(self._peer.secondary_api, request))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            make = secondary_pb2.CreateSnapshotRequest(
                group=notes.run.group,
                snapshot_id=snapshot,
                at_message=notes.run.message,
                request_id=f"{notes.record.id}-{self._replica.link}",
            )
            self.took(await taking.take(self._peer.secondary_api, make))

    async def _clone(self) -> None:
        """Make a writable clone of the run's snapshot, exported until the run is over."""
        if not self._replica.snapshot:
            raise FailedPrecondition("NO_SNAPSHOT", "the run made no snapshot on this Secondary")
        notes, api = self._notes, self._peer.secondary_api
        clone_id = f"run-{notes.record.id}"
        name = f"{notes.run.group}/clones/{clone_id}"
        # Before it is so: whatever dies from here on, a later process removes it.
        notes.leave(Remainder(Kind.CLONE, self._replica.link, self._peer.address, name))
        request = secondary_pb2.SecondaryServiceCreateCloneRequest(
            snapshot=self._replica.snapshot,
            clone_id=clone_id,
            request_id=f"{notes.record.id}-clone",
        )
        await api.CreateClone(request, timeout=CALL_SECONDS)
        self._replica.clone = name
        export = secondary_pb2.SecondaryServiceExportCloneRequest(name=name)
        answer = await api.ExportClone(export, timeout=CALL_SECONDS)
        self._replica.clone_nbd_uris[:] = answer.nbd_uris
        notes.save()

    async def _command(
        self, step: snapshot_pb2.TaskStep, shown: snapshot_pb2.RunStep, seconds: float
    ) -> None:
        notes = self._notes
        directory = notes.around.tasks_dir / notes.record.task
        program, *arguments = step.command.arguments
        problem = await calls.in_thread(trust.program_problem, directory, program)
        if problem:
            raise FailedPrecondition("COMMAND_REFUSED", problem)
        ended = await command.run(
            [f"./{program.removeprefix('./')}", *arguments],
            directory.resolve(),
            self._variables(step.name),
            notes.around.who,
            seconds,
            notes.output_limit_bytes,
        )
        shown.output = ended.output
        shown.exit_status = ended.status
        ended.check(program, seconds)

    def _variables(self, step: str) -> dict[str, str]:
        """What every command is told."""
        run, replica = self._notes.run, self._replica
        return {
            "SLACKWATER_GROUP": run.group.removeprefix("groups/"),
            "SLACKWATER_TASK": self._notes.record.task,
            "SLACKWATER_RUN": self._notes.record.id,
            "SLACKWATER_STEP": step,
            "SLACKWATER_LINK": replica.link,
            "SLACKWATER_MESSAGE_ID": run.message.rpartition("/")[2],
            "SLACKWATER_POSITION": position_text(run),
            "SLACKWATER_SNAPSHOT": replica.snapshot.rpartition("/")[2],
            "SLACKWATER_NBD_URIS": " ".join(replica.nbd_uris),
            "SLACKWATER_CLONE": replica.clone.rpartition("/")[2],
            "SLACKWATER_CLONE_NBD_URIS": " ".join(replica.clone_nbd_uris),
        }

    async def _fsck(
        self, wanted: Sequence[str], shown: snapshot_pb2.RunStep, seconds: float
    ) -> None:
        is_ours = not self._replica.nbd_uris
        await self.export()
        try:
            name = secondary_pb2.GetSnapshotRequest(name=self._replica.snapshot)
            answer = await self._peer.secondary_api.GetSnapshot(name, timeout=CALL_SECONDS)
            volumes = [row.volume for row in answer.snapshot.volumes]
            unknown = [volume for volume in wanted if volume not in volumes]
            if unknown:
                raise NotFound("volume", unknown[0], f"The snapshot has {', '.join(volumes)}")
            checker = self._checker(shown, seconds)
            checked = 0
            for volume, uri in zip(volumes, self._replica.nbd_uris, strict=True):
                if volume in (wanted or volumes):
                    checked += await checker.check(volume, uri, must=bool(wanted))
            if not checked:
                raise FailedPrecondition(
                    "NO_FILE_SYSTEM",
                    "no volume begins with a file system known here (ext2/3/4, XFS, Btrfs)",
                    "Leave the step out, or check with a command",
                )
        finally:
            if is_ours:
                with contextlib.suppress(grpc.aio.AioRpcError):  # it is tried again at the end
                    await self.unexport()

    def _checker(self, shown: snapshot_pb2.RunStep, seconds: float) -> VolumeCheck:
        def say(text: str) -> None:
            shown.output += text

        host = self._peer.address.rpartition(":")[0].strip("[]")
        name = f"{self._notes.record.id}-{self._replica.link}"
        return VolumeCheck(self._notes.around, host, name, seconds, say)

    async def unexport(self) -> None:
        """End the export of the run's snapshot."""
        name = self._replica.snapshot
        request = secondary_pb2.SecondaryServiceUnexportSnapshotRequest(name=name)
        await self._peer.secondary_api.UnexportSnapshot(request, timeout=CALL_SECONDS)
        del self._replica.nbd_uris[:]
        self._notes.forget(Remainder(Kind.EXPORT, self._replica.link, self._peer.address, name))
