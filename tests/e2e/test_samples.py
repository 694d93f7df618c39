"""The samples of `examples/` run on real file systems and databases, and tell right from wrong."""

import os
import time
from pathlib import Path

import pytest

from demo import mounts
from demo.sites import REPOSITORY
from examples import files, scene, trial_failover
from examples.__main__ import SAMPLES, missing
from examples.database import Commit, Evidence, check_numbers
from examples.scene import SceneFailed
from slackwater.v1 import record_pb2

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture
def real() -> None:
    """Skip where no file system can be mounted; CI may not."""
    lacks = missing()
    if lacks:
        if os.environ.get("CI") == "true":
            pytest.fail(f"this machine lacks {lacks}")
        pytest.skip(f"this machine lacks {lacks}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """One that a server of another user can reach."""
    for path in (tmp_path, *tmp_path.parents):
        status = path.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & 0o001:
            path.chmod(status.st_mode | 0o011)  # a way in, nothing to see
    return tmp_path


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", SAMPLES)
def test_sample_shows_what_it_says_and_leaves_nothing_mounted(name: str, directory: Path) -> None:
    print(SAMPLES[name](directory))
    assert str(directory) not in Path("/proc/mounts").read_text()
    listed = mounts.run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
    assert str(directory) not in listed


def test_every_task_has_a_scene_and_every_scene_a_task() -> None:
    tasks = {path.name for path in (REPOSITORY / "examples/tasks").iterdir()}
    assert tasks == set(SAMPLES)


class Copied:
    """Five files, a writer that wrote them, and a copy of them."""

    def __init__(self, directory: Path) -> None:
        """Write them."""
        self.writer = files.FileWriter(directory / "copy")
        self.writer.root.mkdir()
        self.writer.start()
        files.wait_written([self.writer], 5)
        self.writer.stop()
        self.began = self.ended = self.writer.written[-1].ended + 1.0

    def compare(self) -> int:
        """As a sample does."""
        return files.compare(self.writer.root, self.writer, self.began, self.ended)


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    return Copied(tmp_path)


def test_whole_copy_is_taken(copied: Copied) -> None:
    assert copied.compare() == len(copied.writer.written)


def test_file_that_is_missing_is_found(copied: Copied) -> None:
    (copied.writer.root / copied.writer.written[1].name).unlink()
    with pytest.raises(SceneFailed, match="1 files are missing"):
        copied.compare()


def test_file_that_differs_is_found(copied: Copied) -> None:
    with (copied.writer.root / copied.writer.written[1].name).open("r+b") as file:
        file.write(b"x")
    with pytest.raises(SceneFailed, match="differs"):
        copied.compare()


def test_file_that_is_too_new_is_found(copied: Copied) -> None:
    copied.began = copied.ended = copied.writer.written[-1].began - 1e-6
    with pytest.raises(SceneFailed, match="1 files are too new"):
        copied.compare()


COMMITS = [Commit(1, 1.0, 1.1), Commit(2, 2.0, 2.1), Commit(3, 3.0, 3.1)]


def test_commits_in_flight_at_the_send_may_be_there_or_not() -> None:
    check_numbers({1}, COMMITS, 1.5, 2.5)
    check_numbers({1, 2}, COMMITS, 1.5, 2.5)


def test_commit_that_had_returned_has_to_be_there() -> None:
    with pytest.raises(SceneFailed, match="1 commits that had returned are missing"):
        check_numbers({2}, COMMITS, 1.5, 2.5)


def test_commit_issued_after_the_send_must_not_be_there() -> None:
    with pytest.raises(SceneFailed, match="1 commits issued after the send"):
        check_numbers({1, 2, 3}, COMMITS, 1.5, 2.5)


def outcome(label_at: str = "0/4000028") -> record_pb2.Outcome:
    report = record_pb2.QuiesceReport(
        answer='{"startLsn": "0/4000028"}',
        resume_answer='{"stopLsn": "0/5000000", "tablespaceMap": "", "backupLabel": '
        f'"START WAL LOCATION: {label_at} (file 000000010000000000000004)"}}',
    )
    return record_pb2.Outcome(reports=[report])


class Server:
    """The directories of a server, seen from outside."""

    def __init__(self, lsn: str) -> None:
        """Whose last checkpoint is there."""
        self._lsn = lsn

    def recovers_from(self) -> str:
        """As the real one."""
        return self._lsn


@pytest.mark.parametrize("lsn", ["0/4000028", "0/4FFFFFF"])
def test_copy_that_recovers_within_its_backup_is_taken(lsn: str) -> None:
    Evidence.of(outcome()).check(Server(lsn))


@pytest.mark.parametrize("lsn", ["0/4000027", "0/5000000", "1/0"])
def test_copy_that_recovers_from_outside_its_backup_is_found(lsn: str) -> None:
    with pytest.raises(SceneFailed, match="outside of the backup"):
        Evidence.of(outcome()).check(Server(lsn))


def test_label_of_another_backup_is_found() -> None:
    with pytest.raises(SceneFailed, match="the label is not"):
        Evidence.of(outcome("0/3000028")).check(Server("0/4000028"))


def test_shop_holds_still_until_it_is_told(tmp_path: Path) -> None:
    held = tmp_path / "held"
    shop = trial_failover.Shop(tmp_path / "shop.db", held)
    shop.start()
    try:
        scene.wait("sales are booked", lambda: len(shop.sales) > 5)
        held.touch()
        scene.wait("the shop answers", held.with_suffix(".answer").exists)
        count = len(shop.sales)
        time.sleep(0.05)  # not to wait for something: nothing may come
        assert len(shop.sales) == count
        held.unlink()
        scene.wait("the shop books on", lambda: len(shop.sales) > count)
    finally:
        shop.stop()
