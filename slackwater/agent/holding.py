"""A hold as it is done: the record, the guard, the kind, in the order that survives any death.

Before: recorded and synced, guarded, then held. After: resumed, struck from the record, the guard
dismissed. All of it blocks, and is called by one thread at a time.
"""

import contextlib
from collections.abc import Callable

from slackwater.agent import undo
from slackwater.agent.guarding import Guarding
from slackwater.agent.keeper import Request
from slackwater.agent.kinds.kind import Kind, KindFailed, Patience, Resumption
from slackwater.agent.ledger import Entry, Ledger
from slackwater.errors import SlackwaterError

ACTING_SECONDS = 5.0


class Holding:
    """One application's kind, record and guard."""

    def __init__(
        self, kind: Kind, ledger: Ledger, resume_seconds: float, on_guard_end: Callable[[], None]
    ) -> None:
        """`resume_seconds` bounds each resume; `on_guard_end` is called from another thread."""
        self._kind = kind
        self._ledger = ledger
        self._resume_seconds = resume_seconds
        self._on_guard_end = on_guard_end
        self._guard: Guarding | None = None

    @property
    def guard_pid(self) -> int | None:
        """Of the guard's process, while there is one."""
        return self._guard.pid if self._guard is not None else None

    def hold(self, request: Request, patience: Patience) -> str:
        """Hold the application and return the evidence; raise KindFailed, then `resume` follows."""
        described = self._kind.undo(request)
        if described is not None:
            entry = Entry(request.hold_id, dict(described))
            try:
                self._ledger.write(entry)
            except OSError as error:
                raise KindFailed(f"cannot record the hold: {error}") from error
            longest = request.timeout_seconds + request.max_hold_seconds
            lock_seconds = float(described.get("seconds", 0.0)) + ACTING_SECONDS
            self._guard = Guarding(self._ledger, entry, longest, lock_seconds, self._on_guard_end)
        if patience.is_over:
            raise KindFailed("there was no time left to begin")
        answer = self._kind.hold(request, patience)
        if self._guard is not None:
            self._guard.hold_for(request.max_hold_seconds)
        return answer

    def resume(self, request: Request, message: str) -> Resumption:
        """Let the application go on; raise KindFailed if it may still be held."""
        with self._ledger.acting(ACTING_SECONDS):
            entry = self._read()
            if entry is not None and entry.resumed_by:
                self._kind.forget()
                resumption = Resumption(False, f"its {entry.resumed_by} resumed it: {entry.why}")
            else:
                patience = Patience(self._resume_seconds)
                resumption = self._kind.resume(request, message, patience)
            self._strike()
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        return resumption

    def recover(self) -> str:
        """Resume what an earlier agent left held; returns what was found and done, or "".

        Raises:
            KindFailed: It may still be held.
            SlackwaterError: The record cannot be understood.
        """
        # Its guard may be at it right now.
        with self._ledger.acting(self._resume_seconds + ACTING_SECONDS):
            entry = self._ledger.read()
            if entry is None:
                return ""
            if entry.resumed_by:
                found = f"the {entry.resumed_by} had resumed hold {entry.hold_id}: {entry.why}"
            else:
                done = undo.prepare(entry.undo).run()
                found = f"hold {entry.hold_id} was recorded as held; {done}"
            self._ledger.clear()
        return found

    def _read(self) -> Entry | None:
        """The record, or None: then the kind itself is asked to resume."""
        try:
            return self._ledger.read()
        except (OSError, SlackwaterError):
            return None

    def _strike(self) -> None:
        """Remove the record; if that fails it is resumed once more at the next start."""
        with contextlib.suppress(OSError):
            self._ledger.clear()
