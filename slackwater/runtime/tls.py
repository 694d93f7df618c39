"""TLS from files that may be replaced while a service runs.

Certificates are short-lived and written anew beside a running service. A server looks at its files
at each handshake and takes new ones when they are whole: certificate and key that belong together.
Until then it goes on with the last good ones. Both sides always show a certificate.
"""

import ssl
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from slackwater.errors import FailedPrecondition
from slackwater.runtime import roles


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate chain, its key, and the authorities whose peers we trust."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """The contents of the files at one moment."""

    certificate: bytes
    key: bytes
    authority: bytes


class CertificateStore:
    """The newest whole set of TLS files. Safe to use from several threads."""

    def __init__(self, files: TlsFiles) -> None:
        """Load the files.

        Raises:
            FailedPrecondition: A file cannot be read, or they do not belong together.
        """
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._fingerprint()
        try:
            self._context = self._load_context()
            self._material = self._load_material()
        except OSError as error:  # ssl.SSLError is one
            raise FailedPrecondition(
                "TLS_FILES",
                f"cannot use {files.certificate}, {files.key} and {files.authority}: {error}",
                "Check --tls-cert, --tls-key and --tls-ca",
            ) from error

    def material(self) -> TlsMaterial:
        """The newest whole contents of the files."""
        self._refresh()
        return self._material

    def expires(self) -> float:
        """When the service's own certificate ends, in seconds since 1970."""
        certificate = x509.load_pem_x509_certificate(self.material().certificate)
        return certificate.not_valid_after_utc.timestamp()

    def server_context(self) -> ssl.SSLContext:
        """A context for TLS over sockets; each handshake uses the newest whole files."""
        context = self._load_context()
        # Python calls this at every handshake, with None when the client names no server.
        context.sni_callback = self._choose
        return context

    def client_context(self) -> ssl.SSLContext:
        """A context for one TLS connection over a socket to a server that proves its name."""
        context = ssl.create_default_context(cafile=str(self._files.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.certificate, self._files.key, _no_passphrase)
        return context

    def _choose(
        self, secured: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Put the newest context under a handshake that has just begun."""
        self._refresh()
        secured.context = self._context

    def _refresh(self) -> None:
        """Take over files that changed, if they are whole."""
        with self._lock:
            now = self._fingerprint()
            if now == self._seen or now is None:
                return
            try:
                context, material = self._load_context(), self._load_material()
            except OSError:
                # Half replaced: keep the good ones and look again at the next handshake.
                return
            self._context, self._material, self._seen = context, material, now

    def _load_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.certificate, self._files.key, _no_passphrase)
        context.load_verify_locations(self._files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load_material(self) -> TlsMaterial:
        return TlsMaterial(
            self._files.certificate.read_bytes(),
            self._files.key.read_bytes(),
            self._files.authority.read_bytes(),
        )

    def _fingerprint(self) -> tuple[tuple[int, int, int], ...] | None:
        """What changes when a file is replaced; None while one is missing."""
        try:
            found = [
                path.stat()
                for path in (self._files.certificate, self._files.key, self._files.authority)
            ]
        except OSError:
            return None
        return tuple((entry.st_mtime_ns, entry.st_size, entry.st_ino) for entry in found)


def _no_passphrase() -> str:
    """Refuse an encrypted key; OpenSSL would ask for its passphrase at a terminal, and wait."""
    raise ssl.SSLError("the key has a passphrase; store it without one, readable by this user only")


def server_credentials(store: CertificateStore) -> grpc.ServerCredentials:
    """Credentials of a gRPC server that asks for client certificates and follows the files."""
    given = store.material()

    def newer() -> grpc.ServerCertificateConfiguration:
        nonlocal given
        material = store.material()
        if material == given:
            return None  # type: ignore[return-value]  # None means no change; the stubs forgot
        given = material
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), newer, require_client_authentication=True
    )


def channel_credentials(store: CertificateStore) -> grpc.ChannelCredentials:
    """Credentials of a client; a new channel uses the newest files."""
    material = store.material()
    return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)


def identity_of_call(auth_context: Mapping[str, Iterable[bytes]]) -> roles.Identity:
    """Who is behind a gRPC call; over plaintext: everybody, with every role."""
    if b"ssl" not in auth_context.get("transport_security_type", ()):
        return roles.EVERYTHING
    names = [name.decode() for name in auth_context.get("x509_subject_alternative_name", ())]
    common = [name.decode() for name in auth_context.get("x509_common_name", ())]
    return roles.identify(names, common[0] if common else "certificate without a common name")


def identity_of_certificate(certificate: Mapping[str, object]) -> roles.Identity:
    """Who is behind a TLS socket, from its `getpeercert()`."""
    names = certificate.get("subjectAltName", ())
    subject = certificate.get("subject", ())
    assert isinstance(names, tuple)
    assert isinstance(subject, tuple)
    common = [value for part in subject for key, value in part if key == "commonName"]
    return roles.identify(
        [value for kind, value in names if kind == "URI"],
        common[0] if common else "certificate without a common name",
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], material.authority
    )
