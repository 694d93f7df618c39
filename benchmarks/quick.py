"""`make bench-quick`: Slackwater with a Secondary, beside nbdkit and a plain file, as ratios.

All of it shares one machine and one disk, and so does the load: a write reaches the disk four
times (log and volume on either side). Absolute figures are this machine's; ratios carry over.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks import fio
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
    """Measure, print, write build/bench.json."""
    console = Console(highlight=False)
    begun = time.monotonic()
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as name:
        directory = Path(name)
        console.print(f"fio, {fio.SECONDS} s a run, medians of {RUNS}")
        image = directory / "image"
        _write_image(image)
        file = {
            load.name: fio.median_of(RUNS, partial(fio.on_file, image, load, VOLUME_BYTES))
            for load in fio.LOADS
            if load.writes
        }
        console.print("a file with an fdatasync per write: done")
        nbdkit = _measure_nbdkit(image, directory)
        console.print("nbdkit file: done")
        image.unlink()
        with Sites(directory) as sites:
            slackwater, more = _measure_slackwater(sites)
            sites.stop()
        console.print("slackwater with a Secondary: done")
    report = _report(file, nbdkit, slackwater, more)
    report["seconds"] = round(time.monotonic() - begun, 1)
    (build / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(console, report)
    return 0


def _write_image(image: Path) -> None:
    chunk = bytes(range(256)) * 4096
    with image.open("wb") as file:
        for _ in range(VOLUME_BYTES // len(chunk)):
            file.write(chunk)


def _measure_nbdkit(image: Path, directory: Path) -> dict[str, fio.Result]:
    socket = directory / "nbdkit.socket"
    process = subprocess.Popen(
        ["nbdkit", "--foreground", "--unix", str(socket), "file", str(image)],
        stdin=subprocess.DEVNULL,
    )
    try:
        while not socket.exists() and process.poll() is None:
            time.sleep(0.02)
        uri = f"nbd+unix:///?socket={socket}"
        return {load.name: _median(uri, load, [process.pid]) for load in fio.LOADS}
    finally:
        process.terminate()
        process.wait(10)


def _median(uri: str, load: fio.Load, pids: list[int]) -> fio.Result:
    def run() -> fio.Result:
        before = sum(map(cpu_seconds, pids))
        result = fio.on_nbd(uri, load, VOLUME_BYTES)
        spent = sum(map(cpu_seconds, pids)) - before
        per_operation = spent * 1e6 / max(1, result.operations)
        return replace(result, cpu_us_per_operation=per_operation)

    return fio.median_of(RUNS, run)


def _measure_slackwater(sites: Sites) -> tuple[dict[str, fio.Result], dict[str, object]]:
    sites.start(snapshot=False)
    channel = grpc.insecure_channel(sites.primary.endpoints.grpc)
    primary = primary_pb2_grpc.PrimaryServiceStub(channel)
    try:
        _create(primary, sites)
        uri = sites.primary.endpoints.nbd_uri(VOLUME)
        pids = [sites.primary.pid, sites.secondary.pid]
        # Once through the whole volume first, as the other two have theirs written already.
        subprocess.run(
            [
                *("fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m"),
                *("--iodepth=4", f"--size={VOLUME_BYTES}"),
            ],
            capture_output=True,
            timeout=120,
            check=True,
        )
        _drain(primary)
        found = {}
        lags: dict[str, object] = {}
        readings = {
            "primary": lambda: float(sites.primary.anonymous_bytes()),
            "secondary": lambda: float(sites.secondary.anonymous_bytes()),
        }
        with Sampler(readings) as memory:
            for load in fio.LOADS:
                with _lag(primary) as samples:
                    found[load.name] = _drained_median(primary, uri, load, pids)
                if load.writes:
                    lags[load.name] = _percentiles(samples)
        peaks = {role: round(peak / (1 << 20), 1) for role, peak in memory.peaks.items()}
        return found, {"lag_ms": lags, "peak_anonymous_mib": peaks}
    finally:
        channel.close()


def _drained_median(
    primary: primary_pb2_grpc.PrimaryServiceStub, uri: str, load: fio.Load, pids: list[int]
) -> fio.Result:
    """Each run starts without a backlog; CPU counts until all of it has arrived."""

    def run() -> fio.Result:
        before = sum(map(cpu_seconds, pids))
        result = fio.on_nbd(uri, load, VOLUME_BYTES)
        _drain(primary)
        spent = sum(map(cpu_seconds, pids)) - before
        per_operation = spent * 1e6 / max(1, result.operations)
        return replace(result, cpu_us_per_operation=per_operation)

    return fio.median_of(RUNS, run)


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
def _lag(primary: primary_pb2_grpc.PrimaryServiceStub) -> Iterator[list[float]]:
    """Take the link's lag, by the Primary's own clock, 25 times a second."""
    samples: list[float] = []
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(0.04):
            link = primary.GetLink(primary_pb2.GetLinkRequest(name=LINK), timeout=CALL_SECONDS)
            samples.append(link.link.lag.ToTimedelta().total_seconds())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stopping.set()
        thread.join()


def _percentiles(samples: list[float]) -> dict[str, float]:
    busy = sorted(sample for sample in samples if sample > 0)
    if not busy:
        return {"p50": 0.0, "p99": 0.0}
    return {
        "p50": round(statistics.median(busy) * 1000, 2),
        "p99": round(busy[min(len(busy) - 1, int(len(busy) * 0.99))] * 1000, 2),
    }


def _report(
    file: dict[str, fio.Result],
    nbdkit: dict[str, fio.Result],
    slackwater: dict[str, fio.Result],
    more: dict[str, object],
) -> dict[str, object]:
    others = {"file": file, "nbdkit": nbdkit}
    ratios = {
        load: {
            other: round(result.per_second / rows[load].per_second, 3)
            for other, rows in others.items()
            if load in rows
        }
        for load, result in slackwater.items()
    }
    goals = [
        {"load": load, "against": other, "floor": floor, "ratio": ratios[load][other]}
        for load, other, floor in GOALS
    ]
    measured = {"slackwater": slackwater, **others}
    rows = {
        who: {name: asdict(row) for name, row in found.items()} for who, found in measured.items()
    }
    return {"ratios": ratios, "goals": goals, **more, "measured": rows}


def _show(console: Console, report: dict[str, object]) -> None:
    measured = report["measured"]
    ratios, lags = report["ratios"], report["lag_ms"]
    assert isinstance(measured, dict) and isinstance(ratios, dict) and isinstance(lags, dict)
    table = Table(title="operations a second, medians", title_justify="left")
    heads = ("load", "slackwater", "nbdkit", "file+fdatasync", "to nbdkit", "to file")
    for head in (*heads, "CPU us/op", "p99 us", "lag p50/p99 ms"):
        table.add_column(head, justify="left" if head == "load" else "right")
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
    for goal in goals:
        word = "reached" if goal["ratio"] >= goal["floor"] else "MISSED"
        console.print(
            f"{goal['load']} to {goal['against']}: {goal['ratio']} ({word}, {goal['floor']})"
        )
    console.print(f"build/bench.json written, {report['seconds']} s")


if __name__ == "__main__":
    sys.exit(main())
