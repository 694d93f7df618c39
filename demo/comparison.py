"""Is this copy of the volumes exactly what was there at the message? Byte by byte."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from demo.workload import BLOCK, JOURNAL, PART, Disk, Mark, block_number, list_names

_LAST_LINE = re.compile(rb"line (\d+) after block (\d+)")
_READ_BYTES = 4 << 20


@dataclass
class Comparison:
    """What was looked at, and everything that was not as it had to be."""

    files: int = 0
    bytes: int = 0
    blocks: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not self.differences

    def summary(self, most: int = 3) -> str:
        """The first few differences."""
        rest = len(self.differences) - most
        more = [f"and {rest} more"] if rest > 0 else []
        return "; ".join(self.differences[:most] + more)


def compare(root: Path, wal: Disk, source: Path, mark: Mark) -> Comparison:
    """Compare a mounted copy of `data` and a copy of `wal` with what the writers noted."""
    result = Comparison()
    last_block = compare_wal(wal, mark, result)
    compare_files(root, source, mark, result)
    compare_volumes(mark.journal, last_block, result)
    return result


def compare_volumes(lines: bytes, last_block: int, result: Comparison) -> None:
    """Each line on `data` names a block answered before it: `wal` has to reach that far."""
    found = _LAST_LINE.findall(lines)
    if found and last_block < int(found[-1][1]):
        result.differences.append(
            f"data holds a line written after block {int(found[-1][1])} of wal was answered, "
            f"but wal ends at block {last_block}: the volumes are not at one point"
        )


def compare_files(root: Path, source: Path, mark: Mark, result: Comparison) -> None:
    """Compare the files of a mounted copy of `data`."""
    try:
        names = list_names(root)
    except OSError as error:
        result.differences.append(f"the file system cannot be listed: {error}")
        return
    for name in sorted(names - mark.names):
        result.differences.append(f"{name} was not there at the message")
    for name in sorted(mark.names - names):
        result.differences.append(f"{name} is missing")
    for name in sorted(names & mark.names):
        _compare_file(root, source, name, mark, result)


def _compare_file(root: Path, source: Path, name: str, mark: Mark, result: Comparison) -> None:
    try:
        found = (root / name).read_bytes()
    except OSError as error:
        result.differences.append(f"{name} cannot be read: {error}")
        return
    if name == JOURNAL:
        equal = found == mark.journal
    elif name.endswith(PART):  # the file that was being copied at that moment
        equal = (source / name.removesuffix(PART)).read_bytes().startswith(found)
    else:
        equal = found == (source / name).read_bytes()
    result.files += 1
    result.bytes += len(found)
    if not equal:
        result.differences.append(f"{name} has other bytes")


def compare_wal(wal: Disk, mark: Mark, result: Comparison) -> int:
    """The last block on the copy; every earlier one has to be there, and no later one."""
    numbers = []
    for offset in range(0, wal.size, _READ_BYTES):
        data = wal.read(offset, min(_READ_BYTES, wal.size - offset))
        for place in range(0, len(data), BLOCK):
            try:
                numbers.append(block_number(data[place : place + BLOCK]))
            except ValueError as error:
                result.differences.append(f"{error} (at {offset + place})")
                numbers.append(0)
    last = max(numbers)
    count = len(numbers)
    for place, number in enumerate(numbers):
        expected = last - (last - place) % count
        if number != max(expected, 0):
            result.differences.append(f"wal has block {number} where {expected} belongs")
    if last < mark.answered_block:
        result.differences.append(
            f"wal ends at block {last}, but {mark.answered_block} was answered before the send"
        )
    if last > mark.issued_block:
        result.differences.append(
            f"wal holds block {last}, issued after the send had returned at {mark.issued_block}"
        )
    result.blocks += count
    result.bytes += wal.size
    return last
