"""What a simulated disk holds: bytes and names, each as a reader sees them and as they survive.

Bytes are written back by page, so the pages that unsynced writes touched are what a sync makes
durable. A failed sync marks those pages clean: they stay visible, and no later sync writes them.

A change of names is durable once a directory it touches is synced. A rename is one change, and
survives whole or not at all, as a journaling file system keeps it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from slackwater.storage.pages import PAGE, Pages

SECTOR: Final = 512


class Policy(Enum):
    """What a power loss does to what was not synced."""

    DROP = "drop"
    KEEP = "keep"
    TEAR = "tear"


class Mapping:
    """A shared mapping of a file: bytes handed out, and what of them the file has seen."""

    __slots__ = ("data", "seen")

    def __init__(self, content: bytes) -> None:
        """Map `content`."""
        self.data = bytearray(content)
        self.seen = bytearray(content)

    def is_released(self) -> bool:
        """Tell whether nobody can store through it any more."""
        try:
            self.data.append(0)
        except BufferError:
            return False
        del self.data[-1]
        return True


@dataclass
class Node:
    """A file: what a reader sees, what survives, and the writes not yet synced, in order."""

    visible: Pages = field(default_factory=Pages)
    durable: Pages = field(default_factory=Pages)
    unsynced: list[tuple[str, int, bytes | int]] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)
    holder: Any = None
    """The process that holds the file's lock."""

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable at the next sync."""
        self.take_mappings()
        self.visible.write(offset, data)
        self.unsynced.append(("write", offset, data))
        self._show(offset, len(data))

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole."""
        self.take_mappings()
        self.visible.zero(offset, length)
        self.unsynced.append(("zero", offset, length))
        self._show(offset, length)

    def resize(self, size: int) -> None:
        """Cut or extend."""
        self.take_mappings()
        old = self.visible.size
        self.visible.resize(size)
        self.unsynced.append(("resize", size, 0))
        self._show(min(old, size), abs(size - old))

    def settle(self) -> None:
        """Make durable what the unsynced writes touched."""
        _keep_all(self.durable, self)
        self.unsynced.clear()

    def clean(self) -> None:
        """Forget, as a failed sync does, that pages are dirty: nothing will write them."""
        self.unsynced.clear()

    def map(self) -> Mapping:
        """Map the whole file."""
        self.take_mappings()
        mapping = Mapping(self.visible.read(self.visible.size, 0))
        self.mappings.append(mapping)
        return mapping

    def take_mappings(self) -> None:
        """Count what was stored through mappings as writes, page by page."""
        for mapping in list(self.mappings):
            content = bytes(mapping.data)
            for offset in range(0, min(len(content), self.visible.size), PAGE):
                page = content[offset : min(offset + PAGE, self.visible.size)]
                if mapping.seen[offset : offset + len(page)] != page:
                    self.visible.write(offset, page)
                    self.unsynced.append(("write", offset, page))
                    self._show(offset, len(page))
            if mapping.is_released():
                self.mappings.remove(mapping)

    def _show(self, offset: int, length: int) -> None:
        """Let every mapping see what changed in the file."""
        for mapping in self.mappings:
            end = min(offset + length, len(mapping.data))
            if end > offset:
                data = self.visible.read(end - offset, offset).ljust(end - offset, b"\0")
                mapping.data[offset:end] = mapping.seen[offset:end] = data

    def copy(self) -> "Node":
        """Return an independent copy that nobody maps or locks."""
        self.take_mappings()
        return Node(self.visible.copy(), self.durable.copy(), list(self.unsynced))

    def after_power_loss(self, policy: Policy, rng: random.Random) -> "Node":
        """Return what is left of the file."""
        self.take_mappings()
        pages = self.durable.copy()
        if policy is Policy.KEEP:
            _keep_all(pages, self)
        elif policy is Policy.TEAR:
            for change in self.unsynced:
                _tear(pages, change, rng)
        return Node(pages, pages.copy())


def _keep_all(pages: Pages, node: Node) -> None:
    """Write back the pages that unsynced writes touched, as they are now."""
    for operation, offset, argument in node.unsynced:
        if operation == "resize":
            pages.resize(min(pages.size, offset))
        else:
            length = argument if isinstance(argument, int) else len(argument)
            pages.adopt(node.visible, offset, length)
    if node.unsynced:
        pages.resize(node.visible.size)


def _tear(pages: Pages, change: tuple[str, int, bytes | int], rng: random.Random) -> None:
    """Let one change happen, or not, or some sectors of it."""
    operation, offset, argument = change
    fate = rng.random()
    if fate < 1 / 3:
        return
    if operation == "resize":
        pages.resize(offset)
    elif isinstance(argument, int):
        pages.zero(offset, argument)
    elif fate < 2 / 3:
        pages.write(offset, argument)
    else:
        _tear_write(pages, offset, argument, rng)


def _tear_write(pages: Pages, offset: int, data: bytes, rng: random.Random) -> None:
    """Write some of the sectors, in no order: a disk promises no more."""
    first = offset - offset % SECTOR
    for sector in range(first, offset + len(data), SECTOR):
        if rng.random() < 0.5:
            start, end = max(sector, offset), min(sector + SECTOR, offset + len(data))
            pages.write(start, data[start - offset : end - offset])


@dataclass
class Blob:
    """A database file: its last commit, durable when the commit returned."""

    content: bytes = b""


@dataclass(eq=False)
class Directory:
    """Names, as a reader sees them and as they survive."""

    visible: dict[str, "Entry"] = field(default_factory=dict)
    durable: dict[str, "Entry"] = field(default_factory=dict)


Entry = Node | Blob | Directory
Assignment = tuple[Directory, str, Entry | None]


class Names:
    """The tree of a disk, and the changes of names that are not durable yet, in order."""

    def __init__(self) -> None:
        """Start with an empty root."""
        self.root = Directory()
        self._pending: list[tuple[Assignment, ...]] = []

    def change(self, *assignments: Assignment) -> None:
        """Give names to entries, or none; all of it together, durable or not."""
        for directory, name, entry in assignments:
            _assign(directory.visible, name, entry)
        self._pending.append(assignments)

    def sync(self, directory: Directory, name: str | None = None) -> None:
        """Make the names of a directory durable, or one of them.

        A change goes with every earlier one of the same names: it happened on top of them.
        """
        wanted: set[tuple[int, str]] = set()
        settled = []
        for change in reversed(self._pending):
            keys = {(id(place), one) for place, one, _ in change}
            is_asked = any(place is directory and name in (None, one) for place, one, _ in change)
            if is_asked or keys & wanted:
                wanted |= keys
                settled.append(change)
        for change in reversed(settled):
            for place, one, entry in change:
                _assign(place.durable, one, entry)
        gone = {id(change) for change in settled}
        self._pending = [change for change in self._pending if id(change) not in gone]

    def nodes(self) -> Iterator[Node]:
        """Yield every file that has a name."""
        queue: list[Entry] = [self.root]
        for entry in queue:
            if isinstance(entry, Directory):
                queue.extend(entry.visible.values())
            elif isinstance(entry, Node):
                yield entry

    def after_power_loss(self, policy: Policy, rng: random.Random) -> "Names":
        """Return the tree that is left, all of it durable."""
        kept = [
            change
            for change in self._pending
            if policy is Policy.KEEP or (policy is Policy.TEAR and rng.random() < 0.5)
        ]
        survivors: dict[int, dict[str, Entry]] = {}
        for change in kept:
            for place, name, entry in change:
                _assign(survivors.setdefault(id(place), dict(place.durable)), name, entry)
        copies: dict[int, Entry] = {}

        def survive(entry: Entry) -> Entry:
            if id(entry) in copies:
                return copies[id(entry)]
            if isinstance(entry, Node):
                copy: Entry = entry.after_power_loss(policy, rng)
            elif isinstance(entry, Blob):
                copy = Blob(entry.content)
            else:
                names = survivors.get(id(entry), entry.durable)
                left = {name: survive(names[name]) for name in sorted(names)}
                copy = Directory(left, dict(left))
            copies[id(entry)] = copy
            return copy

        other = Names()
        root = survive(self.root)
        assert isinstance(root, Directory)
        other.root = root
        return other

    def copy(self) -> "Names":
        """Return an independent tree in the same state, pending changes and all."""
        copies: dict[int, Entry] = {}

        def twin(entry: Entry) -> Entry:
            if id(entry) in copies:
                return copies[id(entry)]
            if isinstance(entry, Node):
                copies[id(entry)] = entry.copy()
            elif isinstance(entry, Blob):
                copies[id(entry)] = Blob(entry.content)
            else:
                copies[id(entry)] = other = Directory()
                other.visible = {name: twin(one) for name, one in entry.visible.items()}
                other.durable = {name: twin(one) for name, one in entry.durable.items()}
            return copies[id(entry)]

        def twin_of(change: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
            twins = []
            for directory, name, entry in change:
                place = twin(directory)
                assert isinstance(place, Directory)
                twins.append((place, name, None if entry is None else twin(entry)))
            return tuple(twins)

        names = Names()
        root = twin(self.root)
        assert isinstance(root, Directory)
        names.root = root
        names._pending = [twin_of(change) for change in self._pending]
        return names


def _assign(names: dict[str, Entry], name: str, entry: Entry | None) -> None:
    if entry is None:
        names.pop(name, None)
    else:
        names[name] = entry
