"""What nobody but its owner may read never gets into logs, status, metrics, health or errors."""

import base64
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from slackwater.nbd.client import Client
from slackwater.runtime.tls import CertificateStore, channel_credentials
from slackwater.v1 import primary_pb2, primary_pb2_grpc
from tests.support import agents
from tests.support.processes import CALL_SECONDS, GROUP, wait_until
from tests.support.secured import Secured, flags

pytestmark = pytest.mark.timeout(120)

BODY = "the-body-nobody-else-reads"
DATA = "the-data-of-a-volume"
PASSWORD = "hunter2-of-the-database"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Secured]:
    with Secured(tmp_path) as services:
        for service in services.services:
            service.arguments += ["--log-level", "debug"]
        services.start()
        yield services


def refusal(call: Callable[[], object]) -> str:
    """All that a call which fails tells its caller."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return f"{caught.value.details()} {caught.value.trailing_metadata()}"


def exercise(sites: Secured, directory: Path) -> list[str]:
    """Let every secret pass through, well and badly; what was shown on the way."""
    shown = []

    def run(*words: str) -> None:
        done = sites.cli(*words)
        shown.append(done.stdout + done.stderr)

    run("group", "create", "demo")
    run("volume", "create", "demo/data", "--size", "1MiB")
    run("link", "create", "demo/b", "--endpoint", sites.secondary.endpoints.grpc)
    wait_until("the replica is there", lambda: sites.cli("replica", "get", "demo").returncode == 0)
    for application in ("backup", "erp"):
        run("ibc", "register", "demo", application)
    certificates = CertificateStore(sites.operator)
    host, _, port = sites.primary.endpoints.nbd.rpartition(":")
    context = certificates.client_context()
    with Client((host, int(port)), f"{GROUP}/volumes/data", tls_context=context) as device:
        device.write(0, DATA.encode().ljust(512))
        with pytest.raises(OSError):
            device.write(1, DATA.encode())
    with grpc.secure_channel(
        sites.primary.endpoints.grpc, channel_credentials(certificates)
    ) as channel:
        api = primary_pb2_grpc.PrimaryServiceStub(channel)
        for body in ({"text": BODY}, {"data": BODY.encode()}):
            request = primary_pb2.SendMessageRequest(group=GROUP, application="backup")
            request.MergeFrom(primary_pb2.SendMessageRequest(**body))
            api.SendMessage(request, timeout=CALL_SECONDS)
            request.application = "stranger"
            shown.append(refusal(lambda: api.SendMessage(request, timeout=CALL_SECONDS)))
        write = primary_pb2.WriteVolumeRequest(
            name=f"{GROUP}/volumes/data", offset=1, data=DATA.encode()
        )
        shown.append(refusal(lambda: api.WriteVolume(write, timeout=CALL_SECONDS)))
    dsn = f"host=127.0.0.1 port=1 user=app password={PASSWORD}"
    words = (*flags(sites.operator), "postgres", dsn)
    with agents.running(
        sites.primary.endpoints.grpc, directory, *words, application="erp"
    ) as agent:
        wait_until("the agent is there", lambda: "erp" in sites.cli("agent", "list").stdout)
        run("ibc", "send", "demo", "backup", "--text", BODY, "--quiesce", "erp")
        run("agent", "list")
        agent.end()
        shown.append(agent.log.read_text(errors="replace"))
    run("status")
    run("status", "--output", "json")
    run("ibc", "status", "demo")
    return shown


def test_no_secret_is_shown_to_whom_it_does_not_belong(sites: Secured, tmp_path: Path) -> None:
    shown = exercise(sites, tmp_path)
    for service in sites.services:
        shown.append(service.log_path.read_text(errors="replace"))
        page = f"http://{service.endpoints.metrics}/metrics"
        with urllib.request.urlopen(page, timeout=CALL_SECONDS) as answer:
            shown.append(answer.read().decode())
    text = "\n".join(shown)
    for said in ("SendMessage", "stranger", "cannot start the backup"):
        assert said in text, "the services say what they do"
    secrets = {"body": BODY, "data": DATA, "password": PASSWORD}
    for path in sorted((tmp_path / "pki").glob("*.key")):
        lines = path.read_text().splitlines()
        secrets |= {f"{path.name}:{number}": line for number, line in enumerate(lines[1:-1])}
    for name, secret in secrets.items():
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]):
            found = re.search(f".*{re.escape(form)}.*", text)
            assert found is None, f"{name} is shown: {found}"
