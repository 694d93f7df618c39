"""A clone under a writer when its Secondary is killed: all that was flushed, and exported again."""

import threading

import pytest

from slackwater.nbd.client import Client
from slackwater.v1 import snapshot_pb2
from tests.support.processes import CALL_SECONDS, GROUP, MIB, Cluster, connect, wait_until

pytestmark = pytest.mark.timeout(180)

BLOCK = 4096
BLOCKS = MIB // BLOCK
VOLUME = f"{GROUP}/clones/c1/volumes/data"


class Writer(threading.Thread):
    """Writes numbered blocks one after another, round and round, and flushes after each."""

    def __init__(self, client: Client) -> None:
        """Write through `client` until it breaks."""
        super().__init__()
        self._client = client
        self.flushed = 0

    def run(self) -> None:
        """Write until the server is gone."""
        try:
            while True:
                number = self.flushed + 1
                self._client.write(number % BLOCKS * BLOCK, number.to_bytes(BLOCK, "big"))
                self._client.flush()
                self.flushed = number
        except OSError:
            return


def test_clone_killed_under_a_writer_is_exported_again_with_all_that_was_flushed(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=MIB)
    cluster.take_snapshot("s1")
    api = cluster.snapshot_api
    create = snapshot_pb2.SnapshotServiceCreateCloneRequest(
        snapshot=f"{GROUP}/snapshots/s1", clone_id="c1"
    )
    api.CreateClone(create, timeout=CALL_SECONDS)
    export = snapshot_pb2.SnapshotServiceExportCloneRequest(name=f"{GROUP}/clones/c1")
    api.ExportClone(export, timeout=CALL_SECONDS)
    with connect(cluster, "secondary", VOLUME) as client:
        writer = Writer(client)
        writer.start()
        wait_until("it writes", lambda: writer.flushed > 100)
        again = snapshot_pb2.SnapshotServiceCreateCloneRequest(
            parent=f"{GROUP}/clones/c1", clone_id="c2"
        )
        before = writer.flushed
        api.CreateClone(again, timeout=CALL_SECONDS)
        wait_until("it writes on", lambda: writer.flushed > before + 100)
        cluster.secondary.kill()
        writer.join()
    cluster.secondary.start(same_ports=True)
    with connect(cluster, "secondary", VOLUME) as client:
        last = max(number_at(client, block) for block in range(BLOCKS))
        assert last in (writer.flushed, writer.flushed + 1)
        for number in range(max(1, last - BLOCKS + 2), last + 1):
            assert number_at(client, number % BLOCKS) == number
        client.write(0, b"n" * BLOCK)
        client.flush()
    export.name = f"{GROUP}/clones/c2"
    api.ExportClone(export, timeout=CALL_SECONDS)
    with connect(cluster, "secondary", f"{GROUP}/clones/c2/volumes/data") as client:
        point = max(number_at(client, block) for block in range(BLOCKS))
        assert before <= point < last
        for number in range(max(1, point - BLOCKS + 2), point + 1):
            assert number_at(client, number % BLOCKS) == number


def number_at(client: Client, block: int) -> int:
    return int.from_bytes(client.read(block * BLOCK, BLOCK), "big")
