"""fio, and what it found: one run, the median of several."""

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 2


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load."""

    name: str
    pattern: str  # fio's --rw
    block_bytes: int
    depth: int

    @property
    def writes(self) -> bool:
        """True if it writes."""
        return "write" in self.pattern


LOADS = (
    Load("4 KiB random write, depth 1", "randwrite", 4096, 1),
    Load("4 KiB random write, depth 32", "randwrite", 4096, 32),
    Load("1 MiB sequential write, depth 4", "write", 1 << 20, 4),
    Load("4 KiB random read, depth 32", "randread", 4096, 32),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run, or the median of several, came to."""

    per_second: float
    mean_us: float
    p50_us: float
    p99_us: float
    operations: int
    cpu_us_per_operation: float = 0.0


def on_nbd(uri: str, load: Load, size_bytes: int) -> Result:
    """Run a load on an NBD export."""
    return _run(["--ioengine=nbd", f"--uri={uri}"], load, size_bytes)


def on_file(path: Path, load: Load, size_bytes: int) -> Result:
    """Run a load on a file, with an fdatasync after every write."""
    words = ["--ioengine=psync", "--fdatasync=1", f"--filename={path}"]
    return _run(words, load, size_bytes)


def fill(uri: str, size_bytes: int) -> None:
    """Write all of an export once."""
    words = ["--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m", "--iodepth=4"]
    _job([*words, f"--size={size_bytes}"])


def writes(uri: str, size_bytes: int, count: int) -> float:
    """Return the seconds of `count` 4 KiB random writes at depth 16, a flush after every 64."""
    words = ["--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4096", "--iodepth=16"]
    words += [f"--size={size_bytes}", f"--number_ios={count}", "--fsync=64", "--norandommap"]
    return float(_job([*words, "--randrepeat=0"])["write"]["runtime"]) / 1000


def median(found: Sequence[Result]) -> Result:
    """Field by field the median of several runs."""

    def middle(field: str) -> float:
        return float(statistics.median(getattr(result, field) for result in found))

    return Result(
        per_second=middle("per_second"),
        mean_us=middle("mean_us"),
        p50_us=middle("p50_us"),
        p99_us=middle("p99_us"),
        operations=int(middle("operations")),
        cpu_us_per_operation=middle("cpu_us_per_operation"),
    )


def _run(target: list[str], load: Load, size_bytes: int) -> Result:
    words = [
        *target,
        f"--rw={load.pattern}",
        f"--bs={load.block_bytes}",
        f"--iodepth={load.depth}",
        f"--size={size_bytes}",
        f"--runtime={SECONDS}",
        "--time_based",
        "--norandommap",
        "--randrepeat=0",
    ]
    job = _job(words)
    side = job["write" if load.writes else "read"]
    latency = side["clat_ns"]
    percentiles = latency.get("percentile", {})
    return Result(
        per_second=float(side["iops"]),
        mean_us=latency["mean"] / 1000,
        p50_us=percentiles.get("50.000000", 0) / 1000,
        p99_us=percentiles.get("99.000000", 0) / 1000,
        operations=int(side["total_ios"]),
    )


def _job(words: Sequence[str]) -> dict[str, Any]:
    command = ["fio", "--name=load", *words, "--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    job: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio ended with error {job['error']}: {done.stderr.strip()}")
    return job
