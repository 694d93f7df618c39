"""Where a stream begins: greeting, and the place from which records are sent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slackwater.link import actions as act
from slackwater.link.actions import VolumeInfo
from slackwater.link.settings import PROTOCOL_VERSION, Stream, volume_infos
from slackwater.link.wire import from_wire, to_wire
from slackwater.position import LogPoint, Position
from slackwater.v1 import common_pb2, replication_pb2

if TYPE_CHECKING:
    from slackwater.link.sender import LinkSender

Request = replication_pb2.ReplicateRequest


class Placing:
    """Hello, Welcome, and the search for a place that both histories share."""

    def __init__(self, link: "LinkSender") -> None:
        """Start without a stream."""
        self._link = link
        self._finding: act.FindPosition | None = None
        self._welcome: replication_pb2.Welcome | None = None

    def greet(self, volumes: Sequence[VolumeInfo]) -> None:
        """Send Hello."""
        link = self._link
        assert link.durable_position is not None, "connected names the durable end"
        hello = replication_pb2.Hello(
            group_uid=link.identity.group_uid,
            group=link.identity.group,
            link=link.identity.link,
            epoch=link.identity.epoch,
            durable=to_wire(link.durable_position),
            acked=to_wire(link.acked_position) if link.acked_position else None,
            volumes=volume_infos(volumes),
            kinds=sorted(link.identity.kinds),
            log_bytes=link.identity.log_bytes,
            sync_id=link.sync.sync_id,
            discard_secondary=link.discard_secondary,
            protocol_version=PROTOCOL_VERSION,
        )
        link.emit(act.SendMessage(Request(hello=hello)))

    def stream_closed(self) -> None:
        """Forget what was looked up."""
        self._finding = self._welcome = None

    def welcomed(self, welcome: replication_pb2.Welcome) -> None:
        """Compare the Secondary's place with ours."""
        durable = from_wire(welcome.durable)
        self._link.connection.welcomed()
        self._link.applied_lsn = welcome.applied_lsn
        self._link.secondary_log_capacity_bytes = welcome.log_capacity_bytes
        self._link.replica_state = welcome.replica_state
        unknown = sorted(self._link.identity.kinds - set(welcome.kinds))
        if unknown:
            self._link.fail(f"UNKNOWN_RECORD: the Secondary does not know record kinds {unknown}")
        elif welcome.replica_state == common_pb2.REPLICA_STATE_FAILED:
            self._link.fail("the replica has failed")
        elif durable.epoch > self._link.identity.epoch:
            self._link.fail(f"FENCED: the Secondary has epoch {durable.epoch}")
        elif self._is_ahead(durable):
            self._link.diverge(durable)
        else:
            self._welcome = welcome
            self.find(durable)

    def _is_ahead(self, durable: Position) -> bool:
        """Whether the Secondary holds what we do not, or lost what it acked (D16)."""
        ours, acked = self._link.durable_position, self._link.acked_position
        assert ours is not None, "connected named the durable end"
        if durable.lsn > ours.lsn or (durable.lsn == ours.lsn and durable != ours):
            return True
        return acked is not None and (
            durable.lsn < acked.lsn or (durable.lsn == acked.lsn and durable != acked)
        )

    def find(self, position: Position) -> None:
        """Look up where to go on; nothing is sent until that is known."""
        self._link.connection.stream = Stream.PLACING
        self._finding = act.FindPosition(position)
        self._link.emit(self._finding)

    def position_found(
        self,
        request: act.FindPosition,
        point: LogPoint | None,
        oldest_lsn: int,
        start: Position | None = None,
    ) -> None:
        """Learn where a position lies in the log.

        Args:
            request: The action answered.
            point: Where the log holds exactly this lsn with this chain, or None.
            oldest_lsn: The lowest lsn whose chain the log can tell.
            start: Our newest `Start` record at or below this lsn; None if not remembered.
        """
        if request is not self._finding:
            return
        self._finding = None
        welcome, self._welcome = self._welcome, None
        if welcome is not None and _began_elsewhere(welcome, start):
            self._link.diverge(request.position)
        elif welcome is not None and self._link.sync.welcomed(welcome):
            return  # a new sync is due, whatever the log holds
        elif point is not None:
            self._link.sync.position_held()
            self._link.start_sending(point)
            self._link.records.note_acked()
        elif request.position.lsn >= oldest_lsn:
            self._link.diverge(request.position)
        else:
            self._link.sync.require("the log no longer holds what the Secondary needs")


def _began_elsewhere(welcome: replication_pb2.Welcome, start: Position | None) -> bool:
    """Tell whether the Secondary's newest `Start` is not ours: its history is another (D16).

    The log need not hold either: a Primary rolled back to an older copy of its directory begins
    with a `Start` of its own, and what it went on to write differs from there on.
    """
    if start is None or not welcome.HasField("last_start"):
        return False
    return from_wire(welcome.last_start) != start
