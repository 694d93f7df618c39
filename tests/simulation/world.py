"""Both sites, who works on them, and what befalls them."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from services.primary import links
from slackwater import errors
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.ibc.actions import Delivered
from slackwater.ibc.messages import Behaviour
from slackwater.storage.simulated import Policy, SimulatedStorage
from slackwater.v1 import common_pb2
from tests.simulation.checkers import Checkers
from tests.simulation.history import History
from tests.simulation.holder import Holder
from tests.simulation.plan import APPLICATION, CHUNK, NEVER, STRANGER, Plan
from tests.simulation.primary import Primary, SenderShell, message_body
from tests.simulation.secondary import Promises, ReceiverShell, Secondary
from tests.simulation.simulator import Direction, Life, Network, Simulator, Stream

HEAL_SECONDS = 120.0
WAYS = ("drop", "keep", "tear", "kill", "kill", "kill then tear")


class World:
    """One run."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.sim = Simulator(seed)
        self.plan = plan or Plan.of(seed)
        self.history = History()
        self.promised = Promises()
        self.network = Network(self.sim, self.plan.latency)
        self.life = Life("world")
        self.primary: Primary | None = None
        self.secondary: Secondary | None = None
        self.primary_disk = SimulatedStorage()
        self.secondary_disk = SimulatedStorage()
        self.sent: dict[str, int] = {}
        self.checkers = Checkers(self)
        self.expects_trouble = False
        self.is_healing = False
        self.is_rolled_back = False
        """The Primary's disk is an older copy: the Secondary has another history (D16)."""
        self.numbers = 0
        self.leased = ""
        self.lost_records = 0
        self.marks: dict[str, int] = {}
        self._kept_at_crash = 0
        self._state = ReplicaState.EMPTY
        self.sim.crashed = self._somebody_died
        self.sim.after_step = self._look

    @property
    def replica(self) -> Replica | None:
        return None if self.secondary is None else self.secondary.replica

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Give the Primary's shell our clock, and names drawn by chance our dice."""
        clock, rng = self.sim.clock, self.sim.rng
        with (
            mock.patch.object(links, "time", clock),
            mock.patch.object(uuid, "uuid4", lambda: uuid.UUID(int=rng.getrandbits(128))),
        ):
            try:
                yield
            finally:
                for primary in [self.primary]:
                    if primary is not None and not primary.life.is_over:
                        primary.marks.close()

    def mark(self, name: str) -> None:
        """Count that something was met, to know what runs reach."""
        self.marks[name] = self.marks.get(name, 0) + 1

    # -- starts and ends

    def start_primary(self) -> None:
        """Start the Primary on its disk."""
        if self.primary is not None:
            return
        starting = Primary(self.sim, self.plan, self.primary_disk, self.history, self._dial)
        starting.others = lambda: () if self.secondary is None else (self.secondary.life,)
        starting.sequence = self.history.lsn + self.sim.steps
        if not self.is_healing and self.sim.chance(0.15):
            self.primary_disk.crash_at = self.primary_disk.calls + self.sim.rng.randint(1, 60)
        try:
            lost = starting.open(self._kept_at_crash)
            assert not lost or self.plan.writeback, f"{lost} answered records are gone"
            starting.prepare()
        except (errors.StorageFailed, errors.GroupFailed) as error:
            self._could_not_start(error)
            self._remember(starting, "")
            starting.die()
            self.end_primary()
            return
        except BaseException:
            self._remember(starting, "")
            starting.die()
            raise
        self.primary_disk.crash_at = None
        self.primary = starting
        self.sim.note(f"P open at {self.history.end.position}")
        self._contents()

    def start_secondary(self) -> None:
        """Start the Secondary on its disk."""
        if self.secondary is not None:
            return
        starting = Secondary(self.sim, self.plan, self.secondary_disk, self.promised, self.history)
        if not self.is_healing and self.sim.chance(0.15):
            self.secondary_disk.crash_at = self.secondary_disk.calls + self.sim.rng.randint(1, 60)
        try:
            starting.open()
        except (errors.StorageFailed, OSError) as error:
            self._could_not_start(error)
            starting.die()
            self.end_secondary()
            return
        except BaseException:
            starting.die()
            raise
        self.secondary_disk.crash_at = None
        self.secondary = starting
        self.checkers.handed.clear()
        replica = starting.replica
        if replica is not None:
            self.sim.note(
                f"S open {replica.state.value} durable {replica.durable} applied {replica.applied}"
            )
            self.mark(f"opened {replica.state.value}")
        self.checkers.positions()
        self.checkers.contents()

    def _could_not_start(self, error: Exception) -> None:
        assert self.expects_trouble, f"cannot start: {error}"
        self.sim.fault(f"a start fails: {error}")

    def _somebody_died(self) -> None:
        """A storage call was the last one of its process."""
        if self.primary_disk.is_dead:
            self.end_primary()
        if self.secondary_disk.is_dead:
            self.end_secondary()

    def end_primary(self, way: str = "") -> None:
        """Kill the Primary, or note that it died; it starts again after a while."""
        way = way or self.sim.rng.choice(WAYS)
        primary, self.primary = self.primary, None
        if primary is not None:
            self._remember(primary, way)
            primary.die()
        self._note_death("P", self.primary_disk, way)
        self.primary_disk = self._survivor(self.primary_disk, way)
        self.sim.after(self._pause(), self.life, self.start_primary)

    def _remember(self, primary: Primary, way: str) -> None:
        """Note what must be there when the Primary opens again."""
        if not primary.is_recovered:
            return  # it is what it was before
        self._kept_at_crash = self.history.lsn
        if self.plan.writeback and (way != "kill" or primary.writer.failure is not None):
            durable = primary.writer.log.durable.position.lsn
            self._kept_at_crash = min(durable, self.history.lsn)

    def end_secondary(self, way: str = "") -> None:
        """Kill the Secondary, or note that it died; it starts again after a while."""
        way = way or self.sim.rng.choice(WAYS)
        secondary, self.secondary = self.secondary, None
        if secondary is not None:
            secondary.die()
        self._note_death("S", self.secondary_disk, way)
        self.secondary_disk = self._survivor(self.secondary_disk, way)
        self.sim.after(self._pause(), self.life, self.start_secondary)

    def roll_back(self, disk: SimulatedStorage, lsn: int) -> None:
        """Somebody puts an older copy of the Primary's disk in its place."""
        self.is_rolled_back = True
        self.end_primary("kill")
        self.primary_disk = disk
        self.history.cut(lsn)
        self._kept_at_crash = lsn

    def stop_secondary(self) -> None:
        """Stop the Secondary in order."""
        secondary = self.secondary
        if secondary is not None and secondary.replica is not None:
            self.sim.fault("S is stopped in order")
            secondary.replica.close()
            self.end_secondary("kill")

    def stop_primary(self) -> None:
        """Stop the Primary in order."""
        primary = self.primary
        if primary is not None and not primary.is_busy:
            self.sim.fault("P is stopped in order")
            primary.is_busy = True
            with contextlib.suppress(errors.GroupFailed):
                primary.group.close(clean=primary.writer.failure is None)
            self.end_primary("kill")

    def _note_death(self, who: str, disk: SimulatedStorage, way: str) -> None:
        last = disk.call_log[-1] if disk.call_log else ""
        self.sim.fault(f"{who} dies ({way}) at {last}")

    def _survivor(self, disk: SimulatedStorage, way: str) -> SimulatedStorage:
        disk.is_dead = True
        if way == "kill":
            return disk.kill()
        if way == "kill then tear":
            return disk.kill().after_crash(Policy.TEAR, self.sim.rng)
        return disk.after_crash(Policy(way), self.sim.rng)

    def _pause(self) -> float:
        return self.sim.rng.choice((0.01, 0.3, 2.0))

    # -- the way between

    def _dial(self, shell: SenderShell) -> Stream | None:
        secondary = self.secondary
        if self.network.is_down or secondary is None:
            return None
        receiver = ReceiverShell(secondary)
        stream: Stream

        def to_primary(data: Any) -> None:
            shell.received(stream, data)

        def primary_end(reason: str, fatal: bool) -> None:
            shell.ended(stream, reason, fatal)

        there = Direction(
            self.network, secondary.life, receiver.received, receiver.ended, receiver.has_room
        )
        back = Direction(self.network, shell.life, to_primary, primary_end, lambda: True)
        stream = Stream(there, back)
        receiver.stream = stream
        self.network.streams.append(stream)
        del self.network.streams[:-4]
        return stream

    # -- who works, and what befalls them

    def begin(self) -> None:
        """Start everybody."""
        self.sim.after(0.0, self.life, self.start_primary)
        self.sim.after(0.0, self.life, self.start_secondary)
        plan = self.plan
        for seconds, work in (
            (plan.write_seconds, self._write),
            (plan.message_seconds, self._send),
            (plan.snapshot_seconds, self._snapshot),
            (plan.receiver_seconds, self._receive),
            (plan.volume_seconds, self._change_volumes),
            (plan.crash_seconds, self._crash),
            (plan.cut_seconds, self._cut),
            (plan.partition_seconds, self._partition),
            (plan.disk_fault_seconds, self._disk_fault),
            (plan.operator_seconds, self._operate),
            (1.0, self._contents),
        ):
            if seconds < NEVER:
                self._now_and_then(seconds, work)

    def _now_and_then(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            self.sim.after(seconds * self.sim.rng.uniform(0.2, 1.8), self.life, again)
            if not self.is_healing or work in (self._receive, self._contents):
                work()

        self.sim.after(seconds * self.sim.rng.uniform(0.2, 1.8), self.life, again)

    def _write(self) -> None:
        if self.primary is not None and self.primary.writer.volumes:
            rng = self.sim.rng
            many = rng.randint(20, 120) if self.sim.chance(self.plan.burst_chance) else 1
            if self.primary.link.status.state == "SYNCING":
                many = rng.choice((1, 4))
            for _ in range(many):
                if self.primary is not None:
                    self.primary.write(self.sim.rng, self.sim.rng.choice((1, 1, 2, 6)))

    def _send(self) -> None:
        if self.primary is None:
            return
        rng = self.sim.rng
        self.numbers += 1
        behaviour = rng.choice(
            (
                common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
                common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
                common_pb2.MESSAGE_BEHAVIOUR_NOTIFY,
                common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
            )
        )
        kind = "auto" if behaviour == common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT else "m"
        message_id = f"{kind}-{self.numbers}"
        application = STRANGER if rng.random() < 0.1 else APPLICATION
        timeouts = (rng.choice((2.0, 8.0)), rng.choice((1.0, 6.0)), 1.5)
        body = message_body(message_id, application, behaviour, timeouts)
        self.sent[message_id] = behaviour
        self.primary.send(body, rng.choice((None, 1.0)))

    def _receive(self) -> None:
        replica = self.replica
        if replica is None or replica.failure is not None:
            return
        rng = self.sim.rng
        secondary = self.secondary
        holder = rng.choice(("a", "b"))
        if rng.random() < 0.4:
            Holder(self, replica, holder, self.leased if rng.random() < 0.7 else "")
            return

        def answer(delivered: Delivered | None, stopped: bool) -> None:
            if delivered is not None and self.replica is replica:
                self.handed(replica, delivered, holder)

        assert secondary is not None
        replica.receive(APPLICATION, holder, "", rng.choice((0.0, 1.0)), answer)

    def handed(self, replica: Replica, delivered: Delivered, holder: str) -> None:
        """A receiver or a lease was given a message."""
        message = delivered.message
        lsn = message.position.lsn
        self.mark(f"handed {message.behaviour.value}{' again' if delivered.redelivered else ''}")
        self.sim.note(f"{holder} gets {message.message_id} at {message.position}")
        self.checkers.handed_over(lsn, message.message_id, delivered.redelivered)
        if message.behaviour is not Behaviour.FREEZE:
            return
        self.checkers.frozen(replica, lsn)
        secondary = self.secondary
        assert secondary is not None
        if self.sim.chance(0.5):
            self.sim.after(
                0.05, secondary.life, lambda: self._snapshot_at(replica, message.message_id)
            )
        if self.is_healing or self.sim.chance(self.plan.unfreeze_chance):
            self.sim.after(
                self.sim.rng.choice((0.1, 0.5, 3.0)),
                secondary.life,
                lambda: self._unfreeze(replica, message.message_id, holder),
            )

    def _unfreeze(self, replica: Replica, message_id: str, holder: str) -> None:
        with contextlib.suppress(errors.FailedPrecondition, errors.GroupFailed):
            info = replica.freeze()
            if info is not None and info.message.message_id == message_id:
                self.checkers.frozen(replica, info.message.position.lsn)
            replica.unfreeze(message_id, holder)

    # -- snapshots

    def _snapshot_at(self, replica: Replica, message_id: str) -> None:
        info = replica.freeze()
        if info is not None and info.message.message_id == message_id:
            self._take(replica, message_id)

    def _snapshot(self) -> None:
        replica = self.replica
        if replica is None or replica.failure is not None:
            return
        if len(self.checkers.snapshots) > 6 or (self.checkers.snapshots and self.sim.chance(0.4)):
            self._forget(replica, self.sim.rng.choice(sorted(self.checkers.snapshots)))
        elif self.sim.chance(0.7):
            self._take(replica, "")

    def _forget(self, replica: Replica, name: str) -> None:
        self.checkers.snapshot(replica, name)
        point = self.checkers.snapshots.pop(name)
        try:
            replica.delete_snapshot(name)
        except errors.SlackwaterError as error:
            self.sim.note(f"S deleting {name}: {error}")
            self.checkers.snapshots[name] = point

    def _take(self, replica: Replica, message_id: str) -> None:
        self.numbers += 1
        name = f"s{self.numbers}"
        chunk = 0 if replica.snapshots() else CHUNK
        try:
            row = replica.create_snapshot(name, at_message=message_id, chunk_bytes=chunk)
        except (errors.FailedPrecondition, errors.Unavailable, errors.GroupFailed) as error:
            self.sim.note(f"S snapshot {name}: {error.reason}")
            self.mark(f"snapshot {error.reason}")
            return
        assert row is not None
        self.mark("snapshot at a message" if message_id else "snapshot")
        self.sim.note(f"S snapshot {name} at {row.point.position}")
        self.checkers.snapshots[name] = row.point
        if message_id:
            place = self.history.changes[row.point.position.lsn :][:1] or [("message", message_id)]
            assert place[0] == ("message", message_id), "a snapshot at a message is elsewhere"
        self.checkers.snapshot(replica, name)

    # -- trouble

    def _change_volumes(self) -> None:
        primary = self.primary
        if primary is None or not primary.can_write:
            return
        names = [volume.name for volume in primary.writer.volumes.values()]
        extra = [name for name in names if name.startswith("extra")]
        if extra and (len(extra) > 1 or self.sim.chance(0.5)):
            primary.remove_volume(self.sim.rng.choice(extra))
        else:
            self.numbers += 1
            primary.add_volume(f"extra{self.numbers}", self.sim.rng.choice((4, 20)) << 10)

    def _crash(self) -> None:
        rng = self.sim.rng
        ahead = rng.choice((1, 3, 10, 40))
        match rng.choice(("P", "P", "S", "S", "sender", "P stop", "S stop", "both")):
            case "P":
                self.primary_disk.crash_at = self.primary_disk.calls + rng.randint(1, ahead)
            case "S":
                self.secondary_disk.crash_at = self.secondary_disk.calls + rng.randint(1, ahead)
            case "sender":
                if self.primary is not None and self.primary.sender is not None:
                    if not self.primary.sender.life.is_over:
                        self.sim.fault("the sender process dies")
                        self.primary.kill_sender()
            case "P stop":
                self.stop_primary()
            case "S stop":
                self.stop_secondary()
            case _:
                self.primary_disk.crash_at = self.primary_disk.calls + rng.randint(1, ahead)
                self.secondary_disk.crash_at = self.secondary_disk.calls + rng.randint(1, ahead)

    def _cut(self) -> None:
        if self.network.streams:
            self.sim.fault("the connection breaks")
            self.network.streams[-1].cut()

    def _partition(self) -> None:
        if not self.network.is_down:
            seconds = self.sim.rng.choice((0.5, 2.0, 6.0, 16.0))
            self.sim.fault(f"partition for {seconds} s")
            self.network.is_down = True
            self.sim.after(seconds, self.life, self._join)

    def _join(self) -> None:
        if self.network.is_down:
            self.sim.note("the partition ends")
            self.network.is_down = False

    def _disk_fault(self) -> None:
        """A sync fails: that side stops for good, until it is started again (D3)."""
        rng = self.sim.rng
        who = rng.choice("PS")
        disk = self.primary_disk if who == "P" else self.secondary_disk
        match = rng.choice(("/log/", "/volumes/", "/snapshots/"))
        self.sim.fault(f"{who}: the next sync of {match} fails")
        disk.fail("sync", match)
        self.expects_trouble = True
        self.sim.after(rng.choice((0.5, 3.0)), self.life, lambda: self._mend(who))

    def _mend(self, who: str) -> None:
        if who == "P":
            self.primary_disk.heal()
            if self.primary is not None and self.primary.writer.failure is not None:
                self.mark("primary failed")
                self.end_primary()
        else:
            self.secondary_disk.heal()
            replica = self.replica
            if replica is not None and replica.failure is not None:
                self.mark("replica failed")
                self.end_secondary()
        self.sim.after(1.0, self.life, self._retry)

    def _retry(self) -> None:
        """An operator lets a failed or paused link go on."""
        if self.primary is not None and self.primary.link.status.state in ("FAILED", "PAUSED"):
            self.primary.operate("retry")

    def _operate(self) -> None:
        if self.primary is not None:
            if self.primary.link.status.state == "PAUSED":
                self.primary.operate("retry")
            else:
                self.primary.operate("pause")
                self.sim.after(self.sim.rng.choice((0.3, 3.0)), self.life, self._retry)

    # -- looking

    def _look(self) -> None:
        if self.is_rolled_back:
            return
        self.checkers.positions()
        if self.primary is not None:
            self.mark(f"link {self.primary.link.status.state}")
        if self.replica is not None:
            state = self.replica.state
            self.mark(f"replica {state.value}")
            if state is not self._state:
                self._state = state
                self.checkers.contents()  # what it claims holds from the first moment

    def _contents(self) -> None:
        if not self.is_rolled_back:
            self.checkers.contents()

    # -- the end

    def heal(self) -> None:
        """No more faults and writes: everything must come together by itself (liveness)."""
        self.is_healing = True
        self.sim.note("--- healing")
        self.network.is_down = False
        self.primary_disk.crash_at = self.secondary_disk.crash_at = None
        self.primary_disk.heal()
        self.secondary_disk.heal()
        self._restart_what_failed()
        self._now_and_then_always(1.0, self._restart_what_failed)
        come_together = self.sim.run(HEAL_SECONDS, self.is_together)
        assert come_together, f"not together after {HEAL_SECONDS:g} s: {self.describe()}"
        self.expects_trouble = False
        self.checkers.positions()
        self.checkers.contents()
        self._check_messages()

    def _now_and_then_always(self, seconds: float, work: Callable[[], None]) -> None:
        def again() -> None:
            self.sim.after(seconds, self.life, again)
            work()

        self.sim.after(seconds, self.life, again)

    def _restart_what_failed(self) -> None:
        if self.primary is not None and self.primary.writer.failure is not None:
            self.end_primary("kill")
        if self.replica is not None and self.replica.failure is not None:
            self.end_secondary("kill")
        self._retry()

    def is_together(self) -> bool:
        """Tell whether the Secondary has everything, and the Primary knows."""
        primary, replica = self.primary, self.replica
        if primary is None or replica is None or primary.sender is None:
            return False
        core = primary.sender.core
        return (
            replica.state is ReplicaState.CONSISTENT
            and replica.durable == primary.writer.log.end.position == self.history.end.position
            and replica.applied == replica.durable
            and core.state.value == "STREAMING"
            and core.lag_bytes == 0
            and primary.link.status.state == "STREAMING"
            and not primary.link.is_dirty
            and not replica.unconfirmed_verdicts()
        )

    def _check_messages(self) -> None:
        primary, replica = self.primary, self.replica
        assert primary is not None and replica is not None
        placed = {str(change[1]) for change in self.history.changes if change[:1] == ("message",)}
        for row in primary.database.messages(limit=10_000):
            assert row.id in placed, f"message {row.id} has a row and no record"
        silent = []
        for message_id in sorted(placed):
            verdicts = primary.database.verdicts(message_id)
            if not any(row.final for row in verdicts):
                silent.append(message_id)
        self.marks["messages without a verdict"] = len(silent)
        jumped = self.marks.get("replica INCONSISTENT", 0)
        assert not silent or jumped, f"no verdict ever came for {silent}"

    def describe(self) -> str:
        """Return where everybody stands."""
        lines = [
            f"history ends at {self.history.end.position}, network down {self.network.is_down}"
        ]
        if self.primary is not None and self.primary.sender is not None:
            core = self.primary.sender.core
            lines.append(
                f"link {core.state.value} ({core.reason}), stream {core.connection.stream.value},"
                f" lag {core.lag_bytes}, dirty {self.primary.link.is_dirty},"
                f" group {self.primary.writer.failure or 'works'}"
            )
        else:
            lines.append("the Primary is down")
        if self.replica is not None:
            status = self.replica.status()
            lines.append(
                f"replica {status.state.value} durable {status.durable} applied {status.applied}"
                f" sync {status.sync} freeze {status.freeze} stall {status.stall}"
                f" room {status.log_room_bytes} full {status.log_is_full}"
            )
        else:
            lines.append("the Secondary is down, or has no replica")
        return "; ".join(lines)
