"""Named checks over the API and in files; runs of them against a fake Secondary."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from services.snapshot.checks import catalogue
from services.snapshot.documents import Documents
from services.snapshot.store import RunStore
from slackwater.errors import NotFound, Unavailable
from slackwater.runtime import status
from slackwater.storage.real import RealStorage
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as there
from slackwater.v1 import snapshot_pb2 as api
from tests.unit.services.snapshot.world import GROUP, Secondary, World, play

SNAPSHOT = f"{GROUP}/snapshots/s1"
FSCK = "checks/fsck"


class Checked(Secondary):
    """A Secondary with one snapshot, its clones, and the results it was told."""

    def __init__(self) -> None:
        """Have snapshot s1."""
        super().__init__()
        self.clones: set[str] = set()
        self.results: list[resources_pb2.CheckResult] = []
        self.is_away = False
        self.snapshots[SNAPSHOT] = resources_pb2.Snapshot(name=SNAPSHOT, uid="u1")
        self.service.answers |= {
            "CreateClone": self.create_clone,
            "ExportClone": self.export_clone,
            "DeleteClone": self.delete_clone,
            "RecordCheck": self.record,
        }

    def create_clone(self, request: Any) -> Any:
        """Make a clone."""
        name = f"{GROUP}/clones/{request.clone_id}"
        self.clones.add(name)
        return there.SecondaryServiceCreateCloneResponse(clone=resources_pb2.Clone(name=name))

    def export_clone(self, request: Any) -> Any:
        """A clone without volumes."""
        return there.SecondaryServiceExportCloneResponse(
            clone=resources_pb2.Clone(name=request.name)
        )

    def delete_clone(self, request: Any) -> Any:
        """Remove a clone."""
        if request.name not in self.clones:
            raise NotFound("clone", request.name)
        self.clones.remove(request.name)
        return there.SecondaryServiceDeleteCloneResponse()

    def record(self, request: Any) -> Any:
        """Keep a result."""
        if self.is_away:
            self.is_away = False
            raise Unavailable("the Secondary", "Wait")
        assert not self.clones, "the clone goes first"
        self.results.append(request.result)
        return there.RecordCheckResponse()


@pytest.fixture
def secondary() -> Checked:
    return Checked()


def check(**fields: Any) -> api.Check:
    """A check that only differs in what a test is about."""
    given: dict[str, Any] = {"name": FSCK, "kind": api.CHECK_KIND_FILE_SYSTEMS} | fields
    return api.Check(**given)


async def create(world: World, made: api.Check) -> api.Check:
    answer = await world.api.CreateCheck(api.CreateCheckRequest(check=made))
    found: api.Check = answer.check
    return found


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "fsck"}, "check.name"),
        ({"kind": 0}, "check.kind"),
        ({"kind": 99}, "check.kind"),
        ({"group": "demo"}, "check.group"),
        ({"command": "look"}, "check.command"),
        ({"kind": api.CHECK_KIND_COMMAND}, "check.command"),
        ({"volumes": ["Data"]}, "check.volumes"),
    ],
)
def test_bad_check_is_refused_and_not_kept(
    tmp_path: Path, secondary: Checked, fields: dict[str, Any], field: str
) -> None:
    async def scene(world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create(world, check(**fields))
        found = status.decode(caught.value)
        assert (found.code.name, found.field) == ("INVALID_ARGUMENT", field)
        assert not (await world.api.ListChecks(api.ListChecksRequest())).checks

    play(tmp_path, scene, secondary)


def test_check_of_the_api_outlives_a_restart_and_goes_when_deleted(
    tmp_path: Path, secondary: Checked
) -> None:
    async def first(world: World) -> None:
        planned = api.CreateCheckRequest(check=check(), validate_only=True)
        await world.api.CreateCheck(planned)
        made = await create(world, check())
        assert made.source == catalogue.SOURCE_API
        update = api.UpdateCheckRequest(check=check(volumes=["data"]))
        await world.api.UpdateCheck(update)
        with pytest.raises(grpc.aio.AioRpcError, match="Choose another name"):
            await create(world, check())

    async def second(world: World) -> None:
        (found,) = (await world.api.ListChecks(api.ListChecksRequest())).checks
        assert list(found.volumes) == ["data"]
        delete = api.DeleteCheckRequest(name=FSCK, validate_only=True)
        assert len((await world.api.DeleteCheck(delete)).losses) == 1
        await world.api.GetCheck(api.GetCheckRequest(name=FSCK))
        delete.validate_only = False
        await world.api.DeleteCheck(delete)
        with pytest.raises(grpc.aio.AioRpcError, match="no check"):
            await world.api.GetCheck(api.GetCheckRequest(name=FSCK))

    play(tmp_path, first, secondary)
    play(tmp_path, second, secondary)


def test_file_that_cannot_be_used_is_shown_and_takes_nothing_else_away(
    tmp_path: Path, secondary: Checked
) -> None:
    for name, text in (("good", "kind: e2fsck\n"), ("bad", "kind: nothing\n")):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "check.yaml").write_text(text)

    async def scene(world: World) -> None:
        answer = await world.api.ListChecks(api.ListChecksRequest())
        assert [row.name for row in answer.checks] == ["checks/good"]
        assert [(row.field, row.line) for row in answer.problems] == [("kind", 1)]
        with pytest.raises(grpc.aio.AioRpcError, match="Mend the file"):
            await world.api.GetCheck(api.GetCheckRequest(name="checks/bad"))
        with pytest.raises(grpc.aio.AioRpcError, match="Change the file"):
            await world.api.DeleteCheck(api.DeleteCheckRequest(name="checks/good"))

    play(tmp_path, scene, secondary)


def test_check_that_cannot_be_run_says_so_once_its_clone_is_gone(
    tmp_path: Path, secondary: Checked
) -> None:
    async def scene(world: World) -> None:
        await create(world, check())
        request = api.RunCheckRequest(check=FSCK, snapshot=SNAPSHOT, request_id="r")
        secondary.is_away = True  # once: the verdict is tried again
        run = (await world.api.RunCheck(request)).run
        assert (await world.api.RunCheck(request)).run == run
        await world.until(lambda: bool(secondary.results))

    play(tmp_path, scene, secondary)
    (found,) = secondary.results
    assert found.verdict == resources_pb2.CHECK_VERDICT_ERROR
    assert "file system" in found.reason


def test_check_that_a_crash_cut_off_leaves_no_clone_and_says_so(
    tmp_path: Path, secondary: Checked
) -> None:
    async def nothing(world: World) -> None:
        await world.api.ListChecks(api.ListChecksRequest())

    async def scene(world: World) -> None:
        await world.until(lambda: bool(secondary.results))

    play(tmp_path, nothing, Checked())  # which play stops at its end
    left = f"{GROUP}/clones/check-r1"
    store = RunStore(RealStorage(), tmp_path)  # as a killed service leaves it
    run = api.CheckRun(id="r1", check=check(), snapshot=SNAPSHOT, snapshot_uid="u1", clone=left)
    Documents(store.database, "check_run", api.CheckRun).put("r1", run)
    store.close()
    secondary.clones.add(left)
    play(tmp_path, scene, secondary)
    (found,) = secondary.results
    assert (found.id, found.verdict) == ("r1", resources_pb2.CHECK_VERDICT_INTERRUPTED)
    assert secondary.clones == set()


def test_check_is_refused_for_another_group_and_for_no_snapshot(
    tmp_path: Path, secondary: Checked
) -> None:
    async def scene(world: World) -> None:
        await create(world, check(group="groups/other"))
        request = api.RunCheckRequest(check=FSCK, snapshot=SNAPSHOT)
        with pytest.raises(grpc.aio.AioRpcError, match="groups/other"):
            await world.api.RunCheck(request)
        request.snapshot = f"{GROUP}/snapshots/none"
        with pytest.raises(grpc.aio.AioRpcError, match="there is no snapshot"):
            await world.api.RunCheck(request)

    play(tmp_path, scene, secondary)
    assert secondary.calls == []
