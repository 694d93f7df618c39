"""The oracle on real services: one whole cycle of message, freeze, snapshot and check."""

from dataclasses import dataclass

from slackwater.v1 import resources_pb2
from tests.support.oracle import ImageError, Journal, Verdict, check
from tests.support.oracle_load import Load
from tests.support.processes import DATA, MIB, NAMES, WAL, Cluster, wait_until

SIZES = {DATA: 8 * MIB, WAL: 2 * MIB}


@dataclass(frozen=True, slots=True)
class Point:
    """A message and the ticks around its send."""

    message: resources_pb2.Message
    before: int
    after: int


def start_load(cluster: Cluster, journal: Journal, **settings: int | float) -> Load:
    """Writers on both volumes of the cluster."""
    return Load(journal, cluster.device, SIZES, **settings)  # type: ignore[arg-type]


def send(cluster: Cluster, journal: Journal, *, fence: bool = True) -> Point:
    """Send a message, noting which writes are surely before and surely after it."""
    before = journal.tick()
    message = cluster.send(fence=fence)
    return Point(message, before, journal.tick())


def check_point(journal: Journal, point: Point, images: dict[int, bytes]) -> Verdict:
    """The images are exactly the message's point."""
    return check(
        journal,
        images,
        everything_answered_before=point.before,
        nothing_issued_after=point.after,
    )


def freeze_at(cluster: Cluster, journal: Journal, *, fence: bool = True) -> Point:
    """Send and receive: afterwards the replica stands at the point."""
    point = send(cluster, journal, fence=fence)
    delivered = cluster.receive()
    assert delivered is not None, "no message came"
    assert delivered.name == point.message.name
    assert delivered.position == point.message.position
    return point


def live_images(cluster: Cluster, role: str = "secondary") -> dict[int, bytes]:
    """Both volumes as one side holds them."""
    return {volume: cluster.read_volume(name, role) for volume, name in NAMES.items()}


def snapshot_images(cluster: Cluster, snapshot: str) -> dict[int, bytes]:
    """Both volumes of an exported snapshot."""
    return {volume: cluster.read_snapshot(snapshot, name) for volume, name in NAMES.items()}


def is_this_point(journal: Journal, point: Point, images: dict[int, bytes]) -> bool:
    """The same check as a question, for copies of which it must not be so."""
    try:
        check_point(journal, point, images)
    except ImageError:
        return False
    return True


def wait_backlog(cluster: Cluster, wanted_bytes: int) -> None:
    """Wait until the frozen Secondary has received that much more."""
    wait_until(
        f"{wanted_bytes} bytes received while frozen",
        lambda: cluster.replica().freeze.backlog_bytes >= wanted_bytes,
    )
