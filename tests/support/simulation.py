"""Crash a workload at every storage call, reopen what is left, and look at it.

A workload is a function of a storage and a journal: it does what it likes and notes in the journal
what it was promised (a list; whatever `verify` understands). `every_crash` runs it once without a
crash to count its calls, then once per call and way to die.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage

Workload = Callable[[SimulatedStorage, list[Any]], None]
Verify = Callable[[SimulatedStorage, list[Any]], None]

POWER_LOSS = (Policy.DROP, Policy.KEEP, Policy.TEAR)


def calls_of(workload: Workload, make: Callable[[], SimulatedStorage] = SimulatedStorage) -> int:
    """Return how many storage calls the workload makes."""
    storage = make()
    workload(storage, [])
    return storage.calls


def survivors(
    dead: SimulatedStorage, seed: int, policies: Sequence[Policy] = POWER_LOSS
) -> Iterable[tuple[str, SimulatedStorage]]:
    """Yield what each way to die leaves of a dead storage."""
    for policy in policies:
        yield policy.value, dead.after_crash(policy, random.Random(seed))
    yield "kill", dead.kill()


def every_crash(
    workload: Workload,
    verify: Verify,
    *,
    make: Callable[[], SimulatedStorage] = SimulatedStorage,
    policies: Sequence[Policy] = POWER_LOSS,
    again: bool = True,
    stride: int = 1,
) -> int:
    """Crash at every call (or every `stride`-th) and after the last; return the crashes made.

    `verify` opens the storage, so it recovers. It runs on each survivor; with `again` it is also
    crashed in its own first calls (one place per survivor, drawn by the call's number), by a power
    loss after a SIGKILL among others, and what that leaves is verified in full (D5).
    """
    total = calls_of(workload, make)
    assert total > 0
    crashes = 0
    for call in (*range(1, total + 1, stride), total + 1):
        storage, journal = _dead_at(workload, make, call, total)
        for way, survivor in survivors(storage, call, policies):
            crashes += 1
            _note(f"crash at call {call} of {total} ({storage.call_log[-1]}), {way}")
            if again:
                _crash_in_recovery(survivor, verify, journal, call)
            verify(survivor, list(journal))
    return crashes


def _dead_at(
    workload: Workload, make: Callable[[], SimulatedStorage], call: int, total: int
) -> tuple[SimulatedStorage, list[Any]]:
    """Run the workload up to a call; past the last one it ends, and dies with all it promised."""
    storage = make()
    storage.crash_at = call
    journal: list[Any] = []
    try:
        workload(storage, journal)
    except SimulatedCrash:
        assert call <= total, "the workload made more calls than the first time"
    else:
        assert call > total, f"call {call} of {total} was not reached again"
    return storage, journal


def _crash_in_recovery(
    survivor: SimulatedStorage, verify: Verify, journal: list[Any], seed: int
) -> None:
    rng = random.Random(seed)
    first = survivor.kill()
    first.crash_at = rng.randrange(1, 12)
    try:
        verify(first, list(journal))
    except SimulatedCrash:
        _note(f"  and in recovery at call {first.crash_at} ({first.call_log[-1]})")
        for _, again in survivors(first, seed):
            verify(again, list(journal))


def _note(text: str) -> None:
    """Say where we are: pytest shows it when a verification fails."""
    print(text)
