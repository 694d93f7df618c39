"""Whole groups on a virtual clock, network and disk: what was answered, acked or shown stays so.

``SLACKWATER_SIM_SEED=N`` runs that seed alone; ``python -m tests.simulation.run FIRST COUNT`` runs
many.
"""

import os
import random
from dataclasses import replace

import pytest

from tests.simulation.checkers import live
from tests.simulation.plan import NEVER, Plan
from tests.simulation.run import simulate
from tests.simulation.world import World

_ASKED = os.environ.get("SLACKWATER_SIM_SEED", "")
FIXED = (*range(57), 89, 135, 190, 1342)
"""The last ones have found something, or find what the others miss: a log trimmed too early."""
FRESH = [random.SystemRandom().randrange(1 << 32) for _ in range(3)]


@pytest.mark.skipif(bool(_ASKED), reason="one seed was asked for")
@pytest.mark.parametrize("seed", FIXED)
def test_a_group_keeps_its_promises(seed: int) -> None:
    simulate(seed)


@pytest.mark.parametrize("number", range(len(FRESH)))
def test_a_group_keeps_its_promises_with_fresh_dice(number: int) -> None:
    seed = int(_ASKED) if _ASKED else FRESH[number]
    print(f"seed {seed}")
    simulate(seed)


def quiet(seed: int) -> Plan:
    """A run in which nothing goes wrong by itself, with a log that holds all of it."""
    plan = Plan.of(seed)
    return replace(
        plan,
        crash_seconds=NEVER,
        cut_seconds=NEVER,
        partition_seconds=NEVER,
        disk_fault_seconds=NEVER,
        operator_seconds=NEVER,
        message_seconds=NEVER,
        volume_seconds=NEVER,
        writeback=False,
        write_seconds=0.2,
        burst_chance=0.0,
        primary_log=replace(plan.primary_log, log_bytes=4 << 20),
        secondary_log=replace(plan.secondary_log, log_bytes=4 << 20),
    )


@pytest.mark.parametrize(
    ("later_writes", "trims"),
    [(2, False), (120, False), (200, True)],
    ids=["secondary-ahead", "secondary-behind", "secondary-behind-what-the-log-holds"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_rolled_back_primary_diverges_and_overwrites_nothing(
    seed: int, later_writes: int, trims: bool
) -> None:
    plan = quiet(seed)
    if trims:
        plan = replace(plan, primary_log=replace(plan.primary_log, log_bytes=256 << 10))
    world = World(seed, plan)
    with world.running():
        world.begin()
        world.sim.run(4.0)
        assert world.primary is not None
        old, lsn = world.primary_disk.kill(), world.history.lsn
        world.sim.run(4.0)
        assert world.sim.run(20.0, world.is_together)
        replica = world.replica
        assert replica is not None and replica.durable.lsn > lsn
        before, durable = live(replica), replica.durable

        world.roll_back(old, lsn)
        world.is_healing = True  # no client writes but ours
        assert world.sim.run(10.0, lambda: world.primary is not None)
        world.network.is_down = trims
        for _ in range(later_writes):
            world.primary.write(world.sim.rng, 4 if trims else 1)
            if trims:
                world.sim.run(0.01)
        if trims:
            assert world.primary.writer.log.oldest_lsn > durable.lsn
            assert world.primary.link.is_dirty
        world.network.is_down = False
        world.sim.run(20.0)

        assert world.primary.link.status.state == "DIVERGED"
        assert world.replica is replica
        assert replica.durable == durable and live(replica) == before

        world.primary.operate("discard")
        world.promised.durable_lsn = 0
        world.checkers.snapshots.clear()
        assert world.sim.run(60.0, world.is_together), world.describe()
        world.is_rolled_back = False
        world.checkers.positions()
        world.checkers.contents()
