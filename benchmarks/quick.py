"""`make bench-quick`: Slackwater with a Secondary, beside nbdkit and a plain file, as ratios.

All of it shares one machine and one disk, and so does the load: a write reaches the disk four
times (log and volume on either side). Absolute figures are this machine's; ratios carry over.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks import fio
from benchmarks.figures import percentiles
from demo.sites import REPOSITORY, Sites
from demo.usage import Sampler, cpu_seconds
from slackwater.v1 import common_pb2, primary_pb2, primary_pb2_grpc

VOLUME_BYTES = 512 << 20
LOG_BYTES = 2 << 30
RUNS = 3
CALL_SECONDS = 20.0
DRAIN_SECONDS = 60.0
GROUP = "groups/bench"
LINK = f"{GROUP}/links/site-b"
VOLUME = f"{GROUP}/volumes/data"
# What the product has to reach here: measured quantity, ratio, floor.
GOALS = (
    ("4 KiB random write, depth 32", "file", 1.5),
    ("4 KiB random write, depth 1", "file", 0.3),
    ("4 KiB random read, depth 32", "nbdkit", 1.0),
)


def main() -> int:
    """Measure, print, write build/bench.json; 1 if a goal is missed."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    begun = time.monotonic()
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        directory = Path(name)
        console.print(f"fio, {fio.SECONDS} s a run, medians of {RUNS}, the three in turn")
        image, served = directory / "image", directory / "served"
        for path in (image, served):
            _write_image(path)
        with _nbdkit(served, directory) as other, Sites(directory) as sites:
            report = _measure(console, image, other, sites)
            sites.stop()
    report["seconds"] = round(time.monotonic() - begun, 1)
    (build / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    return _show(console, report)


def _write_image(image: Path) -> None:
    chunk = bytes(range(256)) * 4096
    with image.open("wb") as file:
        for _ in range(VOLUME_BYTES // len(chunk)):
            file.write(chunk)


@contextlib.contextmanager
def _nbdkit(image: Path, directory: Path) -> Iterator[tuple[str, int]]:
    """`nbdkit file` on an image, while the context lasts: its URI and process."""
    socket = directory / "nbdkit.socket"
    process = subprocess.Popen(
        ["nbdkit", "--foreground", "--unix", str(socket), "file", str(image)],
        stdin=subprocess.DEVNULL,
    )
    try:
        while not socket.exists() and process.poll() is None:
            time.sleep(0.02)
        yield f"nbd+unix:///?socket={socket}", process.pid
    finally:
        process.terminate()
        process.wait(10)


def _measure(
    console: Console, image: Path, other: tuple[str, int], sites: Sites
) -> dict[str, object]:
    """All loads, all three in turn for each run of each load."""
    sites.start(snapshot=False)
    results: dict[str, dict[str, fio.Result]] = {"slackwater": {}, "nbdkit": {}, "file": {}}
    lags: dict[str, object] = {}
    readings = {
        "primary": lambda: float(sites.primary.anonymous_bytes()),
        "secondary": lambda: float(sites.secondary.anonymous_bytes()),
    }
    with grpc.insecure_channel(sites.primary.endpoints.grpc) as channel:
        primary = primary_pb2_grpc.PrimaryServiceStub(channel)
        _create(primary, sites)
        uri = sites.primary.endpoints.nbd_uri(VOLUME)
        fio.fill(uri, VOLUME_BYTES)  # as the other two have theirs written already
        _drain(primary)
        pids = [sites.primary.pid, sites.secondary.pid]
        with Sampler(readings, period_seconds=0.5) as memory:
            for load in fio.LOADS:
                samples: list[float] = []
                found: dict[str, list[fio.Result]] = {who: [] for who in results}
                for _ in range(RUNS):
                    if load.writes:
                        os.sync()  # nobody starts with what another left in the page cache
                        found["file"].append(fio.on_file(image, load, VOLUME_BYTES))
                    os.sync()
                    found["nbdkit"].append(_on_nbdkit(other, load))
                    os.sync()
                    found["slackwater"].append(_on_slackwater(primary, uri, load, pids, samples))
                for who, runs in found.items():
                    if runs:
                        results[who][load.name] = fio.median(runs)
                if load.writes:
                    lags[load.name] = percentiles([1000 * sample for sample in samples])
                console.print(f"{load.name}: done")
    peaks = {role: round(peak / (1 << 20), 1) for role, peak in memory.peaks.items()}
    report = _report(results)
    return {**report, "lag_ms": lags, "peak_anonymous_mib": peaks}


def _on_nbdkit(other: tuple[str, int], load: fio.Load) -> fio.Result:
    uri, pid = other
    before = cpu_seconds(pid)
    result = fio.on_nbd(uri, load, VOLUME_BYTES)
    return _with_cpu(result, cpu_seconds(pid) - before)


def _on_slackwater(
    primary: primary_pb2_grpc.PrimaryServiceStub,
    uri: str,
    load: fio.Load,
    pids: list[int],
    samples: list[float],
) -> fio.Result:
    """A run starts without a backlog; CPU counts, on both sides, until all of it has arrived."""
    before = sum(map(cpu_seconds, pids))
    with _lag(primary, samples) if load.writes else contextlib.nullcontext():
        result = fio.on_nbd(uri, load, VOLUME_BYTES)
    _drain(primary)
    return _with_cpu(result, sum(map(cpu_seconds, pids)) - before)


def _with_cpu(result: fio.Result, spent_seconds: float) -> fio.Result:
    per_operation = spent_seconds * 1e6 / max(1, result.operations)
    return replace(result, cpu_us_per_operation=per_operation)


def _create(primary: primary_pb2_grpc.PrimaryServiceStub, sites: Sites) -> None:
    primary.CreateGroup(
        primary_pb2.CreateGroupRequest(group_id="bench", log_bytes=LOG_BYTES), timeout=CALL_SECONDS
    )
    primary.CreateVolume(
        primary_pb2.CreateVolumeRequest(group=GROUP, volume_id="data", size_bytes=VOLUME_BYTES),
        timeout=CALL_SECONDS,
    )
    primary.CreateLink(
        primary_pb2.CreateLinkRequest(
            group=GROUP, link_id="site-b", endpoint=sites.secondary.endpoints.grpc
        ),
        timeout=CALL_SECONDS,
    )
    _drain(primary)


def _drain(primary: primary_pb2_grpc.PrimaryServiceStub) -> None:
    """Wait until the Secondary holds everything."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        link = primary.GetLink(primary_pb2.GetLinkRequest(name=LINK), timeout=CALL_SECONDS).link
        if link.state == common_pb2.LINK_STATE_STREAMING and not link.lag_bytes:
            return
        if time.monotonic() > deadline:
            state = common_pb2.LinkState.Name(link.state)
            raise RuntimeError(f"{link.lag_bytes} bytes of lag left in {state}")
        time.sleep(0.05)


@contextlib.contextmanager
def _lag(primary: primary_pb2_grpc.PrimaryServiceStub, samples: list[float]) -> Iterator[None]:
    """Take the link's lag, by the Primary's own clock, 25 times a second."""
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(0.04):
            link = primary.GetLink(primary_pb2.GetLinkRequest(name=LINK), timeout=CALL_SECONDS)
            samples.append(link.link.lag.ToTimedelta().total_seconds())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _report(measured: dict[str, dict[str, fio.Result]]) -> dict[str, object]:
    ratios = {
        load: {
            other: round(result.per_second / measured[other][load].per_second, 3)
            for other in ("file", "nbdkit")
            if load in measured[other]
        }
        for load, result in measured["slackwater"].items()
    }
    goals = [
        {"load": load, "against": other, "floor": floor, "ratio": ratios[load][other]}
        for load, other, floor in GOALS
    ]
    rows = {
        who: {name: asdict(row) for name, row in found.items()} for who, found in measured.items()
    }
    return {"ratios": ratios, "goals": goals, "measured": rows}


def _show(console: Console, report: dict[str, object]) -> int:
    """Print it all; 1 if a goal is missed."""
    measured = report["measured"]
    ratios, lags = report["ratios"], report["lag_ms"]
    assert isinstance(measured, dict) and isinstance(ratios, dict) and isinstance(lags, dict)
    table = Table(title="operations a second, medians", title_justify="left")
    heads = ("load", "slackwater", "nbdkit", "file+fdatasync", "to nbdkit", "to file")
    for head in (*heads, "CPU us/op", "p99 us", "lag p50/p99 ms"):
        table.add_column(head, justify="left" if head == "load" else "right", no_wrap=True)
    for load, row in measured["slackwater"].items():
        file = measured["file"].get(load)
        lag = lags.get(load)
        table.add_row(
            load,
            f"{row['per_second']:.0f}",
            f"{measured['nbdkit'][load]['per_second']:.0f}",
            f"{file['per_second']:.0f}" if file else "",
            f"{ratios[load]['nbdkit']:.2f}",
            f"{ratios[load]['file']:.2f}" if file else "",
            f"{row['cpu_us_per_operation']:.1f}",
            f"{row['p99_us']:.0f}",
            f"{lag['p50']}/{lag['p99']}" if lag else "",
        )
    console.print(table)
    console.print(f"peak anonymous memory, MiB: {report['peak_anonymous_mib']}")
    goals = report["goals"]
    assert isinstance(goals, list)
    missed = 0
    for goal in goals:
        missed += goal["ratio"] < goal["floor"]
        word = "reached" if goal["ratio"] >= goal["floor"] else "MISSED"
        console.print(
            f"{goal['load']} to {goal['against']}: {goal['ratio']} ({word}, {goal['floor']})"
        )
    console.print(f"build/bench.json written, {report['seconds']} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
