"""Fails when a hand-written module grows past its limit; the limits are raised only by an ADR."""

import subprocess
import sys
from pathlib import Path

MODULE_LINES = 400
TEST_LINES = 800
GENERATED = "slackwater/v1/"


def limit(path: str) -> int:
    """Lines that the module at `path` must stay below."""
    return TEST_LINES if path.startswith("tests/") else MODULE_LINES


def modules() -> list[str]:
    """Paths of the Python modules git knows or would add, generated ones left out."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],  # noqa: S607  git is where PATH says
        check=True,
        capture_output=True,
        text=True,
    )
    paths = listing.stdout.splitlines()
    return [path for path in paths if not path.startswith(GENERATED) and Path(path).exists()]


def main() -> int:
    """Print what is too long; the exit status says whether anything is."""
    too_long = 0
    for path in modules():
        lines = len(Path(path).read_text().splitlines())
        if lines >= limit(path):
            print(f"{path}: {lines} lines, must stay below {limit(path)}: split it by what it does")
            too_long += 1
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
