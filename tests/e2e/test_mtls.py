"""The whole product over mutual TLS: services, link, command line, NBD, and who may do what."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from slackwater.runtime.tls import TlsFiles
from slackwater.v1 import primary_pb2, primary_pb2_grpc
from tests.support.certificates import Authority
from tests.support.processes import wait_until
from tests.support.secured import Secured

pytestmark = pytest.mark.timeout(120)

VOLUME = "groups/demo/volumes/data"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("mtls")) as services:
        services.start()
        for words in (
            ("group", "create", "demo"),
            ("volume", "create", "demo/data", "--size", "16MiB"),
            ("link", "create", "demo/b", "--endpoint", services.secondary.endpoints.grpc),
        ):
            made = services.cli(*words)
            assert made.returncode == 0, made.stderr
        yield services


def test_a_link_streams_over_mutual_tls(sites: Secured) -> None:
    def is_streaming() -> bool:
        shown = sites.cli("link", "get", "demo/b", "--output", "json")
        return shown.returncode == 0 and "STREAMING" in shown.stdout

    wait_until("the link streams over TLS", is_streaming)


def test_the_snapshot_service_drives_both_sides_over_mutual_tls(sites: Secured) -> None:
    status = json.loads(sites.cli("status", "--output", "json").stdout)
    assert "unreachable" not in json.dumps(status).lower()
    wait_until("the replica is there", lambda: sites.cli("replica", "get", "demo").returncode == 0)
    taken = sites.cli("snapshot", "create", "demo", "over-tls", "--wait")
    assert taken.returncode == 0, taken.stderr


def test_nobody_comes_in_without_a_certificate(sites: Secured) -> None:
    with grpc.insecure_channel(sites.primary.endpoints.grpc) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            primary_pb2_grpc.PrimaryServiceStub(channel).ListGroups(
                primary_pb2.ListGroupsRequest(), timeout=5
            )
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_is_refused(sites: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").issue("operator", "slackwater://role/operate")
    mixed = TlsFiles(stranger.certificate, stranger.key, sites.operator.authority)
    assert sites.cli("group", "list", files=mixed).returncode != 0


def test_a_viewer_may_look_and_not_touch(sites: Secured) -> None:
    viewer = sites.authority.issue("viewer", "slackwater://role/view")
    assert sites.cli("group", "list", files=viewer).returncode == 0
    refused = sites.cli("group", "create", "other", files=viewer)
    assert refused.returncode != 0
    assert "operate" in refused.stderr


def test_an_operator_of_other_groups_is_refused(sites: Secured) -> None:
    other = sites.authority.issue("other", "slackwater://role/operate?groups=lab-*")
    refused = sites.cli("volume", "create", "demo/more", "--size", "1MiB", files=other)
    assert refused.returncode != 0
    assert "demo" in refused.stderr


def libnbd_directory(tmp_path: Path, files: TlsFiles) -> Path:
    """Return certificates in the files that libnbd looks for."""
    for source, name in (
        (files.authority, "ca-cert.pem"),
        (files.certificate, "client-cert.pem"),
        (files.key, "client-key.pem"),
    ):
        shutil.copy(source, tmp_path / name)
    return tmp_path


def nbdinfo(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nbdinfo", uri], capture_output=True, text=True, timeout=30, check=False)


def test_nbd_gives_volumes_to_operators_of_the_group_only(sites: Secured, tmp_path: Path) -> None:
    address = sites.primary.endpoints.nbd
    allowed = libnbd_directory(tmp_path, sites.operator)
    shown = nbdinfo(f"nbds://{address}/{VOLUME}?tls-certificates={allowed}")
    assert "export-size: 16777216" in shown.stdout, shown.stderr
    plain = nbdinfo(f"nbd://{address}/{VOLUME}")
    assert plain.returncode != 0
    other = tmp_path / "other"
    other.mkdir()
    files = sites.authority.issue("lab", "slackwater://role/operate?groups=lab-*")
    refused = nbdinfo(
        f"nbds://{address}/{VOLUME}?tls-certificates={libnbd_directory(other, files)}"
    )
    assert refused.returncode != 0
