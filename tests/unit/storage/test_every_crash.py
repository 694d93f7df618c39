"""The crash harness can fail: a workload that promises too much is caught."""

from pathlib import Path
from typing import Any

import pytest

from slackwater.storage.simulated import SimulatedStorage
from tests.support.simulation import calls_of, every_crash

FILE = Path("/f")


def write(storage: SimulatedStorage, journal: list[Any], *, sync: bool, name: bool) -> None:
    file = storage.open(FILE, create=True)
    if name:
        storage.sync_directory(Path("/"))
    for number in range(3):
        file.write([bytes([number]) * 700], 700 * number)
        if sync:
            file.sync()
        journal.append(number)


def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
    file = storage.open(FILE, create=True)
    for number in journal:
        assert file.read(700, 700 * number) == bytes([number]) * 700
    file.write([b"more"], 700 * 5)
    file.sync()


def test_promise_that_was_kept_is_accepted() -> None:
    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        write(storage, journal, sync=True, name=True)

    assert calls_of(workload) == 8
    assert every_crash(workload, verify) == 9 * 4
    assert every_crash(workload, verify, stride=4, again=False) == 3 * 4


@pytest.mark.parametrize(("sync", "name"), [(False, True), (True, False)])
def test_promise_without_a_sync_is_caught(sync: bool, name: bool) -> None:
    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        write(storage, journal, sync=sync, name=name)

    with pytest.raises(AssertionError):
        every_crash(workload, verify)


def test_promise_after_the_last_call_is_held_too() -> None:
    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        file = storage.open(FILE, create=True)
        storage.sync_directory(Path("/"))
        file.write([bytes(700)], 0)
        journal.append(0)

    with pytest.raises(AssertionError):
        every_crash(workload, verify)


def test_workload_that_differs_from_run_to_run_is_refused() -> None:
    runs = []

    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        runs.append(1)
        for number in range(2 if len(runs) == 1 else 1):
            storage.make_directory(Path(f"/{number}"))

    with pytest.raises(AssertionError, match="not reached again"):
        every_crash(workload, lambda storage, journal: None)
