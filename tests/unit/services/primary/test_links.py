"""What the main process keeps of a link: its hold of the log, its rows, what an operator asked."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.primary.links import PrimaryLink
from services.primary.sender import control
from slackwater.clock import SystemClock
from slackwater.errors import GroupFailed, NoSpace, NotFound
from slackwater.group.directory import DataDirectory
from slackwater.group.opening import GroupSettings, OpenGroup, create_group, open_group
from slackwater.group.rows import LinkRow
from slackwater.log.marks import SharedMarks
from slackwater.log.segment import LogSettings
from slackwater.position import LogPoint
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, replication_pb2
from tests.unit.services.primary.primary_site import SilentSender

UID = uuid.UUID(int=7)
NAME = "site-b"
SYNC = b"s" * 16


class World:
    """One open group and one link of it, without the service around them."""

    def __init__(self, path: Path) -> None:
        self.storage = RealStorage()
        self.data = DataDirectory.open(self.storage, path, "primary")
        settings = GroupSettings(LogSettings(4 << 20, 128 << 10, 64 << 10))
        create_group(self.storage, self.data, "demo", UID, settings, SystemClock())
        self.group: OpenGroup
        self.link: PrimaryLink
        self.events: list[tuple[str, str, str]] = []
        self.open()
        self.group.writer.database.add_link(
            LinkRow(NAME, uuid.uuid4(), "h:1", "CONNECTING", "", False, None, "", 0)
        )
        self.carry()

    def open(self) -> None:
        self.marks = SharedMarks.create(1, 1)
        group_marks, link_marks = self.marks.new_group(), self.marks.new_link()
        assert group_marks is not None
        assert link_marks is not None
        self.group_marks, self.link_marks = group_marks, link_marks
        directory = self.data.group("demo")
        self.group = open_group(self.storage, directory, SystemClock(), marks=group_marks)

    def carry(self) -> None:
        self.sender = SilentSender()
        self.link = PrimaryLink(
            self.group,
            self.row(),
            self.group_marks,
            self.link_marks,
            self.sender,  # type: ignore[arg-type]
            4 << 20,
            lambda *event: self.events.append(event),
        )

    def restart(self) -> None:
        self.close()
        self.open()
        self.carry()

    def close(self) -> None:
        self.group.close()
        self.marks.close()

    def row(self) -> LinkRow:
        return self.group.writer.database.link(NAME)

    def append(self) -> LogPoint:
        return self.group.writer.append_control(22, b"")

    def ask(self, what: str, **arguments: Any) -> control.Message:
        message = {"ask": 1, "key": self.link.key, "what": what, **arguments}
        answer = self.link.handle(message)
        assert answer is not None
        return answer

    def store(self, state: str = "STREAMING", **changes: Any) -> None:
        fields = {
            "state": state,
            "reason": "",
            "dirty": False,
            "sync_id": "",
            "discard": False,
            "forget_acked": False,
            "sync_point": None,
            "generation": self.link.specification()["generation"],
        }
        self.ask("store", **{**fields, **changes})

    def status(self, **changes: Any) -> None:
        fields = {
            "event": "status",
            "state": "STREAMING",
            "reason": "",
            "replica_state": 0,
            "secondary_log": [0, 0],
            "acked": None,
            "acked_offset": 0,
            "diverged": None,
            "lag_seconds": 0.0,
            "connected": True,
        }
        self.link.handle({**fields, **changes})

    def acked(self, point: LogPoint) -> None:
        """What a sender does at an ack."""
        self.link_marks.acked_offset = point.offset
        self.status(acked=control.position_json(point.position), acked_offset=point.offset)
        self.link.store_acked()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()
    made.data.close()


@contextmanager
def failing(world: World, number: int) -> Iterator[None]:
    """Let group.db refuse every transaction."""
    database = world.group.writer.database

    def refuse() -> Any:
        raise OSError(number, "refused by the test")

    database.transaction = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        del database.transaction


def test_log_is_held_from_a_links_creation_and_moves_with_its_acks(world: World) -> None:
    assert world.link.floor == world.group.writer.log.oldest
    point = world.append()
    world.acked(point)
    assert world.link.floor == point.offset


def test_log_held_after_a_restart_starts_at_the_last_acked_point(world: World) -> None:
    point = world.append()
    world.acked(point)
    world.restart()
    assert world.row().acked == point
    assert world.link.floor == point.offset
    assert world.link.specification()["row"]["acked"] == control.position_json(point.position)


def test_a_link_let_go_of_holds_nothing_and_says_so_durably(world: World) -> None:
    """D26."""
    world.link.let_go("the log is full")
    assert world.link.floor is None
    assert world.row().dirty
    assert world.row().state == "DIRTY"
    assert world.sender.operations() == ["overflow"]
    world.link.let_go("again")
    assert world.sender.operations() == ["overflow"]
    world.restart()
    assert world.link.floor is None
    assert world.link.specification()["row"]["dirty"]


def test_a_link_is_not_let_go_of_while_that_cannot_be_made_durable(world: World) -> None:
    """D26."""
    with failing(world, errno.ENOSPC), pytest.raises(NoSpace):
        world.link.let_go("the log is full")
    assert world.link.floor is not None
    assert not world.sender.told
    assert world.group.writer.failure is None


def test_a_failed_sync_of_group_db_fails_the_group(world: World) -> None:
    """D3."""
    with failing(world, errno.EIO), pytest.raises(GroupFailed):
        world.store()
    assert world.group.writer.failure is not None
    assert world.group_marks.failed


def test_letting_go_stands_against_news_that_was_under_way(world: World) -> None:
    """D26: the sender stored STREAMING before it heard of the overflow."""
    generation = world.link.specification()["generation"]
    world.link.let_go("the log is full")
    world.store(generation=generation)
    assert world.link.floor is None
    assert world.row().dirty


def test_a_sync_holds_the_log_from_its_point_before_the_sender_knows(world: World) -> None:
    """D25."""
    world.link.let_go("the log is full")
    world.append()
    answer = world.ask("sync_point")
    point = control.json_point(answer["point"])
    assert point == world.group.writer.committer.in_volumes
    assert world.link.floor == point.offset
    assert world.row().dirty, "until the sender has stored the sync"
    world.store(
        "SYNCING", sync_id=SYNC.hex(), sync_point=control.point_json(point), forget_acked=True
    )
    assert not world.row().dirty
    assert world.row().sync_id == SYNC.hex()
    assert world.row().acked is None


def test_a_sync_let_go_of_before_it_is_stored_stays_dirty(world: World) -> None:
    """D26."""
    generation = world.link.specification()["generation"]
    answer = world.ask("sync_point")
    world.link.let_go("the log is full again")
    world.store(
        "SYNCING",
        sync_id=SYNC.hex(),
        sync_point=answer["point"],
        forget_acked=True,
        generation=generation,
    )
    assert world.link.floor is None
    assert world.row().dirty


def test_a_crash_between_sync_point_and_store_leaves_the_link_dirty(world: World) -> None:
    world.link.let_go("the log is full")
    world.ask("sync_point")
    world.restart()
    assert world.link.floor is None


def test_a_restart_in_a_sync_holds_all_that_is_there(world: World) -> None:
    answer = world.ask("sync_point")
    world.store("SYNCING", sync_id=SYNC.hex(), sync_point=answer["point"], forget_acked=True)
    world.restart()
    assert world.link.floor == world.group.writer.log.oldest
    assert world.link.specification()["row"]["sync_id"] == SYNC.hex()


def test_a_volume_is_known_to_be_needed_as_soon_as_a_sync_has_its_point(world: World) -> None:
    world.ask("sync_point")
    assert world.link.status.state == "SYNCING"
    world.status(state="STREAMING")
    assert world.link.status.state == "STREAMING"


def test_a_sync_point_waits_for_a_change_of_the_volumes(world: World) -> None:
    """D28: a volume's record before the point and its row after it would lose the volume."""
    entered = []

    class Admin:
        def __enter__(self) -> None:
            entered.append(world.link.status.state)

        def __exit__(self, *about: object) -> None:
            entered.append(world.link.status.state)

    world.link.admin = Admin()
    world.ask("sync_point")
    assert entered == ["CONNECTING", "SYNCING"]


def test_a_position_is_found_only_with_its_own_chain(world: World) -> None:
    """D16."""
    point = world.append()
    found = world.ask("find", position=control.position_json(point.position))
    assert control.json_point(found["point"]) == point
    epoch, lsn, chain = control.position_json(point.position)
    other = world.ask("find", position=[epoch, lsn, chain ^ 1])
    assert other["point"] is None
    assert other["oldest_lsn"] == world.group.writer.log.oldest_lsn


def test_a_position_before_what_is_kept_for_links_is_not_found_though_its_segment_is_there(
    world: World,
) -> None:
    """D13: a sender that began there would be told at once that the log moved on."""
    first = world.append()
    newest = world.append()
    world.group.writer.checkpoint()
    assert world.group.writer.log.find(first.position) == first
    gone = world.ask("find", position=control.position_json(first.position))
    assert gone["point"] is None
    assert gone["oldest_lsn"] > first.position.lsn, "it is no other history"
    kept = world.ask("find", position=control.position_json(newest.position))
    assert control.json_point(kept["point"]) == newest


def test_a_verdict_is_durable_before_it_is_confirmed(world: World) -> None:
    """D17."""
    told: list[str] = []
    world.link.on_verdict(told.append)
    report = replication_pb2.VerdictReport(
        sequence=3, message_id="m1", lsn=9, state=common_pb2.VERDICT_STATE_UNFROZEN
    )
    message = {"event": "verdict", "report": report.SerializeToString().hex()}
    with failing(world, errno.ENOSPC), pytest.raises(NoSpace):
        world.link.handle(message)
    assert not told
    answer = world.link.handle(message)
    assert answer == {"do": "verdict_stored", "key": world.link.key, "sequence": 3}
    rows = world.group.writer.database.verdicts("m1")
    assert [(row.state, row.final) for row in rows] == [("UNFROZEN", True)]
    world.link.handle(message)
    assert len(world.group.writer.database.verdicts("m1")) == 1


def test_nothing_a_sender_still_says_of_a_deleted_link_is_kept(world: World) -> None:
    report = replication_pb2.VerdictReport(sequence=1, message_id="m1")
    with world.link.ending():
        world.group.writer.database.remove_link(NAME)
    with pytest.raises(NotFound):
        world.link.handle({"event": "verdict", "report": report.SerializeToString().hex()})
    with pytest.raises(NotFound):
        world.store()
    assert not world.group.writer.database.verdicts("m1")
    assert not world.group.writer.database.links()


def test_a_link_that_could_not_be_deleted_goes_on(world: World) -> None:
    with pytest.raises(NoSpace), world.link.ending():
        raise NoSpace("group.db")
    world.store("PAUSED")
    assert world.row().state == "PAUSED"


def test_what_an_operator_asks_reaches_a_sender_that_is_being_restarted(world: World) -> None:
    """The message may be lost; what the sender is told when it is back is not."""
    change: dict[str, Any] = {"endpoint": None, "paused": None, "retry": False, "discard": False}
    world.link.update(**{**change, "paused": True})
    assert world.link.specification()["row"]["state"] == "PAUSED"
    world.restart()
    assert world.link.specification()["row"]["state"] == "PAUSED"
    world.store("PAUSED")
    world.link.update(**{**change, "paused": False, "endpoint": "other:2"})
    assert world.sender.operations() == ["endpoint", "retry"]
    specification = world.link.specification()
    assert specification["row"]["state"] == "CONNECTING"
    assert specification["endpoint"] == "other:2"
    world.store("DIVERGED", reason="both histories")
    world.link.update(**{**change, "discard": True})
    assert world.link.specification()["row"] == {
        "state": "CONNECTING",
        "reason": "",
        "dirty": False,
        "sync_id": "",
        "acked": None,
        "discard": True,
    }


def test_resuming_a_link_that_is_not_paused_leaves_it_alone(world: World) -> None:
    world.store("DIVERGED", reason="both histories")
    world.link.update(endpoint=None, paused=False, retry=False, discard=False)
    assert world.row().state == "DIVERGED"
    assert not world.sender.told


def test_lag_grows_while_a_sender_says_nothing(world: World) -> None:
    """D19."""
    point = world.append()
    world.link_marks.acked_lsn = point.position.lsn - 1
    world.status(lag_seconds=2.0)
    world.link.status.heard_at -= 60.0
    assert world.link.lag_seconds() >= 62.0
    world.link_marks.acked_lsn = point.position.lsn
    assert world.link.lag_seconds() == 0.0
