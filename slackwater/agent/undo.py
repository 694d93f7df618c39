"""How a hold is ended by somebody who knows nothing but the record of it."""

from typing import Protocol

from slackwater.agent.kinds.command import RunResume
from slackwater.agent.kinds.fsfreeze import Thaw
from slackwater.agent.kinds.kind import KindFailed, Undo


class Undoing(Protocol):
    """A resume that is ready to run."""

    def run(self) -> str:
        """Resume, say what was done; raise KindFailed if the application may still be held."""
        ...


def prepare(undo: Undo) -> Undoing:
    """Make ready what a kind's `undo` described."""
    try:
        match undo["kind"]:
            case "command":
                return RunResume(undo)
            case "fsfreeze":
                return Thaw([str(path) for path in undo["paths"]])
    except (KeyError, TypeError, ValueError) as error:
        raise KindFailed(f"the record of a hold is damaged: {error!r}") from error
    raise KindFailed(f"the record speaks of an unknown kind: {undo.get('kind')!r}")
