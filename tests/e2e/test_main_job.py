"""The product's main job, in small, with real processes and the prefix oracle."""

import pytest

from slackwater.v1 import common_pb2, primary_pb2, resources_pb2
from tests.support.oracle import Journal
from tests.support.oracle_cycle import (
    SIZES,
    check_point,
    freeze_at,
    is_this_point,
    live_images,
    snapshot_images,
    start_load,
    wait_backlog,
)
from tests.support.processes import DATA, MIB, WAL, Cluster, wait_until

pytestmark = pytest.mark.timeout(180)


def test_snapshot_at_a_message_is_exactly_its_point_while_writers_go_on(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    for service in cluster.services:
        assert service.health("liveness") == "SERVING"
    wait_until(
        "its health is known", lambda: cluster.primary.health("groups/demo") == "SERVING", 10
    )
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(400)
        point = freeze_at(cluster, journal)
        assert cluster.replica().state == common_pb2.REPLICA_STATE_FROZEN
        check_point(journal, point, live_images(cluster))
        load.wait_for(200)
        wait_backlog(cluster, MIB)  # C8: receiving goes on
        assert cluster.replica().applied == point.message.position
        check_point(journal, point, live_images(cluster))
        taken = cluster.take_snapshot("first", at_message=point.message.name)
        assert taken.position == point.message.position
        assert taken.message == point.message.name
        cluster.unfreeze(point.message.name)
        load.wait_for(400)
        check_point(journal, point, snapshot_images(cluster, "first"))
    cluster.wait_no_lag()
    check_point(journal, point, snapshot_images(cluster, "first"))
    assert not is_this_point(journal, point, live_images(cluster))
    assert live_images(cluster) == live_images(cluster, "primary")
    assert cluster.stop() == {"snapshot": 0, "secondary": 0, "primary": 0}


def test_message_without_a_fence_keeps_the_bounds_of_c1(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal, connections=4) as load:
        for _ in range(3):
            load.wait_for(200)
            point = freeze_at(cluster, journal, fence=False)
            check_point(journal, point, live_images(cluster))
            cluster.unfreeze(point.message.name)


def test_older_snapshots_stay_what_they_were_under_newer_ones(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    points = {}
    with start_load(cluster, journal) as load:
        for name in ("one", "two", "three"):
            load.wait_for(200)
            points[name] = freeze_at(cluster, journal)
            cluster.take_snapshot(name, at_message=points[name].message.name)
            cluster.unfreeze(points[name].message.name)
        load.wait_for(200)
    cluster.wait_no_lag()
    for name, point in points.items():
        check_point(journal, point, snapshot_images(cluster, name))


def test_sender_learns_that_its_message_was_unfrozen(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    point = freeze_at(cluster, Journal())
    cluster.unfreeze(point.message.name)

    def verdict() -> resources_pb2.Verdict:
        request = primary_pb2.GetMessageRequest(name=point.message.name)
        return cluster.primary_api.GetMessage(request, timeout=10).message.verdicts[0]

    wait_until("the verdict is final", lambda: verdict().final)
    assert verdict().state == common_pb2.VERDICT_STATE_UNFROZEN
    assert verdict().detail.by == "test"


def test_frozen_survives_a_restart_of_the_secondary(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(200)
        point = freeze_at(cluster, journal)
        load.wait_for(100)
        for kill in (True, False):  # C15
            cluster.secondary.restart(kill=kill)
            wait_until(
                "it is frozen again",
                lambda: cluster.replica().state == common_pb2.REPLICA_STATE_FROZEN,
            )
            check_point(journal, point, live_images(cluster))
        cluster.unfreeze(point.message.name)
    cluster.wait_no_lag()
    assert live_images(cluster) == live_images(cluster, "primary")
