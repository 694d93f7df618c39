"""All runs: started, followed, cancelled, ended; and those that a crash left behind.

Belongs to the event loop. A commit of the store blocks it for a fraction of a millisecond, a dozen
times in a run.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc

from services.snapshot.counts import Counts
from services.snapshot.events import Events
from services.snapshot.live import (
    Live,
    MakeWork,
    Work,
    brief,
    close_replicas,
    first_sentence,
    is_over,
)
from services.snapshot.peers import Peers
from services.snapshot.store import BUILT_IN, Kind, RunRecord, RunStore
from slackwater import names
from slackwater.errors import FailedPrecondition, NotFound, SlackwaterError, Unavailable
from slackwater.runtime import logs
from slackwater.v1 import snapshot_pb2

TAKE_BACK_SECONDS = 5.0
LIMIT = 32
"""Runs at one time."""

Spawn = Callable[[Coroutine[Any, Any, None], str], None]
_log = logs.get("runs")
_Run = snapshot_pb2.Run


class Runs:
    """The runs of the service."""

    def __init__(
        self, store: RunStore, peers: Peers, events: Events, spawn: Spawn, make_work: MakeWork
    ) -> None:
        """Nothing runs yet; `spawn` runs a task for as long as the service does."""
        self._store = store
        self._peers = peers
        self._make_work = make_work
        self._events = events
        self._spawn = spawn
        self._live: dict[str, Live] = {}
        self._draining = False
        self.counts = Counts()
        self.told_over: Callable[[snapshot_pb2.Run], None] = lambda _: None
        """Called when a run is over and what it left is ended."""

    @property
    def live(self) -> list[snapshot_pb2.Run]:
        """Runs that are not over, newest first."""
        rows = (live.record for live in self._live.values())
        return [row.run for row in sorted(rows, key=lambda row: row.id, reverse=True)]

    @property
    def draining(self) -> bool:
        """True once the end of the service has begun."""
        return self._draining

    def recover(self) -> None:
        """Show interrupted runs as failed, and go on to end what they held."""
        for record in self._store.unfinished():
            if not record.is_over:
                record.run.state = _Run.STATE_FAILED
                record.run.error = "INTERRUPTED: the snapshot service ended during this run"
                record.run.end_time.GetCurrentTime()
                for step in record.run.steps:
                    if not step.HasField("end_time"):
                        step.error = step.error or "INTERRUPTED"
                        step.end_time.GetCurrentTime()
                close_replicas(record.run)
                self._store.save(record)
                self._count(record)
                _log.warning("run_interrupted", run=record.run.name, holding=record.holding)
            if record.has_left:
                live = self._live[record.id] = Live(record, self._work_of)
                self._spawn(self._end_left_over(live), f"end {record.id}")

    def started_by(self, request_id: str) -> RunRecord | None:
        """The run that a request with this id started."""
        return self._store.by_request(request_id) if request_id else None

    def start(self, request: snapshot_pb2.StartSnapshotRequest) -> snapshot_pb2.Run:
        """Start the built-in task with a request that was checked; returns at once.

        Raises:
            Unavailable: the service is draining.
            FailedPrecondition: too many runs are under way.
        """
        known = self.started_by(request.request_id)
        if known is not None:
            return known.run
        self._check_room()
        run_id = _new_id()
        kept = snapshot_pb2.StartSnapshotRequest()
        kept.CopyFrom(request)
        kept.snapshot_id = request.snapshot_id or f"snap-{run_id}"
        run = _Run(name=names.resource("tasks", BUILT_IN, "runs", run_id), group=request.group)
        return self._begin(RunRecord(run_id, kept, run))

    def start_task(
        self,
        request: snapshot_pb2.StartTaskRequest,
        definition: snapshot_pb2.Task,
        run: snapshot_pb2.Run,
    ) -> snapshot_pb2.Run:
        """Start a run of a task that was checked; returns at once.

        Args:
            request: What asked for it.
            definition: The task as it is now, with its defaults filled in.
            run: The run's group, its replicas by link, and the schedule that starts it.

        Raises:
            Unavailable: the service is draining.
            FailedPrecondition: too many runs are under way, or one that receives the same messages.
        """
        known = self.started_by(request.request_id)
        if known is not None:
            return known.run
        self._check_room()
        run_id = _new_id()
        started = _Run()
        started.CopyFrom(run)
        started.name = f"{definition.name}/runs/{run_id}"
        record = RunRecord(run_id, request, started, definition=definition)
        self._check_alone(started.group, definition.application)
        self._inherit(record)
        return self._begin(record)

    def running(self, task: str) -> list[snapshot_pb2.Run]:
        """Return the runs of a task, `tasks/<task>`, that are not over, newest first."""
        return [run for run in self.live if run.name.startswith(f"{task}/") and not is_over(run)]

    def _check_room(self) -> None:
        if self._draining:
            raise Unavailable("the snapshot service, which is ending,", "Try again in a moment")
        if len(self._live) >= LIMIT:
            raise FailedPrecondition(
                "TOO_MANY_RUNS",
                f"{LIMIT} runs are under way",
                "Wait for one, or cancel it: slackwater run cancel RUN",
            )

    def _check_alone(self, group: str, application: str) -> None:
        """Two runs would take each other's messages."""
        for live in self._live.values():
            record = live.record
            other = record.definition
            if record.is_over or other is None or record.run.group != group:
                continue
            if other.application == application:
                raise FailedPrecondition(
                    "TASK_IS_RUNNING",
                    f"{record.run.name} receives messages of {application} in {group}",
                    "Wait for it, or cancel it",
                )

    def _inherit(self, record: RunRecord) -> None:
        """Take over names that earlier runs would take back under this one's feet."""
        assert record.definition is not None, "a task's run has its task"
        for live in self._live.values():
            earlier = live.record
            if earlier.run.group != record.run.group:
                continue
            names_left = [
                row
                for row in earlier.remains
                if row.kind is Kind.NAME and row.name == record.definition.application
            ]
            record.remains += [row for row in names_left if row not in record.remains]
            earlier.remains = [row for row in earlier.remains if row not in names_left]
            if names_left:
                self._store.save(earlier)

    def _begin(self, record: RunRecord) -> snapshot_pb2.Run:
        record.run.state = _Run.STATE_PENDING
        record.run.create_time.GetCurrentTime()
        self._store.save(record)
        live = self._live[record.id] = Live(record, self._work_of)
        self._publish(record)
        self._spawn(self._supervise(live), f"run {record.id}")
        return record.run

    def get(self, name: str) -> snapshot_pb2.Run:
        """Return a run by its resource name.

        Raises:
            InvalidRequest: the name is no run's.
            NotFound: there is no such run.
        """
        return self._record(name).run

    def page(
        self, task: str, group: str, size: int, token: str
    ) -> tuple[list[snapshot_pb2.Run], str]:
        """Return runs without their outputs, newest first, and the next page's token."""
        records = self._store.page(task, group, token, size + 1)
        shown = records[:size]
        return (
            [brief(self._newest(record).run) for record in shown],
            shown[-1].id if len(records) > size else "",
        )

    async def watch(self, name: str) -> AsyncIterator[snapshot_pb2.Run]:
        """Yield a run now and at each change, until it is over.

        Raises:
            Unavailable: the service is ending while the run is not over.
        """
        while True:
            record = self._record(name)
            live = self._live.get(record.id)
            # All of this before the yield: while a slow reader takes it, the run goes on.
            changed = live.changed if live else None
            is_over = record.is_over
            yield record.run
            if changed is None or is_over:
                return
            if self._draining and live and live.is_ending:
                raise Unavailable("the snapshot service, which is ending,", "Ask again later")
            await changed.wait()

    async def cancel(self, name: str, patience_seconds: float) -> snapshot_pb2.Run:
        """End a run and return it, over unless its freeze cannot be ended that soon."""
        record = self._record(name)
        live = self._live.get(record.id)
        if live is None or record.is_over:
            return record.run
        if live.work is not None and not live.is_ending:
            live.work.cancel()
        try:
            async with asyncio.timeout(patience_seconds):
                while not record.is_over:
                    await live.changed.wait()
        except TimeoutError:
            _log.warning("cancel_waits_for_unfreeze", run=record.run.name)
        return record.run

    async def drain(self, patience_seconds: float) -> None:
        """End all runs; what cannot be ended in time is found, and ended, at the next start."""
        self._draining = True
        await asyncio.sleep(0)  # a task that was just spawned has to begin before it can end
        tasks = []
        for live in self._live.values():
            live.end_state = _Run.STATE_FAILED
            live.end_reason = "INTERRUPTED: the snapshot service was told to end"
            if live.work is not None and not live.is_ending:
                live.work.cancel()
            live.show()
            assert live.task is not None, "what lives has a task"
            tasks.append(live.task)
        if not tasks:
            return
        _, hanging = await asyncio.wait(tasks, timeout=patience_seconds)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    async def _supervise(self, live: Live) -> None:
        """Do the work; then, whatever became of it, end the freeze; then show how it ended."""
        live.task = asyncio.current_task()
        record = live.record
        state, error = _Run.STATE_SUCCEEDED, ""
        try:
            async with asyncio.TaskGroup() as group:
                live.work = group.create_task(live.cycle.work(), name=record.id)
            if live.work.cancelled():
                state, error = live.end_state, live.end_reason
        except* grpc.aio.AioRpcError as failed:
            state, error = _Run.STATE_FAILED, first_sentence(failed, self._peers)
        except* SlackwaterError as failed:
            state, error = _Run.STATE_FAILED, first_sentence(failed, self._peers)
        await self._end(live, state, error)

    async def _end_left_over(self, live: Live) -> None:
        """End what a run of an earlier process left."""
        live.task = asyncio.current_task()
        await self._end(live)

    async def _end(
        self,
        live: Live,
        state: _Run.State.ValueType = _Run.STATE_FAILED,
        error: str = "",
    ) -> None:
        """End what a run holds, then the run."""
        live.is_ending = True
        record, cycle = live.record, live.cycle
        await cycle.end_freeze()
        with contextlib.suppress(TimeoutError):
            # Nobody waits for this, so a run does not go on for it while the Secondary is away.
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                await cycle.take_back()
        if not record.is_over:
            record.run.state = state
            record.run.error = error
            record.run.end_time.GetCurrentTime()
            close_replicas(record.run)
            self._count(record)
        self._save(live)
        await cycle.take_back()
        self._live.pop(record.id, None)
        self._save(live)
        self.told_over(record.run)
        _log.info(
            "run_over",
            run=record.run.name,
            state=_Run.State.Name(record.run.state),
            error=record.run.error,
            snapshot=record.run.snapshot,
        )

    def _work_of(self, live: Live) -> Work:
        return self._make_work(live.record, lambda: self._save(live))

    def _save(self, live: Live) -> None:
        self._store.save(live.record)
        self._publish(live.record)
        live.show()

    def _publish(self, record: RunRecord) -> None:
        state = _Run.State.Name(record.run.state).removeprefix("STATE_")
        step = record.run.steps[-1].step if record.run.steps else ""
        words = [state, f"at {step}" if step else "", record.run.error]
        self._events.publish(
            record.run.name,
            "RUN_CHANGED",
            ", ".join(word for word in words if word),
            group=record.run.group,
            state=state,
        )

    def _count(self, record: RunRecord) -> None:
        self.counts.add(record.run)

    def _record(self, name: str) -> RunRecord:
        task, run_id = names.parse("name", name, "tasks", "runs")
        record = self._store.get(run_id)
        if record is None or record.task != task:
            raise NotFound("run", name, "List the runs with: slackwater run list")
        return self._newest(record)

    def _newest(self, record: RunRecord) -> RunRecord:
        """The run itself while it lives: its document may be ahead of the disk."""
        live = self._live.get(record.id)
        return live.record if live else record


def _new_id() -> str:
    """An id that is greater than those before, unique, and a DNS label."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(4).hex()}"
