"""Applies retention: after each run of a task that has rules, and every hour.

Deleted is only what a run of this task made, what the Secondary still has under the same name at
the same message, what no rule names, and what is neither held nor exported nor a guard. What the
Secondary refuses stays, is noted, and is tried again at the next look.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import grpc

from services.snapshot.events import Events
from services.snapshot.peers import Secondaries, sentence
from services.snapshot.retention import rules
from services.snapshot.retention.made import Made, MadeSnapshots
from services.snapshot.tasks import model
from services.snapshot.tasks.catalogue import Catalogue
from slackwater.errors import SlackwaterError
from slackwater.runtime import calls, logs
from slackwater.v1 import resources_pb2, secondary_pb2, secondary_pb2_grpc, snapshot_pb2

EVERY_SECONDS = 3600.0
CALL_SECONDS = 30.0
SHOWN = 1000
PAGE = 1000

Task = snapshot_pb2.Task
Snapshot = resources_pb2.Snapshot
_log = logs.get("retention")


class Sweeper:
    """Belongs to the event loop; one look at a time."""

    def __init__(
        self,
        made: MadeSnapshots,
        catalogue: Catalogue,
        secondaries: Secondaries,
        events: Events,
    ) -> None:
        """Nothing is looked at yet."""
        self._made = made
        self._catalogue = catalogue
        self._secondaries = secondaries
        self._events = events
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self.deleted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def run_over(self, run: snapshot_pb2.Run) -> None:
        """A run is over: look at its task soon."""
        self._wanted.add(run.name.split("/")[1])
        self._wake.set()

    async def keep(self) -> None:
        """Look after each run, and now and then at everything."""
        await self._sweep([model.id_of(task) for task in self._catalogue.all()])
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._wanted.update(model.id_of(task) for task in self._catalogue.all())
            self._wake.clear()
            wanted, self._wanted = sorted(self._wanted), set()
            await self._sweep(wanted)

    async def shown(self, task: Task) -> list[snapshot_pb2.MadeSnapshot]:
        """Return what a task's runs made, and what its rules mean for each."""
        rows, kept = await calls.in_thread(self._judge, task)
        answer = []
        for row in rows[:SHOWN]:
            words = kept.get(row.key, [])
            expires = task.HasField("retention") and not words
            reason = row.note if expires else ", ".join(words)
            shown = snapshot_pb2.MadeSnapshot(
                snapshot=row.snapshot, link=row.link, run=row.run, expires=expires, reason=reason
            )
            shown.create_time.FromMilliseconds(round(row.made * 1000))
            answer.append(shown)
        return answer

    async def _sweep(self, identities: Sequence[str]) -> None:
        tasks = {model.id_of(task): task for task in self._catalogue.all()}
        for identity in identities:
            try:
                await calls.in_thread(self._made.learn, identity)
                task = tasks.get(identity)
                if task is not None and task.HasField("retention"):
                    for counter in (self.deleted, self.refused):
                        counter[identity] += 0  # so that an alert sees the first step
                    await self._look_at(task)
            except (OSError, SlackwaterError) as error:
                _log.warning("retention_waits", task=identity, why=str(error))

    async def _look_at(self, task: Task) -> None:
        rows, kept = await calls.in_thread(self._judge, task)
        going: dict[tuple[str, str], list[Made]] = {}
        for row in rows:
            if row.key not in kept:
                going.setdefault((row.address, row.group), []).append(row)
        for (address, group), there in going.items():
            peer = self._secondaries.at(address)
            try:
                found = await _list(peer.secondary_api, group)
                for row in there:
                    await self._end(row, found, address)
            except grpc.aio.AioRpcError as error:
                # What is left of this Secondary waits; the others are not touched by that.
                _log.warning("retention_waits", task=task.name, why=sentence(error, peer))
                for row in there:
                    self._made.note(row, sentence(error, peer)[:400])

    def _judge(self, task: Task) -> tuple[list[Made], dict[str, list[str]]]:
        """Return what a task's runs made, and what of it is kept: on each Secondary by itself."""
        identity = model.id_of(task)
        self._made.learn(identity)
        rows = self._made.of(identity)
        places: dict[tuple[str, str], list[Made]] = {}
        for row in rows:
            places.setdefault((row.group, row.link), []).append(row)
        kept: dict[str, list[str]] = {}
        for there in places.values():
            entries = [rules.Entry(row.key, row.made, row.is_good) for row in there]
            kept |= rules.keep(entries, task.retention)
        return rows, kept

    async def _end(self, row: Made, found: Mapping[str, Snapshot], address: str) -> None:
        """Delete one snapshot, unless it is not there, not ours, or in use."""
        snapshot = found.get(row.snapshot)
        if snapshot is None or snapshot.message != row.message:
            self._made.gone(row)
            return
        in_use = _in_use(snapshot)
        if in_use:
            self._made.note(row, in_use)
            return
        peer = self._secondaries.at(address)
        request = secondary_pb2.SecondaryServiceDeleteSnapshotRequest(name=row.snapshot)
        try:
            await peer.secondary_api.DeleteSnapshot(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                self.refused[row.task] += 1
                text = sentence(error, peer)[:400]
                self._made.note(row, text)
                self._tell(row, "RETENTION_REFUSED", f"it stays for now: {text}")
                return
        self._made.gone(row)
        self.deleted[row.task] += 1
        _log.info("snapshot_expired", snapshot=row.snapshot, link=row.link, run=row.run)
        self._tell(row, "SNAPSHOT_EXPIRED", f"no rule of tasks/{row.task} keeps it on {row.link}")

    def _tell(self, row: Made, kind: str, text: str) -> None:
        self._events.publish(row.snapshot, kind, text, group=row.group, link=row.link)


async def _list(
    api: "secondary_pb2_grpc.SecondaryServiceAsyncStub", group: str
) -> dict[str, Snapshot]:
    """Return every snapshot that a Secondary has of a group, by name."""
    found: dict[str, Snapshot] = {}
    request = secondary_pb2.SecondaryServiceListSnapshotsRequest(group=group, page_size=PAGE)
    while True:
        answer = await api.ListSnapshots(request, timeout=CALL_SECONDS)
        found |= {row.name: row for row in answer.snapshots}
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def _in_use(snapshot: Snapshot) -> str:
    """Return why a snapshot stays whatever the rules say; empty if nothing says so."""
    if snapshot.held:
        return f"held: {snapshot.hold_note}" if snapshot.hold_note else "held"
    if snapshot.exported:
        return "exported"
    if snapshot.clones:
        return f"has {len(snapshot.clones)} writable clone(s)"
    return "guards the replica during a sync" if snapshot.guard else ""
