import datetime
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from slackwater.errors import FailedPrecondition
from slackwater.runtime import roles, tls
from slackwater.runtime.roles import Role
from slackwater.runtime.tls import CertificateStore, TlsFiles
from tests.support.certificates import Authority


def handshake(server: ssl.SSLContext, files: TlsFiles) -> tuple[Any, str]:
    """Shake hands over a socket pair; returns the client's certificate and the server's name."""
    near, far = socket.socketpair()
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    seen: dict[str, Any] = {}

    def serve() -> None:
        with server.wrap_socket(far, server_side=True) as secured:
            seen["certificate"] = secured.getpeercert()

    thread = threading.Thread(target=serve)
    thread.start()
    with context.wrap_socket(near, server_hostname="localhost") as secured:
        served = secured.getpeercert()
        assert served is not None
        secured.recv(1)  # until the server has seen us
    thread.join()
    subject: Any = served["subject"]
    return seen["certificate"], subject[0][0][1]


def test_socket_knows_who_called_from_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = CertificateStore(authority.issue("server")).server_context()
    caller = authority.issue("agent", "slackwater://role/operate?groups=db-*")
    certificate, _ = handshake(server, caller)
    identity = tls.identity_of_certificate(certificate)
    assert identity.name == "agent"
    assert identity.allows(roles.NBD_ROLE, "db-1")
    assert not identity.allows(Role.VIEW, "web")


def test_replaced_files_are_used_at_the_next_handshake(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = CertificateStore(authority.issue("first", into="server")).server_context()
    caller = authority.issue("caller")
    assert handshake(server, caller)[1] == "first"
    authority.issue("second", into="server")
    assert handshake(server, caller)[1] == "second"


def test_half_replaced_files_leave_the_good_ones_in_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("first", into="server")
    store = CertificateStore(files)
    before = store.material()
    other = authority.issue("other")
    files.certificate.write_bytes(other.certificate.read_bytes())
    assert store.material() == before
    files.key.unlink()
    assert store.material() == before
    files.key.write_bytes(other.key.read_bytes())
    assert store.material().certificate == other.certificate.read_bytes()


@pytest.mark.parametrize("broken", ["certificate", "key", "authority"])
def test_unusable_file_at_start_is_refused_by_name(tmp_path: Path, broken: str) -> None:
    files = Authority(tmp_path).issue("server")
    path: Path = getattr(files, broken)
    path.write_text("nonsense")
    with pytest.raises(FailedPrecondition, match=str(path)):
        CertificateStore(files)


def test_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    with pytest.raises(FailedPrecondition, match="has a passphrase"):
        CertificateStore(files)


def test_missing_file_at_start_is_refused(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server")
    files.key.unlink()
    with pytest.raises(FailedPrecondition, match="--tls-key"):
        CertificateStore(files)


def test_end_of_the_newest_certificate_is_known(tmp_path: Path) -> None:
    store = CertificateStore(Authority(tmp_path).issue("server"))
    assert store.expires() == datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC).timestamp()


def test_call_without_tls_is_everybody() -> None:
    assert tls.identity_of_call({}) is roles.EVERYTHING
