"""NBD over TLS: STARTTLS with the real nbdinfo, client certificates, and what they permit."""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater import errors
from slackwater.nbd.client import Client, list_exports
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Listing, Peer
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.server import Server
from tests.support.memory_export import MemoryExport

pytestmark = pytest.mark.timeout(120)

SIZE = 8 << 20
NAME = "groups/g/volumes/v"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0])
    if program is None:
        pytest.fail(f"{command[0]} is not installed (Debian: openssl libnbd-bin)")
    return subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=60, check=False
    )


def certificate(directory: Path, name: str, authority: Path) -> None:
    """A certificate of the authority, in the files that libnbd expects in a directory."""
    request = directory / f"{name}.csr"
    extensions = directory / f"{name}.ext"
    extensions.write_text(f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\n")
    made = run(
        "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", f"/CN={name}", "-keyout", str(directory / f"{name}-key.pem"),
        "-out", str(request),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    made = run(
        "openssl", "x509", "-req", "-in", str(request), "-days", "2",
        "-CA", str(authority / "ca-cert.pem"), "-CAkey", str(authority / "ca-key.pem"),
        "-CAcreateserial", "-extfile", str(extensions), "-out", str(directory / f"{name}-cert.pem"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a server's and a client's certificate."""
    directory = tmp_path_factory.mktemp("pki")
    made = run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-subj", "/CN=authority", "-days", "2",
        "-keyout", str(directory / "ca-key.pem"), "-out", str(directory / "ca-cert.pem"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    certificate(directory, "server", directory)
    certificate(directory, "client", directory)
    return directory


def authorise(name: str, peer: Peer) -> bool:
    """Only the client whose certificate names it may use the volume."""
    certificate = peer.certificate
    return certificate is not None and ("DNS", "client") in certificate.get("subjectAltName", ())


class Served:
    """A TLS server on a TCP port."""

    def __init__(self, pki: Path, mode: TlsMode, *, ask_for_certificate: bool) -> None:
        self.export = MemoryExport(SIZE, name=NAME)
        self.peers: list[Peer] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "server-cert.pem", pki / "server-key.pem")
        if ask_for_certificate:
            context.load_verify_locations(pki / "ca-cert.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        access = Access(
            lambda: [Listing(NAME)],
            self._open,
            authorise if ask_for_certificate else lambda _name, _peer: True,
        )
        self.server = Server(access, tls_context=context)
        self.host, self.port = self.server.listen_tcp("127.0.0.1", 0, mode)

    def _open(self, _name: str, peer: Peer) -> MemoryExport:
        self.peers.append(peer)
        return self.export

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def uri(self, scheme: str, pki: Path) -> str:
        return f"{scheme}://{self.host}:{self.port}/{NAME}?tls-certificates={pki}"


@pytest.fixture
def mutual(pki: Path) -> Iterator[Served]:
    served = Served(pki, TlsMode.REQUIRED, ask_for_certificate=True)
    yield served
    served.server.stop()


@pytest.fixture
def optional(pki: Path) -> Iterator[Served]:
    served = Served(pki, TlsMode.OPTIONAL, ask_for_certificate=False)
    yield served
    served.server.stop()


def client_context(pki: Path, name: str | None = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki / "ca-cert.pem"))
    if name is not None:
        context.load_cert_chain(pki / f"{name}-cert.pem", pki / f"{name}-key.pem")
    return context


def test_nbdinfo_speaks_tls_with_its_certificate(mutual: Served, pki: Path) -> None:
    done = run("nbdinfo", "--json", mutual.uri("nbds", pki))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["TLS"] is True
    assert answer["exports"][0]["export-size"] == SIZE
    assert mutual.peers[-1].is_secure


def test_plain_nbdinfo_is_told_to_use_tls(mutual: Served, pki: Path) -> None:
    done = run("nbdinfo", "--json", mutual.uri("nbd", pki))
    assert done.returncode != 0
    assert mutual.peers == []


@pytest.mark.parametrize("scheme", ["nbd", "nbds"])
def test_optional_tls_serves_both(optional: Served, pki: Path, scheme: str) -> None:
    done = run("nbdinfo", "--json", optional.uri(scheme, pki))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["TLS"] is (scheme == "nbds")


def test_nbdcopy_over_tls_copies_exactly(mutual: Served, pki: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * (SIZE // 256)
    (tmp_path / "in").write_bytes(content)
    done = run("nbdcopy", str(tmp_path / "in"), mutual.uri("nbds", pki))
    assert done.returncode == 0, done.stderr
    assert bytes(mutual.export.content) == content
    done = run("nbdcopy", mutual.uri("nbds", pki), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == content


def test_our_client_speaks_tls_and_the_server_knows_it(mutual: Served, pki: Path) -> None:
    context = client_context(pki)
    assert list_exports(mutual.address, tls_context=context) == [Listing(NAME)]
    payload = bytes(range(256)) * 8192
    with Client(mutual.address, NAME, tls_context=context) as client:
        client.write(4096, payload, fua=True)
        assert client.read(4096, len(payload)) == payload
    certificate = mutual.peers[-1].certificate
    assert certificate is not None
    assert ("DNS", "client") in certificate["subjectAltName"]


def test_plain_client_is_refused_with_the_reason(mutual: Served) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        list_exports(mutual.address)
    assert caught.value.reason == "TLS_REQUIRED"


def test_client_without_certificate_gets_nothing(mutual: Served, pki: Path) -> None:
    with pytest.raises(OSError):
        list_exports(mutual.address, tls_context=client_context(pki, None))
    assert mutual.peers == []


def test_certificate_of_another_name_sees_and_opens_nothing(mutual: Served, pki: Path) -> None:
    context = client_context(pki, "server")
    assert list_exports(mutual.address, tls_context=context) == []
    with pytest.raises(errors.PermissionDenied):
        Client(mutual.address, NAME, tls_context=context)
    assert mutual.peers == []


def test_stop_ends_a_tls_connection_cleanly(mutual: Served, pki: Path) -> None:
    with Client(mutual.address, NAME, tls_context=client_context(pki)) as client:
        client.write(0, b"x")
        mutual.server.stop()
        with pytest.raises((OSError, ValueError)):
            client.read(0, 1)
    assert mutual.server.counters().open_connections == 0
