"""The real command line, typed for the demo: every call is a `slackwater` process of its own."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.screen import Screen
from demo.sites import REPOSITORY, Sites

TIMEOUT_SECONDS = 60.0
Answer = dict[str, Any]


class CommandError(Exception):
    """A command ended with an error."""


class Waiting:
    """A command that was started and not waited for yet."""

    def __init__(self, words: list[str], process: "subprocess.Popen[str]") -> None:
        """Keep the process."""
        self._words = words
        self._process = process

    def answer(self, timeout_seconds: float = TIMEOUT_SECONDS) -> Answer:
        """Wait for its end and return what it said."""
        try:
            out, err = self._process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.cancel()
            raise CommandError(f"{shlex.join(self._words)} did not end") from None
        if self._process.returncode:
            raise CommandError(
                f"{shlex.join(self._words)} ended with {self._process.returncode}: {err.strip()}"
            )
        found = json.loads(out) if out.strip() else {}
        return found if isinstance(found, dict) else {"items": found}

    def cancel(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class CommandLine:
    """`slackwater`, pointed at three services by its environment."""

    def __init__(self, sites: Sites, screen: Screen | None = None) -> None:
        """Point it at running services; commands are shown on `screen`."""
        self._screen = screen
        self._environment = {
            "SLACKWATER_PRIMARY": sites.primary.endpoints.grpc,
            "SLACKWATER_SECONDARY": sites.secondary.endpoints.grpc,
            "SLACKWATER_SNAPSHOT": sites.snapshot.endpoints.grpc,
            "SLACKWATER_CONTEXTS": str(sites.directory / "no-config.toml"),
        }

    def __call__(self, *words: str) -> Answer:
        """Type a command, wait for its end and return what it said."""
        return self.start(*words).answer()

    def start(self, *words: str) -> Waiting:
        """Type a command and leave it running."""
        if self._screen is not None:
            self._screen.command(["slackwater", *map(shlex.quote, words)])
        return self._spawn(list(words))

    def quietly(self, *words: str) -> Answer:
        """As a call, for polling: not shown."""
        return self._spawn(list(words)).answer()

    def _spawn(self, words: list[str]) -> Waiting:
        process = subprocess.Popen(
            [*_program(), "--output", "json", *words],
            cwd=REPOSITORY,
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Waiting(["slackwater", *words], process)


def pick(answer: Mapping[str, Any], *path: str) -> Any:
    """A value deep in an answer, whichever way its names are spelled; None if absent."""
    value: Any = answer
    for name in path:
        if not isinstance(value, Mapping):
            return None
        head, *rest = name.split("_")
        camel = head + "".join(word.capitalize() for word in rest)
        value = value.get(name, value.get(camel))
    return value


def seconds(value: object) -> float:
    """A duration as the command line prints it: `0.003s`, or a number of seconds."""
    if value is None or value == "":
        return 0.0
    return float(str(value).removesuffix("s"))


def _program() -> list[str]:
    script = Path(sysconfig.get_path("scripts")) / "slackwater"
    return [str(script)] if script.exists() else [sys.executable, "-m", "slackwater.cli"]
