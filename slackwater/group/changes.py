"""Changes of a group that are records of their own: its volume set, and messages.

Each holds the checkpoint while it appends its record and writes its row (`GroupWriter.hold`), so
a crash in between is mended by replay: the row follows the record, never the other way round
(D11, D28).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from slackwater import record
from slackwater.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound
from slackwater.group.directory import GroupDirectory
from slackwater.group.rows import MessageRow, VolumeRow
from slackwater.group.volume import Volume
from slackwater.group.writer import GroupWriter
from slackwater.position import LogPoint
from slackwater.storage.seam import Storage
from slackwater.v1 import record_pb2


@dataclass(frozen=True)
class VolumeSet:
    """The volumes of an open group, and how they come and go. One caller at a time."""

    storage: Storage
    directory: GroupDirectory
    writer: GroupWriter

    def by_name(self, name: str) -> Volume:
        """Return a volume.

        Raises:
            NotFound: there is none of that name.
        """
        for volume in self.writer.volumes.values():
            if volume.name == name:
                return volume
        raise NotFound(
            "volume",
            f"{self.directory.name}/{name}",
            f"List the volumes with: slackwater volume list {self.directory.name}",
        )

    def add(self, name: str, size: int, device: str = "") -> Volume:
        """Add an empty volume: a sparse file, or a block device of at least `size` bytes.

        Raises:
            AlreadyExists: the name is taken.
            NoSpace: there is no room for the file's name or the record; or group.db has none for
                the row, then the volume appears as soon as it has.
            InvalidRequest: the device is not there or too small, or the file system cannot hold
                a file that large.
        """
        self.writer.settle_rows()
        self.check_new(name)
        database = self.writer.database
        row = database.reserve_volume(name, size, device or f"volumes/{name}.raw")
        try:
            volume = self._make(row, device)
        except (InvalidRequest, NoSpace):
            self._forget(row)
            raise
        with self.writer.hold() as hold:
            point = self._append(volume, row)
            active = replace(row, state="ACTIVE", lsn=point.position.lsn)

            def serve() -> None:
                database.put_volume(active)
                self.writer.volumes[row.id] = volume

            hold.write(serve)
        return volume

    def _append(self, volume: Volume, row: VolumeRow) -> LogPoint:
        """Append the record of a new volume, or leave nothing of the volume."""
        body = _body(row, record_pb2.VolumeChange.KIND_ADD)
        try:
            return self.writer.append_control(record.KIND_VOLUME_CHANGE, body)
        except NoSpace:
            volume.close()
            self._forget(row)
            raise

    def check_new(self, name: str) -> None:
        """Raise AlreadyExists if the name is taken."""
        if any(row.name == name for row in self.writer.database.volumes()):
            raise AlreadyExists("volume", f"{self.directory.name}/{name}")

    def check_size(self, size: int) -> None:
        """Raise InvalidRequest if the file system cannot hold a file of this size."""
        probe = self.directory.volumes / ".size-probe"
        file = self.storage.open(probe, create=True)
        try:
            file.resize(size)
        except OSError as error:
            raise _refused_size(size, error) from error
        finally:
            file.close()
            self.storage.remove(probe)

    def _make(self, row: VolumeRow, device: str) -> Volume:
        path = self.directory.volume(row.path)
        try:
            if device:
                volume = Volume.open(self.storage, path, row.id, row.name, 0)
                if volume.file.size() < row.size:
                    volume.close()
                    raise InvalidRequest("size_bytes", f"{device} is smaller than {row.size} bytes")
                volume.size = row.size
                volume.zero(0, row.size)
                volume.sync()
                return volume
            return Volume.create(self.storage, path, row.id, row.name, row.size)
        except OSError as error:
            if device:
                raise InvalidRequest("device", f"{device}: {error.strerror}") from error
            raise _refused_size(row.size, error) from error

    def _forget(self, row: VolumeRow) -> None:
        path = self.directory.volume(row.path)
        if path.parent == self.directory.volumes and self.storage.exists(path):
            self.storage.remove(path)
        self.writer.database.remove_volume(row.id)

    def remove(self, name: str) -> None:
        """Remove a volume that nobody uses; its file goes after the checkpoint (D28).

        Raises:
            NotFound: there is no such volume.
        """
        self.writer.settle_rows()
        volume = self.by_name(name)
        database = self.writer.database
        row = next(row for row in database.volumes() if row.id == volume.id)
        with self.writer.hold() as hold:
            point = self.writer.append_control(
                record.KIND_VOLUME_CHANGE, _body(row, record_pb2.VolumeChange.KIND_REMOVE)
            )
            removing = replace(row, state="REMOVING", lsn=point.position.lsn)

            def retire() -> None:
                database.put_volume(removing)
                self.writer.retire(volume, point, lambda: self._forget(row))

            hold.write(retire)
        with suppress(NoSpace):  # the removal stands; the file goes with a later checkpoint
            self.writer.checkpoint()


def _refused_size(size: int, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        "size_bytes",
        f"the file system under the data directory refuses a file of {size} bytes:"
        f" {error.strerror}",
        "Choose a smaller size, or a data directory on XFS",
    )


def _body(row: VolumeRow, kind: record_pb2.VolumeChange.Kind.ValueType) -> bytes:
    change = record_pb2.VolumeChange(kind=kind, volume=row.id, name=row.name, size_bytes=row.size)
    return change.SerializeToString()


@dataclass(frozen=True)
class SentMessage:
    """A message in the log: its row, and whether this call or an earlier one put it there."""

    row: MessageRow
    repeated: bool


class RowOwed(NoSpace):
    """A message is in the log, and group.db has no room for its row; it follows by itself."""

    def __init__(self, row: MessageRow, full: NoSpace) -> None:
        """Keep the row of the message that stands."""
        self.row = row
        super().__init__(full.where, full.next_step)


def send_message(
    writer: GroupWriter,
    message: record_pb2.IbcMessage,
    *,
    fence_timeout: float | None,
    check: Callable[[], None] = lambda: None,
) -> SentMessage:
    """Place a message in the stream (C1 to C3); it is durable when this returns.

    Args:
        writer: the group.
        message: checked by the caller; `fenced` and `fence_held_seconds` are set here.
        fence_timeout: seconds that writes may be held back; None: no fence.
        check: called right before the message is inserted, within the fence; if it raises, nothing
            is inserted.

    Raises:
        DeadlineExceeded: the fence took too long; nothing was inserted, writes go on (C2).
        GroupFailed: the group has stopped.
        NoSpace: nothing was inserted.
        RowOwed: it was, and group.db has no room for its row: the same request, sent again, is
            answered as soon as it has.
    """
    with writer.sending:
        writer.settle_rows()
        return _send(writer, message, fence_timeout, check)


def _send(
    writer: GroupWriter,
    message: record_pb2.IbcMessage,
    fence_timeout: float | None,
    check: Callable[[], None],
) -> SentMessage:
    known = writer.database.message_of_request(message.request_id)
    if known is not None:
        return SentMessage(known, repeated=True)
    with writer.hold() as hold:
        if fence_timeout is None:
            check()
            row = _append(writer, message, through_gate=False)
        else:
            began = writer.clock.monotonic()
            with writer.fenced(fence_timeout):
                check()
                message.fenced = True
                message.fence_held_seconds = writer.clock.monotonic() - began
                row = _append(writer, message, through_gate=True)
                held = writer.clock.monotonic() - began
            writer.fence_seconds.observe(held)
            row = replace(row, fence_seconds=held)
        awaits = bool(message.quiesced)
        try:
            hold.write(lambda: writer.database.put_message(row, awaits_outcome=awaits))
        except NoSpace as full:
            raise RowOwed(row, full) from full
    return SentMessage(row, repeated=False)


def _append(
    writer: GroupWriter, message: record_pb2.IbcMessage, *, through_gate: bool
) -> MessageRow:
    body = message.SerializeToString()
    time_ns = writer.clock.time_ns()
    point = writer.append_control(record.KIND_IBC_MESSAGE, body, through_gate=through_gate)
    return MessageRow(
        message.message_id,
        point.position,
        message.application,
        message.request_id,
        time_ns,
        body,
        tuple(message.links),
    )
