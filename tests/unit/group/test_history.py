"""Messages are kept for a bounded time."""

from pathlib import Path

from slackwater.clock import ManualClock
from slackwater.group.database import GroupDatabase
from slackwater.group.history import LOOK_SECONDS, History
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.group.test_database_messages import IDENTITY, START, message, passed

DAY = 86_400.0


def test_history_forgets_what_grew_too_old_now_and_then() -> None:
    storage = SimulatedStorage()
    storage.make_directory(Path("/g"))
    storage.sync_directory(Path("/"))
    database = GroupDatabase.create(storage, Path("/g/group.db"), IDENTITY, START)
    clock = ManualClock(time_ns=int(100 * DAY * 1e9))
    history = History(database, clock, kept_seconds=30 * DAY)
    for day in (1, 69, 70, 71, 100):
        database.put_message(message(day, time_ns=int(day * DAY * 1e9)))
    passed(database)
    history.tick()
    assert [row.id for row in database.messages()] == ["m70", "m71", "m100"]
    clock.advance(DAY)
    history.tick()
    assert [row.id for row in database.messages()] == ["m71", "m100"]
    history.tick()
    database.put_message(message(2, time_ns=0))
    history.tick()
    assert len(database.messages()) == 3, "it found none, and looks again after a while"
    clock.advance(LOOK_SECONDS)
    history.tick()
    assert [row.id for row in database.messages()] == ["m100"]
    database.put_message(message(3, time_ns=0))
    history.tick()
    assert [row.id for row in database.messages()] == ["m100"], "it found some, and looks on"
