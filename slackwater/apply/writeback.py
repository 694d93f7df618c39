"""What of the volumes was written and not yet handed to the disk (D10, D24).

Left alone, the system collects writes until a checkpoint's sync has to wait for all of them. So
each area that was written is handed over about two seconds later: late enough that blocks written
again and again go out once, in steps small enough that nobody waits for them.
"""

import threading
from collections.abc import Iterable
from typing import Final

AREA_BITS: Final = 22
AREA_BYTES: Final = 1 << AREA_BITS
STEP_SHARE: Final = 8
STEP_AREAS: Final = 8


class Writeback:
    """Areas (volume id, number) in the order in which they were first written."""

    def __init__(self) -> None:
        """Start with nothing written."""
        self._areas: dict[tuple[int, int], None] = {}
        self._lock = threading.Lock()

    def note(self, areas: Iterable[tuple[int, int]]) -> None:
        """Note areas that were written, as (volume id, offset >> AREA_BITS)."""
        with self._lock:
            self._areas.update(dict.fromkeys(areas))

    def take(self, *, everything: bool = False) -> list[tuple[int, int]]:
        """Return the areas that are next, in the order in which they lie on disk."""
        with self._lock:
            count = len(self._areas)
            if not everything:
                count = min(count, max(STEP_AREAS, count // STEP_SHARE))
            taken = [area for area, _ in zip(self._areas, range(count), strict=False)]
            for area in taken:
                del self._areas[area]
        return sorted(taken)
