"""Whole groups on a virtual clock, network and disk: nothing answered, acked or shown is ever undone.

``SLACKWATER_SIM_SEED=N`` runs that seed alone; ``python -m tests.simulation.run FIRST COUNT`` runs
many.
"""

import os
import random

import pytest

from tests.simulation.run import simulate

_ASKED = os.environ.get("SLACKWATER_SIM_SEED", "")
FIXED = range(0, 60)
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
