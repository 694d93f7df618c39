"""The ordered applier: it alone writes a replica's volumes.

`step` does one bounded piece of work: a run of writes, a piece of a large zero, the regions of a
sync that are next, or one control record. In this order, always:

1. the records are proved to continue what was applied;
2. what the newest snapshot below them needs is preserved, and its overlays are synced once (D23);
3. the volumes are written in lsn order;
4. `applied` moves.

Invariants (a1 to a3 are what the crash tests and the property tests check):

* a1: between steps, unless `is_torn`, the volumes are exactly the log's prefix up to `applied`,
  once recovery is over (D21).
* a2: applied <= durable.
* a3: while `stopped` is set, nothing after the record it names is in a volume.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from slackwater import errors
from slackwater.apply.regions import Region, RegionQueue
from slackwater.apply.volumes import VolumeSet
from slackwater.apply.writeback import AREA_BITS
from slackwater.log.reader import LogReader, Slice
from slackwater.position import LogPoint
from slackwater.record import KIND_WRITE, KIND_ZERO, KNOWN_KINDS, RecordView
from slackwater.snapshots.catalogue import Catalogue

BATCH_BYTES: Final = 1 << 20
ZERO_STEP_BYTES: Final = 64 << 20
_DATA_KINDS: Final = frozenset({KIND_WRITE, KIND_ZERO})


@dataclass(frozen=True)
class Stall:
    """Why the applier cannot do the next record now; it is tried again (D4)."""

    lsn: int
    doing: str
    errno: int


class Control(Protocol):
    """What knows what control records mean."""

    def reach(self, data: memoryview, view: RecordView, point: LogPoint) -> bool:
        """Do what the record asks; False: stop here until `Applier.release`."""
        ...


@dataclass
class _Zeroing:
    """A zero, large or stalled, that is applied piece by piece (D12)."""

    view: RecordView
    point: LogPoint
    at: int


class Applier:
    """Applies one group's log to its volumes; one thread at a time, under the replica's lock."""

    def __init__(
        self,
        reader: LogReader,
        durable: Callable[[], LogPoint],
        start: LogPoint,
        volumes: VolumeSet,
        catalogue: Catalogue,
        control: Control,
        regions: RegionQueue,
        *,
        batch_bytes: int = BATCH_BYTES,
        zero_step_bytes: int = ZERO_STEP_BYTES,
    ) -> None:
        """Begin right after `start`, the checkpoint."""
        self.applied = start
        self.applied_time_ns = 0
        self.stopped: LogPoint | None = None
        self.stall: Stall | None = None
        self.is_torn = False
        self.applied_records = 0
        self.applied_bytes = 0
        self._reader = reader
        self._durable = durable
        self._volumes = volumes
        self._catalogue = catalogue
        self._control = control
        self._regions = regions
        self._batch_bytes = batch_bytes
        self._zero_step_bytes = zero_step_bytes
        self._zeroing: _Zeroing | None = None
        self._narrow = False
        self._regions_done = self._region_at = 0
        self._stopped_time_ns = 0

    @property
    def reached(self) -> LogPoint:
        """The place the volumes stand for: the record stopped at, else the last one applied."""
        return self.stopped or self.applied

    @property
    def is_at_boundary(self) -> bool:
        """Tell whether no record or region is applied in part."""
        return not self.is_torn and self._zeroing is None

    @property
    def is_idle(self) -> bool:
        """Tell whether everything durable and every region received is applied."""
        # By lsn: the log's end may lie past the padding that only the next record lets us cross.
        is_applied = self.applied.position.lsn >= self._durable().position.lsn
        return is_applied and not len(self._regions)

    def step(self) -> bool:
        """Do one bounded piece of work; False: there is nothing to do, or it stalls.

        Raises:
            StorageFailed: a sync failed, which is final (D3).
            LogCorrupt: the log is damaged.
            DataCorrupt: a record does not make sense here.
            FailedPrecondition: a record is of an unknown kind, reason UNKNOWN_RECORD.
        """
        if self.stopped is not None:
            return False
        if self._zeroing is not None:
            return self._zero_some(self._zeroing)
        limit = self._durable().offset
        batch = self._regions.first()
        if batch is not None and batch.after_lsn <= self.applied.position.lsn:
            return self._apply_regions(batch.regions)
        boundary = self._catalogue.next_boundary(self.applied.offset)
        if boundary is not None:
            limit = min(limit, boundary)
        if self.applied.offset >= limit:
            return False
        found = self._reader.read(self.applied.offset, limit, self._batch_bytes)
        views = self._reader.verify(found, self.applied.position)
        if not views:
            return False
        if batch is not None:
            views = views[: batch.after_lsn - self.applied.position.lsn]
        return self._apply(found, views)

    def release(self) -> None:
        """Go on after the record stopped at."""
        assert self.stopped is not None, "only a stopped applier is released"
        point, self.stopped = self.stopped, None
        self._advance(point, self._stopped_time_ns)

    def _apply(self, found: Slice, views: Sequence[RecordView]) -> bool:
        first = views[0]
        point = LogPoint(found.offset + first.end, first.position)
        if first.kind not in _DATA_KINDS:
            return self._apply_control(found, first, point)
        if first.kind == KIND_ZERO and first.length > self._zero_step_bytes:
            self._zeroing = _Zeroing(first, point, first.offset)
            return self._zero_some(self._zeroing)
        count = 1
        if not self._narrow:
            for view in views[1:]:
                if view.kind not in _DATA_KINDS or (
                    view.kind == KIND_ZERO and view.length > self._zero_step_bytes
                ):
                    break
                count += 1
        return self._apply_data(found, views[:count])

    def _apply_control(self, found: Slice, view: RecordView, point: LogPoint) -> bool:
        if view.kind not in KNOWN_KINDS:
            raise errors.FailedPrecondition(
                "UNKNOWN_RECORD",
                f"record {view.position} is of unknown kind {view.kind}",
                "Upgrade this service; Secondaries are upgraded before Primaries",
            )
        try:
            passed = self._control.reach(found.data, view, point)
        except OSError as error:
            return self._stalled(view.lsn, "control", error)
        self.stall = None
        if passed:
            self._advance(point, view.time_ns)
        elif self.stopped is None:
            self.stopped, self._stopped_time_ns = point, view.time_ns
        return True

    # -- writes and zeroes -------------------------------------------------------------------

    def _apply_data(self, found: Slice, views: Sequence[RecordView]) -> bool:
        feed = self._catalogue.feed(self.applied.offset)
        if feed is not None:
            try:
                feed.preserve([(view.volume, view.offset, view.length) for view in views])
                feed.sync()
            except OSError as error:
                return self._narrowed(views) or self._stalled(views[0].lsn, "preserve", error)
        done = 0
        try:
            while done < len(views):
                done = self._write(found.data, views, done)
        except OSError as error:
            self.is_torn = True
            if done:
                self._advance_past(found, views[done - 1])
            return self._narrowed(views) or self._stalled(views[0].lsn, "write", error)
        finally:
            self._volumes.writeback.note(
                {(view.volume, view.offset >> AREA_BITS) for view in views}
            )
            self.applied_records += done
            self.applied_bytes += sum([view.length for view in views[:done]])
        self._narrow = self.is_torn = False
        self.stall = None
        self._advance_past(found, views[-1])
        return True

    def _narrowed(self, views: Sequence[RecordView]) -> bool:
        """Go on one record at a time: apply what can be applied, stop at the very record."""
        self._narrow = True
        return len(views) > 1

    def _advance_past(self, found: Slice, view: RecordView) -> None:
        self._advance(LogPoint(found.offset + view.end, view.position), view.time_ns)

    def _write(self, data: memoryview, views: Sequence[RecordView], index: int) -> int:
        """Apply a record, and those after it that go on where it ends; return the next's index."""
        view = views[index]
        volume = self._volumes.of_record(view.volume, view.offset, view.length, view.lsn)
        index += 1
        if view.kind == KIND_ZERO:
            volume.zero(view.offset, view.length)
            return index
        pieces = [data[view.payload_start : view.end]]
        end = view.offset + view.length
        while index < len(views):
            other = views[index]
            if (
                other.offset != end
                or other.volume != view.volume
                or other.kind != KIND_WRITE
                or end + other.length > volume.size
            ):
                break
            pieces.append(data[other.payload_start : other.end])
            end += other.length
            index += 1
        volume.file.write(pieces, view.offset)
        return index

    def _zero_some(self, zeroing: _Zeroing) -> bool:
        view = zeroing.view
        length = min(self._zero_step_bytes, view.offset + view.length - zeroing.at)
        volume = self._volumes.of_record(view.volume, view.offset, view.length, view.lsn)
        try:
            self.preserve([(view.volume, zeroing.at, length)])
            volume.zero(zeroing.at, length)
        except OSError as error:
            return self._stalled(view.lsn, "zero", error)
        zeroing.at += length
        self.stall = None
        if zeroing.at == view.offset + view.length:
            self._zeroing = None
            self.applied_records += 1
            self._advance(zeroing.point, view.time_ns)
        return True

    # -- regions of a sync -------------------------------------------------------------------

    def _apply_regions(self, regions: Sequence[Region]) -> bool:
        """Apply some of the first batch's regions, as many as make a bounded step (D12)."""
        lsn = self.applied.position.lsn
        some, last, at = self._some_of(regions)
        try:
            self.preserve([(region.volume, region.offset, region.length) for region in some])
            for region in some:
                volume = self._volumes.of_record(region.volume, region.offset, region.length, lsn)
                if region.data is None:
                    volume.zero(region.offset, region.length)
                else:
                    volume.write(region.offset, region.data)
                    self._volumes.writeback.note([(region.volume, region.offset >> AREA_BITS)])
        except OSError as error:
            return self._stalled(lsn, "sync", error)
        self.stall = None
        self._regions_done, self._region_at = last, at
        if last == len(regions):
            self.forget_regions()
            self._regions.done()
        return True

    def _some_of(self, regions: Sequence[Region]) -> tuple[list[Region], int, int]:
        """Return the next regions, a large zero cut, and how many are done then, and how far."""
        index, at, room = self._regions_done, self._region_at, self._zero_step_bytes
        some: list[Region] = []
        while index < len(regions) and room > 0:
            region = regions[index]
            if region.data is None and (at or region.length > room):
                length = min(room, region.length - at)
                region = replace(region, offset=region.offset + at, length=length)
                at += length
            some.append(region)
            room -= region.length
            if not at or at == regions[index].length:
                index, at = index + 1, 0
        return some, index, at

    def restart(self, reader: LogReader, start: LogPoint) -> None:
        """Go on from another place: the log was reset for a sync."""
        assert self.stopped is None, "a frozen replica is never overwritten (D25)"
        self._reader.close()
        self._reader = reader
        self.applied = start
        self.stall = self._zeroing = None
        self.is_torn = self._narrow = False
        self._regions_done = self._region_at = 0

    def forget_regions(self) -> None:
        """The batch applied in part will not come to its end: another stream begins."""
        self._regions_done = self._region_at = 0

    def close(self) -> None:
        """Let the log's files go."""
        self._reader.close()

    # -- shared ------------------------------------------------------------------------------

    def preserve(self, changes: Sequence[tuple[int, int, int]]) -> None:
        """Preserve and sync what lies under changes (volume id, offset, length) to come.

        Raises:
            OSError: no room, or the storage failed; may be tried again.
            StorageFailed: the sync failed, which is final (D3).
        """
        feed = self._catalogue.feed(self.applied.offset)
        if feed is not None:
            feed.preserve(changes)
            feed.sync()

    def _advance(self, point: LogPoint, time_ns: int) -> None:
        assert point.position.lsn > self.applied.position.lsn, "applied only grows"
        self.applied = point
        self.applied_time_ns = time_ns

    def _stalled(self, lsn: int, doing: str, error: OSError) -> bool:
        self.stall = Stall(lsn, doing, error.errno or 0)
        return False
