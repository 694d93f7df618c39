"""A Primary's group made and opened, killed at any call: whole or not there, its starts known."""

import random
from typing import Any

from slackwater import record
from slackwater.group import opening
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import OpenGroup
from slackwater.log.reader import LogReader, replay
from slackwater.position import Position, origin
from slackwater.storage.simulated import SimulatedCrash, SimulatedStorage
from tests.crash.test_writer import ROOT, UID, clock
from tests.support.simulation import POWER_LOSS, every_crash
from tests.unit.group.engine import SMALL

SETTINGS = opening.GroupSettings(SMALL)


def make(storage: SimulatedStorage) -> None:
    data = DataDirectory.open(storage, ROOT, "primary")
    opening.create_group(storage, data, "g", UID, SETTINGS, clock())
    data.close()


def start(storage: SimulatedStorage, incarnation: int) -> OpenGroup | None:
    """Start as the service does; None if there is no group."""
    data = DataDirectory.open(storage, ROOT, "primary")
    try:
        names = [group.name for group in data.groups()]
        assert names in ([], ["g"])
        if not names:
            return None
        return opening.open_group(
            storage, data.group("g"), clock(), incarnation=lambda: incarnation
        )
    finally:
        data.close()


def starts_in(storage: SimulatedStorage, group: OpenGroup) -> list[Position]:
    """Return the positions of the Start records that the log holds, and the group's origin."""
    log = group.writer.log
    reader = LogReader(storage, group.directory.log, UID, log.settings)
    try:
        found = [
            view.position
            for _, view in replay(reader, group.writer.database.log_state().start, log.durable)
            if view.kind == record.KIND_START
        ]
    finally:
        reader.close()
    return [origin(UID), *found]


def check(storage: SimulatedStorage, group: OpenGroup) -> None:
    """The group takes records, and remembers every start that its log holds."""
    writer = group.writer
    starts = starts_in(storage, group)
    for lsn in range(writer.log.durable.position.lsn + 1):
        newest = [one for one in starts if one.lsn <= lsn][-1]
        assert writer.database.newest_start(lsn) == newest
    writer.append_control(record.KIND_OUTCOME, b"")


def test_no_group_is_half_made_by_sigkill_and_then_power_loss_at_any_call() -> None:
    """The restart between them must make durable what it shows, or not show it (D5)."""
    call, shown, seen = 0, 0, 0
    while True:
        call += 1
        dying = SimulatedStorage()
        dying.crash_at = call
        try:
            make(dying)
        except SimulatedCrash:
            answered = False
        else:
            answered = True
        for later in range(1, 40, 3):
            survivor = dying.kill()
            survivor.crash_at = later
            opened = False
            try:
                group = start(survivor, 1)
                opened = group is not None
                survivor.listing(ROOT)  # dies here at the latest
            except SimulatedCrash:
                pass
            for policy in POWER_LOSS:
                last = survivor.after_crash(policy, random.Random(call))
                group = start(last, 2)
                assert group is not None or not (answered or opened), f"{call} {later} {policy}"
                seen += 1
                if group is not None:
                    shown += 1
                    check(last, group)
        if answered:
            break
    assert call > 20 and 0 < shown < seen


def test_every_start_is_remembered_after_a_crash_at_every_call() -> None:
    """A start that is forgotten would make the Secondaries that hold it DIVERGED (D16)."""

    def workload(storage: SimulatedStorage, journal: list[Any]) -> None:
        make(storage)
        journal.append("made")
        for incarnation in (1, 2, 3):
            group = start(storage, incarnation)
            assert group is not None
            group.writer.append_control(record.KIND_OUTCOME, b"")
            if incarnation == 2:
                group.writer.checkpoint()
            group.close(clean=incarnation == 1)

    def verify(storage: SimulatedStorage, journal: list[Any]) -> None:
        group = start(storage, 9)
        assert group is not None or not journal
        if group is not None:
            check(storage, group)
            group.close()

    assert every_crash(workload, verify) > 200
