"""The fsck step with real file systems and their real checkers, over real NBD."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.snapshot.tasks import command, fsck
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Peer
from slackwater.nbd.server import Server
from slackwater.v1 import common_pb2, secondary_pb2, snapshot_pb2
from tests.support.memory_export import BLOCK, MemoryExport
from tests.support.tools import require
from tests.unit.services.snapshot.task_world import Desk, run_task, task
from tests.unit.services.snapshot.world import World, play

Run = snapshot_pb2.Run
MIB = 1 << 20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


class Stand:
    """A Primary with a Secondary whose snapshots are served over NBD."""

    def __init__(self, tmp_path: Path) -> None:
        """Serve no volume yet."""
        self.desk = Desk()
        self.volumes: dict[str, MemoryExport] = {}
        self._directory = tmp_path
        self._server = Server(Access(list, self._open))
        self._address = "{}:{}".format(*self._server.listen_tcp("127.0.0.1", 0))
        site = self.desk.site
        self._get, self._export = site.get_snapshot, site.export
        site.service.answers |= {
            "GetSnapshot": self._get_snapshot,
            "ExportSnapshot": self._exported,
        }

    def stop(self) -> None:
        """Hang up on everybody."""
        self._server.stop()
        self.desk.stop()

    def volume(self, name: str, image: bytes) -> None:
        """Serve a volume with these bytes; blocks of zeroes are holes."""
        export = MemoryExport(len(image), name=name, read_only=True)
        export.content[:] = image
        for block in range(len(image) // BLOCK):
            export.allocated[block] = any(image[block * BLOCK : (block + 1) * BLOCK])
        self.volumes[name] = export

    def run(self, *volumes: str, **settings: Any) -> Run:
        """Run a task that checks these volumes of its snapshot, or all."""
        made = task(postfreeze=["fsck"])
        made.postfreeze[0].fsck.volumes.extend(volumes)

        async def scene(world: World) -> Any:
            over = await run_task(world, made)
            await world.until(lambda: not self.desk.site.exported)
            return over

        data = self._directory / "data"
        over: Run = play(data, scene, primary=self.desk.service.address, **settings)
        assert not list((data / "work").glob("*"))
        assert over.replicas[0].snapshot in self.desk.site.snapshots
        return over

    def _open(self, name: str, _peer: Peer) -> MemoryExport:
        return self.volumes[name]

    def _get_snapshot(self, request: Any) -> Any:
        answer = self._get(request)
        del answer.snapshot.volumes[:]
        for name in self.volumes:
            answer.snapshot.volumes.add(volume=name, size_bytes=self.volumes[name].size)
        return answer

    def _exported(self, request: Any) -> Any:
        self._export(request)
        return secondary_pb2.SecondaryServiceExportSnapshotResponse(
            nbd_uris=[f"nbd://{self._address}/{name}" for name in self.volumes]
        )


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.stop()


def ext4(tmp_path: Path) -> bytes:
    """An ext4 file system with a file in it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 10_000)
    image = tmp_path / "ext4"
    words = [require("mkfs.ext4"), "-q", "-F", "-b", str(BLOCK), "-d", str(tree), str(image), "32M"]
    subprocess.run(words, check=True, timeout=60)
    return image.read_bytes()


def xfs(tmp_path: Path) -> bytes:
    """An empty XFS, as small as its tools make one."""
    image = tmp_path / "xfs"
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    subprocess.run([require("mkfs.xfs"), "-q", str(image)], check=True, timeout=60)
    return image.read_bytes()


def busy(tmp_path: Path, image: bytes, kind: str, *, is_frozen: bool) -> bytes:
    """What a block device holds while its file system is used, or is frozen after use."""
    device, mountpoint = tmp_path / f"used-{kind}", tmp_path / "mnt"
    device.write_bytes(image)
    mountpoint.mkdir()
    words = [require("mount"), "-t", kind, "-o", "loop", str(device), str(mountpoint)]
    if subprocess.run(words, timeout=60).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("this needs a machine that lets root mount loop devices")
        pytest.skip("mounting is not allowed here")
    try:
        for number in range(100):
            (mountpoint / f"file-{number}").write_text(str(number))
        os.sync()
        for number in range(50):
            (mountpoint / f"file-{number}").unlink()
        directory = os.open(mountpoint, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        if not is_frozen:
            return device.read_bytes()
        fsfreeze = require("fsfreeze")
        subprocess.run([fsfreeze, "-f", str(mountpoint)], check=True, timeout=60)
        try:
            return device.read_bytes()
        finally:
            subprocess.run([fsfreeze, "-u", str(mountpoint)], check=True, timeout=60)
    finally:
        subprocess.run([require("umount"), str(mountpoint)], check=True, timeout=60)


def output(run: Run) -> str:
    return next(step.output for step in run.steps if step.step == "fsck")


def test_file_systems_that_hold_together_pass(stand: Stand, tmp_path: Path) -> None:
    stand.volume("data", ext4(tmp_path))
    stand.volume("more", xfs(tmp_path))
    stand.volume("raw", bytes(MIB))
    run = stand.run()
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    assert "data: e2fsck -fn" in output(run)
    assert "more: xfs_repair -n -f" in output(run)
    assert "raw: no file system known here" in output(run)


def test_only_ranges_with_data_are_copied(stand: Stand, tmp_path: Path) -> None:
    image = ext4(tmp_path)
    stand.volume("data", image)
    stand.run("data")
    read = sum(
        length
        for batch in stand.volumes["data"].batches
        for kind, _, _, length in batch
        if kind == 0
    )
    assert read < len(image) / 2


def test_damaged_file_system_fails_with_what_its_checker_said(stand: Stand, tmp_path: Path) -> None:
    image = bytearray(ext4(tmp_path))
    for offset in range(8 * BLOCK, 24 * BLOCK, BLOCK):  # group descriptors, bitmaps, inodes
        image[offset : offset + BLOCK] = b"\xa5" * BLOCK
    stand.volume("data", bytes(image))
    run = stand.run("data")
    assert run.state == Run.STATE_FAILED
    assert "COMMAND_FAILED: e2fsck of volume data" in run.error
    assert "e2fsck" in output(run)
    assert run.replicas[0].verdict == common_pb2.VERDICT_STATE_SNAPSHOTTED


def test_journal_of_a_point_in_the_write_order_is_replayed_first(
    stand: Stand, tmp_path: Path
) -> None:
    file = tmp_path / "dirty"
    file.write_bytes(ext4(tmp_path))
    debugfs = require("debugfs")
    told = subprocess.run(
        [debugfs, "-R", "bmap <2> 0", str(file)], capture_output=True, text=True, timeout=60
    ).stdout
    block = int(told)
    good = tmp_path / "block"
    good.write_bytes(file.read_bytes()[block * BLOCK : (block + 1) * BLOCK])
    # The journal has the root directory; its place holds what was there before.
    script = (
        f"journal_open\njournal_write -b {block} {good}\njournal_close\nfeature needs_recovery\n"
    )
    subprocess.run([debugfs, "-w", "-f", "-", str(file)], input=script.encode(), timeout=60)
    image = bytearray(file.read_bytes())
    image[block * BLOCK : (block + 1) * BLOCK] = b"\xa5" * BLOCK
    found = fsck.recognise(bytes(image[: fsck.PROBE_BYTES]))
    assert found is not None
    assert [words[1] for words in found.commands] == ["-p", "-fn"]
    stand.volume("data", bytes(image))
    run = stand.run("data")
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    assert "e2fsck -p -E journal_only" in output(run)


@needs_root
@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "in-use"])
@pytest.mark.parametrize(("make", "kind"), [(ext4, "ext4"), (xfs, "xfs")], ids=["ext4", "xfs"])
def test_file_system_in_use_is_replayed_and_passes(
    stand: Stand, tmp_path: Path, make: Callable[[Path], bytes], kind: str, is_frozen: bool
) -> None:
    stand.volume("data", busy(tmp_path, make(tmp_path), kind, is_frozen=is_frozen))
    run = stand.run("data")
    assert (run.state, run.error) == (Run.STATE_SUCCEEDED, "")
    if kind == "xfs":  # a frozen XFS leaves a record in its log by design
        assert "log replayed by a mount" in output(run)
    elif not is_frozen:
        assert "e2fsck -p -E journal_only" in output(run)


@needs_root
def test_log_that_cannot_be_replayed_is_no_damage(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.volume("data", busy(tmp_path, xfs(tmp_path), "xfs", is_frozen=True))
    monkeypatch.setattr(fsck, "may_mount", lambda: False)
    run = stand.run("data")
    assert run.state == Run.STATE_FAILED
    assert "LOG_NOT_REPLAYED" in run.error
    assert "does not run as root" in run.error
    assert "xfs_repair" not in output(run)


def test_missing_checker_is_named(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = bytearray(MIB)
    head[(64 << 10) + 64 : (64 << 10) + 72] = b"_BHRfS_M"
    stand.volume("data", bytes(head))
    monkeypatch.setattr(command, "PATH", str(tmp_path))
    run = stand.run()
    assert run.state == Run.STATE_FAILED
    assert "btrfs is not installed here. Install btrfs-progs" in run.error


def test_volume_that_is_not_there_is_named(stand: Stand) -> None:
    stand.volume("data", bytes(MIB))
    assert "there is no volume 'wal'. The snapshot has data" in stand.run("wal").error


@pytest.mark.parametrize("volumes", [(), ("data",)])
def test_nothing_to_check_is_no_success(stand: Stand, volumes: tuple[str, ...]) -> None:
    stand.volume("data", bytes(MIB))
    run = stand.run(*volumes)
    assert run.state == Run.STATE_FAILED
    assert "NO_FILE_SYSTEM" in run.error


def test_copy_that_has_no_room_is_not_begun(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.volume("data", ext4(tmp_path))
    monkeypatch.setattr(fsck, "SPARE_BYTES", 1 << 62)
    run = stand.run()
    assert "NO_SPACE: no space in" in run.error


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("nbd://h:1/groups/g/x", (("h", 1), "groups/g/x", False)),
        ("nbds://h/e", (("h", 10809), "e", True)),
        ("nbd://0.0.0.0:7/e", (("there", 7), "e", False)),
        ("nbd://[::1]:7/e", (("::1", 7), "e", False)),
        ("nbd+unix:///a/b?socket=/run/x", (Path("/run/x"), "a/b", False)),
    ],
)
def test_uri_leads_to_its_export(uri: str, found: object) -> None:
    assert fsck.address_of(uri, "there") == found
