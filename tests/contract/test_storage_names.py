"""Names and locks: what both sides of the seam promise of directories."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from slackwater.errors import FailedPrecondition
from slackwater.storage.seam import Storage
from tests.contract.conftest import Place


def put(storage: Storage, path: Path, data: bytes = b"x") -> None:
    file = storage.open(path, create=True)
    file.resize(0)
    file.write([data], 0)
    file.close()


def get(storage: Storage, path: Path) -> bytes:
    file = storage.open(path, writable=False)
    try:
        return file.read(file.size(), 0)
    finally:
        file.close()


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


class TestOpen:
    def test_open_needs_the_file_unless_told_to_create(self, place: Place) -> None:
        refused(errno.ENOENT, lambda: place.storage.open(place.path / "a"))
        put(place.storage, place.path / "a", b"kept")
        place.storage.open(place.path / "a", create=True).close()
        assert get(place.storage, place.path / "a") == b"kept"

    def test_exclusive_makes_the_file_once(self, place: Place) -> None:
        place.storage.open(place.path / "a", exclusive=True).close()
        refused(errno.EEXIST, lambda: place.storage.open(place.path / "a", exclusive=True))

    def test_directory_is_no_file_and_a_missing_one_has_none(self, place: Place) -> None:
        refused(errno.EISDIR, lambda: place.storage.open(place.path))
        refused(errno.ENOENT, lambda: place.storage.open(place.path / "a" / "b", create=True))


class TestDirectories:
    def test_names_are_listed_in_order(self, place: Place) -> None:
        storage, path = place.storage, place.path
        for name in ("c", "a"):
            put(storage, path / name)
        storage.make_directory(path / "b" / "inner")
        assert storage.listing(path) == ["a", "b", "c"]
        assert storage.listing(path / "b") == ["inner"]
        assert storage.exists(path / "b" / "inner")
        assert not storage.exists(path / "b" / "other")
        refused(errno.ENOENT, lambda: storage.listing(path / "absent"))
        refused(errno.ENOTDIR, lambda: storage.listing(path / "a"))

    def test_making_a_directory_again_is_fine_over_a_file_it_is_not(self, place: Place) -> None:
        storage, path = place.storage, place.path
        storage.make_directory(path / "d")
        storage.make_directory(path / "d")
        put(storage, path / "f")
        refused(errno.EEXIST, lambda: storage.make_directory(path / "f"))

    def test_removed_file_is_gone_and_stays_open(self, place: Place) -> None:
        storage, path = place.storage, place.path
        put(storage, path / "a", b"still here")
        file = storage.open(path / "a")
        storage.remove(path / "a")
        assert not storage.exists(path / "a")
        assert file.read(100, 0) == b"still here"
        file.close()
        refused(errno.ENOENT, lambda: storage.remove(path / "a"))
        storage.make_directory(path / "d")
        refused(errno.EISDIR, lambda: storage.remove(path / "d"))

    def test_tree_is_removed_whole_and_a_missing_one_is_fine(self, place: Place) -> None:
        storage, path = place.storage, place.path
        storage.make_directory(path / "t" / "u" / "v")
        put(storage, path / "t" / "u" / "f")
        database = storage.open_database(path / "t" / "x.db")
        with database.transaction() as connection:
            connection.execute("CREATE TABLE t (a)")
        database.close()
        storage.remove_tree(path / "t")
        storage.remove_tree(path / "t")
        assert storage.listing(path) == []

    def test_sync_of_a_directory_needs_it(self, place: Place) -> None:
        place.storage.sync_directory(place.path)
        refused(errno.ENOENT, lambda: place.storage.sync_directory(place.path / "absent"))

    def test_free_bytes_are_told_for_a_directory(self, place: Place) -> None:
        assert place.storage.free_bytes(place.path) > 0
        refused(errno.ENOENT, lambda: place.storage.free_bytes(place.path / "absent"))

    def test_check_accepts_a_local_directory_and_leaves_nothing(self, place: Place) -> None:
        place.storage.check(place.path)
        assert place.storage.listing(place.path) == []


class TestRename:
    def test_file_replaces_the_one_of_that_name(self, place: Place) -> None:
        storage, path = place.storage, place.path
        put(storage, path / "old", b"old")
        put(storage, path / "new", b"new")
        storage.rename(path / "old", path / "new")
        assert storage.listing(path) == ["new"]
        assert get(storage, path / "new") == b"old"

    def test_open_file_follows_its_rename(self, place: Place) -> None:
        storage, path = place.storage, place.path
        file = storage.open(path / "a", create=True)
        storage.rename(path / "a", path / "b")
        file.write([b"later"], 0)
        file.close()
        assert get(storage, path / "b") == b"later"

    def test_directory_moves_with_all_in_it(self, place: Place) -> None:
        storage, path = place.storage, place.path
        storage.make_directory(path / "a" / "in")
        put(storage, path / "a" / "in" / "f", b"f")
        database = storage.open_database(path / "a" / "d.db")
        with database.transaction() as connection:
            connection.execute("CREATE TABLE t (a)")
        database.close()
        storage.rename(path / "a", path / "b")
        assert storage.listing(path) == ["b"]
        assert get(storage, path / "b" / "in" / "f") == b"f"
        database = storage.open_database(path / "b" / "d.db")
        assert database.query("SELECT * FROM t") == []
        database.close()

    def test_directory_with_content_is_never_replaced(self, place: Place) -> None:
        storage, path = place.storage, place.path
        storage.make_directory(path / "a")
        storage.make_directory(path / "b" / "in")
        refused(errno.ENOTEMPTY, lambda: storage.rename(path / "a", path / "b"))
        storage.rename(path / "b", path / "a")  # an empty one is
        assert storage.listing(path) == ["a"]
        put(storage, path / "f")
        refused(errno.EISDIR, lambda: storage.rename(path / "f", path / "a"))
        refused(errno.ENOTDIR, lambda: storage.rename(path / "a", path / "f"))

    def test_both_ends_have_to_be_there(self, place: Place) -> None:
        storage, path = place.storage, place.path
        refused(errno.ENOENT, lambda: storage.rename(path / "a", path / "b"))
        put(storage, path / "a")
        refused(errno.ENOENT, lambda: storage.rename(path / "a", path / "no" / "b"))
        assert storage.listing(path) == ["a"]


class TestLock:
    def test_second_holder_is_refused_until_the_first_lets_go(self, place: Place) -> None:
        held = place.storage.lock(place.path / "LOCK")
        for storage in (place.storage, place.other):
            with pytest.raises(FailedPrecondition, match="another process holds") as caught:
                storage.lock(place.path / "LOCK")
            assert caught.value.reason == "DIRECTORY_IN_USE"
        held.close()
        place.other.lock(place.path / "LOCK").close()

    def test_closing_twice_does_not_free_the_next_holder(self, place: Place) -> None:
        first = place.storage.lock(place.path / "LOCK")
        first.close()
        second = place.other.lock(place.path / "LOCK")
        first.close()
        with pytest.raises(FailedPrecondition):
            place.storage.lock(place.path / "LOCK")
        second.close()

    def test_lock_is_a_file_and_locks_do_not_meet(self, place: Place) -> None:
        one = place.storage.lock(place.path / "one")
        two = place.storage.lock(place.path / "two")
        assert place.storage.listing(place.path) == ["one", "two"]
        one.close()
        two.close()
        refused(errno.ENOENT, lambda: place.storage.lock(place.path / "absent" / "LOCK"))

    def test_lock_stays_with_the_file_when_its_directory_is_renamed(self, place: Place) -> None:
        storage, path = place.storage, place.path
        storage.make_directory(path / "a")
        held = storage.lock(path / "a" / "LOCK")
        storage.rename(path / "a", path / "b")
        with pytest.raises(FailedPrecondition):
            place.other.lock(path / "b" / "LOCK")
        held.close()
