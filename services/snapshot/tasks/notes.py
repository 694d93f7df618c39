"""What the parts of one run share: whom they call, and what they note where."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.snapshot.peers import Peers, Secondaries
from services.snapshot.steps import Steps
from services.snapshot.store import Kind, Remainder, RunRecord
from services.snapshot.tasks import command
from services.snapshot.tasks.lease import Spawn
from slackwater.position import Position
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import snapshot_pb2

OUTPUTS_LIMIT_BYTES = 2 << 20
"""All outputs of a run together: a run has to fit into one answer."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every run of a task works with.

    Attributes:
        peers: The Primary, and the configured Secondary.
        secondaries: The Secondaries of links.
        spawn: Runs something for as long as the service does.
        tasks_dir: Where each task has its directory.
        work_dir: For temporary copies; emptied at start.
        who: Whom programs run as.
        certificates: The service's own, for NBD; None: plaintext.
    """

    peers: Peers
    secondaries: Secondaries
    spawn: Spawn
    tasks_dir: Path
    work_dir: Path
    who: command.Identity
    certificates: CertificateStore | None


class Notes:
    """One run as its parts see it: its document, its steps, and what it may have left."""

    def __init__(self, record: RunRecord, around: Surroundings, save: Callable[[], None]) -> None:
        """Work on `record`; `save` makes what it says durable and shows it."""
        self.record = record
        self.run = record.run
        self.around = around
        self.save = save
        self.steps = Steps(record.run, save)

    @property
    def task(self) -> snapshot_pb2.Task:
        """The task as it was when the run began."""
        assert self.record.definition is not None, "a run that works has its task"
        return self.record.definition

    @property
    def holder(self) -> str:
        """How this run names itself to Secondaries."""
        return f"task-run-{self.record.id}"

    @property
    def snapshot_id(self) -> str:
        """The id of the run's snapshot on every Secondary."""
        moment = self.run.create_time.ToDatetime().strftime("%Y%m%d-%H%M%S")
        return f"{self.task.snapshot_prefix}-{moment}-{self.record.id[-4:]}"

    @property
    def output_limit_bytes(self) -> int:
        """What is kept of one program's output."""
        phases = (self.task.prefreeze, self.task.onfreeze, self.task.postfreeze)
        programs = sum(not step.HasField("snapshot") for steps in phases for step in steps)
        share = OUTPUTS_LIMIT_BYTES // max(1, programs * len(self.run.replicas))
        return min(command.OUTPUT_LIMIT_BYTES, share)

    def leave(self, remainder: Remainder) -> None:
        """Note durably, before it is so, that something will have to be ended."""
        if remainder not in self.record.remains:
            self.record.remains.append(remainder)
            self.save()

    def forget(self, *remainders: Remainder) -> None:
        """Note that something was ended."""
        kept = [row for row in self.record.remains if row not in remainders]
        if kept != self.record.remains:
            self.record.remains = kept
            self.save()

    def remains(self, kind: Kind) -> list[Remainder]:
        """Return what there is of one kind."""
        return [row for row in self.record.remains if row.kind is kind]


def position_text(run: snapshot_pb2.Run) -> str:
    """Return the position of a run's message as text, or ""."""
    if not run.HasField("position"):
        return ""
    found = run.position
    return str(Position(found.epoch, found.lsn, found.chain_crc32c))
