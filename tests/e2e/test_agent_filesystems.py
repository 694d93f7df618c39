"""Kinds `fsfreeze` and `sync` on real file systems."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import mounts
from slackwater.agent.keeper import Request
from slackwater.agent.kinds.fsfreeze import FsFreeze, Thaw
from slackwater.agent.kinds.kind import KindFailed, Patience
from slackwater.agent.kinds.syncfs import Sync
from tests.support import agents, disks
from tests.support.scripted_primary import ScriptedPrimary, eventually

ASKED = Request("h1", 30.0, 10.0, "backup")
MIB = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4."""
    (tmp_path / "one").mkdir()
    with disks.small_disk(tmp_path / "one", 32 * MIB) as where:
        yield where


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Path]:
    """Another one."""
    (tmp_path / "two").mkdir()
    with disks.small_disk(tmp_path / "two", 32 * MIB) as where:
        yield where


class Writer:
    """A process's write into a file system, which waits while that is frozen."""

    def __init__(self, where: Path) -> None:
        """Begin."""
        self.is_done = threading.Event()
        self._path = where / f"probe-{os.urandom(3).hex()}"
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            self._path.write_bytes(b"through")
            self.is_done.set()


def is_frozen(where: Path) -> bool:
    """Whether a write stands; the thaw lets it through."""
    return not Writer(where).is_done.wait(0.5)


def test_frozen_file_systems_let_no_write_in_until_the_thaw(
    files: Path, others: Path, tmp_path: Path
) -> None:
    kind = FsFreeze([str(files), str(others)], tmp_path)
    answer = json.loads(kind.hold(ASKED, Patience(30)))
    try:
        assert [row["path"] for row in answer["frozen"]] == [str(files), str(others)]
        assert {row["fileSystem"] for row in answer["frozen"]} == {"ext4"}
        first, second = Writer(files), Writer(others)
        assert not first.is_done.wait(0.5) and not second.is_done.wait(0.1)
    finally:
        resumption = kind.resume(ASKED, "", Patience(30))
    assert resumption.unbroken
    assert first.is_done.wait(30) and second.is_done.wait(30)


def test_partial_freeze_rolls_back(files: Path, others: Path, tmp_path: Path) -> None:
    mounts.freeze(others)
    kind = FsFreeze([str(files), str(others)], tmp_path)
    try:
        with pytest.raises(KindFailed, match="somebody else has frozen it already"):
            kind.hold(ASKED, Patience(30))
        assert not is_frozen(files)
        assert kind.resume(ASKED, "", Patience(30)).unbroken
        assert is_frozen(others), "what somebody else holds is left alone"
    finally:
        mounts.thaw(others)


def test_thaw_by_somebody_else_breaks_the_hold(files: Path, tmp_path: Path) -> None:
    kind = FsFreeze([str(files)], tmp_path)
    kind.hold(ASKED, Patience(30))
    mounts.thaw(files)
    resumption = kind.resume(ASKED, "", Patience(30))
    assert not resumption.unbroken
    assert f"somebody else thawed {files}" in resumption.answer
    assert kind.hold(ASKED, Patience(30)), "the next one is new"
    assert kind.resume(ASKED, "", Patience(30)).unbroken


def test_freeze_that_comes_too_late_is_thawed_at_once(files: Path, tmp_path: Path) -> None:
    kind = FsFreeze([str(files)], tmp_path)
    with pytest.raises(KindFailed, match="too late"):
        kind.hold(ASKED, Patience(0))
    assert not is_frozen(files)


def test_path_that_is_no_mount_point_is_refused(files: Path, tmp_path: Path) -> None:
    inside = files / "inside"
    inside.mkdir()
    with pytest.raises(KindFailed, match="is not a mount point; name one: findmnt"):
        FsFreeze([str(inside)], tmp_path).check()
    with pytest.raises(KindFailed, match="No such file"):
        FsFreeze([str(files / "nowhere")], tmp_path).check()


def test_file_system_of_the_agents_own_state_is_refused(files: Path) -> None:
    """The agent could not record the resume while it is frozen."""
    state = files / "state"
    state.mkdir()
    with pytest.raises(KindFailed, match="--state-dir"):
        FsFreeze([str(files)], state).check()


def test_one_file_system_named_twice_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(KindFailed, match="the same file system"):
        FsFreeze([str(files), str(files)], tmp_path).check()


def test_read_only_file_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    with disks.small_disk(tmp_path / "ro", 32 * MIB) as where:
        mounts.run("mount", "-o", "remount,ro", str(where))
        with pytest.raises(KindFailed, match="read-only"):
            FsFreeze([str(where)], tmp_path).check()


def test_thaw_of_a_record_ends_what_is_frozen_and_nothing_else(files: Path, others: Path) -> None:
    mounts.freeze(files)
    thaw = Thaw([str(files), str(others), "/nowhere/at/all"])
    assert thaw.run() == f"thawed {files}"
    assert thaw.run() == "nothing was frozen"


def test_sync_puts_what_was_written_on_the_device(files: Path) -> None:
    (files / "data").write_bytes(os.urandom(MIB))
    kind = Sync([str(files)])
    kind.check()
    answer = json.loads(kind.hold(ASKED, Patience(30)))
    assert answer["synced"][0]["path"] == str(files)
    assert not is_frozen(files), "nothing is held back"
    assert kind.undo(ASKED) is None
    assert kind.resume(ASKED, "", Patience(30)).unbroken
    with pytest.raises(KindFailed, match="No such file"):
        Sync([str(files / "nowhere")]).check()


def test_guard_thaws_after_the_agent_was_killed(files: Path, tmp_path: Path) -> None:
    with (
        ScriptedPrimary() as primary,
        agents.running(primary.address, tmp_path, "fsfreeze", str(files)) as agent,
    ):
        session = primary.session()
        session.hold(max_hold=300)
        assert json.loads(session.answer().answer)["frozen"]
        writer = Writer(files)
        assert not writer.is_done.wait(0.5)
        agent.kill()
        assert writer.is_done.wait(30), "the application runs on"


def test_agent_thaws_at_its_start_what_was_recorded(files: Path, tmp_path: Path) -> None:
    with ScriptedPrimary() as primary:
        with agents.running(primary.address, tmp_path, "fsfreeze", str(files)) as agent:
            session = primary.session()
            session.hold(max_hold=300)
            session.answer()
            guard = agent.guard()
            agent.signal(signal.SIGSTOP)
            os.kill(guard, signal.SIGKILL)
            agent.kill()
        writer = Writer(files)
        assert not writer.is_done.wait(0.5)
        with agents.running(primary.address, tmp_path, "fsfreeze", str(files)) as second:
            primary.session()
            assert writer.is_done.wait(30)
            eventually("it is struck from the record", lambda: not second.record.exists())
