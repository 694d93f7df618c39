"""What control records ask of a replica; each is safe to meet again in replay."""

from collections.abc import Callable, Mapping
from typing import Final

from google.protobuf.json_format import MessageToDict

from slackwater import errors, record
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.volumes import VolumeSet
from slackwater.group.rows import SnapshotRow
from slackwater.position import LogPoint
from slackwater.record import RecordView
from slackwater.snapshots.catalogue import Catalogue
from slackwater.v1 import common_pb2, record_pb2

GRADES: Final[Mapping[int, str]] = {
    common_pb2.SNAPSHOT_GRADE_FILESYSTEM: "filesystem",
    common_pb2.SNAPSHOT_GRADE_APPLICATION: "application",
}
Preserve = Callable[[list[tuple[int, int, int]]], None]
ReachMessage = Callable[[record_pb2.IbcMessage, LogPoint, int], bool]


class Controls:
    """Carries out control records; called by the applier."""

    def __init__(
        self,
        database: ReplicaDatabase,
        volumes: VolumeSet,
        catalogue: Catalogue,
        preserve: Preserve,
        reach_message: ReachMessage,
    ) -> None:
        """Keep the parts."""
        self._database = database
        self._volumes = volumes
        self._catalogue = catalogue
        self._preserve = preserve
        self._reach_message = reach_message
        self.on_judged: Callable[[SnapshotRow], None] = _nobody_asked

    def reach(self, data: memoryview, view: RecordView, point: LogPoint) -> bool:
        """Do what the record asks; False: applying stops here.

        Raises:
            OSError: no room, or the storage refused; reach it again (D4).
            StorageFailed: a sync or commit failed, which is final (D3).
            DataCorrupt: the record makes no sense here.
        """
        body = record.body(data, view)
        match body:
            case record_pb2.IbcMessage():
                return self._reach_message(body, point, view.time_ns)
            case record_pb2.VolumeChange():
                self._change_volume(body, view.lsn)
            case record_pb2.Outcome():
                self._judge(body, view.lsn)
            case record_pb2.EpochChange():
                self._database.set_epoch(view.epoch, point.position, view.time_ns)
            case record_pb2.Start():
                self._database.put_start(point.position)  # the log will not keep it (D16)
            case _:
                raise AssertionError(f"kind {view.kind} is known and has no meaning here")
        return True

    def _change_volume(self, change: record_pb2.VolumeChange, lsn: int) -> None:
        kinds = record_pb2.VolumeChange
        if change.kind == kinds.KIND_ADD:
            self._volumes.add(change.volume, change.name, change.size_bytes, lsn)
        elif change.kind == kinds.KIND_GROW:
            size = self._volumes.size_of(change.volume, lsn)
            if change.size_bytes > size:
                # Past the end lies something only after a sync cut the volume; snapshots see it.
                self._preserve([(change.volume, size, change.size_bytes - size)])
                self._volumes.grow(change.volume, change.size_bytes)
        elif change.kind == kinds.KIND_REMOVE:
            self._volumes.remove(change.volume, lsn)
        else:
            raise errors.DataCorrupt(f"record {lsn}", f"volume change of kind {change.kind}")

    def _judge(self, outcome: record_pb2.Outcome, lsn: int) -> None:
        is_confirmed = outcome.state == record_pb2.Outcome.STATE_CONFIRMED
        evidence = {
            "outcome": "CONFIRMED" if is_confirmed else "REVOKED",
            "evidence": outcome.evidence,
            "window_seconds": outcome.window_seconds,
            "judgement": MessageToDict(outcome, preserving_proto_field_name=True),
        }
        self._database.put_outcome(
            outcome.message_id, lsn, str(evidence["outcome"]), dict(evidence)
        )
        grade = GRADES.get(outcome.grade, "crash") if is_confirmed else "crash"
        for row in self._catalogue.judge(outcome.message_id, grade, evidence):
            self.on_judged(row)


def _nobody_asked(row: SnapshotRow) -> None:
    """Tell nobody about a snapshot that was judged."""
    del row
