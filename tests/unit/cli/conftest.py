"""Three fakes, and the command line pointed at them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slackwater.cli.main import app
from tests.unit.cli.fakes import FakeService, serving


class CommandLine:
    """`slackwater`, as somebody types it."""

    def __init__(self, services: dict[str, FakeService], config: Path) -> None:
        """Point it at the services by its environment."""
        self.primary = services["primary"]
        self.secondary = services["secondary"]
        self.snapshot = services["snapshot"]
        self.environment = {
            f"SLACKWATER_{role.upper()}": service.address for role, service in services.items()
        }
        self.environment["SLACKWATER_CONTEXTS"] = str(config)
        self.environment["COLUMNS"] = "200"
        self.output = self.error = ""

    def __call__(self, *words: str, code: int = 0, given: bytes = b"") -> str:
        """Type it, expect an exit code, return what it printed."""
        result = CliRunner(env=self.environment).invoke(app, list(words), input=given)
        self.output, self.error = result.stdout, result.stderr
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, (result.exit_code, self.output, self.error)
        return self.output

    def json(self, *words: str, code: int = 0) -> Any:
        """The same with `--output json`."""
        return json.loads(self(*words, "--output", "json", code=code))


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    with serving("primary", "secondary", "snapshot") as services:
        yield CommandLine(services, tmp_path / "config" / "config.toml")


@pytest.fixture
def closed_port() -> Callable[[], str]:
    """An address where nobody listens."""

    def make() -> str:
        with serving("snapshot") as services:
            return services["snapshot"].address

    return make
