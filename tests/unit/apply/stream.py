"""A Primary's stream for tests, with the model it is checked against: volumes by lsn, as bytes."""

import uuid
from pathlib import Path
from typing import Any

from slackwater import record
from slackwater.apply.opening import ReplicaSpec
from slackwater.apply.replica import Replica
from slackwater.clock import ManualClock
from slackwater.group.directory import DataDirectory
from slackwater.log.log import LogSettings
from slackwater.position import Position, origin
from slackwater.storage.simulated import SimulatedStorage
from slackwater.v1 import common_pb2, record_pb2

UID = uuid.UUID(int=0x5EED)
ROOT = Path("/data")
SETTINGS = LogSettings(log_bytes=1 << 20, segment_bytes=128 << 10, max_commit_bytes=48 << 10)
CHUNK = 4096
APPLICATION = "app"


class Stream:
    """Builds records that continue each other; `states[lsn]` is what the volumes hold then."""

    def __init__(self) -> None:
        self.position = origin(UID)
        self.volumes: dict[int, bytearray] = {}
        self.states: dict[int, dict[int, bytes]] = {0: {}}
        self.records: list[tuple[bytes, Position]] = []
        self.time_ns = 1000

    def copy(self) -> "Stream":
        other = Stream()
        other.position = self.position
        other.volumes = {number: bytearray(data) for number, data in self.volumes.items()}
        other.states = dict(self.states)
        other.records = list(self.records)
        other.time_ns = self.time_ns
        return other

    def _add(self, framed: bytes, chain: int, epoch: int) -> Position:
        self.position = Position(epoch, self.position.lsn + 1, chain)
        self.records.append((framed, self.position))
        self.states[self.position.lsn] = {
            number: bytes(data) for number, data in self.volumes.items()
        }
        return self.position

    def write(self, volume: int, offset: int, data: bytes) -> Position:
        self.time_ns += 1
        at = self.position
        head, chain = record.write_head(
            at.chain, at.epoch, at.lsn + 1, self.time_ns, None, volume, offset, data
        )
        self.volumes[volume][offset : offset + len(data)] = data
        return self._add(head + data, chain, at.epoch)

    def zero(self, volume: int, offset: int, length: int) -> Position:
        self.volumes[volume][offset : offset + length] = bytes(length)
        body = record_pb2.Zero(volume=volume, offset=offset, length=length)
        return self.control(record.KIND_ZERO, body)

    def control(self, kind: int, body: Any, epoch: int | None = None) -> Position:
        self.time_ns += 1
        at = self.position
        epoch = epoch or at.epoch
        framed, chain = record.frame(
            at.chain, epoch, at.lsn + 1, self.time_ns, None, kind, body.SerializeToString()
        )
        return self._add(framed, chain, epoch)

    def start(self) -> Position:
        return self.control(record.KIND_START, record_pb2.Start(incarnation=1))

    def add_volume(self, number: int, name: str, size: int) -> Position:
        self.volumes[number] = bytearray(size)
        return self._change(record_pb2.VolumeChange.KIND_ADD, number, name, size)

    def grow(self, number: int, name: str, size: int) -> Position:
        self.volumes[number].extend(bytes(size - len(self.volumes[number])))
        return self._change(record_pb2.VolumeChange.KIND_GROW, number, name, size)

    def remove(self, number: int, name: str) -> Position:
        size = len(self.volumes.pop(number))
        return self._change(record_pb2.VolumeChange.KIND_REMOVE, number, name, size)

    def _change(self, kind: Any, number: int, name: str, size: int) -> Position:
        body = record_pb2.VolumeChange(kind=kind, volume=number, name=name, size_bytes=size)
        return self.control(record.KIND_VOLUME_CHANGE, body)

    def message(
        self,
        message_id: str,
        behaviour: int = common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
        application: str = APPLICATION,
        **fields: Any,
    ) -> Position:
        body = record_pb2.IbcMessage(
            message_id=message_id,
            application=application,
            behaviour=behaviour,  # type: ignore[arg-type]  # an open enum
            **{
                "deliver_timeout_seconds": 600.0,
                "freeze_timeout_seconds": 600.0,
                "unregistered_timeout_seconds": 30.0,
                **fields,
            },
        )
        return self.control(record.KIND_IBC_MESSAGE, body)

    def outcome(self, message_id: str, state: Any, grade: Any) -> Position:
        body = record_pb2.Outcome(message_id=message_id, state=state, grade=grade)
        return self.control(record.KIND_OUTCOME, body)

    def run_after(self, lsn: int, limit: int | None = None) -> bytes:
        """Return the framed records after an lsn."""
        first = self.records[0][1].lsn if self.records else 1
        end = None if limit is None else limit - first + 1
        return b"".join(framed for framed, _ in self.records[lsn - first + 1 : end])


def make_replica(
    storage: SimulatedStorage, clock: ManualClock, settings: LogSettings = SETTINGS
) -> Replica:
    data = DataDirectory.open(storage, ROOT, "secondary")
    spec = ReplicaSpec(UID, "demo", "link", 1, settings)
    return Replica.create(storage, data, spec, clock)


def open_replica(storage: SimulatedStorage, clock: ManualClock) -> Replica:
    data = DataDirectory.open(storage, ROOT, "secondary")
    return Replica.open(storage, data.group("demo"), clock)


def receive(replica: Replica, stream: Stream, limit: int | None = None) -> None:
    """Send the replica what it does not have yet, up to an lsn, and make it durable."""
    previous = replica.receiver.received
    run = stream.run_after(previous.lsn, limit)
    views, stop, why = record.scan(run, 0, len(run), previous)
    assert why == "end" and stop == len(run), why
    at = 0
    while at < len(views):  # in slices, as a link would
        some = views[at : at + 8]
        replica.append_run(run, some, lambda position: None)
        at += 8
        while replica.write_some():
            pass


def apply_all(replica: Replica) -> None:
    for _ in range(10_000):
        if not replica.step():
            return
    raise AssertionError("applying does not come to an end")


def live(replica: Replica) -> dict[int, bytes]:
    """Return the replica's volumes as they are now."""
    return {volume.id: volume.read(0, volume.size) for volume in replica.volumes.active()}


def shown(replica: Replica, name: str) -> dict[int, bytes]:
    """Return the volumes of a snapshot."""
    row = replica.snapshot(name)
    found = {}
    for number, volume_name, size in row.volumes:
        reader = replica.open_snapshot_volume(name, volume_name)
        found[number] = reader.read(size, 0)
        holes = [extent for extent in reader.extents(0, size) if not extent.data]
        for hole in holes:
            assert not any(found[number][hole.offset : hole.next_offset]), "a hole holds data"
    return found
