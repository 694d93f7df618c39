"""The programs that go the ways of `slackwater attach`, as they are called."""

from pathlib import Path

import pytest

from slackwater.attach import ways
from slackwater.attach.system import AttachError, is_mounted
from slackwater.attach.ways import Export, Way

PLAIN = Export("10.0.0.1", 10809, "groups/demo/volumes/data")
SEALED = Export("fd00::1", 10809, "groups/demo/volumes/data", Path("/pki"))


def test_export_is_written_as_a_uri() -> None:
    assert PLAIN.uri == "nbd://10.0.0.1:10809/groups/demo/volumes/data"
    assert PLAIN.uri_with_certificates == PLAIN.uri
    assert SEALED.uri == "nbds://[fd00::1]:10809/groups/demo/volumes/data"
    assert SEALED.uri_with_certificates.endswith("/data?tls-certificates=/pki")


def test_fuse_connects_again_for_as_long_as_the_patience() -> None:
    command = ways.fuse_command(SEALED, Path("/run/x/disk"), 90.0, ro=True)
    assert command[:4] == ["nbdfuse", "--readonly", "/run/x/disk", "["]
    assert "--filter=retry" in command and "retries=90" in command
    assert "tls=require" in command and "tls-certificates=/pki" in command
    assert "retries=1" in ways.fuse_command(PLAIN, Path("/d"), 0.0, ro=False)


def test_kernel_keeps_its_device_over_a_restart() -> None:
    command = ways.kernel_command(PLAIN, "/dev/nbd3", ro=False)
    assert command[:4] == ["nbd-client", "10.0.0.1", "10809", "/dev/nbd3"]
    assert "-persist" in command and "-readonly" not in command and "-x" not in command
    sealed = ways.kernel_command(SEALED, "/dev/nbd3", ro=True)
    assert sealed[sealed.index("-certfile") + 1] == "/pki/client-cert.pem"
    assert "-readonly" in sealed


def test_kernel_device_in_use_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "_KERNEL", tmp_path)
    for name in ("nbd0", "nbd2", "nbd10"):
        (tmp_path / name).mkdir()
    (tmp_path / "nbd0" / "pid").touch()
    assert ways.free_kernel_device() == "/dev/nbd2"
    (tmp_path / "nbd2" / "pid").touch()
    assert ways.free_kernel_device() == "/dev/nbd10"
    (tmp_path / "nbd10" / "pid").touch()
    with pytest.raises(AttachError, match="no NBD device"):
        ways.free_kernel_device()


def test_way_is_the_kernels_where_it_can_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "kernel_lacks", list)
    monkeypatch.setattr(ways, "fuse_lacks", lambda: ["/dev/fuse"])
    assert ways.choose(Way.AUTO) is Way.KERNEL
    with pytest.raises(AttachError, match="the way fuse needs /dev/fuse"):
        ways.choose(Way.FUSE)
    monkeypatch.setattr(ways, "kernel_lacks", lambda: ["the program nbd-client"])
    with pytest.raises(AttachError, match="/dev/fuse"):
        ways.choose(Way.AUTO)
    monkeypatch.setattr(ways, "fuse_lacks", list)
    assert ways.choose(Way.AUTO) is Way.FUSE


def test_mounts_are_looked_up_without_touching_them() -> None:
    assert is_mounted(Path("/proc"))
    assert not is_mounted(Path("/proc/self"))
