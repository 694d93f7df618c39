"""A certificate's quota of bytes, over mutual TLS: on the Primary, and on the Secondary."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from slackwater.runtime.tls import CertificateStore, TlsFiles, channel_credentials
from slackwater.v1 import primary_pb2, primary_pb2_grpc
from tests.support.processes import CALL_SECONDS, MIB, wait_until
from tests.support.processes_refusals import Refusal, refused
from tests.support.secured import Secured

pytestmark = pytest.mark.timeout(120)

QUOTA = 32 * MIB


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Secured]:
    with Secured(tmp_path, f"slackwater://role/replicate?quota={QUOTA}") as services:
        services.start()
        yield services


def done(sites: Secured, *words: str, files: TlsFiles | None = None) -> str:
    """Run a command that has to succeed."""
    ran = sites.cli(*words, files=files)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def shown(sites: Secured, *words: str) -> Any:
    return json.loads(done(sites, *words, "--output", "json"))


def create_refused(sites: Secured, files: TlsFiles, volume: str, size: int) -> Refusal:
    """Ask for a volume that the quota has no room for, for real and to see what would be."""
    group, _, name = volume.partition("/")
    with grpc.secure_channel(
        sites.primary.endpoints.grpc, channel_credentials(CertificateStore(files))
    ) as channel:
        api = primary_pb2_grpc.PrimaryServiceStub(channel)
        request = primary_pb2.CreateVolumeRequest(
            group=f"groups/{group}", volume_id=name, size_bytes=size, validate_only=True
        )
        planned = refused(lambda: api.CreateVolume(request, timeout=CALL_SECONDS))
        request.validate_only = False
        found = refused(lambda: api.CreateVolume(request, timeout=CALL_SECONDS))
    assert found == planned
    return found


def test_volumes_of_all_groups_of_a_certificate_stay_within_its_quota(sites: Secured) -> None:
    uri = f"slackwater://role/operate?groups=lab-*&quota={QUOTA}"
    lab = sites.authority.issue("lab", uri)
    done(sites, "group", "create", "other")
    done(sites, "volume", "create", "other/large", "--size", "1GiB")  # no matter to the lab
    for group in ("lab-a", "lab-b"):
        done(sites, "group", "create", group, files=lab)
    done(sites, "volume", "create", "lab-a/one", "--size", "20MiB", files=lab)
    found = create_refused(sites, lab, "lab-b/two", QUOTA - 20 * MIB + 512)
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert found.fields == ("size_bytes",)
    assert str(QUOTA) in found.text and "lab" in found.text and "larger quota" in found.text
    assert shown(sites, "volume", "list", "lab-b")["volumes"] == []
    done(sites, "volume", "create", "lab-b/two", "--size", "12MiB", files=lab)
    create_refused(sites, lab, "lab-a/three", 512)
    done(sites, "volume", "delete", "lab-a/one", "--yes", files=lab)
    done(sites, "volume", "create", "lab-a/three", "--size", "20MiB", files=lab)
    sites.primary.restart(kill=True)  # what is counted is what is there
    create_refused(sites, lab, "lab-a/four", 512)
    done(sites, "volume", "create", "lab-a/four", "--size", "1MiB")  # the operator has no quota


def link_state(sites: Secured, link: str) -> str:
    return str(shown(sites, "link", "get", link)["state"])


def wait_for(sites: Secured, link: str, state: str) -> str:
    """Wait until a link has a state; why it has it."""
    wait_until(f"{link} is {state}", lambda: link_state(sites, link).endswith(state))
    return str(shown(sites, "link", "get", link).get("stateReason", ""))


def test_replicas_of_a_primary_stay_within_the_quota_of_its_certificate(sites: Secured) -> None:
    secondary = sites.secondary.endpoints.grpc
    for group, size in (("one", "20MiB"), ("two", "16MiB")):
        done(sites, "group", "create", group)
        done(sites, "volume", "create", f"{group}/data", "--size", size)
    done(sites, "link", "create", "one/b", "--endpoint", secondary)
    wait_for(sites, "one/b", "STREAMING")
    # A replica that would be new is not made.
    done(sites, "link", "create", "two/b", "--endpoint", secondary)
    reason = wait_for(sites, "two/b", "FAILED")
    assert "hello.volumes" in reason and str(QUOTA) in reason and "larger quota" in reason
    assert sites.cli("replica", "get", "two").returncode != 0
    # A volume that comes later is not made, and the replica stays what it was.
    done(sites, "volume", "create", "one/more", "--size", "16MiB")
    reason = wait_for(sites, "one/b", "FAILED")
    assert "volume_change.size_bytes" in reason and "primary" in reason
    replica = shown(sites, "replica", "get", "one")
    assert str(replica["state"]).endswith("CONSISTENT")
    assert [volume["name"] for volume in replica["volumes"]] == ["groups/one/volumes/data"]
    done(sites, "link", "update", "one/b", "--retry")
    assert "hello.volumes" in wait_for(sites, "one/b", "FAILED")
    # Either way out: without the volume, or with a larger quota.
    done(sites, "volume", "delete", "one/more", "--yes")
    done(sites, "link", "update", "one/b", "--retry")
    wait_for(sites, "one/b", "STREAMING")
    sites.authority.issue("primary", f"slackwater://role/replicate?quota={2 * QUOTA}")
    done(sites, "link", "update", "two/b", "--retry")
    wait_for(sites, "two/b", "STREAMING")
    wait_until("both replicas are there", lambda: len(replicas(sites)) == 2)


def replicas(sites: Secured) -> list[Any]:
    return list(shown(sites, "replica", "list")["replicas"])
