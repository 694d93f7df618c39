"""SIGKILL of every process at random moments under load: nothing answered lost, no order broken."""

import os
import random
import signal
import time

import pytest

from tests.support.oracle import Journal, check
from tests.support.oracle_cycle import (
    SIZES,
    check_point,
    freeze_at,
    live_images,
    snapshot_images,
    start_load,
)
from tests.support.processes import DATA, WAL, Cluster, wait_until

pytestmark = pytest.mark.timeout(240)

SECONDS = 45.0
VICTIMS = ("primary", "secondary", "sender", "snapshot")


def strike(cluster: Cluster, victim: str) -> None:
    """SIGKILL one process and, if nothing else starts it again, start it."""
    if victim == "sender":
        senders = cluster.primary.children("sender")
        assert senders, "the primary runs no sender process"
        for sender in senders:
            os.kill(sender, signal.SIGKILL)
        return
    service = {service.role: service for service in cluster.services}[victim]
    service.restart(kill=True)


def test_kills_at_random_moments_lose_nothing_answered_and_keep_the_order(
    cluster: Cluster,
) -> None:
    seed = int(os.environ.get("SLACKWATER_TEST_SEED", random.randrange(1 << 32)))
    print(f"SLACKWATER_TEST_SEED={seed}")
    choice = random.Random(seed)
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    rounds = 0
    begun = time.monotonic()
    while rounds < len(VICTIMS) or time.monotonic() - begun < SECONDS:
        victim = VICTIMS[rounds % len(VICTIMS)]
        load = start_load(cluster, journal, seed=seed + rounds, pause_seconds=0.001)
        with load:
            load.wait_for(choice.randrange(20, 400))
            strike(cluster, victim)
            load.wait_for(100)
        # Answered survives: the Primary's volumes hold all of it, in an order that fits.
        check(journal, live_images(cluster, "primary"), everything_answered_before=journal.tick())
        point = freeze_at(cluster, journal)
        check_point(journal, point, live_images(cluster))
        name = f"round-{rounds}"
        cluster.take_snapshot(name, at_message=point.message.name)
        cluster.unfreeze(point.message.name)
        check_point(journal, point, snapshot_images(cluster, name))
        rounds += 1
    cluster.wait_no_lag()
    assert live_images(cluster) == live_images(cluster, "primary")


@pytest.mark.parametrize("victim", ["primary", "secondary", "sender"])
def test_kill_between_send_and_unfreeze_keeps_the_point(cluster: Cluster, victim: str) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(200)
        point = freeze_at(cluster, journal)
        load.wait_for(50)
        strike(cluster, victim)
        load.wait_for(50)
        wait_until("the Secondary answers", lambda: bool(cluster.replica().freeze.message))
        check_point(journal, point, live_images(cluster))
        cluster.take_snapshot("kept", at_message=point.message.name)
        cluster.unfreeze(point.message.name)
        load.wait_for(100)
    cluster.wait_no_lag()
    check_point(journal, point, snapshot_images(cluster, "kept"))
    assert live_images(cluster) == live_images(cluster, "primary")


def test_both_sites_killed_at_once_come_back_to_one_history(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    for turn in range(3):
        with start_load(cluster, journal, seed=turn + 1) as load:
            load.wait_for(150)
            cluster.secondary.kill()
            cluster.primary.kill()
            cluster.primary.start(same_ports=True)
            cluster.secondary.start(same_ports=True)
            load.wait_for(50)
        check(journal, live_images(cluster, "primary"), everything_answered_before=journal.tick())
        cluster.wait_no_lag()
        assert live_images(cluster) == live_images(cluster, "primary")
