"""grpcurl, as an operator would use it: the service describes itself by reflection."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

_PROGRAM = Path(sysconfig.get_path("scripts")) / "grpcurl"
TIMEOUT_SECONDS = 60


class GrpcurlError(Exception):
    """grpcurl ended with an error: a status, or no answer at all."""

    def __init__(self, code: str, text: str) -> None:
        """Keep the status's name and all that was said."""
        super().__init__(text)
        self.code = code


class Grpcurl:
    """One server, called in plaintext."""

    def __init__(self, address: str) -> None:
        """Point it at host:port."""
        self._address = address

    def services(self) -> list[str]:
        """The services the server lists."""
        return self._run("list").split()

    def describe(self, name: str) -> str:
        """A service or message, as proto text."""
        return self._run("describe", name)

    def call(self, method: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """A unary call, `service/Method`, of package slackwater.v1 unless it says otherwise."""
        full = method if method.startswith("grpc.") else f"slackwater.v1.{method}"
        out = self._run(full, flags=["-d", json.dumps(request or {})])
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer

    def _run(self, *words: str, flags: list[str] | None = None) -> str:
        done = subprocess.run(
            [str(_PROGRAM), "-plaintext", *(flags or []), self._address, *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode:
            rows = dict(
                row.strip().split(": ", 1) for row in done.stderr.splitlines() if ": " in row
            )
            raise GrpcurlError(rows.get("Code", ""), done.stderr)
        return done.stdout
