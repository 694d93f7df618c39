"""The container image: built from the lock, run as Kubernetes runs it, two sites that replicate."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from demo.sites import Endpoints
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    secondary_pb2,
    secondary_pb2_grpc,
)
from tests.support.tools import require

REPOSITORY = Path(__file__).parents[2]
IMAGE = "localhost/slackwater-test:latest"
ATTACH_IMAGE = "localhost/slackwater-attach-test:latest"
USER = 65532
WAIT_SECONDS = 60
GROUP = "groups/demo"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PODMAN = ("podman", "--runtime=runc", "--cgroup-manager=cgroupfs")
# As the manifests say, and with the limits of a small machine.
LIMITED = (
    "--read-only",
    "--ulimit=nofile=1024:4096",
    "--ulimit=nproc=1000:1000",
    "--tmpfs=/tmp",
    "--network=host",
)
RESTRICTED = (
    *LIMITED,
    "--cap-drop=all",
    f"--user={USER}:{USER}",
    "--security-opt=no-new-privileges",
)
PRIVILEGED = (*LIMITED, "--privileged", "--tmpfs=/run", "-v", "/dev:/dev")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built on a Debian made here: no registry is needed."""
    return build("service", IMAGE)


@pytest.fixture(scope="module")
def attach_image(image: str) -> str:
    """The image that mounts volumes, on the same layers."""
    return build("attach", ATTACH_IMAGE)


def build(target: str, name: str) -> str:
    for tool in ("podman", "runc", "debootstrap"):
        require(tool)
    if os.geteuid() != 0:
        pytest.fail("building the image takes root here") if os.environ.get(
            "CI"
        ) == "true" else pytest.skip("building the image takes root here")
    flags = f"--network=host --isolation=chroot -v {BUNDLE}:{BUNDLE}:ro"
    done = subprocess.run(
        ["tools/image.sh"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "BASE": "debian",
            "TARGET": target,
            "IMAGE": name,
            "BUILDER": "podman",
            "BUILD_FLAGS": flags,
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    # What earlier builds left without a name, but not the layers that the next one takes again.
    old = ("--filter", "until=2h", "--filter", "label=org.opencontainers.image.licenses")
    subprocess.run([*PODMAN, "image", "prune", "--force", *old], capture_output=True, timeout=120)
    return name


def run(image: str, *words: str) -> str:
    done = subprocess.run(
        [*PODMAN, "run", "--rm", *RESTRICTED, image, *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Running:
    """One service in a container of its own."""

    def __init__(self, image: str, role: str, directory: Path) -> None:
        """Start it on a data directory that its user owns."""
        directory.mkdir()
        os.chown(directory, USER, USER)
        self.name = f"slackwater-test-{role}-{os.getpid()}"
        self.file = directory / "endpoints.json"
        listens = ["--listen", "--health-listen", "--metrics-listen", "--nbd-listen"]
        ports = [word for flag in listens for word in (flag, "127.0.0.1:0")]
        command = [
            *(*PODMAN, "run", "--rm", "--name", self.name, *RESTRICTED),
            *("-v", f"{directory}:/data", image, f"slackwater-{role}", "--data-dir", "/data"),
            *("--endpoints-file", "/data/endpoints.json", *ports),
        ]
        self._log = directory.with_suffix(".log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens, once it does."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.file.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return Endpoints.read(self.file)

    def stop(self) -> int:
        """SIGTERM; the container's exit status."""
        subprocess.run([*PODMAN, "stop", "-t", "30", self.name], capture_output=True, timeout=60)
        return self.process.wait(60)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture
def sites(image: str, tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    primary, secondary = (
        Running(image, role, tmp_path / role) for role in ("primary", "secondary")
    )
    try:
        yield primary, secondary
    finally:
        for one in (primary, secondary):
            if one.process.poll() is None:
                one.stop()
        shutil.rmtree(tmp_path, ignore_errors=True)


def test_labels_say_what_the_image_is(image: str) -> None:
    done = subprocess.run(
        [*PODMAN, "image", "inspect", image], capture_output=True, text=True, check=True
    )
    (about,) = json.loads(done.stdout)
    labels = about["Labels"]
    assert labels["org.opencontainers.image.title"] == "slackwater"
    assert labels["org.opencontainers.image.version"] in run(image, "slackwater", "--version")
    assert about["Config"]["User"] == f"{USER}:{USER}"


def test_image_has_no_installer_and_the_tools_of_its_checks(image: str) -> None:
    found = run(
        image, "sh", "-c", "ls /opt/slackwater/bin; command -v e2fsck; command -v xfs_repair"
    )
    assert "pip" not in found.split()
    assert "e2fsck" in found and "xfs_repair" in found


def test_two_sites_in_restricted_containers_replicate(
    sites: tuple[Running, Running],
) -> None:
    primary, secondary = sites
    with (
        grpc.insecure_channel(primary.endpoints.grpc) as one,
        grpc.insecure_channel(secondary.endpoints.grpc) as two,
    ):
        first = primary_pb2_grpc.PrimaryServiceStub(one)
        second = secondary_pb2_grpc.SecondaryServiceStub(two)
        first.CreateGroup(
            primary_pb2.CreateGroupRequest(group_id="demo", log_bytes=64 << 20),
            timeout=WAIT_SECONDS,
            wait_for_ready=True,
        )
        first.CreateVolume(
            primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=8 << 20)
        )
        first.CreateLink(
            primary_pb2.CreateLinkRequest(
                group=GROUP, link_id="site-b", endpoint=secondary.endpoints.grpc
            )
        )
        first.WriteVolume(
            primary_pb2.WriteVolumeRequest(name=f"{GROUP}/volumes/data", data=b"x" * 4096)
        )
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            link = first.GetLink(primary_pb2.GetLinkRequest(name=f"{GROUP}/links/site-b")).link
            if link.state == common_pb2.LINK_STATE_STREAMING and not link.lag_bytes:
                replica = second.GetReplica(secondary_pb2.GetReplicaRequest(name=GROUP)).replica
                if replica.applied.lsn == link.acked.lsn:  # what is received may wait there
                    break
            assert time.monotonic() < deadline, link
            time.sleep(0.05)
        snapshot = second.CreateSnapshot(
            secondary_pb2.CreateSnapshotRequest(group=GROUP, snapshot_id="s1"),
            timeout=WAIT_SECONDS,
            wait_for_ready=True,
        ).snapshot
        read = second.ReadSnapshot(
            secondary_pb2.ReadSnapshotRequest(name=snapshot.name, volume="data", length=4096)
        )
        assert read.data == b"x" * 4096
    assert [one.stop() for one in sites] == [0, 0]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are seen by others, as the kubelet makes those of a pod."""
    where = tmp_path / "slackwater"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "slackwater-test", where], check=True)
    subprocess.run(["mount", "--make-shared", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--recursive", where], check=True)


def test_sidecar_mounts_a_volume_for_another_container(
    image: str, attach_image: str, sites: tuple[Running, Running], shared: Path
) -> None:
    ready, site = shared / "ready", sites[0]
    with grpc.insecure_channel(site.endpoints.grpc) as channel:
        primary = primary_pb2_grpc.PrimaryServiceStub(channel)
        primary.CreateGroup(
            primary_pb2.CreateGroupRequest(group_id="demo", log_bytes=64 << 20),
            timeout=WAIT_SECONDS,
            wait_for_ready=True,
        )
        primary.CreateVolume(
            primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=16 << 20)
        )
        name = f"slackwater-test-attach-{os.getpid()}"
        sidecar = subprocess.Popen(
            [
                *(*PODMAN, "run", "--rm", "--name", name, *PRIVILEGED),
                *("-v", f"{shared}:/slackwater:rshared"),
                *("-e", f"SLACKWATER_PRIMARY={site.endpoints.grpc}"),
                *("-e", "SLACKWATER_VOLUMES=demo/data=/slackwater/data"),
                *(attach_image, "slackwater", "attach", "--ready-file", "/slackwater/ready"),
                *("--via", "fuse", "--make", "ext4", "--owner", f"{USER}:{USER}"),
                *("--patience", "30s", "--nbd", site.endpoints.nbd),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not ready.exists():
                assert sidecar.poll() is None, "see what it said below"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            work = "echo kept > /slackwater/data/file && sync -f /slackwater/data"
            application = [
                *(*PODMAN, "run", "--rm", *RESTRICTED, "-v", f"{shared}:/slackwater:rslave"),
                *(image, "sh", "-c", work),
            ]
            subprocess.run(application, check=True, capture_output=True, timeout=60)
            assert (shared / "data/file").read_text() == "kept\n"
        finally:
            subprocess.run([*PODMAN, "stop", "-t", "30", name], capture_output=True, timeout=60)
            said, _ = sidecar.communicate(timeout=60)
            print(said.decode())
        assert sidecar.returncode == 0
        assert not ready.exists() and not (shared / "data/file").exists()
        superblock = primary.ReadVolume(
            primary_pb2.ReadVolumeRequest(name=f"{GROUP}/volumes/data", offset=1024, length=512)
        ).data
        assert superblock[56:58] == bytes.fromhex("53ef"), "the volume holds an ext4"
