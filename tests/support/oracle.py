"""The prefix oracle: is this image a state the group's writes passed through, and which one?

Writers fill every sector they write with a label (`label_write`) and log in a `Journal` when each
write was issued and when it was answered, as ticks of one counter: if one write's answer has a
lower tick than another's issue, it really came first. `check` is then given images of all volumes
and asks for an order of the writes, consistent with those ticks, of which the images are an exact
prefix. Two bounds may narrow the prefix: it holds everything answered before tick
`everything_answered_before`, and nothing issued after tick `nothing_issued_after`.

Why a smallest prefix is enough. Every visible write is in the prefix, and so is every write
answered before some write of it was issued; anything more only adds writes that have to be hidden.
So the smallest candidate is `visible + answered before the last of those issues`, and if it cannot
be ordered, no larger one can. It can be ordered exactly if the relation "answered before issued"
together with "covers a sector that shows another write, so came before that one" has no cycle.
A write is one record, whole or absent, so a torn write is a cycle as well.
"""

import itertools
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crc32c import crc32c

SECTOR = 512
_MAGIC = 0x5EC70_0AC
_LABEL = struct.Struct("<IIQQIQI")  # magic, writer, sequence, write id, volume, sector, crc32c
_FILLER = bytes(range(256)) * 2
_ZEROES = bytes(SECTOR)
Image = bytes | bytearray | memoryview


@dataclass(slots=True)
class Write:
    """One write of the workload; `answered` stays None if no reply ever came."""

    number: int
    writer: int
    sequence: int
    volume: int
    first_sector: int
    sectors: int
    issued: int
    answered: int | None = None

    @property
    def next_sector(self) -> int:
        """The first sector past this write."""
        return self.first_sector + self.sectors

    def __str__(self) -> str:
        """Say what and when, for a failure message."""
        answered = "never answered" if self.answered is None else f"answered {self.answered}"
        return (
            f"write {self.number} of writer {self.writer} (volume {self.volume}, sectors "
            f"{self.first_sector} to {self.next_sector - 1}, issued {self.issued}, {answered})"
        )


class Journal:
    """What the writers did, in the order of one counter; safe to use from many threads."""

    def __init__(self) -> None:
        """Start an empty journal at tick 1."""
        self.writes: list[Write] = []
        self._ticks = itertools.count(1)
        self._sequences: dict[int, int] = defaultdict(int)
        self._lock = threading.Lock()

    def tick(self) -> int:
        """The next tick; taken around calls whose place among the writes matters."""
        return next(self._ticks)

    def issue(self, writer: int, volume: int, first_sector: int, sectors: int) -> Write:
        """Note that a write is about to be sent."""
        with self._lock:
            self._sequences[writer] += 1
            write = Write(
                number=len(self.writes) + 1,
                writer=writer,
                sequence=self._sequences[writer],
                volume=volume,
                first_sector=first_sector,
                sectors=sectors,
                issued=self.tick(),
            )
            self.writes.append(write)
        return write

    def answer(self, write: Write) -> None:
        """Note that the reply of a write has been read."""
        write.answered = self.tick()

    def __len__(self) -> int:
        """How many writes were issued."""
        return len(self.writes)


def label_write(write: Write) -> bytes:
    """The bytes of a write: every sector names the write and its own place."""
    out = bytearray(_FILLER * write.sectors)
    for index in range(write.sectors):
        place = index * SECTOR
        head = (_MAGIC, write.writer, write.sequence, write.number, write.volume)
        sector = write.first_sector + index
        _LABEL.pack_into(out, place, *head, sector, 0)
        checksum = crc32c(memoryview(out)[place : place + SECTOR])
        _LABEL.pack_into(out, place, *head, sector, checksum)
    return bytes(out)


def read_label(sector_bytes: bytes | memoryview, volume: int, sector: int) -> int:
    """The number of the write a sector shows, 0 for a sector of zeroes.

    Raises:
        ImageError: The sector is torn or belongs elsewhere.
    """
    if sector_bytes == _ZEROES:
        return 0
    magic, _writer, _sequence, number, its_volume, its_sector, checksum = _LABEL.unpack_from(
        sector_bytes
    )
    blank = bytearray(sector_bytes)
    blank[_LABEL.size - 4 : _LABEL.size] = bytes(4)
    if magic != _MAGIC or crc32c(blank) != checksum:
        raise ImageError(f"volume {volume}, sector {sector}: torn or foreign bytes")
    if (its_volume, its_sector) != (volume, sector):
        raise ImageError(
            f"volume {volume}, sector {sector}: holds write {number} meant for volume "
            f"{its_volume}, sector {its_sector}"
        )
    return int(number)


class ImageError(AssertionError):
    """The images are no state the writes passed through."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a passed check found."""

    included: int  # writes the prefix holds at least
    visible: int  # writes of which a sector can still be seen
    sectors: int  # sectors looked at
    last_issued: int  # the highest issue tick in the prefix


def check(
    journal: Journal,
    images: Mapping[int, Image],
    *,
    everything_answered_before: int = 0,
    nothing_issued_after: int | None = None,
) -> Verdict:
    """Prove that `images` (by volume) are one prefix of the journal's writes.

    Raises:
        ImageError: They are not; the message names sectors and writes.
    """
    writes = list(journal.writes)
    shown = _read_images(writes, images)
    visible = {number for rows in shown.values() for number in rows if number}
    if nothing_issued_after is not None:
        for number in visible:
            if writes[number - 1].issued > nothing_issued_after:
                raise ImageError(f"{writes[number - 1]} was issued after {nothing_issued_after}")
    horizon = max([everything_answered_before, *(writes[number - 1].issued for number in visible)])
    included = [
        write
        for write in writes
        if write.number in visible or (write.answered is not None and write.answered < horizon)
    ]
    before = _hidden_by(included, shown, images)
    _refuse_cycles(included, before)
    return Verdict(
        included=len(included),
        visible=len(visible),
        sectors=sum(len(rows) for rows in shown.values()),
        last_issued=max((write.issued for write in included), default=0),
    )


def _read_images(writes: Sequence[Write], images: Mapping[int, Image]) -> dict[int, list[int]]:
    shown: dict[int, list[int]] = {}
    for volume, image in images.items():
        view = memoryview(image)
        rows = [
            read_label(view[place : place + SECTOR], volume, place // SECTOR)
            for place in range(0, len(view), SECTOR)
        ]
        for sector, number in enumerate(rows):
            if number and not _is_of(writes, number, volume, sector):
                raise ImageError(
                    f"volume {volume}, sector {sector}: shows write {number}, which was never "
                    "issued there"
                )
        shown[volume] = rows
    return shown


def _is_of(writes: Sequence[Write], number: int, volume: int, sector: int) -> bool:
    if number > len(writes):
        return False
    write = writes[number - 1]
    return write.volume == volume and write.first_sector <= sector < write.next_sector


def _hidden_by(
    included: Sequence[Write],
    shown: Mapping[int, list[int]],
    images: Mapping[int, Image],
) -> dict[int, set[int]]:
    """For each write the visible ones that must come after it, refusing the plain cases."""
    by_number = {write.number: write for write in included}
    before: dict[int, set[int]] = defaultdict(set)
    for write in included:
        if write.volume not in images:
            continue
        rows = shown[write.volume]
        for sector in range(write.first_sector, write.next_sector):
            seen = rows[sector]
            if seen == write.number:
                continue
            if not seen:
                raise ImageError(
                    f"volume {write.volume}, sector {sector}: reads as zeroes, but {write} "
                    "is part of every prefix that fits"
                )
            later = by_number[seen]
            if later.answered is not None and later.answered < write.issued:
                raise ImageError(
                    f"volume {write.volume}, sector {sector}: shows {later}, but {write} came "
                    "after it and is part of every prefix that fits"
                )
            before[write.number].add(seen)
    return before


def _refuse_cycles(included: Sequence[Write], before: Mapping[int, set[int]]) -> None:
    """Sort topologically; nodes are the writes and, negative, the answers as one chain."""
    answers = sorted(write.answered for write in included if write.answered is not None)
    after: dict[int, list[int]] = defaultdict(list)
    waiting: dict[int, int] = defaultdict(int)

    def edge(first: int, then: int) -> None:
        after[first].append(then)
        waiting[then] += 1

    for earlier, later in itertools.pairwise(answers):
        edge(-earlier, -later)
    issues = sorted(included, key=lambda write: write.issued)
    position = 0
    for write in issues:
        while position < len(answers) and answers[position] < write.issued:
            position += 1
        if position:
            edge(-answers[position - 1], write.number)
        if write.answered is not None:
            edge(write.number, -write.answered)
    for first, laters in before.items():
        for later in laters:
            edge(first, later)
    nodes = [write.number for write in included] + [-answer for answer in answers]
    ready = deque(node for node in nodes if not waiting[node])
    done = 0
    while ready:
        node = ready.popleft()
        done += 1
        for then in after[node]:
            waiting[then] -= 1
            if not waiting[then]:
                ready.append(then)
    if done < len(nodes):
        stuck = [write for write in issues if waiting[write.number]]
        names = "; ".join(str(write) for write in stuck[:4])
        raise ImageError(f"no order of these {len(stuck)} writes fits what is seen: {names} ...")
