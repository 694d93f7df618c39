"""Runs of checks: each on a temporary clone of the snapshot, which goes whatever dies.

A run is noted durably before its clone is made and forgotten after the clone is gone and the result
is with the snapshot. What a crash of this service leaves is ended at the next start, and the
snapshot then shows that nothing is known: INTERRUPTED. While the Secondary is away it waits.
"""

import asyncio
import time
import uuid
from collections.abc import Callable

import grpc

from services.snapshot import peers
from services.snapshot.checks.catalogue import Checks, seconds_of
from services.snapshot.documents import Documents
from services.snapshot.tasks import command, fsck, trust
from services.snapshot.tasks.notes import Surroundings
from services.snapshot.tasks.volume_check import VolumeCheck
from slackwater import names
from slackwater.errors import FailedPrecondition, NotFound, SlackwaterError
from slackwater.runtime import calls
from slackwater.v1 import resources_pb2, secondary_pb2, snapshot_pb2

CALL_SECONDS = 15.0
LIVE_LIMIT = 4
OUTPUT_BYTES = 8000
REASON_LIMIT = 1000
RETRY_SECONDS = 1.0
_FINDINGS = frozenset({"COMMAND_FAILED", "COMMAND_KILLED", "COMMAND_TIMED_OUT"})
_FILE_SYSTEM = {
    snapshot_pb2.CHECK_KIND_FILE_SYSTEMS: "",
    snapshot_pb2.CHECK_KIND_E2FSCK: "ext",
    snapshot_pb2.CHECK_KIND_XFS_REPAIR: fsck.XFS,
    snapshot_pb2.CHECK_KIND_BTRFS_CHECK: "btrfs",
}
_GONE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION})

CheckRun = snapshot_pb2.CheckRun
Told = Callable[[str, str, str], None]


class CheckRuns:
    """The checks under way; lives on the event loop."""

    def __init__(
        self, documents: Documents[CheckRun], checks: Checks, around: Surroundings, told: Told
    ) -> None:
        """Know what a crash left; `recover` ends it.

        Args:
            documents: Runs that are not over.
            checks: The definitions.
            around: What the service has.
            told: Called with resource, kind and sentence when one is over.
        """
        self._documents = documents
        self._live = documents.all()
        self._checks = checks
        self._around = around
        self._peer = around.peers.secondary
        self._told = told

    def recover(self) -> None:
        """End what a crash or a stop left."""
        reason = "the snapshot service was stopped while it ran"
        verdict = resources_pb2.CHECK_VERDICT_INTERRUPTED
        for run in self._live.values():
            result = _result(run, verdict, reason)
            self._around.spawn(self._finish(run, result), f"check {run.id}")

    def start(self, check: snapshot_pb2.Check, snapshot: resources_pb2.Snapshot) -> CheckRun:
        """Start a check of a snapshot.

        Raises:
            FailedPrecondition: the check is for another group, or too many are under way.
        """
        group, _ = names.child("snapshot", snapshot.name, "snapshots")
        if check.group not in ("", f"groups/{group}"):
            raise FailedPrecondition(
                "OTHER_GROUP", f"{check.name} is for {check.group}, the snapshot of groups/{group}"
            )
        if len(self._live) >= LIVE_LIMIT:
            raise FailedPrecondition(
                "CHECKS_BUSY", f"{LIVE_LIMIT} checks are under way", "Try again when one is over"
            )
        number = uuid.uuid4().hex[:12]
        run = CheckRun(
            id=number,
            check=check,
            snapshot=snapshot.name,
            snapshot_uid=snapshot.uid,
            clone=names.resource("groups", group, "clones", f"check-{number}"),
        )
        run.start_time.GetCurrentTime()
        self._documents.put(run.id, run)
        self._live[run.id] = run
        self._around.spawn(self._work(run), f"check {run.id}")
        return run

    async def _work(self, run: CheckRun) -> None:
        began = time.monotonic_ns()
        output = command.Output(OUTPUT_BYTES)
        verdict, reason = await self._judge(run, output)
        result = _result(run, verdict, reason)
        result.took.FromNanoseconds(time.monotonic_ns() - began)
        result.output = output.text()
        await self._finish(run, result)

    async def _judge(
        self, run: CheckRun, output: command.Output
    ) -> tuple[resources_pb2.CheckVerdict.ValueType, str]:
        """Run the check; what came of it, and why."""
        seconds = seconds_of(run.check)
        try:
            async with asyncio.timeout(seconds):
                await self._look(run, output, seconds)
        except TimeoutError:
            reason = f"it took longer than {seconds:g} s and was ended"
            return resources_pb2.CHECK_VERDICT_FAILED, reason
        except grpc.aio.AioRpcError as error:
            return resources_pb2.CHECK_VERDICT_ERROR, peers.sentence(error, self._peer)
        except FailedPrecondition as error:
            if error.reason in _FINDINGS:
                return resources_pb2.CHECK_VERDICT_FAILED, str(error)
            return resources_pb2.CHECK_VERDICT_ERROR, str(error)
        except (SlackwaterError, OSError) as error:
            return resources_pb2.CHECK_VERDICT_ERROR, str(error)
        return resources_pb2.CHECK_VERDICT_PASSED, ""

    async def _look(self, run: CheckRun, output: command.Output, seconds: float) -> None:
        clone = run.clone.rpartition("/")[2]
        create = secondary_pb2.SecondaryServiceCreateCloneRequest(
            snapshot=run.snapshot, clone_id=clone, request_id=run.id
        )
        api = self._peer.secondary_api
        await api.CreateClone(create, timeout=CALL_SECONDS)
        export = secondary_pb2.SecondaryServiceExportCloneRequest(name=run.clone)
        exported = await api.ExportClone(export, timeout=CALL_SECONDS)
        uris = {
            volume.volume: uri
            for volume, uri in zip(exported.clone.volumes, exported.nbd_uris, strict=True)
        }
        if run.check.kind == snapshot_pb2.CHECK_KIND_COMMAND:
            await self._command(run, list(uris.values()), output, seconds)
        else:
            await self._file_systems(run, uris, output, seconds)

    async def _file_systems(
        self, run: CheckRun, uris: dict[str, str], output: command.Output, seconds: float
    ) -> None:
        wanted = list(run.check.volumes)
        unknown = [volume for volume in wanted if volume not in uris]
        if unknown:
            raise NotFound("volume", unknown[0], f"The snapshot has {', '.join(uris)}")
        host = self._peer.address.rpartition(":")[0].strip("[]")
        checker = VolumeCheck(
            self._around,
            host,
            f"check-{run.id}",
            seconds,
            lambda text: output.add(text.encode()),
        )
        kind = _FILE_SYSTEM[run.check.kind]
        checked = 0
        for volume in wanted or uris:
            checked += await checker.check(volume, uris[volume], must=bool(wanted), kind=kind)
        if not checked:
            raise FailedPrecondition(
                "NO_FILE_SYSTEM", f"no volume begins with {kind or 'a file system known here'}"
            )

    async def _command(
        self, run: CheckRun, uris: list[str], output: command.Output, seconds: float
    ) -> None:
        directory = self._checks.directory_of(run.check)
        program = run.check.command
        problem = await calls.in_thread(trust.program_problem, directory, program)
        if problem:
            raise FailedPrecondition("COMMAND_REFUSED", problem)
        group, snapshot = names.child("snapshot", run.snapshot, "snapshots")
        ended = await command.run(
            [f"./{program.removeprefix('./')}", *run.check.arguments],
            directory.resolve(),
            {
                "SLACKWATER_GROUP": group,
                "SLACKWATER_SNAPSHOT": snapshot,
                "SLACKWATER_CHECK": run.check.name.rpartition("/")[2],
                "SLACKWATER_CLONE": run.clone.rpartition("/")[2],
                "SLACKWATER_NBD_URIS": " ".join(uris),
            },
            self._around.who,
            seconds,
            OUTPUT_BYTES,
        )
        output.add(ended.output.encode())
        ended.check(program, seconds)

    async def _finish(self, run: CheckRun, result: resources_pb2.CheckResult) -> None:
        """Discard the clone and keep the result; again and again until both is done."""
        lost = ""
        while True:
            try:
                await self._discard(run)
                lost = await self._record(run, result)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(RETRY_SECONDS)
        self._documents.remove(run.id)
        del self._live[run.id]
        word = resources_pb2.CheckVerdict.Name(result.verdict).removeprefix("CHECK_VERDICT_")
        text = f"{run.snapshot}: {lost or result.reason or 'usable'}"
        self._told(run.check.name, f"CHECK_{word}", text)

    async def _discard(self, run: CheckRun) -> None:
        request = secondary_pb2.SecondaryServiceDeleteCloneRequest(name=run.clone, force=True)
        try:
            await self._peer.secondary_api.DeleteClone(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    async def _record(self, run: CheckRun, result: resources_pb2.CheckResult) -> str:
        """Keep the result with the snapshot; why not, if that is gone or another one."""
        request = secondary_pb2.RecordCheckRequest(
            snapshot=run.snapshot, snapshot_uid=run.snapshot_uid, result=result
        )
        try:
            await self._peer.secondary_api.RecordCheck(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _GONE:
                raise
            return peers.sentence(error, self._peer)
        return ""


def _result(
    run: CheckRun, verdict: resources_pb2.CheckVerdict.ValueType, reason: str
) -> resources_pb2.CheckResult:
    return resources_pb2.CheckResult(
        id=run.id,
        check=run.check.name,
        verdict=verdict,
        start_time=run.start_time,
        reason=reason[:REASON_LIMIT],
    )
