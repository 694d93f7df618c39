"""`python -m services.snapshot`, also installed as `slackwater-snapshot`."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence

import grpc

from services.snapshot import metrics
from services.snapshot.checks.catalogue import Checks
from services.snapshot.checks.runner import CheckRuns
from services.snapshot.checks.servicer import CheckParts
from services.snapshot.cycle import Cycle
from services.snapshot.documents import Documents
from services.snapshot.events import Events
from services.snapshot.live import Work
from services.snapshot.peers import Peers, Secondaries
from services.snapshot.retention.made import MadeSnapshots
from services.snapshot.retention.sweeper import Sweeper
from services.snapshot.runs import Runs
from services.snapshot.schedules.catalogue import Schedules
from services.snapshot.schedules.keeper import Timekeeper
from services.snapshot.schedules.servicer import Parts
from services.snapshot.servicer import SnapshotServicer
from services.snapshot.store import BUILT_IN, RunRecord, RunStore
from services.snapshot.tasks import command
from services.snapshot.tasks.catalogue import Catalogue
from services.snapshot.tasks.notes import Surroundings
from services.snapshot.tasks.run import TaskRun
from services.snapshot.tasks.starting import Starter
from slackwater.clock import Clock, SystemClock
from slackwater.group.directory import DataDirectory
from slackwater.runtime.calls import Remembered, in_thread
from slackwater.runtime.config import SnapshotConfig, parse_arguments, split_link_addresses
from slackwater.runtime.lifecycle import Service, run_service
from slackwater.storage.real import RealStorage
from slackwater.v1 import snapshot_pb2, snapshot_pb2_grpc

SERVICE = "slackwater.v1.SnapshotService"
ASK_EVERY_SECONDS = 5.0
WORK = "work"
"""Where temporary copies are below the data directory."""

TASKS = "tasks"
"""Where tasks are below the data directory, unless a setting says otherwise."""


class Snapshots:
    """The parts of the service, in the order in which they start."""

    def __init__(
        self, service: Service, config: SnapshotConfig, clock: Clock | None = None
    ) -> None:
        """Put them together; nothing runs yet."""
        self._service = service
        self._store = RunStore(RealStorage(), config.data_dir)
        self._peers = Peers(config.primary, config.secondary, service.certificates)
        self._events = Events()
        self._catalogue = Catalogue(
            Documents(self._store.database, "task", snapshot_pb2.Task),
            config.tasks_dir or config.data_dir / TASKS,
            self._events.publish,
        )
        self._secondaries = Secondaries(
            split_link_addresses(config.link_addresses), service.certificates
        )
        self._around = Surroundings(
            peers=self._peers,
            secondaries=self._secondaries,
            spawn=service.spawn,
            tasks_dir=self._catalogue.directory,
            work_dir=config.data_dir / WORK,
            who=command.identity(config.command_user),
            certificates=service.certificates,
        )
        self._runs = Runs(self._store, self._peers, self._events, service.spawn, self._make_work)
        self._sweeper = Sweeper(
            MadeSnapshots(self._store), self._catalogue, self._secondaries, self._events
        )
        self._runs.told_over = self._sweeper.run_over
        self._schedules = Schedules(
            Documents(self._store.database, "schedule", snapshot_pb2.Schedule),
            self._catalogue.directory,
            self._events.publish,
        )
        self._checks = Checks(
            Documents(self._store.database, "check", snapshot_pb2.Check),
            self._catalogue.directory,
            self._events.publish,
        )
        self._check_runs = CheckRuns(
            Documents(self._store.database, "check_run", snapshot_pb2.CheckRun),
            self._checks,
            self._around,
            self._events.publish,
        )
        self._starter = Starter(self._catalogue, self._runs, self._peers, self._secondaries)

        self._keeper = Timekeeper(
            self._schedules,
            Documents(self._store.database, "schedule_state", snapshot_pb2.Schedule),
            self._starter,
            self._runs,
            self._events,
            clock or SystemClock(),
            service.spawn,
        )

    def add_parts(self) -> None:
        """Runs end before the server does: their watchers see it."""
        service = self._service
        service.metrics.collect_with(lambda: metrics.collect(self._runs, self._peers))
        service.metrics.collect_with(lambda: metrics.collect_tasks(self._catalogue))
        service.metrics.collect_with(
            lambda: metrics.collect_schedules(self._schedules, self._keeper)
        )
        service.metrics.collect_with(lambda: metrics.collect_retention(self._sweeper))
        service.add("peers", self._start_peers, self._stop_peers)
        service.serve(self._register, [SERVICE])
        service.add("runs", self._be_ready, self._stop_runs)

    def _make_work(self, record: RunRecord, save: Callable[[], None]) -> Work:
        if record.task == BUILT_IN:
            return Cycle(record, self._peers, save)
        return TaskRun(record, self._around, save)

    def _register(self, server: grpc.aio.Server) -> None:
        parts = Parts(
            self._catalogue,
            self._starter,
            self._sweeper,
            self._schedules,
            self._keeper,
            self._peers,
        )
        servicer = SnapshotServicer(  # type: ignore[abstract]  # PlannedServicer has the rest
            parts,
            CheckParts(self._checks, self._check_runs, Remembered()),
            self._runs,
            self._events,
        )
        snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(servicer, server)

    async def _start_peers(self) -> None:
        """What a crash left is shown and ended before anybody can ask."""
        await in_thread(shutil.rmtree, self._around.work_dir, True)
        await self._catalogue.refresh()
        await self._schedules.refresh()
        await self._checks.refresh()
        self._runs.recover()
        self._check_runs.recover()
        self._service.spawn(self._keep_asking(), "peers")

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.gather(
                self._catalogue.refresh(),
                self._schedules.refresh(),
                self._checks.refresh(),
                *(peer.ask() for peer in self._peers.all),
            )
            await asyncio.sleep(ASK_EVERY_SECONDS)

    async def _stop_peers(self, grace: float) -> None:
        del grace
        for peer in self._peers.all:
            await peer.close()
        await self._secondaries.close()
        self._store.close()

    async def _be_ready(self) -> None:
        """Runs start when they are asked for; schedules ask, and retention follows."""
        self._service.spawn(self._keeper.keep(), "schedules")
        self._service.spawn(self._sweeper.keep(), "retention")

    async def _stop_runs(self, grace: float) -> None:
        self._events.close()
        await self._runs.drain(grace / 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service until it is told to end; returns the exit status."""
    config = parse_arguments(SnapshotConfig, sys.argv[1:] if arguments is None else arguments)

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        data = DataDirectory.open(RealStorage(), config.data_dir, "snapshot")
        try:
            yield
        finally:
            data.close()

    async def assemble(service: Service) -> None:
        Snapshots(service, config).add_parts()

    return run_service("snapshot", config, assemble, lock)


if __name__ == "__main__":
    sys.exit(main())
