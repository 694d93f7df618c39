"""What a step of a task does on one Secondary."""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc

from services.snapshot import taking
from services.snapshot.peers import Peer
from services.snapshot.store import Kind, Remainder
from services.snapshot.tasks import command, fsck, trust
from services.snapshot.tasks.notes import Notes, position_text
from slackwater.errors import FailedPrecondition, NotFound
from slackwater.runtime import calls
from slackwater.v1 import record_pb2, resources_pb2, secondary_pb2, snapshot_pb2

CALL_SECONDS = 15.0
FSCK_OUTPUT_BYTES = 8 << 10
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
            checked = 0
            for volume, uri in zip(volumes, self._replica.nbd_uris, strict=True):
                if volume in (wanted or volumes):
                    checked += await self._check_volume(volume, uri, bool(wanted), shown, seconds)
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

    async def _check_volume(
        self, volume: str, uri: str, is_wanted: bool, shown: snapshot_pb2.RunStep, seconds: float
    ) -> bool:
        """Check one volume; False if there is nothing to check."""
        around = self._notes.around
        host = self._peer.address.rpartition(":")[0].strip("[]")
        async with self._scratch(volume) as (directory, stop):
            copy = fsck.Copy(uri, host, around.certificates, stop)
            found = await calls.in_thread(copy.recognise)
            if found is None and is_wanted:
                raise FailedPrecondition(
                    "NO_FILE_SYSTEM", f"volume {volume} begins with no file system known here"
                )
            if found is None:
                shown.output += f"{volume}: no file system known here, passed over\n"
                return False
            program = found.commands[0][0]
            path = command.tool(program)
            if not path:
                raise FailedPrecondition(
                    "NO_CHECKER",
                    f"volume {volume} carries {found.kind}, and {program} is not installed here",
                    f"Install {found.package} where the snapshot service runs",
                )
            owner = (around.who.uid, around.who.gid)
            await calls.in_thread(copy.make, directory / "volume", owner)
            if found.kind == fsck.XFS:
                await self._replay_xfs(volume, directory, shown, seconds)
            for words in found.commands:
                arguments = [path, *words[1:], "volume"]
                ended = await command.run(
                    arguments, directory, {}, around.who, seconds, FSCK_OUTPUT_BYTES
                )
                shown.output += f"{volume}: {' '.join(words)}\n{ended.output}"
                ended.check(f"{program} of volume {volume}", seconds)
        return True

    async def _replay_xfs(
        self, volume: str, directory: Path, shown: snapshot_pb2.RunStep, seconds: float
    ) -> None:
        """Let the kernel replay the log of a copy, which a frozen XFS has too, by design.

        Without it the checker ignores the log and calls the file system damaged.
        """
        ours = command.Identity("this service's user", {}, os.geteuid(), os.getegid())
        look = [command.tool("xfs_logprint") or "xfs_logprint", "-t", "volume"]
        told = await command.run(look, directory, {}, ours, seconds, FSCK_OUTPUT_BYTES)
        if fsck.DIRTY not in told.output:
            return
        why = "this service does not run as root"
        if fsck.may_mount():
            (directory / "mnt").mkdir()
            words = [command.tool(fsck.REPLAY[0]) or fsck.REPLAY[0], *fsck.REPLAY[1:]]
            ended = await command.run(words, directory, {}, ours, seconds, FSCK_OUTPUT_BYTES)
            shown.output += f"{volume}: log replayed by a mount\n{ended.output}"
            if not ended.status:
                return
            why = ended.output.strip() or f"it ended with status {ended.status}"
        raise FailedPrecondition(
            "LOG_NOT_REPLAYED",
            f"the log of the XFS on volume {volume} must be replayed by a mount first: {why}",
            "Run this service as root where it may mount, or check with a command instead of fsck",
        )

    @contextlib.asynccontextmanager
    async def _scratch(self, volume: str) -> AsyncIterator[tuple[Path, threading.Event]]:
        """A directory for one copy, and what ends the copying."""
        name = f"{self._notes.record.id}-{self._replica.link}-{volume}"
        directory = self._notes.around.work_dir / name
        stop = threading.Event()
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            yield directory, stop
        finally:
            stop.set()
            await calls.in_thread(shutil.rmtree, directory, True)

    async def unexport(self) -> None:
        """End the export of the run's snapshot."""
        name = self._replica.snapshot
        request = secondary_pb2.SecondaryServiceUnexportSnapshotRequest(name=name)
        await self._peer.secondary_api.UnexportSnapshot(request, timeout=CALL_SECONDS)
        del self._replica.nbd_uris[:]
        self._notes.forget(Remainder(Kind.EXPORT, self._replica.link, self._peer.address, name))
