"""What the Primary was asked to do and has answered, as bytes: the truth a run is held against.

A record enters the history when its call was answered; what a crash kept of the calls under way
enters it when the Primary opens again. Every state of the volumes can be rebuilt from it.
"""

from collections.abc import Sequence

from slackwater import record
from slackwater.log.reader import LogReader
from slackwater.position import LogPoint, Position, origin
from slackwater.v1 import record_pb2
from tests.simulation.plan import UID

Change = tuple[object, ...]
"""("write", volume, offset, bytes) | ("zero", volume, offset, length) | ("message", id)
| ("add", volume, size) | ("remove", volume) | ("start",)"""

State = dict[int, bytes]
_KEEP_EVERY = 16


def change_of(data: memoryview, view: record.RecordView) -> Change:
    """Return what a record says."""
    if view.kind == record.KIND_WRITE:
        return ("write", view.volume, view.offset, bytes(data[view.payload_start : view.end]))
    if view.kind == record.KIND_ZERO:
        return ("zero", view.volume, view.offset, view.length)
    body = record.body(data, view)
    if isinstance(body, record_pb2.IbcMessage):
        return ("message", body.message_id)
    if isinstance(body, record_pb2.VolumeChange):
        if body.kind == record_pb2.VolumeChange.KIND_ADD:
            return ("add", body.volume, body.size_bytes)
        return ("remove", body.volume)
    assert isinstance(body, record_pb2.Start), "a Primary appends nothing else"
    return ("start",)


class History:
    """The Primary's records by lsn, and the volumes at each."""

    def __init__(self) -> None:
        self.end = LogPoint(0, origin(UID))
        self.points: list[LogPoint] = [self.end]
        self.changes: list[Change] = [()]
        self.pending: list[Change] = []
        self._kept: dict[int, State] = {0: {}}
        self._latest: tuple[int, dict[int, bytearray]] = (0, {})

    # -- growing

    def issue(self, changes: Sequence[Change]) -> None:
        """A call is made that will log these, in this order."""
        self.pending = list(changes)

    def answered(self, reader: LogReader, end: LogPoint) -> None:
        """The call was answered, and the log ends here now."""
        found = self._read(reader, end)
        got = [change for _, change in found]
        assert got == self.pending, f"answered {_brief(self.pending)}, logged {_brief(got)}"
        self._extend(found)
        self.pending = []

    def reopened(self, reader: LogReader, end: LogPoint, required_lsn: int) -> int:
        """The Primary opened its log again; returns how many answered records are gone.

        What was answered is there up to `required_lsn`, then what was under way, in order, as far
        as it was logged, then `Start`.
        """
        assert required_lsn < len(self.points)
        before = self.points[required_lsn:]
        claims = [*self.changes[required_lsn + 1 :], *self.pending]
        held = len(self.points) - 1
        self.cut(required_lsn)
        found = self._read(reader, end)
        kept = 0
        for point, change in found:
            if change == ("start",):
                break
            assert kept < len(claims), f"the log holds {_brief([change])}, which nobody asked for"
            assert change == claims[kept], "what was under way was logged in another order"
            kept += 1
            if kept < len(before):
                assert point == before[kept], "an answered record is there, with another chain"
        tail = [change for _, change in found[kept:]]
        assert tail and set(tail) == {("start",)}, f"after what was logged: {_brief(tail)}"
        self._extend(found)
        self.pending = []
        return max(0, held - required_lsn - kept)

    def cut(self, lsn: int) -> None:
        """Forget what came after an lsn."""
        del self.points[lsn + 1 :], self.changes[lsn + 1 :]
        self._kept = {kept: state for kept, state in self._kept.items() if kept <= lsn}
        if self._latest[0] > lsn:
            self._latest = (0, {})
        self.end = self.points[lsn]

    def _read(self, reader: LogReader, end: LogPoint) -> list[tuple[LogPoint, Change]]:
        found = []
        offset, position = self.end.offset, self.end.position
        while offset < end.offset:
            piece = reader.read(offset, end.offset, 1 << 20)
            for view in reader.verify(piece, position):
                position = view.position
                found.append(
                    (LogPoint(piece.offset + view.end, position), change_of(piece.data, view))
                )
            offset = piece.next_offset
        assert position == end.position, f"the log ends at {end.position}, not at {position}"
        return found

    def _extend(self, found: Sequence[tuple[LogPoint, Change]]) -> None:
        for point, change in found:
            assert point.position.lsn == len(self.points), "lsns are dense"
            self.points.append(point)
            self.changes.append(change)
        self.end = self.points[-1]

    # -- looking

    @property
    def lsn(self) -> int:
        return len(self.points) - 1

    def position(self, lsn: int) -> Position:
        return self.points[lsn].position

    def holds(self, position: Position) -> bool:
        """Tell whether this is a place in the Primary's history."""
        return position.lsn <= self.lsn and self.points[position.lsn].position == position

    def state(self, lsn: int) -> State:
        """Return every volume after the record with this lsn."""
        at, volumes = self._latest
        if at > lsn:
            at = max(kept for kept in self._kept if kept <= lsn)
            volumes = {number: bytearray(data) for number, data in self._kept[at].items()}
        while at < lsn:
            at += 1
            apply(volumes, self.changes[at])
            if at % _KEEP_EVERY == 0 and at not in self._kept:
                self._kept[at] = {number: bytes(data) for number, data in volumes.items()}
        self._latest = (at, volumes)
        return {number: bytes(data) for number, data in volumes.items()}


def apply(volumes: dict[int, bytearray], change: Change) -> None:
    """Do to the model what the record says."""
    match change:
        case ("write", int(volume), int(offset), bytes(data)):
            volumes[volume][offset : offset + len(data)] = data
        case ("zero", int(volume), int(offset), int(length)):
            volumes[volume][offset : offset + length] = bytes(length)
        case ("add", int(volume), int(size)):
            volumes[volume] = bytearray(size)
        case ("remove", int(volume)):
            del volumes[volume]
        case _:
            pass


def _brief(changes: Sequence[Change]) -> str:
    return str([tuple(_short(one) for one in change) for change in changes[:8]])


def _short(value: object) -> object:
    return f"{bytes(value[:24])!r}*{len(value)}" if isinstance(value, bytes) else value
