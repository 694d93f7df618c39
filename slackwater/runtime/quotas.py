"""Bytes of volumes that a certificate grants, counted over all groups of one service.

What a group is about to have counts at once, so two callers cannot both take the last of a quota.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from slackwater.runtime.roles import Identity, Role


class Quotas:
    """Who may have how many bytes of volumes here. Safe to use from any thread."""

    def __init__(self, role: Role, held: Callable[[], Mapping[str, int]]) -> None:
        """Count what volumes made with `role` take; `held` gives the bytes of each group now."""
        self._role = role
        self._held = held
        self._planned: dict[str, int] = {}
        self._lock = threading.Lock()

    def plan(self, identity: Identity, group: str, size: int, field: str) -> None:
        """Let a group have volumes of so many bytes; they count until `forget`.

        Raises:
            QuotaExceeded: the identity's certificate grants fewer; nothing was changed.
        """
        with self._lock:
            others = dict(self._held())
            for name, planned in self._planned.items():
                others[name] = max(others.get(name, 0), planned)
            others.pop(group, None)
            identity.check_quota(self._role, group, size, others, field)
            self._planned[group] = size

    def note(self, group: str, size: int) -> None:
        """Let a group have volumes of fewer bytes, which nobody has to be asked for."""
        with self._lock:
            self._planned[group] = size

    def forget(self, group: str) -> None:
        """Count for a group only what it has."""
        with self._lock:
            self._planned.pop(group, None)

    @contextmanager
    def adding(self, identity: Identity, group: str, size: int, field: str) -> Iterator[None]:
        """Add so many bytes to a group in the body; one caller at a time for each group.

        Raises:
            QuotaExceeded: the identity's certificate grants fewer; nothing was changed.
        """
        self.plan(identity, group, self._held().get(group, 0) + size, field)
        try:
            yield
        finally:
            self.forget(group)
