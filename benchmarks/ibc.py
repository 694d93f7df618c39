"""`make bench-ibc`: what a message costs, with more volume, more snapshots, more fragments.

Freeze and snapshot must not grow with any of them. Beside it, in the same run, what an application
pays today for a point of its own (`pay_today`).
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks import pay_today
from benchmarks.cycles import APPLICATION, CASES, Bench, Case, Samples
from benchmarks.figures import grown, percentiles
from demo.commands import CommandLine
from demo.sites import REPOSITORY, Sites

CYCLES = 100
PEER_CYCLES = 50
# So much may a median be above that of the smallest case: both hold still for each other's work.
GROWTH = 2.0
STILL = ("freeze", "snapshot")


def main() -> int:
    """Measure, print, write build/bench-ibc.json; 1 if freeze or snapshot grow."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    begun = time.monotonic()
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-ibc-", dir=build) as name:
        directory = Path(name)
        console.print(f"{CYCLES} cycles a case, under 4 KiB random writes at depth 16")
        cases = _measure(console, directory)
        peers = _peers(console, directory)
    report: dict[str, Any] = {"unit": "ms", "cases": cases, "peers": peers}
    report["grown"] = _grown(cases)
    report["seconds"] = round(time.monotonic() - begun, 1)
    (build / "bench-ibc.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(console, report)
    return 1 if report["grown"] else 0


def _measure(console: Console, directory: Path) -> dict[str, dict[str, dict[str, float]]]:
    found = {}
    with Sites(directory) as sites:
        sites.start()
        endpoints = (sites.primary.endpoints.grpc, sites.secondary.endpoints.grpc)
        with grpc.insecure_channel(endpoints[0]) as one, grpc.insecure_channel(endpoints[1]) as two:
            bench = Bench(sites, one, two)
            for case in CASES:
                bench.prepare(case)
                with _agent(sites, case):
                    samples = bench.cycles(case, CYCLES)
                bench.remove(case)
                found[case.name] = _row(samples)
                console.print(f"{case.name}: done")
        sites.stop()
    return found


@contextlib.contextmanager
def _agent(sites: Sites, case: Case) -> Iterator[None]:
    """An agent that syncs a directory: the cheapest quiesce there is, so the window is ours."""
    watched = sites.directory / "quiesced"
    watched.mkdir(exist_ok=True)
    cli = CommandLine(sites)
    waiting = cli.start(
        *("agent", "run", "--group", case.group, "--application", APPLICATION),
        *("--state-dir", str(sites.directory / "agent"), "sync", str(watched)),
    )
    try:
        while not cli.quietly("agent", "list", case.group).get("agents"):
            time.sleep(0.1)
        yield
    finally:
        waiting.cancel()


def _row(samples: Samples) -> dict[str, dict[str, float]]:
    return {what: percentiles(values) for what, values in asdict(samples).items()}


def _peers(console: Console, directory: Path) -> dict[str, dict[str, float]]:
    found = {}
    for fragmented in (False, True):
        kind = "fragmented" if fragmented else "sparse"
        where = directory / kind
        where.mkdir()
        windows = pay_today.reflink_windows(where, PEER_CYCLES, fragmented=fragmented)
        found[f"window: fsfreeze + cp --reflink on XFS, 1 GiB {kind}"] = percentiles(windows)
    with pay_today.Postgres(directory) as postgres:
        latencies = postgres.message_latencies(CYCLES)
    found["latency: pg_logical_emit_message to a logical client"] = percentiles(latencies)
    console.print("what applications pay today: done")
    return found


def _grown(cases: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Where a median is far above that of the smallest case at the same pace: one sentence each."""
    found = []
    for pace in dict.fromkeys(case.writes_per_second for case in CASES):
        names = [row.name for row in CASES if row.writes_per_second == pace and row.name in cases]
        for what in STILL:
            medians = {name: cases[name][what]["p50"] for name in names}
            found += [f"{what} {sentence}" for sentence in grown(medians, GROWTH)]
    return found


def _show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title="ms, median / 99th percentile", title_justify="left")
    columns = ("window", "fence", "latency", "freeze", "snapshot")
    for head in ("case", *columns):
        table.add_column(head, justify="left" if head == "case" else "right", no_wrap=True)
    for name, row in report["cases"].items():
        table.add_row(name, *(f"{row[what]['p50']} / {row[what]['p99']}" for what in columns))
    for name, row in report["peers"].items():
        column = name.split(":")[0]
        figures = f"{row['p50']} / {row['p99']}"
        table.add_row(name, *(figures if what == column else "" for what in columns))
    console.print(table)
    for sentence in report["grown"] or ["freeze and snapshot did not grow with size or count"]:
        console.print(sentence)
    console.print(f"build/bench-ibc.json written, {report['seconds']} s")


if __name__ == "__main__":
    sys.exit(main())
