"""What a kind of quiesce must know. Its steps block; the agent runs them in a thread."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from slackwater.agent.keeper import Request

Undo = Mapping[str, Any]
"""How a hold is ended by somebody who knows nothing but this; JSON, see `slackwater.agent.undo`."""


class KindFailed(Exception):
    """A step of a kind failed; the text is one sentence for people."""


class Patience:
    """How long a step may take, and whether anybody still waits for it."""

    def __init__(self, seconds: float) -> None:
        """Count from now."""
        self._deadline = time.monotonic() + seconds
        self._is_given_up = threading.Event()
        self.seconds = seconds

    def give_up(self) -> None:
        """Let the step end soon; from any thread."""
        self._is_given_up.set()

    @property
    def left_seconds(self) -> float:
        """What is left; 0 once nobody waits any more."""
        if self._is_given_up.is_set():
            return 0.0
        return max(0.0, self._deadline - time.monotonic())

    @property
    def is_over(self) -> bool:
        """True if the step shall end."""
        return self.left_seconds <= 0


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a kind says after a resume: whether the hold was unbroken until then, and evidence."""

    unbroken: bool
    answer: str


class Kind(Protocol):
    """A way to hold an application."""

    name: str

    def check(self) -> None:
        """Raise KindFailed if it cannot work here."""
        ...

    def undo(self, request: Request) -> Undo | None:
        """How another process ends the hold; None if nothing outlives this process."""
        ...

    def hold(self, request: Request, patience: Patience) -> str:
        """Hold the application, return the evidence; `resume` follows, also after KindFailed."""
        ...

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        """Let the application go on; raise KindFailed if it may still be held."""
        ...

    def forget(self) -> None:
        """The hold was ended by somebody else; let go of what this process keeps of it."""
        ...
