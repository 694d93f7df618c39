"""A full sync without stopping writers, as the Primary drives it (D25).

Regions of the live volumes go into the stream between records, at a place where the volumes hold
every record already sent; so the Secondary lays them down in stream order, and no log has to be
kept from where the sync began. While a read of regions is under way no record is sent: it would
be overwritten by the older bytes of the region.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slackwater.link import actions as act
from slackwater.link.actions import Cursor, Region, VolumeInfo
from slackwater.link.settings import Stream, volume_infos
from slackwater.link.window import SyncWindow
from slackwater.link.wire import to_wire
from slackwater.position import LogPoint, Position
from slackwater.v1 import common_pb2, replication_pb2

if TYPE_CHECKING:
    from slackwater.link.sender import LinkSender

Request = replication_pb2.ReplicateRequest


class SyncSender:
    """The sync of one link: whether one is needed, and how far it is.

    Attributes:
        sync_id: The sync this link is in the middle of, as group.db has it; empty if none.
        window: The sync running in this stream, or None.
    """

    def __init__(self, link: "LinkSender", sync_id: bytes) -> None:
        """Take up the sync that group.db names, if any."""
        self.sync_id = sync_id
        self.window: SyncWindow | None = None
        self._link = link
        self._confirmed = False
        self._regions_turn = True
        self._wanted = ""
        self._resumable: replication_pb2.RunningSync | None = None
        self._reading: act.ReadRegions | None = None
        self._pointing: act.FindSyncPoint | None = None
        self._total_bytes = 0
        self._done_bytes = 0

    @property
    def is_running(self) -> bool:
        """Whether this stream carries a sync."""
        return self.window is not None

    @property
    def holds_records(self) -> bool:
        """Whether no record may be sent now."""
        return self._reading is not None or (self.window is not None and not self._confirmed)

    # ---- whether a sync is needed

    def welcomed(self, welcome: replication_pb2.Welcome) -> bool:
        """Look at the Secondary's own sync; tell whether that settles that a new one is needed."""
        if welcome.HasField("running_sync"):
            if self.sync_id and welcome.running_sync.sync_id == self.sync_id:
                self._resumable = welcome.running_sync
                return False
            self.require("the replica is in the middle of another sync")
            return True
        if welcome.replica_state == common_pb2.REPLICA_STATE_INCONSISTENT:
            self.require("the replica is inconsistent")
            return True
        return False

    def position_held(self) -> None:
        """The log holds what the Secondary needs: go on with its sync, or without one."""
        running, self._resumable = self._resumable, None
        if self.window is not None:
            return  # Records are sent again; the regions stand.
        if running is not None:
            cursor = Cursor(running.cursor.volume, running.cursor.offset)
            self.window = SyncWindow(self.sync_id, cursor, self._total_bytes)
            self.window.done_bytes = self._done_bytes
            self.window.all_read = self.window.done_sent = running.done
            self._confirmed = True
            self._link.become_syncing("the sync goes on where it was")
            if self._link.dirty:
                self._link.dirty = False  # the log is held for it again, from here on
                self._link.store()
        elif self.sync_id or self._link.dirty:
            self._settled()

    def require(self, reason: str) -> None:
        """A sync is needed; it waits while the replica stands at a message."""
        self._wanted = reason
        self._resumable = None
        if self._link.replica_state == common_pb2.REPLICA_STATE_FROZEN:
            self._link.become_dirty(f"{reason}; the sync waits for the replica's thaw")
        else:
            self._pointing = act.FindSyncPoint()
            self._link.emit(self._pointing)

    def replica_state_changed(self) -> None:
        """The replica may have thawed."""
        waits = self._wanted and self._pointing is None and self.window is None
        if waits and self._link.replica_state != common_pb2.REPLICA_STATE_FROZEN:
            self.require(self._wanted)

    def refused_frozen(self) -> None:
        """The replica froze before SyncStart came."""
        if self.window is None or self._confirmed:
            return
        self.window = None
        self.sync_id = b""
        self._link.connection.stream = Stream.PLACING
        self._link.records.stream_closed()
        self._link.replica_state = common_pb2.REPLICA_STATE_FROZEN
        self.require(self._wanted)

    def point_found(
        self,
        request: act.FindSyncPoint,
        point: LogPoint,
        volumes: Sequence[VolumeInfo],
        total_bytes: int,
        last_start: Position | None = None,
    ) -> None:
        """Start the sync.

        Args:
            request: The action answered.
            point: A place at or below in_volumes that the log holds (D2).
            volumes: The group's volumes.
            total_bytes: Bytes the regions will cover, for progress.
            last_start: Our newest `Start` record at or below it; None if not remembered.
        """
        if request is not self._pointing:
            return
        self._pointing = None
        link = self._link
        self.sync_id = link.new_id()
        self.window = SyncWindow(self.sync_id, Cursor(), total_bytes)
        self._total_bytes, self._done_bytes = total_bytes, 0
        self._confirmed = False
        link.dirty = False
        link.become_syncing(self._wanted)
        link.store(sync_point=point)
        start = replication_pb2.SyncStart(
            sync_id=self.sync_id,
            position=to_wire(point.position),
            volumes=volume_infos(volumes),
            total_bytes=total_bytes,
            discard_secondary=link.discard_secondary,
            last_start=None if last_start is None else to_wire(last_start),
        )
        link.emit(act.SendMessage(Request(sync_start=start)))
        link.start_sending(point)

    # ---- regions

    def take_turn(self, records_wait: bool) -> bool:
        """Ask for regions if it is their turn; tell whether records have to wait for them."""
        window = self.window
        settings = self._link.settings
        assert window is not None, "only a running sync takes turns"
        if self._reading is not None:
            return True
        room = settings.region_window_bytes - window.in_flight_bytes
        if window.all_read or room < settings.region_bytes:
            return False
        if records_wait and not self._regions_turn:
            return False
        sent = self._link.records.sent
        if self._link.records.in_volumes_offset >= sent.offset:
            self._reading = act.ReadRegions(window.cursor, settings.region_bytes)
            self._link.emit(self._reading)
        # Else the volumes follow within one commit, and records sent meanwhile would only move
        # the place they have to reach.
        return True

    def records_sent(self) -> None:
        """Records had their turn."""
        self._regions_turn = True

    def regions_read(
        self,
        request: act.ReadRegions,
        regions: Sequence[Region],
        cursor: Cursor,
        covered_bytes: int,
        done: bool,
        durable_lsn: int,
    ) -> None:
        """Send regions.

        Args:
            request: The action answered.
            regions: In ascending order, at most `request.max_bytes` of data.
            cursor: The place up to which everything is covered now.
            covered_bytes: Bytes between the two cursors, for progress.
            done: Nothing is left after `cursor`.
            durable_lsn: The log's durable lsn, read after the last region was.
        """
        if request is not self._reading or self.window is None:
            return
        self._reading = None
        self._regions_turn = False
        window = self.window
        data_bytes = sum(region.length for region in regions if region.data is not None)
        assert data_bytes <= request.max_bytes, "region data is bounded by the request"
        if regions or not done:
            message = replication_pb2.SyncRegions(
                sync_id=self.sync_id,
                sequence=window.push(cursor, data_bytes, covered_bytes),
                cursor=replication_pb2.SyncCursor(volume=cursor.volume, offset=cursor.offset),
            )
            for region in regions:
                message.regions.append(_to_wire(region))
            self._link.emit(act.SendMessage(Request(sync_regions=message)))
        if done:
            # Regions may hold bytes of records up to here that the Secondary does not have yet.
            window.all_read = window.done_sent = True
            window.consistent_lsn = durable_lsn
            end = replication_pb2.SyncDone(
                sync_id=self.sync_id,
                consistent_lsn=durable_lsn,
                last_sequence=window.sequence,
            )
            self._link.emit(act.SendMessage(Request(sync_done=end)))
        self._link.records.pump()

    def take_ack(self, ack: replication_pb2.Ack) -> bool:
        """Take an ack's part about the sync; tell whether the rest of it counts."""
        window = self.window
        if window is None:
            return True
        if not self._confirmed:
            # Until the Secondary has carried SyncStart out, its acks speak of its old log.
            self._confirmed = ack.sync_id == self.sync_id
            return self._confirmed
        window.ack(ack.region_sequence)
        self._done_bytes = window.done_bytes
        if ack.sync_id:
            return True
        if not window.done_sent:
            self._link.break_off("the Secondary gave the sync up")
            return False
        self.window = None
        self._settled()
        self._link.become_catching_up()
        return True

    def stream_closed(self) -> None:
        """Forget what belongs to the stream; the sync itself may go on in the next."""
        self.window = None
        self._reading = self._pointing = self._resumable = None
        self._confirmed = False
        self._wanted = ""

    def _settled(self) -> None:
        """No sync is needed any more; make that durable."""
        self.sync_id = b""
        self._wanted = ""
        self._total_bytes = self._done_bytes = 0
        self._link.dirty = self._link.discard_secondary = False
        self._link.store()


def _to_wire(region: Region) -> replication_pb2.Region:
    """Return a region as the link spells it."""
    message = replication_pb2.Region(
        volume=region.volume, offset=region.offset, length=region.length
    )
    if region.data is None:
        message.zero = True
    else:
        assert len(region.data) == region.length, "a region's length is that of its data"
        message.data = bytes(region.data)
    return message
