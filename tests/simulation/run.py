"""Run seeds by hand: ``python -m tests.simulation.run FIRST COUNT``; also what the tests run."""

import signal
import sys
import time
import traceback
from collections import Counter

from tests.simulation.world import World


def simulate(seed: int) -> World:
    """Run one seed to its end; what goes wrong is raised with the story of the run."""
    world = World(seed)
    with world.running():
        try:
            world.begin()
            world.sim.run(world.plan.seconds)
            world.heal()
        except BaseException as error:
            raise SimulationFailed(world, error) from error
    return world


class SimulationFailed(AssertionError):
    """A run went wrong; its text says how to see it again."""

    def __init__(self, world: World, cause: BaseException, events: int = 60) -> None:
        sim = world.sim
        lines = [
            f"seed {sim.seed} at {sim.now:.4f} s: {type(cause).__name__}: {cause}",
            "faults injected:",
            *(f"  {line}" for line in sim.faults[-40:]),
            "last events:",
            *(f"  {line}" for line in list(sim.trace)[-events:]),
            f"again: SLACKWATER_SIM_SEED={sim.seed} python -m pytest tests/simulation",
        ]
        super().__init__("\n".join(lines))
        self.cause = cause
        self.world = world


def main() -> None:
    """Run a range of seeds; say what each failure is and what was met."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    met: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(first, first + count):
        signal.alarm(60)  # a run that hangs ends the program, and -X faulthandler says where
        try:
            met.update(simulate(seed).marks)
        except SimulationFailed as failure:
            where = traceback.extract_tb(failure.cause.__traceback__)[-1]
            key = f"{where.name}:{where.lineno} {str(failure.cause)[:60]}"
            seen[key] += 1
            if count == 1:
                traceback.print_exception(failure.cause)
                print(failure)
            else:
                print(f"seed {seed}: {key} | {str(failure.cause)[:200]}", flush=True)
    print(f"{count} seeds in {time.monotonic() - began:.0f} s, {sum(seen.values())} failed")
    for text, number in seen.most_common():
        print(f"{number:6} {text}")
    for text, number in sorted(met.items()):
        print(f"{number:9} {text}")


if __name__ == "__main__":
    main()
