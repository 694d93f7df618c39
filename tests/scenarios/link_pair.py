"""A Primary and a Secondary in memory, driven through the two sans-I/O halves of a link.

What is modelled: a log on each side, one volume on each side, a stream that may lose or repeat a
request or break, a Primary that trims its log, a Secondary that loses its tail. What is not: time
between a send and its arrival, and torn or corrupt storage. Whenever the replica says that it is
consistent, its volume is compared with the Primary's history at the applied lsn.
"""

import uuid
from collections import deque
from dataclasses import replace

from slackwater import record
from slackwater.errors import SlackwaterError
from slackwater.link import actions as act
from slackwater.link import receiver_actions as ract
from slackwater.link.actions import Cursor, Region, VolumeInfo
from slackwater.link.receiver import LinkReceiver
from slackwater.link.sender import LinkSender
from slackwater.link.settings import LinkIdentity, LinkRow, SenderSettings, Stream
from slackwater.position import LogPoint, Position, origin
from slackwater.v1 import common_pb2, record_pb2, replication_pb2

UID = uuid.UUID(int=7)
BLOCK, BLOCKS = 512, 32
VOLUMES = (VolumeInfo(1, "data", BLOCK * BLOCKS),)
CONSISTENT = common_pb2.REPLICA_STATE_CONSISTENT
INCONSISTENT = common_pb2.REPLICA_STATE_INCONSISTENT
FROZEN = common_pb2.REPLICA_STATE_FROZEN


class Volume:
    """A volume and the operations on it that records and regions make."""

    def __init__(self) -> None:
        self.data = bytearray(BLOCK * BLOCKS)

    def apply(self, framed: bytes) -> None:
        view = record.parse(framed, 0, len(framed))
        assert view is not None
        if view.kind == record.KIND_WRITE:
            payload = framed[view.payload_start : view.end]
            self.data[view.offset : view.offset + len(payload)] = payload


class Primary:
    """A log of framed records with offsets, and the volume they were written to."""

    def __init__(self, epoch: int = 1) -> None:
        self.points = [LogPoint(0, origin(UID))]
        self.framed: list[bytes] = []
        self.oldest = 0
        self.in_volumes = 0
        self.volume = Volume()
        self.epoch = epoch
        self.starts = [origin(UID)]

    @property
    def durable(self) -> LogPoint:
        return self.points[-1]

    def write(self, tag: str) -> None:
        number = len(self.framed)
        previous = self.durable.position
        payload = f"{tag}{number + 1} ".encode().ljust(BLOCK, b".")
        place = number * 7 % BLOCKS * BLOCK
        head, chain = record.write_head(
            previous.chain, self.epoch, previous.lsn + 1, number, None, 1, place, payload
        )
        self._add(head + payload, chain)

    def start(self, incarnation: int) -> None:
        """Begin as a process does: with a record that no other history has."""
        previous = self.durable.position
        framed, chain = record.frame(
            previous.chain,
            self.epoch,
            previous.lsn + 1,
            len(self.framed),
            None,
            record.KIND_START,
            record_pb2.Start(incarnation=incarnation).SerializeToString(),
        )
        self._add(framed, chain)
        self.starts.append(self.durable.position)

    def _add(self, framed: bytes, chain: int) -> None:
        self.framed.append(framed)
        position = Position(self.epoch, self.durable.position.lsn + 1, chain)
        self.points.append(LogPoint(self.durable.offset + len(framed), position))

    def newest_start(self, lsn: int) -> Position:
        return max((one for one in self.starts if one.lsn <= lsn), key=lambda one: one.lsn)

    def settle(self) -> None:
        """Bring every durable record into the volume."""
        for framed in self.framed[self.in_volumes :]:
            self.volume.apply(framed)
        self.in_volumes = len(self.framed)

    def expected(self, lsn: int) -> bytes:
        """The volume after the first `lsn` records."""
        volume = Volume()
        for framed in self.framed[:lsn]:
            volume.apply(framed)
        return bytes(volume.data)

    def find(self, position: Position) -> LogPoint | None:
        held = [p for p in self.points if p.position == position and p.offset >= self.oldest]
        return held[0] if held else None

    @property
    def oldest_lsn(self) -> int:
        return next(p.position.lsn for p in self.points if p.offset >= self.oldest)


class Secondary:
    """A replica: its log since it was started over, its volume, and a sync it is in."""

    def __init__(self) -> None:
        self.base = self.base_start = origin(UID)
        self.log: list[tuple[bytes, Position]] = []
        self.applied = 0
        self.volume = Volume()
        self.state: int = CONSISTENT
        self.sync: ract.RunningSync | None = None
        self.consistent_lsn: int | None = None
        self.region_sequence = 0
        self.epoch = 0
        self.capacity = 1 << 20

    @property
    def durable(self) -> Position:
        return self.log[-1][1] if self.log else self.base

    @property
    def last_start(self) -> Position:
        for framed, position in reversed(self.log):
            view = record.parse(framed, 0, len(framed))
            if view is not None and view.kind == record.KIND_START:
                return position
        return self.base_start

    @property
    def applied_lsn(self) -> int:
        return self.base.lsn + self.applied

    def apply(self) -> None:
        if self.state == FROZEN:
            return
        for framed, _ in self.log[self.applied :]:
            self.volume.apply(framed)
        self.applied = len(self.log)
        if self.consistent_lsn is not None and self.applied_lsn >= self.consistent_lsn:
            self.state, self.sync, self.consistent_lsn = CONSISTENT, None, None

    def progress(self) -> ract.Progress:
        return ract.Progress(
            durable=self.durable,
            applied_lsn=self.applied_lsn,
            applied_time_ns=0,
            region_sequence=self.region_sequence,
            log_used_bytes=sum(len(framed) for framed, _ in self.log[self.applied :]),
            log_capacity_bytes=self.capacity,
            replica_state=self.state,
            sync_id=self.sync.sync_id if self.sync else b"",
        )


class LinkPair:
    """Both sides, the stream between them, and a transcript of what they say."""

    def __init__(self, settings: SenderSettings, log_bytes: int = 1 << 20) -> None:
        self.settings = settings
        self.log_bytes = log_bytes
        self.primary = Primary()
        self.secondary = Secondary()
        self.row = LinkRow()
        self.now = 0.0
        self.ids = 0
        self.lines: list[str] = []
        self.requests: deque[bytes] = deque()
        self.receiver: LinkReceiver | None = None
        self.reachable = True
        self.faults: list[str] = []
        self.writes_during_sync = 0
        self.starts = 0
        self.restart_primary()

    def restart_primary(self) -> None:
        self.starts += 1
        if self.starts > 1:  # the first one is not of interest to the transcripts
            self.primary.start(self.starts)
        self.requests.clear()
        self.receiver = None
        identity = LinkIdentity(
            UID.bytes, "demo", "east", self.primary.epoch, record.KNOWN_KINDS, self.log_bytes
        )
        self.sender = LinkSender(identity, self.row, self.settings, lambda: 1.0, self._new_id)
        self.tick(0)

    def _new_id(self) -> bytes:
        self.ids += 1
        return self.ids.to_bytes(16, "big")

    # ---- driving

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.sender.tick(self.now, int(self.now * 1e9))
        if self.receiver is not None:
            self.receiver.tick(self.now)

    def advance(self) -> None:
        p = self.primary
        offset = p.points[p.in_volumes].offset
        self.sender.log_advanced(p.durable.offset, offset, p.oldest)

    def settle(self, rounds: int = 500) -> None:
        """Let both sides work until neither has anything to do."""
        for _ in range(rounds):
            self.primary.settle()
            self.advance()
            busy = self._sender_acts()
            while self.requests:
                busy = True
                self._arrive(self.requests.popleft())
            self.secondary.apply()
            busy = self._report() or busy
            busy = self._receiver_acts() or busy
            if not busy:
                return
        raise AssertionError("the link never comes to rest")

    def is_open(self) -> bool:
        return self.receiver is not None

    def cut(self) -> None:
        self.requests.clear()
        self.receiver = None
        self.sender.disconnected("the network is down")

    def _report(self) -> bool:
        if self.receiver is None or self.receiver.end is None:
            return False
        self.receiver.progress(self.secondary.progress())
        shared = any(p.position == self.secondary.durable for p in self.primary.points)
        if shared and self.secondary.state in (CONSISTENT, FROZEN):
            expected = self.primary.expected(self.secondary.applied_lsn)
            assert bytes(self.secondary.volume.data) == expected, "the replica is no prefix"
        return False

    # ---- the Primary's shell

    def _sender_acts(self) -> bool:
        busy = False
        p = self.primary
        while actions := self.sender.actions():
            for action in actions:
                busy = True
                match action:
                    case act.Dial() if self.reachable:
                        self.receiver = LinkReceiver(self.now)
                        self.sender.connected(p.durable, VOLUMES)
                    case act.Dial():
                        self.sender.disconnected("connection refused")
                    case act.Disconnect():
                        self.lines.append(f"P hangs up: {action.reason}")
                        self.requests.clear()
                        self.receiver = None
                    case act.SendMessage():
                        self._send(action.message.SerializeToString(), show(action.message))
                    case act.SendAppend():
                        first = action.previous.lsn + 1
                        views, _, _ = record.scan(action.run, 0, len(action.run), action.previous)
                        last = views[-1].lsn
                        self._send(action.prefix + bytes(action.run), f"append {first}..{last}")
                    case act.ReadLog():
                        self._read_log(action)
                    case act.FindPosition():
                        found = p.find(action.position)
                        start = p.newest_start(action.position.lsn)
                        self.sender.placing.position_found(action, found, p.oldest_lsn, start)
                    case act.FindSyncPoint():
                        point = p.points[p.in_volumes]
                        total = BLOCK * BLOCKS
                        start = p.newest_start(point.position.lsn)
                        self.sender.sync.point_found(action, point, VOLUMES, total, start)
                    case act.ReadRegions():
                        self._read_regions(action)
                    case act.StoreLink():
                        self.row = replace(
                            self.row,
                            state=action.state,
                            reason=action.reason,
                            dirty=action.dirty,
                            sync_id=action.sync_id,
                            discard_secondary=action.discard_secondary,
                            acked=None if action.forget_acked else self.row.acked,
                        )
                    case act.Acked():
                        self.row = replace(self.row, acked=action.point.position)
                    case act.VerdictReceived():
                        self.sender.verdict_stored(action.report.sequence)
        return busy

    def _read_log(self, action: act.ReadLog) -> None:
        p = self.primary
        if action.start.offset < p.oldest:
            self.sender.records.slice_trimmed(action)
            return
        at = p.points.index(action.start)
        run, end = p.framed[at], at + 1
        while end < len(p.framed) and len(run) + len(p.framed[end]) <= action.max_bytes:
            run += p.framed[end]
            end += 1
        self.sender.records.slice_read(action, run, p.points[end], 0)

    def _read_regions(self, action: act.ReadRegions) -> None:
        p = self.primary
        start = action.cursor.offset if action.cursor.volume else 0
        data = bytes(p.volume.data[start : start + action.max_bytes])
        regions = [Region(1, start, len(data), data if any(data) else None)] if data else []
        end = start + len(data)
        for _ in range(min(3, self.writes_during_sync)):
            # The write is in the log and, as region reads race with it, in the volume already.
            p.write("s")
            self.writes_during_sync -= 1
        lsn = p.durable.position.lsn
        self.sender.sync.regions_read(
            action, regions, Cursor(1, end), len(data), end >= len(p.volume.data), lsn
        )

    def _send(self, request: bytes, text: str) -> None:
        if text.startswith("heartbeat"):
            self.requests.append(request)
            return
        fault = self.faults.pop(0) if self.faults else ""
        self.lines.append(f"P> {text}{f'   ({fault})' if fault else ''}")
        if fault != "drop":
            self.requests.append(request)
        if fault == "duplicate":
            self.requests.append(request)

    # ---- the Secondary's shell

    def _arrive(self, request: bytes) -> None:
        if self.receiver is None:
            return
        s = self.secondary
        self.receiver.log_room_bytes = s.capacity - s.progress().log_used_bytes
        try:
            self.receiver.receive(request)
            self._receiver_acts()
        except SlackwaterError as error:
            self.lines.append(f"<S ends the call: {error}")
            self.requests.clear()
            self.receiver = None
            self.sender.disconnected(str(error), fatal=error.reason == "FENCED")

    def _receiver_acts(self) -> bool:
        busy = False
        s = self.secondary
        while self.receiver is not None and (actions := self.receiver.actions()):
            for action in actions:
                busy = True
                if not self.is_open():
                    break
                match action:
                    case ract.OpenReplica():
                        s.region_sequence = 0
                        opened = ract.Opened(UID, s.epoch, s.progress(), s.sync, s.last_start)
                        self.receiver.opened(opened)
                        s.epoch = action.hello.epoch
                    case ract.AppendRun():
                        for view in action.views:
                            framed = bytes(action.run[view.start : view.end])
                            s.log.append((framed, view.position))
                    case ract.StartSync():
                        s.base, s.log, s.applied = action.position, [], 0
                        assert action.last_start is not None
                        s.base_start = action.last_start
                        s.volume.data[:] = b"?" * len(s.volume.data)
                        s.state, s.consistent_lsn = INCONSISTENT, None
                        s.sync = ract.RunningSync(action.sync_id, Cursor(), False)
                        s.region_sequence = 0
                        self.receiver.sync_started(action)
                    case ract.ApplyRegions():
                        assert s.sync is not None
                        s.apply()
                        for region in action.regions:
                            data = region.data if region.data is not None else bytes(region.length)
                            s.volume.data[region.offset : region.offset + region.length] = data
                        s.region_sequence = action.sequence
                        s.sync = replace(s.sync, cursor=action.cursor)
                    case ract.FinishSync():
                        assert s.sync is not None
                        s.sync = replace(s.sync, done=True)
                        s.consistent_lsn = action.consistent_lsn
                    case ract.SendResponse():
                        self._respond(action.message)
                    case ract.EndStream():
                        self.cut()
                    case _:
                        pass
        return busy

    def _respond(self, response: replication_pb2.ReplicateResponse) -> None:
        if response.WhichOneof("message") != "ack":
            self.lines.append(f"<S {show(response)}")
        self.sender.receive(response)

    # ---- showing

    def status(self) -> str:
        sender, s = self.sender, self.secondary
        replica = common_pb2.ReplicaState.Name(s.state).removeprefix("REPLICA_STATE_")  # type: ignore[arg-type]
        reason = f" ({sender.reason})" if sender.reason else ""
        assert sender.connection.stream is not Stream.OPEN or sender.lag_bytes is not None
        return (
            f"link {sender.state.value}{reason}; lag {sender.lag_bytes} bytes;"
            f" replica {replica} durable {s.durable} applied {s.applied_lsn}"
        )

    def take_lines(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def show(
    message: replication_pb2.ReplicateRequest | replication_pb2.ReplicateResponse,
) -> str:
    """Return a message as one terse line."""
    kind = message.WhichOneof("message") or "nothing"
    body = getattr(message, kind)
    match kind:
        case "hello":
            acked = f" acked {body.acked.epoch}/{body.acked.lsn}" if body.HasField("acked") else ""
            sync = f" sync {body.sync_id[-1]}" if body.sync_id else ""
            return f"hello epoch {body.epoch} end {body.durable.lsn}{acked}{sync}"
        case "welcome":
            sync = body.running_sync
            text = f" sync {sync.sync_id[-1]} at {sync.cursor.offset}" if sync.sync_id else ""
            return f"welcome {body.durable.epoch}/{body.durable.lsn}{text}"
        case "sync_start":
            return f"sync_start {body.sync_id[-1]} after {body.position.lsn}"
        case "sync_regions":
            return f"sync_regions {body.sequence} up to {body.cursor.offset}"
        case "sync_done":
            return f"sync_done consistent at {body.consistent_lsn}"
        case "reject":
            name = replication_pb2.Reject.Reason.Name(body.reason).removeprefix("REASON_")
            return f"reject {name} expected {body.expected.epoch}/{body.expected.lsn}"
        case "state":
            return f"state {common_pb2.ReplicaState.Name(body.state)}"
        case "verdict":
            return f"verdict {body.sequence} {body.message_id}"
        case _:
            return kind
