"""`make bench-snapshots`: what snapshots cost, with more volume and more of them, beside others.

Creating must hold still; applying and reading are told as ratios to the same without snapshots, in
turn in the same run. Files are in the page cache, and there is one warm-up of everything. Absolute
figures are this machine's; ratios carry over. `--quick` is a tenth of it, for a look.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
    parser.add_argument("--quick", action="store_true", help="a look, in half a minute")
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
                samples = []
                for _ in range(scale.creates):
                    samples.append(group.take() * 1e3)
                    group.drop_oldest()
                found[f"{gib} GiB, {count} present"] = percentiles(samples)
    return found


def _direct(directory: Path, scale: Scale) -> dict[str, Any]:
    """Apply with more and more snapshots, then read through the whole chain."""
    applied: dict[str, dict[str, float]] = {}
    with overlays.group(directory / "applying", scale.volume_bytes) as group:
        group.fill()
        group.load(scale.records)
        for count in scale.counts:
            while len(group.catalogue.ready()) < count:
                group.take()
                group.change(SHARE)
            runs = []
            for _ in range(scale.runs):
                if count:
                    group.take()
                    group.drop_oldest()
                runs.append(group.load(scale.records))
            applied[str(count)] = {
                "per_second": statistics.median(run.per_second for run in runs),
                "preserves_per_chunk": max(run.preserves_per_chunk for run in runs),
            }
    with overlays.group(directory / "reading", scale.volume_bytes) as group:
        group.fill()
        for _ in range(CHAIN):
            group.take()
            group.change(SHARE)
        reading = {name: _read(group, size, scale) for name, size in READS}
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


def _read(group: overlays.Group, block_bytes: int, scale: Scale) -> dict[str, float]:
    reads = max(scale.volume_bytes // block_bytes, 1) if block_bytes > 4096 else 8 * scale.records
    ways = {"volume": group.now(), "chain": group.oldest()}

    def rate(who: str) -> float:
        return overlays.read_rate(ways[who], scale.volume_bytes, block_bytes, reads)

    return _in_turn(rate, scale)


def _in_turn(rate: Callable[[str], float], scale: Scale) -> dict[str, float]:
    """Return both rates, medians, and how many times longer the chain took."""
    found: dict[str, list[float]] = {"volume": [], "chain": []}
    for who in found:
        rate(who)
    for _ in range(scale.runs):
        for who, rates in found.items():
            rates.append(rate(who))
    volume, chain = (statistics.median(rates) for rates in found.values())
    return {"volume": volume, "chain": chain, "times": round(volume / chain, 3)}


def _slackwater(
    directory: Path, scale: Scale
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    found: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(directory))
        sites.start(snapshot=False)
        primary = stack.enter_context(grpc.insecure_channel(sites.primary.endpoints.grpc))
        secondary = stack.enter_context(grpc.insecure_channel(sites.secondary.endpoints.grpc))
        replica = Replica(sites, primary, secondary, scale.volume_bytes)
        replica.write(scale.writes)
        held = 0
        for count in scale.counts:
            while held < count:
                replica.take()
                replica.change()
                held += 1
            rates = []
            for _ in range(scale.runs):
                if count:
                    replica.take()
                    replica.drop_oldest()
                rates.append(scale.writes / replica.write(scale.writes))
            found[str(count)] = statistics.median(rates)
        uris = dict(zip(("volume", "chain"), replica.export_oldest(), strict=True))
        reading = {}
        for name, size in READS:
            load = fio.Load(name, _READ[name], size, 4)

            def rate(who: str, load: fio.Load = load) -> float:
                return fio.on_nbd(uris[who], load, scale.volume_bytes).per_second

            reading[name] = _in_turn(rate, scale)
        sites.stop()
    return {"slackwater, replicated and applied": found}, reading


def _others(directory: Path, scale: Scale) -> dict[str, dict[str, float]]:
    """The same writes on qcow2 with internal snapshots and through nbdkit's cow."""
    found: dict[str, dict[str, float]] = {"qcow2, internal snapshots": {}, "nbdkit, cow": {}}
    image = Qcow2(directory, scale.volume_bytes)
    with image.serve() as uri:
        fio.writes(uri, scale.volume_bytes, scale.writes)
    held = 0
    for count in scale.counts:
        while held < count:
            image.take()
            image.change()
            held += 1
        rates = []
        for _ in range(scale.runs):
            if count:
                image.take()
                image.drop_oldest()
            with image.serve() as uri:
                spent = fio.writes(uri, scale.volume_bytes, scale.writes)
            rates.append(scale.writes / spent)
        found["qcow2, internal snapshots"][str(count)] = statistics.median(rates)
    for count, cow in ((0, False), (1, True)):
        kit = Nbdkit(directory, scale.volume_bytes, cow=cow)
        rates = []
        for _ in range(scale.runs):
            with kit.serve() as uri:
                spent = fio.writes(uri, scale.volume_bytes, scale.writes)
            rates.append(scale.writes / spent)
        found["nbdkit, cow"][str(count)] = statistics.median(rates)
    return found


def goals(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the figures to what they have to be: one row each, whether it is met."""
    rows: list[dict[str, Any]] = []
    medians = {name: row["p50"] for name, row in report["creating_ms"].items()}
    worst = max(medians.values()) / next(iter(medians.values()))
    rows.append(_goal("creating, largest to smallest", worst, GROWTH, grown(medians, GROWTH)))
    kept = max(row["preserves_per_chunk"] for row in report["applying"].values())
    rows.append(_goal("preserves a chunk", kept, 1.0))
    for kind in ("direct", "nbd"):
        for name, row in report[f"reading_{kind}"].items():
            what = f"reading through {CHAIN}, {name}, {kind}: times the volume's"
            rows.append(_goal(what, row["times"], READ_LIMIT))
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
