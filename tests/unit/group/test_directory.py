"""Data directories: what is refused, what is made whole, what is left behind."""

import errno
import json
import uuid
from pathlib import Path

import pytest

from slackwater.errors import AlreadyExists, FailedPrecondition, NotFound
from slackwater.group.directory import FORMAT, KIND, MARKER, DataDirectory, GroupDirectory
from slackwater.storage.simulated import SimulatedStorage

ROOT = Path("/srv/slackwater")
UID = uuid.UUID(int=7)


@pytest.fixture
def storage() -> SimulatedStorage:
    return SimulatedStorage()


def put(storage: SimulatedStorage, path: Path, data: bytes) -> None:
    storage.make_directory(path.parent)
    file = storage.open(path, create=True)
    file.write([data], 0)
    file.close()


def fill(storage: SimulatedStorage, building: GroupDirectory) -> None:
    put(storage, building.log / "segment", b"log")


def create(storage: SimulatedStorage, data: DataDirectory, name: str = "g") -> GroupDirectory:
    return data.create_group(name, lambda building: fill(storage, building))


class TestOpen:
    def test_new_directory_is_marked_as_ours(self, storage: SimulatedStorage) -> None:
        DataDirectory.open(storage, ROOT, "primary")
        assert storage.listing(ROOT) == ["groups", "primary.lock", MARKER]
        marker = storage.open(ROOT / MARKER).read(1000, 0)
        assert json.loads(marker) == {"kind": KIND, "format": FORMAT}

    def test_roles_share_a_directory_one_process_each(self, storage: SimulatedStorage) -> None:
        primary = DataDirectory.open(storage, ROOT, "primary")
        DataDirectory.open(storage.beside(), ROOT, "secondary")
        with pytest.raises(FailedPrecondition) as caught:
            DataDirectory.open(storage.beside(), ROOT, "primary")
        assert caught.value.reason == "DIRECTORY_IN_USE"
        primary.close()
        DataDirectory.open(storage.beside(), ROOT, "primary")

    @pytest.mark.parametrize("name", ["photo.jpg", "lost+found.txt", "groups", ".hidden"])
    def test_foreign_directory_is_refused_by_name_and_left_alone(
        self, storage: SimulatedStorage, name: str
    ) -> None:
        put(storage, ROOT / name, b"mine")
        with pytest.raises(FailedPrecondition, match="Give an empty directory") as caught:
            DataDirectory.open(storage, ROOT, "primary")
        assert caught.value.reason == "NOT_OURS"
        assert repr(name) in str(caught.value)
        assert storage.listing(ROOT) == [name]

    def test_what_a_role_starting_beside_us_has_there_is_not_foreign(
        self, storage: SimulatedStorage
    ) -> None:
        for name in ("secondary.lock", f"{MARKER}.secondary", ".probe-abc"):
            put(storage, ROOT / name, b"")
        storage.make_directory(ROOT / "lost+found")
        DataDirectory.open(storage, ROOT, "primary")

    @pytest.mark.parametrize(
        "content", [b"", b"no json", b"[]", b"{}", b'{"kind": "other", "format": 1}', b'"x"']
    )
    def test_marker_of_something_else_is_refused(
        self, storage: SimulatedStorage, content: bytes
    ) -> None:
        put(storage, ROOT / MARKER, content)
        with pytest.raises(FailedPrecondition) as caught:
            DataDirectory.open(storage, ROOT, "primary")
        assert caught.value.reason == "NOT_OURS"

    def test_newer_format_is_refused_naming_the_next_step(self, storage: SimulatedStorage) -> None:
        put(storage, ROOT / MARKER, json.dumps({"kind": KIND, "format": FORMAT + 1}).encode())
        with pytest.raises(FailedPrecondition, match="Start a release") as caught:
            DataDirectory.open(storage, ROOT, "primary")
        assert caught.value.reason == "NEWER_FORMAT"
        storage.lock(ROOT / "primary.lock")  # the refused one does not hold it

    def test_unfit_file_system_is_refused(
        self, storage: SimulatedStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def check(directory: Path) -> None:
            raise FailedPrecondition("FILE_SYSTEM_UNFIT", f"{directory} is on NFS")

        monkeypatch.setattr(storage, "check", check)
        with pytest.raises(FailedPrecondition, match="NFS"):
            DataDirectory.open(storage, ROOT, "primary")


class TestCreate:
    def test_group_has_its_directories_and_what_filled_it(self, storage: SimulatedStorage) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        group = create(storage, data)
        assert (group.name, group.path) == ("g", ROOT / "groups" / "g")
        assert storage.listing(group.path) == ["log", "maps", "snapshots", "volumes"]
        assert storage.listing(group.log) == ["segment"]
        assert [one.name for one in data.groups()] == ["g"]
        assert group.database == group.path / "group.db"
        assert group.maps == group.path / "maps"

    def test_name_that_is_taken_is_refused(self, storage: SimulatedStorage) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        create(storage, data)
        with pytest.raises(AlreadyExists, match="g"):
            create(storage, data)

    def test_the_faster_role_wins_and_the_other_leaves_nothing(
        self, storage: SimulatedStorage
    ) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        other = DataDirectory.open(storage.beside(), ROOT, "secondary")

        def slow(building: GroupDirectory) -> None:
            fill(storage, building)
            create(storage, other)

        with pytest.raises(AlreadyExists):
            data.create_group("g", slow)
        assert storage.listing(ROOT / "groups") == ["g"]

    def test_group_that_cannot_be_filled_leaves_nothing(self, storage: SimulatedStorage) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        storage.fail("write", "segment", errno.ENOSPC)
        with pytest.raises(OSError):
            create(storage, data)
        assert storage.listing(ROOT / "groups") == []
        create(storage, data)

    def test_paths_of_volumes_are_inside_unless_absolute(self) -> None:
        group = GroupDirectory(ROOT / "groups" / "g")
        assert group.volume("volumes/data.raw") == group.volumes / "data.raw"
        assert group.volume("/dev/vg/data") == Path("/dev/vg/data")


class TestRemove:
    def test_removed_group_is_gone_with_all_it_held(self, storage: SimulatedStorage) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        create(storage, data)
        data.remove_group("g")
        assert storage.listing(ROOT / "groups") == []
        with pytest.raises(NotFound):
            data.remove_group("g")
        create(storage, data)

    def test_group_that_a_process_owns_is_not_removed(self, storage: SimulatedStorage) -> None:
        data = DataDirectory.open(storage, ROOT, "primary")
        held = create(storage, data).lock(storage.beside())
        with pytest.raises(FailedPrecondition) as caught:
            data.remove_group("g")
        assert caught.value.reason == "DIRECTORY_IN_USE"
        assert storage.listing(data.group("g").log) == ["segment"]
        held.close()
        data.remove_group("g")


def test_leftovers_go_when_their_own_role_opens_again(storage: SimulatedStorage) -> None:
    for role in ("primary", "secondary"):
        put(storage, ROOT / "groups" / f".building-{role}-g" / "log" / "f", b"")
    put(storage, ROOT / MARKER, json.dumps({"kind": KIND, "format": FORMAT}).encode())
    data = DataDirectory.open(storage, ROOT, "primary")
    assert storage.listing(ROOT / "groups") == [".building-secondary-g"]
    assert data.groups() == []
