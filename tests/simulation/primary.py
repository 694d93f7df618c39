"""The Primary's site: the service's main process, and its sender process.

The engine and the main process's book of a link (`services.primary.links.PrimaryLink`) are the real
ones; what is asynchronous around them, the sender's shell, is told again here as a generator that
stops where the real one awaits. The two processes meet in the middle of each other's storage calls:
the sender looks at marks, log and volumes while the main process is between two of its writes.
"""

import random
import struct
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from services.primary.links import PrimaryLink
from services.primary.sender import control
from services.primary.sender.regions import RegionReader, SyncVolume
from services.primary.senders import SenderProcess
from slackwater import record
from slackwater.errors import GroupFailed, InvalidRequest
from slackwater.group import opening
from slackwater.group.batch import Change, write_change, zero_change
from slackwater.group.changes import VolumeSet, send_message
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings
from slackwater.group.rows import LinkRow as StoredLink
from slackwater.group.volume import Volume
from slackwater.link import actions as act
from slackwater.link.sender import LinkSender
from slackwater.link.settings import LinkIdentity, LinkRow
from slackwater.log.marks import GroupMarks, LinkMarks, SharedMarks
from slackwater.log.reader import LogReader, Trimmed
from slackwater.position import LogPoint
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2, record_pb2, replication_pb2
from tests.simulation.history import History
from tests.simulation.plan import (
    APPLICATION,
    GROUP,
    LINK,
    ROOT,
    SECTOR,
    SIZES,
    STRANGER,
    UID,
    Plan,
)
from tests.simulation.simulator import Life, Simulator, Stream

TICK_SECONDS = 0.2
Dial = Callable[["SenderShell"], "Stream | None"]


class Primary:
    """The main process of the Primary, from one start to the next."""

    def __init__(
        self, sim: Simulator, plan: Plan, storage: SimulatedStorage, history: History, dial: Dial
    ) -> None:
        self.sim, self.plan, self.storage, self.history = sim, plan, storage, history
        self.life = Life("primary")
        self.dial = dial
        self.others: Callable[[], tuple[Life, ...]] = tuple
        self.sent: dict[str, record_pb2.IbcMessage] = {}
        self.sequence = 0
        self.is_busy = False
        self.is_recovered = False
        self._main_hears_at = 0.0
        self.sender: SenderShell | None = None
        self.marks = SharedMarks.create(1, 1)
        group_marks, link_marks = self.marks.new_group(), self.marks.new_link()
        assert group_marks is not None and link_marks is not None
        self.group_marks, self.link_marks = group_marks, link_marks

    def open(self, required_lsn: int) -> int:
        """Start; returns how many answered records a power loss took (writeback only)."""
        data = DataDirectory.open(self.storage, ROOT, "primary")
        directory = data.group(GROUP)
        clock, rng = self.sim.clock, self.sim.rng
        is_new = not self.storage.exists(directory.path)
        if is_new:
            mode = opening.WRITEBACK if self.plan.writeback else opening.WRITETHROUGH
            settings = GroupSettings(self.plan.primary_log, mode)
            opening.create_group(self.storage, data, GROUP, UID, settings, clock)
        self.group = opening.open_group(
            self.storage,
            directory,
            clock,
            marks=self.group_marks,
            wake=self._wake,
            incarnation=lambda: rng.getrandbits(64),
        )
        self.writer = self.group.writer
        self.database = self.writer.database
        self.volumes = VolumeSet(self.storage, directory, self.writer)
        self.reader = LogReader(self.storage.beside(), directory.log, UID, self.group.settings.log)
        lost = self.history.reopened(self.reader, self.writer.log.end, required_lsn)
        self.is_recovered = True
        if not self.database.links():
            self.database.add_link(
                StoredLink(
                    name=LINK,
                    uid=UID,
                    endpoint="secondary:7461",
                    state="CONNECTING",
                    reason="",
                    paused=False,
                    acked=None,
                    sync_id="",
                    created_ns=clock.time_ns(),
                )
            )
        self.link = PrimaryLink(
            self.group,
            self.database.link(LINK),
            self.group_marks,
            self.link_marks,
            cast(SenderProcess, self),
            self.plan.sender.window_bytes,
            self._event,
        )
        self.writer.links_floor = lambda: self.link.floor
        self.writer.log_pressure = self._let_go
        self.start_sender()
        self._listen()
        self._every(0.05, self.maintain)
        return lost

    def prepare(self) -> None:
        """Make the volumes and names of the run, if they are not there."""
        names = {volume.name for volume in self.writer.volumes.values()}
        for name, size in SIZES.items():
            if name not in names:
                self.add_volume(name, size)
        for name in (APPLICATION, STRANGER):
            self.database.register_application(name, self.sim.clock.time_ns())

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            self.sim.after(seconds * self.sim.rng.uniform(0.5, 1.5), self.life, again)
            work()

        self.sim.after(seconds, self.life, again)

    def die(self) -> None:
        """The process and its sender are gone."""
        self.life.is_over = True
        self.storage.is_dead = True
        if self.sender is not None:
            self.sender.die(told=self.sim.chance(0.7))
        self.marks.close()

    # -- calls of clients and operators

    def _alone(self, call: Callable[[], object]) -> bool:
        """Make a call that logs what was issued; False: the group has failed and nobody knows."""
        self.is_busy = True
        try:
            call()
        except GroupFailed as failed:
            self.sim.note(f"P call ends: {failed}")
            return False
        except InvalidRequest as refused:
            self.sim.note(f"P call refused: {refused}")
            self.history.issue([])
            return False
        finally:
            self.is_busy = False
        self.history.answered(self.reader, self.writer.log.end)
        return True

    @property
    def can_write(self) -> bool:
        return self.writer.failure is None and not self.is_busy and not self.life.is_over

    def write(self, rng: random.Random, count: int = 1) -> None:
        """A client's batch: sectors that name their writer and sequence, or zeroes."""
        if not self.can_write:
            return
        changes: list[Change] = []
        issued: list[tuple[object, ...]] = []
        for _ in range(count):
            volume, first = self._choose(rng)
            sectors = volume.size // SECTOR
            length = min(rng.choice((1, 1, 2, 8)), sectors - first) * SECTOR
            offset = first * SECTOR
            if rng.random() < 0.12:
                length = min(length * rng.choice((1, 8)), volume.size - offset)
                changes.append(zero_change(volume, offset, length))
                issued.append(("zero", volume.id, offset, length))
                continue
            self.sequence += 1
            sector = struct.pack("<QQ", rng.randrange(4), self.sequence * 1000 + first)
            payload = (sector * (SECTOR // len(sector))) * (length // SECTOR)
            changes.append(write_change(volume, offset, payload))
            issued.append(("write", volume.id, offset, payload))
        if self.plan.writeback and not self.writer.log.has_room(48 << 10):
            # The maintenance thread would end the writer's wait; here it can only come before.
            self.history.issue([])
            if not self._alone(lambda: self.writer.submit((), sync=True)):
                return
        self.history.issue(issued)
        sync = self.plan.writeback and rng.random() < 0.2
        self._alone(lambda: self.writer.submit(changes, sync=sync))

    def _choose(self, rng: random.Random) -> tuple[Volume, int]:
        """Choose a sector; during a sync often one that is about to be read for it."""
        volumes = self.writer.volumes
        sync = None if self.sender is None else self.sender.core.sync.window
        if sync is not None and sync.cursor.volume in volumes and rng.random() < 0.5:
            volume = volumes[sync.cursor.volume]
            first = sync.cursor.offset // SECTOR + rng.randrange(-2, 12)
            return volume, min(max(0, first), volume.size // SECTOR - 1)
        volume = rng.choice(list(volumes.values()))
        return volume, rng.randrange(volume.size // SECTOR)

    def send(self, message: record_pb2.IbcMessage, fence: float | None) -> None:
        """An application sends a message."""
        if self.can_write:
            self.sent[message.message_id] = message
            self.history.issue([("message", message.message_id)])
            self._alone(lambda: send_message(self.writer, message, fence_timeout=fence))

    def add_volume(self, name: str, size: int) -> None:
        if self.can_write:
            number = max((row.id for row in self.database.volumes()), default=0)
            self.history.issue([("add", number + 1, size)])
            expected = self.history.pending

            def add() -> None:
                # Ids are never used again (D28), so the row tells the one given.
                self.volumes.add(name, size)
                expected[0] = ("add", self.volumes.by_name(name).id, size)

            self._alone(add)
            self.link.volumes_changed()

    def remove_volume(self, name: str) -> None:
        if self.can_write and self.link.status.state != "SYNCING":
            self.history.issue([("remove", self.volumes.by_name(name).id)])
            self._alone(lambda: self.volumes.remove(name))
            self.link.volumes_changed()

    def maintain(self) -> None:
        if self.is_busy or self.writer.failure is not None:
            return
        self.is_busy = True
        try:
            self.writer.maintain()
            if self.sim.chance(0.02):
                self.writer.checkpoint()
        except GroupFailed as failed:
            self.sim.note(f"P maintenance: {failed}")
        finally:
            self.is_busy = False

    def operate(self, operation: str) -> None:
        """An operator pauses, or lets the link go on."""
        self.sim.note(f"operator: {operation}")
        self.link.operate(operation)

    def _let_go(self, checkpoint: int) -> None:
        floor = self.link.floor
        if floor is not None and floor < checkpoint:
            self.link.let_go("the log is full and the Secondary is behind")

    def _event(self, link: str, kind: str, text: str) -> None:
        self.sim.note(f"P {kind} {text}")

    # -- the main process's end of the sender's control channel

    def start_sender(self) -> None:
        """Start the sender, or start it again."""
        self.sender = SenderShell(self, self.link.specification())
        self.sender.start()

    def kill_sender(self) -> None:
        """The sender process dies alone, and is started again."""
        assert self.sender is not None
        self.sender.die(told=True)
        self.sim.after(0.5, self.life, self.start_sender)

    def tell(self, message: control.Message) -> None:
        """Carry a message to the sender; lost if it dies."""
        sender = self.sender
        if sender is not None:
            self._to_sender(sender, lambda: sender.handle(message))

    def hear(self, message: control.Message) -> None:
        """Take an event of the sender in the thread of its control channel."""

        def take() -> None:
            answer = self.link.handle(message)
            if answer is not None:
                self.tell(answer)

        self._to_main(take)

    def ask(self, message: control.Message, answered: Callable[[control.Message], None]) -> None:
        """Answer a question of the sender."""
        sender = self.sender
        assert sender is not None

        def answer() -> None:
            reply = self.link.handle(message)
            assert reply is not None
            self._to_sender(sender, lambda: answered(reply))

        self._to_main(answer)

    def _to_main(self, act: Callable[[], None]) -> None:
        """One socket each way: what is said first arrives first."""
        self._main_hears_at = max(self._main_hears_at, self.sim.now + self._hop())
        self.sim.after(self._main_hears_at - self.sim.now, self.life, act)

    def _to_sender(self, sender: "SenderShell", act: Callable[[], None]) -> None:
        sender.hears_at = max(sender.hears_at, self.sim.now + self._hop())
        self.sim.after(sender.hears_at - self.sim.now, sender.life, act)

    def _hop(self) -> float:
        return self.sim.rng.choice((0.0001, 0.001, 0.01))

    def _wake(self) -> None:
        if self.sender is not None:
            self.sender.poke(self._hop())

    # -- two processes at once

    def _listen(self) -> None:
        """Let the sender run in the middle of what the main process does to volumes."""
        plain = self.storage.change
        sim = self.sim

        def change(operation: str, path: Path) -> Any:
            sender = self.sender
            if sender is not None and path.parent.name == "volumes":
                syncing = sender.core.sync.is_running
                if sim.chance(0.8 if syncing else 0.3):
                    again = sim.rng.choice((0.7, 0.98)) if syncing else 0.7
                    end = sim.now + (0.15 if syncing else 0.02)
                    lives = (sender.life, *self.others()) if syncing else (sender.life,)
                    while sim.run_early(lives, end) and sim.chance(again):
                        pass
            return plain(operation, path)

        self.storage.change = change  # type: ignore[method-assign]

    def interrupt(self) -> None:
        """Let the main process do something in the middle of what the sender reads."""
        if self.can_write and self.sim.chance(0.15):
            self.write(self.sim.rng, self.sim.rng.choice((1, 1, 4)))
            if self.sim.chance(0.3):
                self.maintain()


class SenderShell:
    """What `services.primary.sender.link_task.LinkTask` does, step by step."""

    def __init__(self, primary: Primary, spec: control.Message) -> None:
        self.primary, self.sim = primary, primary.sim
        self.life = Life("sender")
        self.generation = 0
        self.hears_at = 0.0
        self.stream: Stream | None = None
        self._marks: GroupMarks = primary.group_marks
        self._link: LinkMarks = primary.link_marks
        self._storage = primary.storage.beside()
        self._inbox: deque[Callable[[], None]] = deque()
        self._turn: Generator[Any, Any, None] | None = None
        self._is_poked = False
        self._told: dict[str, Any] = {}
        self._told_at = 0.0
        self.set_volumes(spec["volumes"])
        identity, row = spec["identity"], spec["row"]
        rng = self.sim.rng
        self.core = LinkSender(
            LinkIdentity(
                bytes.fromhex(identity["uid"]),
                identity["group"],
                identity["link"],
                identity["epoch"],
                record.KNOWN_KINDS,
                identity["log_bytes"],
            ),
            LinkRow(
                act.LinkState(row["state"]),
                row["reason"],
                row["dirty"],
                bytes.fromhex(row["sync_id"]),
                None if row["acked"] is None else control.json_position(row["acked"]),
                row["discard"],
            ),
            primary.plan.sender,
            rng.random,
            lambda: rng.getrandbits(128).to_bytes(16, "big"),
        )
        self._reader = LogReader(
            self._storage, Path(spec["log"]["directory"]), UID, primary.group.settings.log
        )
        self._regions = RegionReader(self._storage)

    def set_volumes(self, volumes: list[dict[str, Any]]) -> None:
        self.volumes = [
            SyncVolume(one["id"], one["name"], one["size"], Path(one["path"]), one["lsn"])
            for one in volumes
        ]

    # -- life

    def start(self) -> None:
        plain = self._storage.check_fault

        def check_fault(operation: str, path: Path) -> None:
            self.primary.interrupt()
            plain(operation, path)

        self._storage.check_fault = check_fault  # type: ignore[method-assign]
        self._tick()

    def _tick(self) -> None:
        self.sim.after(TICK_SECONDS, self.life, self._tick)
        self.poke(0.0)

    def poke(self, seconds: float) -> None:
        if not self._is_poked:
            self._is_poked = True
            self.sim.after(seconds, self.life, self._run)

    def post(self, step: Callable[[], None]) -> None:
        self._inbox.append(step)
        self.poke(0.0)

    def die(self, told: bool) -> None:
        self.life.is_over = True
        if self.stream is not None:
            self.stream.to_secondary.break_off("the Primary is gone", told=told)
            self.stream.to_primary.drop()

    def _run(self) -> None:
        self._is_poked = False
        if self._turn is None:
            self._turn = self._one_turn()
            self._resume(None)

    def _resume(self, value: Any) -> None:
        """Go on until the real shell would wait for somebody."""
        turn = self._turn
        assert turn is not None
        try:
            wanted = turn.send(value)
        except StopIteration:
            self._turn = None
            grown = self._marks.durable_offset > self.core.records.durable_offset
            if self._inbox or (grown and not self._marks.failed):
                self.poke(0.0)
            return
        if isinstance(wanted, float):
            self.sim.after(wanted, self.life, lambda: self._resume(None))
        else:
            self.primary.ask(wanted, self._resume)

    def _one_turn(self) -> Generator[Any, Any, None]:
        while self._inbox:
            self._inbox.popleft()()
            yield from self._perform()
        self._advance()
        yield from self._perform()
        self._show()

    def _advance(self) -> None:
        self.core.tick(self.sim.now, self.sim.clock.time_ns())
        if self._marks.failed:
            if self.stream is not None:
                self.core.disconnected("the group has failed on the Primary")
            return
        in_volumes = self._marks.in_volumes_offset
        durable = self._marks.durable_offset
        self.core.log_advanced(max(durable, in_volumes), in_volumes, self._marks.trim_offset)

    # -- from the main process

    def handle(self, message: control.Message) -> None:
        match message["do"]:
            case "volumes":
                self.set_volumes(message["volumes"])
            case "overflow":
                self.post(lambda: self._overflow(message))
            case "verdict_stored":
                self.post(lambda: self.core.verdict_stored(message["sequence"]))
            case "pause":
                self.post(self.core.pause)
            case "retry":
                self.post(self.core.retry)
            case "discard":
                self.post(self.core.allow_discard)
            case other:
                raise AssertionError(other)

    def _overflow(self, message: control.Message) -> None:
        self.generation = message["generation"]
        if self.core.state is not act.LinkState.DETACHED:
            self.core.overflow(message["reason"])

    # -- what the core asks for

    def _perform(self) -> Generator[Any, Any, None]:
        while actions := self.core.actions():
            for action in actions:
                yield from self._do(action)

    def _do(self, action: act.LinkAction) -> Generator[Any, Any, None]:
        match action:
            case act.SendAppend():
                self._send(b"".join((action.prefix, action.run)))
            case act.SendMessage():
                kind = action.message.WhichOneof("message")
                if kind != "heartbeat":
                    self.sim.note(f"P> {kind}")
                self._send(action.message.SerializeToString())
            case act.ReadLog():
                self._read_log(action)
            case act.ReadRegions():
                yield from self._read_regions(action)
            case act.Acked():
                self._link.acked_lsn = action.point.position.lsn
                self._link.acked_offset = action.point.offset
                self._link.applied_lsn = action.applied_lsn
            case act.Dial():
                yield from self._open()
            case act.Disconnect():
                self.sim.note(f"P hangs up: {action.reason}")
                self._hang_up()
            case act.FindPosition():
                found = yield self._asking("find", position=control.position_json(action.position))
                point = None if found["point"] is None else control.json_point(found["point"])
                start = control.start_of(found)
                self.core.placing.position_found(action, point, found["oldest_lsn"], start)
            case act.FindSyncPoint():
                found = yield self._asking("sync_point")
                self.set_volumes(found["volumes"])
                total = sum(volume.size for volume in self.volumes)
                place = control.json_point(found["point"])
                start = control.start_of(found)
                self.core.sync.point_found(action, place, self._infos(), total, start)
            case act.StoreLink():
                yield self._asking("store", **self._link_row(action))
            case act.VerdictReceived():
                self.primary.hear(
                    {
                        "event": "verdict",
                        "key": self.primary.link.key,
                        "report": action.report.SerializeToString().hex(),
                    }
                )

    def _asking(self, what: str, **arguments: Any) -> control.Message:
        return {"ask": 1, "key": self.primary.link.key, "what": what, **arguments}

    def _link_row(self, action: act.StoreLink) -> dict[str, Any]:
        point = action.sync_point
        return {
            "state": action.state.value,
            "reason": action.reason,
            "dirty": action.dirty,
            "sync_id": action.sync_id.hex(),
            "discard": action.discard_secondary,
            "forget_acked": action.forget_acked,
            "sync_point": None if point is None else control.point_json(point),
            "generation": self.generation,
        }

    def _infos(self) -> list[act.VolumeInfo]:
        return [act.VolumeInfo(one.id, one.name, one.size) for one in self.volumes]

    def _read_log(self, action: act.ReadLog) -> None:
        try:
            found = self._reader.read(action.start.offset, action.limit, action.max_bytes)
        except Trimmed:
            self.core.records.slice_trimmed(action)
            return
        self.primary.interrupt()
        if action.start.offset < self._marks.trim_offset:
            self.core.records.slice_trimmed(action)
            return
        assert found.last is not None, "the core asks below the durable end"
        self._link.reading_offset = action.start.offset
        first = record.parse(found.data, 0, len(found.data))
        assert first is not None, "a slice begins with a record"
        end = LogPoint(found.next_offset, found.last)
        self.core.records.slice_read(action, found.data, end, first.time_ns)

    def _read_regions(self, action: act.ReadRegions) -> Generator[Any, Any, None]:
        yield self.primary._hop()
        sent = self.core.records.sent.position.lsn
        volumes = [volume for volume in self.volumes if volume.lsn <= sent]
        try:
            read = self._regions.read(volumes, action.cursor, action.max_bytes)
        except OSError as error:
            self.core.fail(f"a volume cannot be read for the sync: {error}")
            return
        self.primary.interrupt()
        durable_lsn = self._marks.durable_lsn
        self.core.sync.regions_read(
            action, read.regions, read.cursor, read.covered_bytes, read.done, durable_lsn
        )

    # -- the stream

    def _open(self) -> Generator[Any, Any, None]:
        yield self.sim.rng.uniform(0.001, 0.05)
        stream = self.primary.dial(self)
        if stream is None:
            yield self.sim.rng.choice((0.01, 1.0, 10.0))
            self.core.disconnected("cannot reach the Secondary")
            return
        self.stream = stream
        answer = yield self._asking("durable")
        self.set_volumes(answer["volumes"])
        self.core.connected(control.json_point(answer["point"]), self._infos())

    def received(self, stream: Stream, data: bytes) -> None:
        response = replication_pb2.ReplicateResponse.FromString(data)
        kind = response.WhichOneof("message")
        if kind != "ack":
            self.sim.note(f"<S {kind} {' '.join(str(response).split())[:160]}")
        self.post(partial(self._receive, stream, response))

    def _receive(self, stream: Stream, response: replication_pb2.ReplicateResponse) -> None:
        if stream is self.stream:
            self.core.receive(response)

    def ended(self, stream: Stream, reason: str, fatal: bool) -> None:
        def end() -> None:
            if stream is self.stream:
                self.sim.note(f"P stream ends: {reason}{' (fatal)' if fatal else ''}")
                self.stream = None
                stream.to_secondary.drop()
                self.core.disconnected(reason, fatal)

        self.post(end)

    def _send(self, data: bytes) -> None:
        if self.stream is not None:
            self.stream.to_secondary.send(data)

    def _hang_up(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.to_secondary.break_off("the Primary hung up")
            stream.to_primary.drop()

    # -- what is shown

    def _show(self) -> None:
        core = self.core
        acked = core.acked_position
        status: dict[str, Any] = {
            "state": core.state.value,
            "reason": core.reason,
            "replica_state": core.replica_state,
            "secondary_log": [0, 0],
            "acked": None if acked is None else control.position_json(acked),
            "acked_offset": self._link.acked_offset,
            "diverged": None,
            "lag_seconds": 0.0,
            "connected": core.connection.stream.value == "open",
        }
        now = self.sim.now
        changed = any(status[one] != self._told.get(one) for one in ("state", "replica_state"))
        if changed or (now - self._told_at > 0.5 and status != self._told):
            self._told, self._told_at = status, now
            self.primary.hear({"event": "status", "key": self.primary.link.key, **status})


def message_body(
    message_id: str, application: str, behaviour: int, timeouts: Sequence[float]
) -> record_pb2.IbcMessage:
    """Return a message as a service would build it."""
    return record_pb2.IbcMessage(
        message_id=message_id,
        application=application,
        behaviour=cast(common_pb2.MessageBehaviour.ValueType, behaviour),
        request_id=f"request-{message_id}",
        links=[LINK],
        deliver_timeout_seconds=timeouts[0],
        freeze_timeout_seconds=timeouts[1],
        unregistered_timeout_seconds=timeouts[2],
    )
