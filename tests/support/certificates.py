"""Certificates for tests: an authority, and certificates with roles for loopback."""

import datetime
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from slackwater.runtime.tls import TlsFiles

_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_AFTER = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)

EXPIRED = (_BEFORE, datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC))
"""A time of validity that is over."""
NOT_YET_VALID = (datetime.datetime(2119, 1, 1, tzinfo=datetime.UTC), _AFTER)
"""A time of validity that has not begun."""


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass
class Authority:
    """Signs certificates into files below a directory."""

    directory: Path
    name: str = "authority"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.certificate = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path = self.directory / f"{self.name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *uris: str,
        into: str | None = None,
        valid: tuple[datetime.datetime, datetime.datetime] = (_BEFORE, _AFTER),
    ) -> TlsFiles:
        """A certificate for 127.0.0.1 and localhost with these URIs; `into` names the files."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            *map(x509.UniformResourceIdentifier, uris),
        ]
        certificate = (
            self._builder(name, key.public_key(), valid)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        stem = into or name
        files = TlsFiles(self.directory / f"{stem}.pem", self.directory / f"{stem}.key", self.path)
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(_pem(key))
        return files

    def _builder(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        valid: tuple[datetime.datetime, datetime.datetime] = (_BEFORE, _AFTER),
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
        )
