"""The life of a deployment: rolling restarts, a downgrade, replicas that nobody feeds any more."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from demo.sites import Service, ServiceError
from slackwater.group.directory import MARKER
from slackwater.v1 import common_pb2
from tests.support.oracle import Journal, check
from tests.support.oracle_cycle import SIZES, live_images, start_load
from tests.support.processes import DATA, MIB, WAL, Cluster, wait_until
from tests.support.typed import Typed

pytestmark = pytest.mark.timeout(240)


def syncs(cluster: Cluster) -> int:
    """Full syncs that the Secondary has begun, ever."""
    return cluster.secondary.log_path.read_text().count('"sync_begun"')


def test_rolling_restart_of_every_service_under_load_loses_nothing_and_copies_nothing(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    before = syncs(cluster)
    journal = Journal()
    for service in (cluster.secondary, cluster.snapshot, cluster.primary):
        with start_load(cluster, journal, pause_seconds=0.001) as load:
            load.wait_for(50)
            assert service.stop() == 0, "it drained within its grace"
            service.start(same_ports=True)
            load.wait_for(50, timeout_seconds=60.0)
        check(journal, live_images(cluster, "primary"), everything_answered_before=journal.tick())
    cluster.wait_streaming()
    assert live_images(cluster) == live_images(cluster, "primary")
    assert syncs(cluster) == before
    taken = Typed(cluster).json("snapshot", "create", "demo", "after", "--wait")
    assert taken, "all three work together again"


@contextmanager
def of_a_newer_release(path: Path) -> Iterator[int]:
    """Raise the format that a data directory or a database says it has, for the body."""
    if path.name == MARKER:
        old = path.read_bytes()
        content = json.loads(old)
        path.write_text(json.dumps({**content, "format": content["format"] + 7}))
        yield content["format"] + 7
        assert json.loads(path.read_text())["format"] == content["format"] + 7, "it was left alone"
        path.write_bytes(old)
        return
    with closing(sqlite3.connect(path)) as database:
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        database.execute(f"PRAGMA user_version = {version + 7}")
    yield version + 7
    with closing(sqlite3.connect(path)) as database:
        assert int(database.execute("PRAGMA user_version").fetchone()[0]) == version + 7
        database.execute(f"PRAGMA user_version = {version}")


HELP = "at least as new as the one that wrote it"


@pytest.mark.parametrize("role", ["primary", "secondary", "snapshot"])
def test_service_refuses_the_data_directory_of_a_newer_release_and_says_what_to_start(
    cluster: Cluster, role: str
) -> None:
    service: Service = getattr(cluster, role)
    service.start()
    service.stop()
    with of_a_newer_release(service.data_dir / MARKER) as version:
        with pytest.raises(ServiceError) as refused:
            service.start()
        said = str(refused.value)
        assert str(service.data_dir) in said and f"format {version}" in said and HELP in said
    service.start()


def test_group_of_a_newer_release_is_left_alone_and_the_others_are_served(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=MIB)
    typed = Typed(cluster)
    typed("group", "create", "other")
    for service, words in ((cluster.primary, "group"), (cluster.secondary, "replica")):
        service.stop()
        with of_a_newer_release(service.data_dir / "groups" / "demo" / "group.db") as version:
            service.start(same_ports=True)
            typed("group", "get", "other")
            assert service.health("groups/demo") == "NOT_SERVING"
            said = typed(words, "get", "demo")
            assert "FAILED" in said and f"format {version}" in said and HELP in said
            service.stop()
        service.start(same_ports=True)
    typed("link", "update", "demo/site-b", "--retry")  # the replica's failure ended it
    wait_until("the link streams", lambda: cluster.link().state == common_pb2.LINK_STATE_STREAMING)


def test_replica_of_a_deleted_group_is_listed_as_an_orphan_and_can_be_deleted(
    cluster: Cluster,
) -> None:
    cluster.replicate(data=MIB)
    typed = Typed(cluster)
    uid = uuid.UUID(cluster.replica().group_uid)
    typed("replica", "list", "--orphans")
    assert "no orphans" in typed.error
    typed("link", "delete", "demo/site-b", "--yes")
    typed("group", "delete", "demo", "--yes")

    def orphans() -> list[str]:
        return [row["groupUid"] for row in typed.json("replica", "list", "--orphans")["replicas"]]

    wait_until("the replica is an orphan", lambda: orphans() == [str(uid)])
    # Another group of that name does not get what the first one left.
    typed("group", "create", "demo")
    typed("link", "create", "demo/site-b", "--endpoint", cluster.secondary.endpoints.grpc)
    wait_until(
        "the new group is refused", lambda: cluster.link().state == common_pb2.LINK_STATE_FAILED
    )
    assert "slackwater replica delete demo" in cluster.link().state_reason
    assert orphans() == [str(uid)]
    assert "nothing was changed" in typed("replica", "delete", "demo", "--dry-run")
    typed("replica", "delete", "demo", "--yes")
    assert orphans() == []
    typed("link", "update", "demo/site-b", "--retry")
    cluster.wait_streaming()
