"""Other people's NBD clients: through the Primary, and from snapshots on the Secondary."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import GROUP, MIB, Cluster

pytestmark = pytest.mark.timeout(180)

VOLUME = f"{GROUP}/volumes/data"
SIZE = 64 * MIB


def run(*command: str | Path, timeout_seconds: int = 60) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def snapshot_now(cluster: Cluster, name: str) -> str:
    """A snapshot of what the Primary holds now; the URI of its volume."""
    message = cluster.send()
    assert cluster.receive() is not None
    cluster.take_snapshot(name, at_message=message.name)
    cluster.unfreeze(message.name)
    return cluster.secondary.endpoints.nbd_uri(f"{GROUP}/snapshots/{name}/volumes/data")


@pytest.fixture(params=["unix", "tcp"])
def uri(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """The volume on the Primary, over both kinds of socket."""
    cluster.replicate(data=SIZE)
    return cluster.primary.endpoints.nbd_uri(VOLUME, tcp=request.param == "tcp")


def test_nbdinfo_sees_what_the_export_can(cluster: Cluster, uri: str) -> None:
    (export,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
    assert export["export-size"] == SIZE
    assert export["is_read_only"] is False
    for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"):
        assert export[ability] is True, ability
    assert "base:allocation" in export["contexts"]
    assert export["block_size_minimum"] == 512
    base = uri.replace(VOLUME, "") if uri.startswith("nbd://") else uri.replace(f"/{VOLUME}", "/")
    listed = json.loads(run("nbdinfo", "--list", "--json", base))
    assert VOLUME in [row["export-name"] for row in listed["exports"]]
    snapshot = snapshot_now(cluster, "seen")
    (export,) = json.loads(run("nbdinfo", "--json", snapshot))["exports"]
    assert export["is_read_only"] is True
    assert export["export-size"] == SIZE


def test_nbdcopy_carries_an_image_in_and_out_of_a_snapshot(
    cluster: Cluster, uri: str, tmp_path: Path
) -> None:
    image = tmp_path / "in.img"
    choice = random.Random(4)
    with image.open("wb") as file:
        for offset in range(0, SIZE, 4 * MIB):
            if choice.random() < 0.6:
                file.seek(offset)
                file.write(choice.randbytes(3 * MIB))
        file.truncate(SIZE)
    run("nbdcopy", "--flush", image, uri)
    snapshot = snapshot_now(cluster, "copied")
    with cluster.device(1) as device:
        device.zero(0, SIZE)
    for source, name in ((snapshot, "out.img"), (uri, "now.img")):
        run("nbdcopy", source, tmp_path / name)
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    assert not any((tmp_path / "now.img").read_bytes())
    extents = json.loads(run("nbdinfo", "--map", "--json", snapshot))
    assert any(extent["type"] & 1 for extent in extents), "holes are shown as holes"


def test_qemu_io_writes_fua_zeroes_and_discards_as_it_should(cluster: Cluster, uri: str) -> None:
    target = ["-f", "raw", uri]
    run(
        "qemu-io",
        *target,
        *("-c", "write -P 0x11 0 1M"),
        *("-c", "write -f -P 0x22 1M 64k"),
        *("-c", "write -P 0x33 1052k 511"),
        *("-c", "write -z 2M 1M"),
        *("-c", "write -P 0x44 4M 1M"),
        *("-c", "discard 4M 1M"),
        *("-c", "flush"),
    )
    snapshot = snapshot_now(cluster, "qemu")
    for source, flags in ((uri, []), (snapshot, ["-r"])):
        said = run(
            "qemu-io",
            *flags,
            *("-f", "raw", source),
            *("-c", "read -P 0x11 0 1M"),
            *("-c", "read -P 0x22 1M 28k"),
            *("-c", "read -P 0x33 1052k 511"),
            *("-c", "read -P 0 2M 1M"),
            *("-c", "read -P 0 4M 1M"),
        )
        assert "Pattern verification failed" not in said
    refused = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 512", snapshot],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode != 0


def test_fio_verifies_through_the_primary_and_from_a_snapshot(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.replicate(data=SIZE)
    uri = cluster.primary.endpoints.nbd_uri(VOLUME)

    def fio(source: str, *more: str) -> str:
        words = (
            "--name=verify",
            "--ioengine=nbd",
            f"--uri={source}",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--iodepth=16",
            f"--size={SIZE // 2}",
            "--randseed=11",
            "--verify=crc32c",
            "--verify_fatal=1",
        )
        old = Path.cwd()
        os.chdir(tmp_path)  # fio leaves its verify state where it stands
        try:
            return run("fio", *words, *more)
        finally:
            os.chdir(old)

    fio(uri, "--do_verify=1")
    snapshot = snapshot_now(cluster, "fio")
    with cluster.device(1) as device:
        device.zero(0, SIZE)
    fio(snapshot, "--verify_only=1")
    with pytest.raises(AssertionError):  # the check can fail: this volume is empty now
        fio(uri, "--verify_only=1")


def test_many_connections_see_each_others_writes_at_once(cluster: Cluster) -> None:
    cluster.replicate(data=SIZE)
    devices = [cluster.device(1) for _ in range(8)]
    for number, device in enumerate(devices):
        device.write(number * 512, bytes([number + 1]) * 512)
        for other in devices:
            assert other.read(number * 512 + 1, 511) == bytes([number + 1]) * 511
    for device in devices:
        device.close()
    assert cluster.group_status().nbd_connections <= len(devices)
