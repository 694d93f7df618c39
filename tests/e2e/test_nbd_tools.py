"""Real NBD clients against the server: nbdinfo, nbdcopy, qemu-io, qemu-img, fio."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater import errors
from slackwater.nbd import wire
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Export, Listing, Peer
from slackwater.nbd.server import Server
from tests.support.memory_export import MemoryExport

pytestmark = pytest.mark.timeout(120)

SIZE = 64 << 20
NAME = "groups/g/volumes/v"


class Served:
    """A memory export on a unix socket and on TCP, with the URIs that libnbd understands."""

    def __init__(self, directory: Path) -> None:
        self.export = MemoryExport(SIZE, name=NAME)
        self.server = Server(Access(lambda: [Listing(NAME, "in memory")], self._open))
        socket = directory / "nbd.sock"
        self.server.listen_unix(socket)
        host, port = self.server.listen_tcp("127.0.0.1", 0)
        # The export name follows the third slash; it holds slashes itself and needs no escape.
        self.unix_uri = f"nbd+unix:///{NAME}?socket={socket}"
        self.tcp_uri = f"nbd://{host}:{port}/{NAME}"

    def _open(self, name: str, _peer: Peer) -> Export:
        if name != NAME:
            raise errors.NotFound("export", name)
        return self.export

    def requests(self, kind: int) -> list[tuple[int, int, int, int]]:
        return [r for batch in self.export.batches for r in batch if r[0] == kind]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.server.stop()


def run(*command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        pytest.fail(f"{command[0]} is not installed (Debian: libnbd-bin qemu-utils fio)")
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def qemu_io(uri: str, *commands: str) -> str:
    arguments = [part for command in commands for part in ("-c", command)]
    return run("qemu-io", "-f", "raw", "-t", "writeback", "-d", "unmap", *arguments, uri)


class TestNbdinfo:
    @pytest.mark.parametrize("way", ["unix_uri", "tcp_uri"])
    def test_nbdinfo_sees_all_capabilities(self, served: Served, way: str) -> None:
        uri: str = getattr(served, way)
        (export,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
        assert export["export-name"] == NAME
        assert export["export-size"] == SIZE
        assert export["description"] == "a volume in memory"
        assert export["contexts"] == ["base:allocation"]
        for can in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
            assert export[f"can_{can}"] is True, can
        assert export["is_read_only"] is False
        assert (
            export["block_size_minimum"],
            export["block_size_preferred"],
            export["block_size_maximum"],
        ) == (1, 4096, 32 << 20)

    def test_nbdinfo_lists_exports(self, served: Served) -> None:
        uri = served.unix_uri.replace(NAME, "")
        exports = json.loads(run("nbdinfo", "--json", "--list", uri))["exports"]
        assert [(e["export-name"], e["description"]) for e in exports] == [(NAME, "in memory")]

    def test_nbdinfo_maps_data_and_holes(self, served: Served) -> None:
        qemu_io(served.unix_uri, "write -P 1 1M 64k", "write -P 2 2M 64k", "discard 2M 64k")
        extents = json.loads(run("nbdinfo", "--json", "--map", served.unix_uri))
        assert [(e["offset"], e["length"], e["type"]) for e in extents] == [
            (0, 1 << 20, 3),
            (1 << 20, 65536, 0),
            ((1 << 20) + 65536, SIZE - (1 << 20) - 65536, 3),
        ]


class TestNbdcopy:
    @pytest.mark.parametrize("way", ["unix_uri", "tcp_uri"])
    def test_copy_in_and_out_is_the_same(self, served: Served, tmp_path: Path, way: str) -> None:
        uri: str = getattr(served, way)
        content = os.urandom(8 << 20) + bytes(SIZE - (16 << 20)) + os.urandom(8 << 20)
        (tmp_path / "in").write_bytes(content)
        run("nbdcopy", "--flush", str(tmp_path / "in"), uri)
        run("nbdcopy", uri, str(tmp_path / "out"))
        assert (tmp_path / "out").read_bytes() == content
        assert served.requests(wire.CMD_FLUSH)


class TestQemu:
    def test_patterns_written_are_patterns_read(self, served: Served) -> None:
        qemu_io(
            served.unix_uri,
            "write -P 17 12345 54321",
            "read -P 17 12345 54321",
            "write -P 18 1M 32M",
            "read -P 18 1M 32M",
            "aio_write -P 19 0 4k",
            "aio_write -P 20 4k 4k",
            "aio_flush",
            "read -P 19 0 4k",
            "read -P 20 4k 4k",
            "flush",
        )
        assert served.requests(wire.CMD_FLUSH)

    def test_fua_arrives_as_fua(self, served: Served) -> None:
        qemu_io(served.unix_uri, "write -f -P 1 0 4k")
        assert (wire.CMD_WRITE, wire.CMD_FLAG_FUA, 0, 4096) in served.requests(wire.CMD_WRITE)

    def test_write_zeroes_and_discard_read_as_zeroes(self, served: Served) -> None:
        qemu_io(
            served.unix_uri,
            "write -P 1 0 1M",
            "write -z 0 4k",
            "write -z -u 8k 4k",
            "discard 64k 64k",
            "read -P 0 0 4k",
            "read -P 1 4k 4k",
            "read -P 0 8k 4k",
            "read -P 0 64k 64k",
            "read -P 1 128k 4k",
        )
        zeroes = served.requests(wire.CMD_WRITE_ZEROES)
        assert {flags & wire.CMD_FLAG_NO_HOLE for _, flags, _, _ in zeroes} == {0, 2}
        assert served.requests(wire.CMD_TRIM)

    def test_map_shows_allocation(self, served: Served) -> None:
        qemu_io(served.unix_uri, "write -P 1 1M 64k")
        extents = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", served.tcp_uri))
        assert [(e["start"], e["length"], e["data"]) for e in extents] == [
            (0, 1 << 20, False),
            (1 << 20, 65536, True),
            ((1 << 20) + 65536, SIZE - (1 << 20) - 65536, False),
        ]


class TestFio:
    @pytest.mark.parametrize("way", ["unix_uri", "tcp_uri"])
    def test_random_writes_verify(self, served: Served, way: str) -> None:
        uri: str = getattr(served, way)
        out = run(
            "fio",
            "--name=verify",
            "--ioengine=nbd",
            f"--uri={uri}",
            "--rw=randwrite",
            "--bsrange=512-256k",
            "--blockalign=512",
            "--iodepth=16",
            f"--size={SIZE}",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
            "--fsync=64",
            "--output-format=json",
        )
        (job,) = json.loads(out[out.index("{") :])["jobs"]
        assert job["error"] == 0
        assert job["read"]["io_bytes"] >= SIZE // 2
