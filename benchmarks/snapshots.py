"""`make bench-snapshots`: what snapshots cost, with more volume and more of them, beside others.

Creating must hold still; applying and reading are told as ratios to the same without snapshots, in
turn in the same run. Files are in the page cache, and there is one warm-up of everything. Absolute
figures are this machine's; ratios carry over. `--quick` is less of it, for a look.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks import fio, overlays
from benchmarks.copy_on_write import Nbdkit, Qcow2
from benchmarks.figures import grown, percentiles, ratios
from benchmarks.replicas import Replica
from demo.sites import REPOSITORY, Sites

COUNTS: Final = (0, 1, 10, 50)
CHAIN: Final = 50
SHARE: Final = 0.01
"""Of the chunks change between two snapshots of a chain: the oldest has half from other ones."""
GROWTH: Final = 2.0
READ_LIMIT: Final = 1.5
MAP_LIMIT: Final = 1.0
READS: Final = (("1 MiB sequential", 1 << 20), ("4 KiB random", 4096))
_READ: Final = {"1 MiB sequential": "read", "4 KiB random": "randread"}


@dataclass(frozen=True)
class Scale:
    """How much of it: the whole, or a look."""

    gib: tuple[int, ...] = (1, 10, 100)
    counts: tuple[int, ...] = COUNTS
    volume_bytes: int = 256 << 20
    runs: int = 3
    records: int = 4096
    writes: int = 2048
    creates: int = 20


QUICK: Final = Scale((1, 100), (0, 1, 10), 64 << 20, 1, 1024, 512, 5)


def main() -> int:
    """Measure, print, write build/bench-snapshots.json; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.snapshots", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, in a minute or two")
    scale = QUICK if parser.parse_args().quick else Scale()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    begun = time.monotonic()
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-snapshots-", dir=build) as name:
        report = _measure(console, Path(name), scale)
    report["goals"] = goals(report)
    report["seconds"] = round(time.monotonic() - begun, 1)
    (build / "bench-snapshots.json").write_text(json.dumps(report, indent=2) + "\n")
    return _show(console, report)


def _measure(console: Console, directory: Path, scale: Scale) -> dict[str, Any]:
    report: dict[str, Any] = {"creating_ms": _creating(directory / "creating", scale)}
    console.print("creating: done")
    report |= _direct(directory / "direct", scale)
    console.print("applying and reading, direct: done")
    report["side_by_side"], report["reading_nbd"] = _slackwater(directory / "sites", scale)
    console.print("applying and reading, services: done")
    report["side_by_side"] |= _others(directory, scale)
    console.print("qcow2 and nbdkit: done")
    return report


S = TypeVar("S", bound="Side")
R = TypeVar("R")


class Side(Protocol):
    """A disk of which snapshots are kept."""

    def take(self) -> object:
        """Take one more snapshot."""
        ...

    def change(self) -> None:
        """Change a little, so that each snapshot holds something of its own."""
        ...

    def drop_oldest(self) -> None:
        """Let the oldest snapshot go."""
        ...


def _rounds(sides: Mapping[int, S], scale: Scale, run: Callable[[S], R]) -> dict[int, list[R]]:
    """Run the load in turn on disks with so many snapshots, the newest always a fresh one."""
    for count, side in sides.items():
        for _ in range(count):
            side.take()
            side.change()
    found: dict[int, list[R]] = {count: [] for count in sides}
    for number in range(scale.runs + 1):
        for count, side in sides.items():
            if count:
                side.take()
                side.drop_oldest()
            os.sync()  # nobody starts with what another left in the page cache
            result = run(side)
            if number:  # the first is to warm up
                found[count].append(result)
    return found


def _creating(directory: Path, scale: Scale) -> dict[str, dict[str, float]]:
    found = {}
    present = [count for count in scale.counts if count]
    for gib in scale.gib:
        with overlays.group(directory / str(gib), gib << 30) as group:
            group.take()
            for count in present:
                while len(group.catalogue.ready()) < count:
                    group.take()
                    group.change(64 / group.chunks)
                os.sync()
                samples = []
                for _ in range(scale.creates):
                    samples.append(group.take() * 1e3)
                    group.drop_oldest()
                found[f"{gib} GiB, {count} present"] = percentiles(samples)
    return found


def _direct(directory: Path, scale: Scale) -> dict[str, Any]:
    """Apply with more and more snapshots, then read through the whole chain."""
    applied: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        groups = {}
        for count in scale.counts:
            where = directory / f"applying-{count}"
            groups[count] = stack.enter_context(overlays.group(where, scale.volume_bytes))
            groups[count].fill()
        found = _rounds(groups, scale, lambda group: group.load(scale.records))
    for count, runs in found.items():
        applied[str(count)] = {
            "per_second": statistics.median(run.per_second for run in runs),
            "preserves_per_chunk": max(run.preserves_per_chunk for run in runs),
        }
    reading: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        chain, alone = (
            stack.enter_context(overlays.group(directory / name, scale.volume_bytes))
            for name in ("chain", "alone")
        )
        for group, count in ((chain, CHAIN), (alone, 1)):
            group.fill()
            for _ in range(count):
                group.take()
                group.change(SHARE * CHAIN / count)
        for name, size in READS:
            reading[name] = _read(chain, alone, size, scale)
    maps = _maps(directory / "maps", scale)
    return {"applying": applied, "reading_direct": reading, "maps": maps}


def _maps(directory: Path, scale: Scale) -> dict[str, float]:
    """What the indexes of a chain take, on a volume of 1 GiB, then when the newest is full."""
    with overlays.group(directory, scale.gib[0] << 30) as group:
        group.fill()
        for _ in range(CHAIN):
            group.take()
            group.change(SHARE)
        found = {
            "bytes_per_chunk_and_snapshot": group.map_bytes() / (group.chunks * CHAIN),
            "preserved_share": group.preserved_chunks() / (group.chunks * CHAIN),
        }
        before = group.map_bytes(), group.preserved_chunks()
        group.change(1.0)
        more = group.map_bytes() - before[0], group.preserved_chunks() - before[1]
        found["bytes_per_preserved_chunk"] = more[0] / more[1]
    return {name: round(value, 3) for name, value in found.items()}


def _read(
    chain: overlays.Group, alone: overlays.Group, block_bytes: int, scale: Scale
) -> dict[str, float]:
    """Read the volume, the oldest of a chain, and one snapshot that itself holds as much."""
    reads = max(scale.volume_bytes // block_bytes, 1) if block_bytes > 4096 else 8 * scale.records
    ways = {"volume": chain.now(), "chain": chain.oldest(), "alone": alone.oldest()}

    def rate(who: str) -> float:
        return overlays.read_rate(ways[who], scale.volume_bytes, block_bytes, reads)

    return _in_turn(rate, ways, scale)


def _in_turn(rate: Callable[[str], float], ways: Iterable[str], scale: Scale) -> dict[str, float]:
    """Return all rates, medians, and how many times longer the chain took."""
    found: dict[str, list[float]] = {who: [] for who in ways}
    for who in found:
        rate(who)
    for _ in range(scale.runs):
        for who, rates in found.items():
            rates.append(rate(who))
    medians = {who: statistics.median(rates) for who, rates in found.items()}
    times = {
        f"times_{who}": round(medians[who] / medians["chain"], 3) for who in found if who != "chain"
    }
    return {**medians, **times}


def _slackwater(
    directory: Path, scale: Scale
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(directory))
        sites.start(snapshot=False)
        primary = stack.enter_context(grpc.insecure_channel(sites.primary.endpoints.grpc))
        secondary = stack.enter_context(grpc.insecure_channel(sites.secondary.endpoints.grpc))
        sides = {
            count: Replica(sites, primary, secondary, f"with-{count}", scale.volume_bytes)
            for count in scale.counts
        }
        found = _rounds(sides, scale, lambda side: side.write(scale.writes))
        reading = _reading_nbd(sides[scale.counts[-1]], scale)
        sites.stop()
    return {"slackwater, replicated and applied": _rates(found, scale)}, reading


def _reading_nbd(replica: Replica, scale: Scale) -> dict[str, dict[str, float]]:
    """Read the replica's volume and the oldest snapshot, of which half is in newer ones."""
    while replica.held < CHAIN:
        replica.take()
        replica.change()
    uris = dict(zip(("volume", "chain"), replica.export_oldest(), strict=True))
    reading = {}
    for name, size in READS:
        load = fio.Load(name, _READ[name], size, 4)

        def rate(who: str, load: fio.Load = load) -> float:
            return fio.on_nbd(uris[who], load, scale.volume_bytes).per_second

        reading[name] = _in_turn(rate, uris, scale)
    return reading


def _rates(found: Mapping[int, list[float]], scale: Scale) -> dict[str, float]:
    return {str(count): scale.writes / statistics.median(runs) for count, runs in found.items()}


def _others(directory: Path, scale: Scale) -> dict[str, dict[str, float]]:
    """The same writes on qcow2 with internal snapshots and through nbdkit's cow."""

    def run(side: Qcow2 | Nbdkit) -> float:
        with side.serve() as uri:
            return fio.writes(uri, scale.volume_bytes, scale.writes)

    images = {
        count: Qcow2(directory / f"qcow2-{count}", scale.volume_bytes) for count in scale.counts
    }
    kits = {
        int(cow): Nbdkit(directory / f"nbdkit-{cow}", scale.volume_bytes, cow=cow)
        for cow in (False, True)
    }
    return {
        "qcow2, internal snapshots": _rates(_rounds(images, scale, run), scale),
        "nbdkit, cow": _rates(_rounds(kits, scale, run), scale),
    }


def goals(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures to what they have to be: one row each, whether it is met."""
    rows: list[dict[str, Any]] = []
    medians = {name: row["p50"] for name, row in report["creating_ms"].items()}
    worst = max(medians.values()) / next(iter(medians.values()))
    rows.append(_goal("creating, largest to smallest", worst, GROWTH, grown(medians, GROWTH)))
    kept = max(row["preserves_per_chunk"] for row in report["applying"].values())
    rows.append(_goal("preserves a chunk", kept, 1.0))
    for name, row in report["reading_direct"].items():
        what = f"reading through {CHAIN}, {name}, direct: times"
        rows.append(_goal(f"{what} one that holds as much", row["times_alone"], READ_LIMIT))
        rows.append(_goal(f"{what} the volume", row["times_volume"], READ_LIMIT))
    for name, row in report["reading_nbd"].items():
        what = f"reading through {CHAIN}, {name}, NBD: times the volume"
        rows.append(_goal(what, row["times_volume"], READ_LIMIT))
    found = report["maps"]["bytes_per_chunk_and_snapshot"]
    rows.append(_goal("map bytes a chunk and snapshot", found, MAP_LIMIT))
    return rows


def _goal(what: str, found: float, limit: float, missed: list[str] | None = None) -> dict[str, Any]:
    met = found <= limit if missed is None else not missed
    return {"what": what, "found": round(found, 3), "limit": limit, "met": met}


def _show(console: Console, report: dict[str, Any]) -> int:
    """Print it all; 1 if a goal is missed."""
    table = Table(title="creating, ms", title_justify="left")
    for head in ("case", "median", "99th percentile"):
        table.add_column(head, justify="left" if head == "case" else "right")
    for name, row in report["creating_ms"].items():
        table.add_row(name, str(row["p50"]), str(row["p99"]))
    console.print(table)
    rates = {"slackwater, applier alone": {
        count: row["per_second"] for count, row in report["applying"].items()
    }, **report["side_by_side"]}  # fmt: skip
    counts = list(report["applying"])
    table = Table(title="4 KiB random writes, to the same without snapshots", title_justify="left")
    table.add_column("")
    for count in counts:
        table.add_column(f"{count} snapshots", justify="right")
    for who, found in rates.items():
        shares = ratios(found)
        table.add_row(who, *(f"{shares[count]:.2f}" if count in shares else "" for count in counts))
    console.print(table)
    missed = 0
    for goal in report["goals"]:
        missed += not goal["met"]
        word = "reached" if goal["met"] else "MISSED"
        console.print(f"{goal['what']}: {goal['found']} ({word}, {goal['limit']})")
    console.print(f"maps: {report['maps']}")
    console.print(f"build/bench-snapshots.json written, {report['seconds']} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
