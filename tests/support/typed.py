"""`slackwater` as a process of its own, typed against the services of a test."""

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from demo.sites import Sites

_PROGRAM = Path(sysconfig.get_path("scripts")) / "slackwater"
TIMEOUT_SECONDS = 60.0


class Running:
    """A command that runs."""

    def __init__(self, words: Sequence[str], process: "subprocess.Popen[bytes]") -> None:
        """Keep it."""
        self.words = words
        self.process = process
        self.output = self.error = ""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it, if it still runs; what it started is left alone."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def ends(self, code: int = 0) -> str:
        """Wait for its end, expect an exit code, return what it printed."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.words} did not end") from None
        self.output, self.error = out.decode(errors="replace"), err.decode(errors="replace")
        assert self.process.returncode == code, (self.process.returncode, self.output, self.error)
        return self.output


class Typed:
    """The command line, pointed at running services by its environment."""

    def __init__(self, sites: Sites) -> None:
        """Remember where they are."""
        self._started: list[Running] = []
        self.environment = {
            **os.environ,
            "SLACKWATER_PRIMARY": sites.primary.endpoints.grpc,
            "SLACKWATER_SECONDARY": sites.secondary.endpoints.grpc,
            "SLACKWATER_SNAPSHOT": sites.snapshot.endpoints.grpc,
            "SLACKWATER_CONTEXTS": str(sites.directory / "no-config.toml"),
            "PATH": f"{_PROGRAM.parent}:{os.environ['PATH']}",
        }
        self.error = ""

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *about: object) -> None:
        """Kill what a failed test left running."""
        for running in self._started:
            if running.process.poll() is None:
                running.kill()

    def start(self, *words: str) -> Running:
        """Type a command and leave it running."""
        process = subprocess.Popen(
            [str(_PROGRAM), *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running = Running(words, process)
        self._started.append(running)
        return running

    def __call__(self, *words: str, code: int = 0) -> str:
        """Type a command, expect an exit code, return what it printed."""
        running = self.start(*words)
        output = running.ends(code)
        self.error = running.error
        return output

    def json(self, *words: str) -> Any:
        """The same, for programs."""
        return json.loads(self(*words, "--output", "json"))
