"""`slackwater attach`: an application sees a path; a death is a pause, or is undone."""

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from demo import mounts
from slackwater.v1 import common_pb2, primary_pb2, record_pb2
from tests.support.processes import CALL_SECONDS, GROUP, MIB, Cluster, connect, wait_until
from tests.support.secured import Secured, flags
from tests.support.tools import lacking, require

pytestmark = pytest.mark.timeout(180)

END_SECONDS = 60.0


_NUMBERS = itertools.count(1)
_STARTED: "list[Attach]" = []
"""By the test that runs. One left behind would wait for a Primary that is gone, and every `sync` of
the machine with it."""


class Attach:
    """A running `slackwater attach` of one volume, or of more."""

    def __init__(
        self, cluster: Cluster | Secured, directory: Path, *words: str, volume: str = "data"
    ) -> None:
        self.where = directory / "data"
        self.log = directory / f"attach-{os.urandom(3).hex()}.log"
        endpoints = cluster.primary.endpoints
        command = [
            sys.executable, "-m", "slackwater.cli", "attach", f"demo/{volume}={self.where}",
            "--via", "fuse", "--primary", endpoints.grpc, "--nbd", endpoints.nbd,
            "--state-dir", str(directory / "state"), "--patience", "60s", *words,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _STARTED.append(self)

    def wait_attached(self) -> "Attach":
        def is_there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return " attached " in self.log.read_text() or "event=attached" in self.log.read_text()

        wait_until("the volume is attached", is_there)
        return self

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def refused(self) -> str:
        """What it says when it ends by itself, which it must."""
        assert self.process.wait(END_SECONDS) != 0
        return self.log.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where volumes are mounted; nothing stays."""
    lacks = mounts.missing()
    if lacks:
        lacking(f"attach needs {', '.join(lacks)}")
    for tool in ("nbdkit", "nbdinfo"):
        require(tool)
    place = tmp_path / "place"
    place.mkdir()
    yield place
    while _STARTED:
        one = _STARTED.pop()
        if one.process.poll() is None:
            one.end()
    assert mounts_below(place) == []


def mounts_below(place: Path) -> list[str]:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [where for where in mounted if where.startswith(str(place))]


@contextlib.contextmanager
def attached(
    cluster: Cluster | Secured, place: Path, *words: str, volume: str = "data"
) -> Iterator[Attach]:
    attach = Attach(cluster, place, *words, volume=volume)
    try:
        yield attach.wait_attached()
    finally:
        if attach.process.poll() is None:
            attach.end()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One pair of sites for all tests; each has a volume of its own."""
    with Cluster(tmp_path_factory.mktemp("sites")) as services:
        yield services.replicate()


@pytest.fixture
def volume(cluster: Cluster) -> str:
    name = f"data-{next(_NUMBERS)}"
    cluster.primary_api.CreateVolume(
        primary_pb2.CreateVolumeRequest(group=GROUP, volume_id=name, size_bytes=64 * MIB),
        timeout=CALL_SECONDS,
    )
    return name


def test_volume_is_a_path_until_sigterm_and_is_what_it_was_the_next_time(
    cluster: Cluster, place: Path, volume: str
) -> None:
    with attached(cluster, place, "--make", "ext4", volume=volume) as attach:
        (attach.where / "letter").write_text("dear reader")
        assert attach.end() == 0
    assert mounts_below(place) == []
    assert not list((place / "state").glob("*.json"))
    words = ("--make", "ext4", "--mount-options", "noatime", "--read-only")
    with attached(cluster, place, *words, volume=volume) as attach:
        assert (attach.where / "letter").read_text() == "dear reader", "never made anew"
        with pytest.raises(OSError):
            (attach.where / "more").touch()


def test_restart_of_the_primary_is_a_pause(cluster: Cluster, place: Path, volume: str) -> None:
    errors, answered, stop = [], [0], threading.Event()

    def write(where: Path) -> None:
        while not stop.is_set():
            try:
                with (where / f"file-{answered[0] % 50}").open("wb") as file:
                    file.write(answered[0].to_bytes(8) * 512)
                    file.flush()
                    os.fsync(file.fileno())
                answered[0] += 1
            except OSError as error:
                errors.append(error)
                return

    with attached(cluster, place, "--make", "ext4", volume=volume) as attach:
        writer = threading.Thread(target=write, args=(attach.where,))
        writer.start()
        try:
            wait_until("writes go", lambda: answered[0] > 20)
            cluster.primary.kill()
            before = answered[0]
            cluster.primary.start(same_ports=True)
            wait_until("writes go on", lambda: answered[0] > before + 20 or bool(errors))
        finally:
            stop.set()
            writer.join()
        assert not errors
        last = answered[0] - 1
        assert attach.end() == 0
    with attached(cluster, place, volume=volume) as attach:
        assert (attach.where / f"file-{last % 50}").read_bytes() == last.to_bytes(8) * 512


def test_without_retry_a_restart_of_the_primary_is_an_error(
    cluster: Cluster, tmp_path: Path, volume: str
) -> None:
    """What docs/attach.md says of plain nbdfuse, and of any client that does not connect again."""
    require("nbdfuse")
    where = tmp_path / "plain"
    where.mkdir()
    uri = f"nbd://{cluster.primary.endpoints.nbd}/{GROUP}/volumes/{volume}"
    process = subprocess.Popen(["nbdfuse", str(where / "disk"), uri], stderr=subprocess.DEVNULL)
    try:
        wait_until("it is there", (where / "disk").exists)
        cluster.primary.restart(kill=True)
        with pytest.raises(OSError), (where / "disk").open("r+b") as disk:
            disk.write(bytes(4096))
            disk.flush()
            os.fsync(disk.fileno())
    finally:
        subprocess.run(["umount", str(where)], check=True)
        process.wait(END_SECONDS)


def test_qemu_with_a_reconnect_delay_sees_a_pause(cluster: Cluster, volume: str) -> None:
    require("qemu-io")
    host, _, port = cluster.primary.endpoints.nbd.rpartition(":")
    image = (
        f"driver=nbd,server.type=inet,server.host={host},server.port={port},"
        f"export={GROUP}/volumes/{volume},reconnect-delay=60"
    )
    qemu = subprocess.Popen(
        ["qemu-io", "--image-opts", image],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert qemu.stdin is not None
    qemu.stdin.write("write -P 1 0 4096\n")
    qemu.stdin.flush()
    wait_until("it wrote", lambda: cluster.read_volume(volume)[:1] == b"\x01")
    cluster.primary.kill()
    qemu.stdin.write("write -f -P 2 0 4096\nread -P 2 0 4096\nquit\n")
    qemu.stdin.flush()
    cluster.primary.start(same_ports=True)
    said, _ = qemu.communicate(timeout=END_SECONDS)
    assert qemu.returncode == 0
    assert said.count("4096/4096 bytes") == 3, said
    assert "failed" not in said
    assert cluster.read_volume(volume)[:1] == b"\x02"


def test_agent_beside_it_makes_points_of_grade_filesystem(
    cluster: Cluster, place: Path, volume: str
) -> None:
    for application in ("backup", "files"):
        cluster.primary_api.RegisterApplication(
            primary_pb2.PrimaryServiceRegisterApplicationRequest(
                group=GROUP, application=application
            ),
            timeout=CALL_SECONDS,
        )
    with attached(cluster, place, "--make", "ext4", "--agent", "files", volume=volume) as attach:
        (attach.where / "letter").write_text("held")
        wait_until("the agent is there", lambda: bool(cluster.group_status().agents))
        request = primary_pb2.SendMessageRequest(
            group=GROUP, application="backup", behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
        )
        request.quiesce.applications.append("files")
        message = cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS).message
        assert message.outcome == record_pb2.Outcome.STATE_CONFIRMED
        assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_FILESYSTEM
        assert attach.end() == 0
    wait_until("the agent is gone", lambda: not cluster.group_status().agents)


def test_what_a_killed_attach_left_is_undone_by_the_next(
    cluster: Cluster, place: Path, volume: str
) -> None:
    with attached(cluster, place, "--make", "ext4", volume=volume) as attach:
        (attach.where / "letter").write_text("dear reader")
        subprocess.run(["sync", "-f", str(attach.where)], check=True)
        attach.kill()
    assert mounts_below(place), "nobody undid it"
    with attached(cluster, place, volume=volume) as attach:
        assert (attach.where / "letter").read_text() == "dear reader"
        assert "is attached by another process" in Attach(cluster, place, volume=volume).refused()


def test_volume_that_is_attached_is_not_taken_away_by_a_second(
    cluster: Cluster, place: Path, volume: str
) -> None:
    with attached(cluster, place, "--make", "ext4", volume=volume) as attach:
        assert "is attached by another process" in Attach(cluster, place, volume=volume).refused()
        assert attach.process.poll() is None
        (attach.where / "letter").write_text("still here")


def test_mount_point_in_use_is_taken_away_and_said(
    cluster: Cluster, place: Path, volume: str
) -> None:
    with attached(cluster, place, "--make", "ext4", "--leave", "0s", volume=volume) as attach:
        with (attach.where / "open").open("wb"):
            assert attach.end() == 0
            assert "detached while in use" in attach.log.read_text()
    wait_until("it went with its last user", lambda: mounts_below(place) == [])


def test_broken_mount_ends_the_command(cluster: Cluster, place: Path, volume: str) -> None:
    with attached(cluster, place, "--make", "ext4", volume=volume) as attach:
        subprocess.run(["umount", str(attach.where)], check=True)
        assert "unmounted by somebody else" in attach.refused()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "has nothing on it, and no file system to mount"),
        (["demo/nothing=/mnt/nothing", "--make", "ext4"], "nothing"),
        (["demo/data-1=relative"], "is no GROUP/VOLUME=PATH"),
        (["--nbd", "127.0.0.1:1", "--make", "ext4"], "Connection refused"),
        (["--make", "ext4", "--owner", "postgres"], "'postgres' is no UID:GID"),
        (["--owner", "999:999"], "--owner is of a file system that is made"),
    ],
    ids=["nothing-on-it", "no-volume", "no-path", "no-server", "no-number", "nothing-made"],
)
def test_what_cannot_be_attached_is_said_and_leaves_nothing(
    cluster: Cluster, place: Path, volume: str, words: Sequence[str], said: str
) -> None:
    assert said in Attach(cluster, place, *words, volume=volume).refused()
    assert mounts_below(place) == []


def test_data_of_another_kind_is_never_made_into_a_file_system(
    cluster: Cluster, place: Path, volume: str
) -> None:
    with connect(cluster, "primary", f"{GROUP}/volumes/{volume}") as device:
        device.write(0, bytes(510) + b"\x55\xaa", fua=True)  # a partition table of the oldest kind
    assert (
        "no file system to mount"
        in Attach(cluster, place, "--make", "ext4", volume=volume).refused()
    )
    assert cluster.read_volume(volume)[510:512] == b"\x55\xaa"


def test_data_that_no_tool_knows_is_never_made_into_a_file_system(
    cluster: Cluster, place: Path, volume: str
) -> None:
    """A database's file, or a file system whose first block rotted: blkid finds nothing there."""
    with connect(cluster, "primary", f"{GROUP}/volumes/{volume}") as device:
        device.write(32 * MIB, b"precious".ljust(512), fua=True)
    said = Attach(cluster, place, "--make", "ext4", volume=volume).refused()
    assert "has data on it, and no file system to mount" in said
    assert cluster.read_volume(volume)[32 * MIB :].startswith(b"precious")


def test_volume_is_attached_over_mutual_tls(tmp_path: Path, place: Path) -> None:
    with Secured(tmp_path) as site:
        site.start()
        assert site.cli("group", "create", "demo").returncode == 0
        assert site.cli("volume", "create", "demo/data", "--size", "64MiB").returncode == 0
        tls = flags(site.operator)
        with attached(site, place, "--make", "ext4", *tls) as attach:
            (attach.where / "letter").write_text("sealed")
            assert attach.end() == 0
        stranger = site.authority.issue("stranger")
        assert "not permitted" in Attach(site, place, *flags(stranger)).refused()
