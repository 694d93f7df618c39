"""`python -m demo`: run the cycle, say what held, clean up, end with 0 only if all of it did."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from demo import mounts
from demo.cycle import Cycle, Results
from demo.ground import Ground, MountedGround
from demo.reduced import ReducedGround
from demo.screen import Screen
from demo.sites import Sites


def main() -> int:
    """Run the demo."""
    options = _parse()
    screen = Screen()
    lacks = mounts.missing()
    if lacks and not options.reduced and (os.geteuid() == 0 or os.environ.get("CI") == "true"):
        screen.bad(f"this machine lacks {', '.join(lacks)}; nothing was started")
        return 2
    reduced = bool(lacks) or options.reduced
    screen.title(
        "Slackwater",
        "A real file system on a replicated volume, a message in the stream,\n"
        "a snapshot on the Secondary that is exactly that point.",
    )
    if reduced:
        why = f"this machine lacks {', '.join(lacks)}" if lacks else "asked for by --reduced"
        screen.loud("REDUCED", f"No file system is mounted: {why}.")
    signal.signal(signal.SIGTERM, _end)
    directory = Path(tempfile.mkdtemp(prefix="slackwater-demo-"))
    kept = False
    try:
        results = _run(directory, screen, reduced=reduced)
        kept = bool(results.problems) or options.keep
    except KeyboardInterrupt:
        screen.bad("interrupted; everything it started is gone")
        return 130
    finally:
        if kept:
            screen.fact(f"data and service logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 1 if results.problems else 0


def _run(directory: Path, screen: Screen, *, reduced: bool) -> Results:
    results = Results()
    with Sites(directory) as sites:
        try:
            with contextlib.ExitStack() as stack:
                kind = ReducedGround if reduced else MountedGround
                ground: Ground = kind(sites, directory, stack)
                cycle = Cycle(sites, ground, screen, stack)
                results = cycle.results
                try:
                    cycle.run()
                finally:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left half undone
            results.problems += [
                f"{role} ended with {code} at SIGTERM"
                for role, code in sites.stop().items()
                if code
            ]
        except Exception as problem:  # the outer edge: say it, clean up, end with 1
            results.problems.append(f"{type(problem).__name__}: {problem}")
    if results.rows:
        screen.table("What happened", results.rows)
    screen.verdict(results.problems)
    return results


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--reduced", action="store_true", help="no root and no mount, less proof")
    parser.add_argument("--keep", action="store_true", help="keep the data directories and logs")
    return parser.parse_args()


def _end(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
