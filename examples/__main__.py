"""`make samples`, or `python -m examples NAME...`: run samples and say what was seen."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from demo import mounts
from examples import backup, database, filesystem, postgres, trial_failover
from examples.scene import SceneFailed

SAMPLES: Mapping[str, Callable[[Path], str]] = {
    "filesystem": filesystem.play,
    "postgres": postgres.play,
    "backup": backup.play,
    "trial-failover": trial_failover.play,
}


TOOLS = ("nbdcopy", "qemu-img", "mkfs.xfs", "xfs_repair", "tar", "runuser")


def missing() -> list[str]:
    """What this machine lacks for the samples, as words for people."""
    found = [
        tool
        for tool in TOOLS
        if not shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    ]
    lacks = mounts.missing() + [f"the program {tool}" for tool in found]
    return lacks if database.programs() else [*lacks, "PostgreSQL"]


def main(names: list[str]) -> int:
    """Run the named samples, or all of them; 1 if one of them failed."""
    unknown = [name for name in names if name not in SAMPLES]
    if unknown:
        print(f"unknown sample {unknown[0]}; there are: {', '.join(SAMPLES)}", file=sys.stderr)
        return 2
    lacks = missing()
    if lacks:
        print(f"this machine lacks {', '.join(lacks)}; nothing was started", file=sys.stderr)
        return 2
    failed = 0
    for name in names or SAMPLES:
        with tempfile.TemporaryDirectory(prefix="slackwater-sample-") as directory:
            try:
                print(f"{name}: {SAMPLES[name](Path(directory))}", flush=True)
            except (SceneFailed, mounts.MountError) as error:
                print(f"{name}: FAILED: {error}", flush=True)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
