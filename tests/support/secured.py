"""Services that speak mutual TLS, each with a certificate of its own role."""

import subprocess
import sys
from pathlib import Path

from demo.sites import Sites
from slackwater.runtime.tls import TlsFiles
from tests.support.certificates import Authority


class Secured(Sites):
    """Three services, each with a certificate of its own role, and one operator."""

    def __init__(self, directory: Path, replicate: str = "slackwater://role/replicate") -> None:
        """Issue the certificates; `replicate` is what the Primary's grants."""
        pki = directory / "pki"
        pki.mkdir(parents=True)
        self.authority = Authority(pki)
        certificates = {
            "primary": self.authority.issue("primary", replicate),
            "secondary": self.authority.issue("secondary"),
            "snapshot": self.authority.issue("snapshot", "slackwater://role/operate"),
        }
        self.operator = self.authority.issue("operator", "slackwater://role/operate")
        super().__init__(
            directory, arguments={role: flags(files) for role, files in certificates.items()}
        )

    def cli(self, *words: str, files: TlsFiles | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line as the operator, or with another certificate."""
        command = [sys.executable, "-m", "slackwater.cli", *words]
        command += ["--primary", self.primary.endpoints.grpc]
        command += ["--secondary", self.secondary.endpoints.grpc]
        command += ["--snapshot", self.snapshot.endpoints.grpc, *flags(files or self.operator)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def flags(files: TlsFiles) -> list[str]:
    return [
        "--tls-cert", str(files.certificate), "--tls-key", str(files.key),
        "--tls-ca", str(files.authority),
    ]  # fmt: skip
