"""The Secondary's site: the engine without threads, and the stream's shell around its core.

The shell mirrors `services.secondary.replication`: one stream at a time, Welcome only after the
older stream's last append is in the log, acks of what is durable, verdicts repeated until they are
confirmed. The engine's threads are events of their own; the log's thread also runs in the middle of
the applier's storage calls.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slackwater import errors
from slackwater.apply import regions
from slackwater.apply.opening import ReplicaSpec
from slackwater.apply.replica import Replica
from slackwater.apply.syncing import VolumeSpec
from slackwater.group.directory import DataDirectory
from slackwater.group.rows import VerdictRow
from slackwater.ibc.messages import Message, Verdict
from slackwater.link import receiver_actions as act
from slackwater.link.actions import Cursor
from slackwater.link.receiver import LinkReceiver
from slackwater.position import Position
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2, replication_pb2
from tests.simulation.history import History
from tests.simulation.plan import APPLICATION, GROUP, ROOT, Plan
from tests.simulation.simulator import Life, Simulator, Stream

FATAL = (
    errors.FailedPrecondition,
    errors.InvalidRequest,
    errors.GroupFailed,
    errors.Diverged,
    errors.OutOfOrder,
    errors.Fenced,
    errors.DataCorrupt,
    errors.LogCorrupt,
)


class Secondary:
    """The secondary service, from one start to the next."""

    def __init__(
        self,
        sim: Simulator,
        plan: Plan,
        storage: SimulatedStorage,
        promised: "Promises",
        history: History,
    ) -> None:
        self.sim, self.plan, self.storage, self.promised = sim, plan, storage, promised
        self.history = history
        self.life = Life("secondary")
        self.replica: Replica | None = None
        self.shell: ReceiverShell | None = None
        self.verdicts: list[tuple[Message, Verdict]] = []
        self.slow = 1.0
        self._is_writing = False

    def open(self) -> None:
        """Start; recovers the replica if there is one."""
        self.data = DataDirectory.open(self.storage, ROOT, "secondary")
        if self.storage.exists(self.data.group(GROUP).path):
            replica = Replica.open(self.storage, self.data.group(GROUP), self.sim.clock)
            self._adopt(replica)
        self._listen()
        self._every(0.003, self._write_some)
        self._every(self.plan.slow_applier, self._step)
        self._every(0.25, self._maintain)
        self._every(0.25, self._beat)

    def _adopt(self, replica: Replica) -> None:
        self.replica = replica
        replica.on_change = self._changed
        replica.messages.on_verdict = self._verdict
        if all(one.name != APPLICATION for one in replica.applications()):
            replica.register_application(APPLICATION)

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            self.sim.after(seconds * self.sim.rng.uniform(0.3, 2) * self.slow, self.life, again)
            if self.replica is not None:
                work()

        self.sim.after(seconds, self.life, again)

    def die(self) -> None:
        """The process is gone."""
        self.life.is_over = True
        self.storage.is_dead = True
        if self.shell is not None:
            self.shell.drop(told=self.sim.chance(0.7))

    # -- the replica's threads

    def _write_some(self) -> None:
        assert self.replica is not None
        if not self._is_writing:
            self._is_writing = True
            try:
                self.replica.write_some()
            finally:
                self._is_writing = False

    def _step(self) -> None:
        assert self.replica is not None
        for _ in range(self.sim.rng.choice((1, 1, 4))):
            if not self.replica.step():
                return

    def _maintain(self) -> None:
        assert self.replica is not None
        self.replica.maintain()

    def _beat(self) -> None:
        if self.shell is not None:
            self.shell.tick()

    def _listen(self) -> None:
        """Let one thread run in the middle of what another does: log, applier, checkpoint."""
        plain = self.storage.change

        def change(operation: str, path: Path) -> Any:
            elsewhere = path.parent.name in ("volumes",) or "snapshots" in path.parts
            if elsewhere and self.replica is not None and self.sim.chance(0.1):
                self._write_some()
            if operation == "sync" and path.parent.name == "volumes":
                self._apply_during_checkpoint()
            return plain(operation, path)

        self.storage.change = change  # type: ignore[method-assign]

    def _apply_during_checkpoint(self) -> None:
        """Apply while volumes are synced: the applier's lock is free then, but for some steps.

        A control record may need the checkpoint, for which the real applier would wait.
        """
        replica = self.replica
        if replica is None or replica._apply_lock._is_owned():  # type: ignore[attr-defined]
            return
        while self.sim.chance(0.85):
            following = self.history.changes[replica.applied.lsn + 1 :][:1]
            if not following or following[0][0] not in ("write", "zero") or not replica.step():
                return

    # -- news

    def _changed(self) -> None:
        if self.shell is not None:
            shell = self.shell
            self.sim.after(self.sim.rng.choice((0.0001, 0.005)), self.life, shell.refresh)

    def _verdict(self, message: Message, verdict: Verdict) -> None:
        self.sim.note(f"S verdict {verdict.state.value} {message.message_id} {message.position}")
        self.verdicts.append((message, verdict))
        self._changed()

    # -- what a Hello finds

    def welcome(self, hello: act.HelloInfo) -> act.Opened:
        """Open or make the replica, and make it ready for a new stream (D15)."""
        if self.replica is None:
            spec = ReplicaSpec(
                hello.group_uid, hello.group, hello.link, hello.epoch, self.plan.secondary_log
            )
            self._adopt(Replica.create(self.storage, self.data, spec, self.sim.clock))
        replica = self.replica
        assert replica is not None
        if hello.group_uid != replica.uid:
            raise errors.FailedPrecondition("GROUP_MISMATCH", "another group")
        replica.check_alive()
        self._is_writing = True
        try:
            replica.new_stream(hello.link)
        finally:
            self._is_writing = False
        row = replica.database.sync()
        running = None
        if row is not None:
            cursor = Cursor(*row.cursor) if row.cursor else Cursor()
            done = row.consistent_lsn is not None
            running = act.RunningSync(bytes.fromhex(row.sync_id), cursor, done)
        last_start = replica.receiver.last_start
        return act.Opened(replica.replica_uid, hello.epoch, self.progress(), running, last_start)

    def progress(self) -> act.Progress:
        """Return what is safe now, for an ack."""
        replica = self.replica
        assert replica is not None
        sequence = replica.checkpointer.durable_progress.sequence
        row = replica.syncing.row
        log, room = replica.receiver.log, replica.log_room_bytes
        return act.Progress(
            durable=replica.durable,
            applied_lsn=replica.applied.lsn,
            applied_time_ns=replica.applier.applied_time_ns,
            region_sequence=sequence,
            log_used_bytes=(
                log.used_bytes if room >= self.plan.sender.slice_bytes else log.capacity_bytes
            ),
            log_capacity_bytes=log.capacity_bytes,
            replica_state=common_pb2.ReplicaState.Value(f"REPLICA_STATE_{replica.state.value}"),
            sync_id=b"" if row is None else bytes.fromhex(row.sync_id),
        )


class Promises:
    """What the Secondary has said it holds: it survives the Secondary."""

    def __init__(self) -> None:
        self.durable_lsn = 0
        self.begun: set[str] = set()

    def reset(self, position: Position) -> None:
        """A sync lets the replica's log begin anew there."""
        self.durable_lsn = min(self.durable_lsn, position.lsn)


class ReceiverShell:
    """What `services.secondary.replication.ReplicateStream` does, step by step."""

    def __init__(self, secondary: Secondary) -> None:
        self.secondary, self.sim = secondary, secondary.sim
        self.core = LinkReceiver(self.sim.now)
        self.stream: Stream | None = None
        self._told: act.Progress | None = None
        self._reported = 0
        self._is_open = True

    # -- life

    def drop(self, told: bool, reason: str = "the Secondary is gone", fatal: bool = False) -> None:
        """End the call."""
        self._is_open = False
        if self.secondary.shell is self:
            self.secondary.shell = None
        if self.stream is not None:
            self.stream.to_secondary.drop()
            if reason == "the Secondary is gone":
                self.stream.to_primary.break_off(reason, told=told)
            else:
                self.stream.to_primary.send(None, (reason, fatal))

    def ended(self, reason: str, fatal: bool) -> None:
        """The Primary's end is gone."""
        del reason, fatal
        self._is_open = False
        if self.secondary.shell is self:
            self.secondary.shell = None

    def has_room(self) -> bool:
        """Tell whether another message is read."""
        replica = self.secondary.replica
        if replica is None or self._told is None:
            return True
        return replica.receiver.has_room and replica.regions.has_room

    # -- from the Primary

    def received(self, data: bytes) -> None:
        if not self._is_open:
            return
        try:
            self.core.receive(data)
            self._flush()
        except errors.SlackwaterError as error:
            self.sim.note(f"S ends the call: {type(error).__name__} {error}")
            self.drop(told=True, reason=str(error), fatal=isinstance(error, FATAL))

    def _flush(self) -> None:
        for action in self.core.actions():
            if self._is_open:
                self._carry_out(action)

    def _carry_out(self, action: act.ReceiverAction) -> None:
        replica = self.secondary.replica
        match action:
            case act.SendResponse(message):
                self._send(message)
            case act.EndStream(reason):
                self.drop(told=True, reason=reason)
            case act.OpenReplica(hello):
                self._open(hello)
            case act.AppendRun(run, views):
                assert replica is not None
                replica.append_run(run, views, lambda position: None)
            case act.StartSync():
                self._start_sync(action)
            case act.ApplyRegions(sequence, parts, cursor):
                assert replica is not None
                row = replica.syncing.row
                if row is not None:
                    replica.add_regions(
                        row.sync_id,
                        sequence,
                        [regions.Region(r.volume, r.offset, r.length, r.data) for r in parts],
                        regions.Cursor(cursor.volume, cursor.offset),
                    )
            case act.FinishSync(sync_id, consistent_lsn):
                assert replica is not None
                replica.finish_sync(sync_id.hex(), consistent_lsn)
            case act.VerdictsConfirmed(sequence):
                assert replica is not None
                replica.confirm_verdicts(sequence)
            case act.PrimaryHeard():
                pass
            case act.FailReplica(reason, detail):
                raise AssertionError(f"{reason}: {detail}")

    def _open(self, hello: act.HelloInfo) -> None:
        older = self.secondary.shell
        if older is not None and older is not self:
            older.drop(told=True, reason="a new stream of this group has taken over")
        self.secondary.shell = self
        opened = self.secondary.welcome(hello)
        self.core.opened(opened)
        self._told = opened.progress
        self._promise(opened.progress.durable)
        self.sim.note(
            f"S welcome durable {opened.progress.durable} applied {opened.progress.applied_lsn}"
        )
        self._flush()
        self.refresh()

    def _promise(self, durable: Position) -> None:
        promised = self.secondary.promised
        promised.durable_lsn = max(promised.durable_lsn, durable.lsn)

    def _start_sync(self, action: act.StartSync) -> None:
        replica = self.secondary.replica
        assert replica is not None
        specs = [VolumeSpec(one.volume, one.name, one.size_bytes) for one in action.volumes]
        self.secondary._is_writing = True
        before = self.secondary.promised.durable_lsn
        self.secondary.promised.reset(action.position)
        try:
            replica.begin_sync(
                action.sync_id.hex(),
                action.position,
                specs,
                action.total_bytes,
                action.last_start,
            )
        except errors.NoSpace as error:
            replica.check_alive()
            self.core.sync_refused(action, str(error))
            self.secondary.promised.durable_lsn = before
        except (errors.FailedPrecondition, errors.Unavailable) as error:
            self.sim.note(f"S refuses the sync: {error}")
            reason = replication_pb2.Reject.REASON_FROZEN
            self.core.sync_refused(action, str(error), reason)
            self.secondary.promised.durable_lsn = before
        else:
            self.sim.note(f"S sync began at {action.position}")
            self.secondary.promised.begun.add(action.sync_id.hex())
            self.core.sync_started(action)
            if self._told is not None:
                self._told = replace(self._told, durable=action.position)
        finally:
            self.secondary._is_writing = False
        self._flush()
        self.refresh()

    # -- to the Primary

    def refresh(self) -> None:
        """The replica changed: tell the Primary."""
        replica = self.secondary.replica
        if not self._is_open or self._told is None or replica is None:
            return
        self.core.log_room_bytes = replica.log_room_bytes
        now = self.secondary.progress()
        if now.replica_state != self._told.replica_state:
            reason = str(replica.failure or "")
            self.core.replica_state_changed(now.replica_state, reason)
        if now != self._told:
            self._told = now
            self.core.progress(now)
        for row in replica.unconfirmed_verdicts():
            if row.sequence > self._reported:
                self._reported = row.sequence
                self.core.verdict(_report(row))
        self._flush()

    def tick(self) -> None:
        self.refresh()
        self.core.tick(self.sim.now)
        self._flush()

    def _send(self, message: replication_pb2.ReplicateResponse) -> None:
        if message.HasField("ack"):
            self._promise_wire(message.ack.durable)
        if self.stream is not None:
            self.stream.to_primary.send(message.SerializeToString())

    def _promise_wire(self, durable: common_pb2.Position) -> None:
        self._promise(Position(durable.epoch, durable.lsn, durable.chain_crc32c))


def _report(row: VerdictRow) -> replication_pb2.VerdictReport:
    return replication_pb2.VerdictReport(
        sequence=row.sequence,
        message_id=row.message_id,
        lsn=row.lsn,
        state=common_pb2.VerdictState.Value(f"VERDICT_STATE_{row.state}"),
    )
