"""The simulated disk: what it forgets, keeps and tears, and what it must not."""

import errno
import random
from pathlib import Path

import pytest

from slackwater.errors import FailedPrecondition
from slackwater.storage.pages import PAGE
from slackwater.storage.simulated import Policy, SimulatedCrash, SimulatedStorage
from slackwater.storage.simulated_files import SimulatedFile

ROOT = Path("/d")
FILE = ROOT / "f"
OLD, NEW = b"o" * 2 * PAGE, b"n" * 2 * PAGE


@pytest.fixture
def storage() -> SimulatedStorage:
    """A disk with a directory that is durable."""
    storage = SimulatedStorage()
    storage.make_directory(ROOT)
    storage.sync_directory(Path("/"))
    return storage


@pytest.fixture
def file(storage: SimulatedStorage) -> SimulatedFile:
    """A durable file with durable bytes."""
    file = storage.open(FILE, create=True)
    file.write([OLD], 0)
    file.sync()
    storage.sync_directory(ROOT)
    return file


def left(storage: SimulatedStorage, path: Path = FILE) -> bytes:
    file = storage.open(path)
    return file.read(file.size(), 0)


class TestPowerLoss:
    def test_drop_forgets_what_was_not_synced(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.write([NEW], 0)
        assert left(storage) == NEW
        assert left(storage.after_crash(Policy.DROP)) == OLD

    def test_keep_keeps_it(self, storage: SimulatedStorage, file: SimulatedFile) -> None:
        file.write([NEW[:PAGE]], 0)
        file.resize(3 * PAGE)
        file.zero(PAGE, 100)
        kept = storage.after_crash(Policy.KEEP)
        assert left(kept) == left(storage) == NEW[:PAGE] + bytes(100) + OLD[100:PAGE] + bytes(PAGE)

    def test_tear_drops_keeps_and_cuts_at_sectors(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.write([NEW], 0)
        seen = set()
        for seed in range(60):
            data = left(storage.after_crash(Policy.TEAR, random.Random(seed)))
            sectors = {data[at : at + 512] for at in range(0, len(data), 512)}
            assert sectors <= {OLD[:512], NEW[:512]}
            seen.add("old" if data == OLD else "new" if data == NEW else "torn")
        assert seen == {"old", "new", "torn"}

    def test_what_survived_is_durable(self, storage: SimulatedStorage, file: SimulatedFile) -> None:
        file.write([NEW], 0)
        kept = storage.after_crash(Policy.KEEP)
        assert left(kept.after_crash(Policy.DROP)) == NEW

    def test_synced_bytes_survive_each_way(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.write([NEW], 100)
        file.resize(9000)
        file.zero(300, 5000)
        file.sync()
        for policy in Policy:
            assert left(storage.after_crash(policy)) == left(storage)

    def test_cut_file_comes_back_unless_synced(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.resize(0)
        file.write([b"short"], 0)
        assert left(storage.after_crash(Policy.DROP)) == OLD
        assert left(storage.after_crash(Policy.KEEP)) == b"short"
        file.sync()
        assert left(storage.after_crash(Policy.DROP)) == b"short"


class TestSigkill:
    def test_bytes_stay_visible_and_are_not_durable(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        """What D5 is about: the page cache outlives the process, not the power."""
        file.write([NEW], 0)
        killed = storage.kill()
        assert left(killed) == NEW
        assert left(killed.after_crash(Policy.DROP)) == OLD
        killed.open(FILE).sync()
        assert left(killed.after_crash(Policy.DROP)) == NEW

    def test_names_stay_visible_and_are_not_durable(self, storage: SimulatedStorage) -> None:
        storage.open(ROOT / "new", create=True).sync()
        killed = storage.kill()
        assert killed.listing(ROOT) == ["new"]
        assert killed.after_crash(Policy.DROP).listing(ROOT) == []
        killed.sync_directory(ROOT)
        assert killed.after_crash(Policy.DROP).listing(ROOT) == ["new"]

    def test_survivor_is_a_disk_of_its_own(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        killed = storage.kill()
        killed.open(FILE).write([NEW], 0)
        killed.remove(FILE)
        assert left(storage) == OLD

    def test_locks_end_with_their_process(self, storage: SimulatedStorage) -> None:
        storage.lock(ROOT / "LOCK")
        storage.kill().lock(ROOT / "LOCK")
        storage.after_crash(Policy.KEEP).lock(ROOT / "LOCK")


class TestFailedSync:
    def fail_and_sync_again(self, storage: SimulatedStorage, file: SimulatedFile) -> None:
        storage.fail("sync", "/f")
        with pytest.raises(OSError) as caught:
            file.sync()
        assert caught.value.errno == errno.EIO
        file.sync()

    def test_later_sync_succeeds_without_making_the_bytes_durable(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        """The kernel marks the pages clean: the schedule behind D3."""
        file.write([NEW], 0)
        self.fail_and_sync_again(storage, file)
        assert left(storage) == NEW
        for policy in Policy:
            assert left(storage.after_crash(policy)) == OLD
        killed = storage.kill()
        assert left(killed) == NEW
        killed.open(FILE).sync()
        assert left(killed.after_crash(Policy.KEEP)) == OLD

    def test_rewriting_a_page_makes_all_of_it_durable(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.write([NEW], 0)
        self.fail_and_sync_again(storage, file)
        file.write([b"+"], 7)
        file.sync()
        rewritten = NEW[:7] + b"+" + NEW[8:PAGE]
        assert left(storage.after_crash(Policy.DROP)) == rewritten + OLD[PAGE:]

    def test_pages_may_stay_dirty_if_asked_for(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        file.write([NEW], 0)
        storage.fail("sync", mark_clean=False)
        with pytest.raises(OSError):
            file.sync()
        file.sync()
        assert left(storage.after_crash(Policy.DROP)) == NEW


class TestNames:
    def test_created_name_is_durable_after_the_directory_is_synced(
        self, storage: SimulatedStorage
    ) -> None:
        file = storage.open(FILE, create=True)
        file.write([b"x"], 0)
        file.sync()
        assert storage.after_crash(Policy.DROP).listing(ROOT) == []
        storage.sync_directory(ROOT)
        assert left(storage.after_crash(Policy.DROP)) == b"x"

    def test_removed_name_comes_back_until_then(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        storage.remove(FILE)
        assert left(storage.after_crash(Policy.DROP)) == OLD
        storage.sync_directory(ROOT)
        assert storage.after_crash(Policy.DROP).listing(ROOT) == []

    def test_directory_is_lost_with_all_in_it_unless_its_own_name_is_durable(
        self, storage: SimulatedStorage
    ) -> None:
        storage.make_directory(ROOT / "a" / "b")
        storage.open(ROOT / "a" / "b" / "f", create=True).sync()
        storage.sync_directory(ROOT / "a" / "b")
        storage.sync_directory(ROOT / "a")
        assert storage.after_crash(Policy.DROP).listing(ROOT) == []
        storage.sync_directory(ROOT)
        assert storage.after_crash(Policy.DROP).listing(ROOT / "a" / "b") == ["f"]

    def test_rename_survives_whole_or_not_at_all(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        storage.rename(FILE, ROOT / "g")
        outcomes = {
            tuple(storage.after_crash(Policy.TEAR, random.Random(seed)).listing(ROOT))
            for seed in range(30)
        }
        assert outcomes == {("f",), ("g",)}
        assert storage.after_crash(Policy.DROP).listing(ROOT) == ["f"]

    def test_rename_of_a_directory_survives_with_all_in_it(self, storage: SimulatedStorage) -> None:
        storage.make_directory(ROOT / "a")
        for name in ("one", "two"):
            storage.open(ROOT / "a" / name, create=True).sync()
        storage.sync_directory(ROOT / "a")
        storage.sync_directory(ROOT)
        storage.rename(ROOT / "a", ROOT / "b")
        for seed in range(20):
            torn = storage.after_crash(Policy.TEAR, random.Random(seed))
            (name,) = torn.listing(ROOT)
            assert torn.listing(ROOT / name) == ["one", "two"]
        storage.sync_directory(ROOT)
        assert storage.after_crash(Policy.DROP).listing(ROOT / "b") == ["one", "two"]

    def test_rename_between_directories_is_durable_with_either(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        for name in ("a", "b"):
            storage.make_directory(ROOT / name)
        storage.sync_directory(ROOT)
        storage.open(ROOT / "a" / "x", create=True)  # never synced as a name of a
        storage.rename(ROOT / "a" / "x", ROOT / "b" / "y")
        storage.sync_directory(ROOT / "b")
        for policy in Policy:
            after = storage.after_crash(policy)
            assert (after.listing(ROOT / "a"), after.listing(ROOT / "b")) == ([], ["y"])

    def test_renamed_over_file_keeps_one_of_both_contents(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        other = storage.open(ROOT / "f.new", create=True)
        other.write([b"new"], 0)
        other.sync()
        storage.rename(ROOT / "f.new", FILE)
        for seed in range(20):
            assert left(storage.after_crash(Policy.TEAR, random.Random(seed))) in (OLD, b"new")


class TestMapping:
    def test_stores_are_lost_kept_or_torn_by_page_unless_the_file_is_synced(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        view = file.map()
        view[:] = NEW
        assert left(storage.after_crash(Policy.DROP)) == OLD
        assert left(storage.after_crash(Policy.KEEP)) == NEW
        torn = {left(storage.after_crash(Policy.TEAR, random.Random(seed))) for seed in range(90)}
        assert {OLD, NEW, OLD[:PAGE] + NEW[PAGE:], NEW[:PAGE] + OLD[PAGE:]} <= torn
        file.sync()
        assert left(storage.after_crash(Policy.DROP)) == NEW

    def test_write_through_the_file_is_not_undone_by_an_older_mapping(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        view = file.map()
        file.write([NEW], 0)
        view[0] = 0
        file.sync()
        assert left(storage.after_crash(Policy.DROP)) == b"\0" + NEW[1:]

    def test_released_mapping_is_forgotten_after_its_stores_count(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        view = file.map()
        view[3] = 1
        view.release()
        file.close()
        assert left(storage)[3] == 1
        again = storage.open(FILE)
        again.sync()
        assert again._node.mappings == []

    def test_mapping_past_a_cut_stores_nothing(
        self, storage: SimulatedStorage, file: SimulatedFile
    ) -> None:
        view = file.map()
        file.resize(10)
        view[PAGE] = 1
        file.sync()
        assert left(storage) == OLD[:10]


class TestCrashAtACall:
    def test_the_call_does_not_happen_and_none_after_it(self, storage: SimulatedStorage) -> None:
        file = storage.open(FILE, create=True)
        lock = storage.lock(ROOT / "LOCK")
        storage.crash_at = storage.calls + 2
        file.write([b"one"], 0)
        with pytest.raises(SimulatedCrash):
            file.write([b"two"], 0)
        for use in (
            lambda: file.read(1, 0),
            lambda: file.sync(),
            lambda: file.size(),
            lambda: storage.exists(FILE),
            lambda: storage.listing(ROOT),
            lambda: storage.open(FILE),
            lambda: storage.lock(ROOT / "LOCK"),
        ):
            with pytest.raises(SimulatedCrash):
                use()
        lock.close()
        assert left(storage.kill()) == b"one"
        assert storage.call_log[-1] == (storage.calls, "write", str(FILE))

    def test_other_process_of_the_disk_lives_on_and_gets_the_lock(
        self, storage: SimulatedStorage
    ) -> None:
        other = storage.beside()
        storage.lock(ROOT / "LOCK")
        with pytest.raises(FailedPrecondition):
            other.lock(ROOT / "LOCK")
        storage.crash_at = storage.calls + 1
        with pytest.raises(SimulatedCrash):
            storage.make_directory(ROOT / "x")
        other.lock(ROOT / "LOCK")
        other.make_directory(ROOT / "y")
        assert other.listing(ROOT) == ["LOCK", "y"]


class TestDatabase:
    def make(self, storage: SimulatedStorage) -> None:
        database = storage.open_database(ROOT / "x.db")
        with database.transaction() as connection:
            connection.execute("CREATE TABLE t (a)")
            connection.execute("INSERT INTO t VALUES (1)")

    def test_commit_is_durable_at_once_and_with_it_the_name(
        self, storage: SimulatedStorage
    ) -> None:
        self.make(storage)
        after = storage.after_crash(Policy.DROP)
        assert len(after.open_database(ROOT / "x.db").query("SELECT * FROM t")) == 1
        assert after.listing(ROOT) == ["x.db"]

    def test_commit_that_a_crash_prevents_leaves_the_one_before(
        self, storage: SimulatedStorage
    ) -> None:
        self.make(storage)
        database = storage.open_database(ROOT / "x.db")
        storage.crash_at = storage.calls + 1
        with pytest.raises(SimulatedCrash), database.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (2)")
        for after in (storage.kill(), storage.after_crash(Policy.KEEP)):
            assert len(after.open_database(ROOT / "x.db").query("SELECT * FROM t")) == 1
        with pytest.raises(SimulatedCrash):
            database.query("SELECT * FROM t")

    def test_failed_commit_is_final_for_want_of_room_it_is_not(
        self, storage: SimulatedStorage
    ) -> None:
        self.make(storage)
        database = storage.open_database(ROOT / "x.db")

        def insert() -> None:
            with database.transaction() as connection:
                connection.execute("INSERT INTO t VALUES (2)")

        storage.fail("commit", number=errno.ENOSPC)
        with pytest.raises(OSError) as full:
            insert()
        assert full.value.errno == errno.ENOSPC
        insert()
        storage.fail("commit", number=errno.EIO)
        for _ in range(2):
            with pytest.raises(OSError) as failed:
                insert()
            assert failed.value.errno == errno.EIO
        assert len(database.query("SELECT * FROM t")) == 2

    def test_database_of_a_lost_directory_is_lost(self, storage: SimulatedStorage) -> None:
        storage.make_directory(ROOT / "a")
        with storage.open_database(ROOT / "a" / "x.db").transaction() as connection:
            connection.execute("CREATE TABLE t (a)")
        assert storage.after_crash(Policy.DROP).listing(ROOT) == []


class TestFaults:
    def test_fault_hits_the_named_calls_and_no_others(self, storage: SimulatedStorage) -> None:
        file = storage.open(FILE, create=True)
        other = storage.open(ROOT / "other", create=True)
        storage.fail("write", "/f", errno.ENOSPC, times=2)
        other.write([b"x"], 0)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                file.write([b"x"], 0)
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(FILE))
        file.write([b"x"], 0)
        storage.fail("read", times=100)
        with pytest.raises(OSError):
            file.read(1, 0)
        storage.heal()
        assert file.read(1, 0) == b"x"

    def test_failed_call_counts_and_changes_nothing(self, storage: SimulatedStorage) -> None:
        before = storage.calls
        storage.fail("make_directory")
        with pytest.raises(OSError):
            storage.make_directory(ROOT / "x")
        assert storage.calls == before + 1
        assert storage.listing(ROOT) == []

    def test_full_disk_takes_what_fits_and_overwrites(self) -> None:
        storage = SimulatedStorage(capacity_bytes=3 * PAGE)
        storage.make_directory(ROOT)
        file = storage.open(FILE, create=True)
        file.write([OLD], 0)
        with pytest.raises(OSError) as caught:
            file.write([NEW], len(OLD))
        assert caught.value.errno == errno.ENOSPC
        assert (file.size(), storage.free_bytes(ROOT)) == (3 * PAGE, 0)
        file.write([NEW], 0)
        file.zero(0, PAGE)
        assert storage.free_bytes(ROOT) == PAGE
        storage.open(ROOT / "g", create=True).write([b"x"], 0)
        assert storage.used_bytes() == 3 * PAGE
