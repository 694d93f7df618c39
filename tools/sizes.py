"""Keep modules small: 400 lines, 800 for a test module. Raised only by an ADR."""

import subprocess
import sys
from pathlib import Path

LIMIT, TEST_LIMIT = 400, 800


def main() -> int:
    """Name every module past its limit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    worst = 0
    for name in listed:
        path = Path(name)
        if not path.exists() or name.startswith("slackwater/v1/"):
            continue
        limit = TEST_LIMIT if name.startswith("tests/") else LIMIT
        lines = len(path.read_text().splitlines())
        if lines > limit:
            print(f"{name}: {lines} lines, at most {limit}; it wants to be two modules")
            worst = 1
    return worst


if __name__ == "__main__":
    sys.exit(main())
