"""Pages of commands with their output: run in one shell, compared block by block."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_SECONDS = 300
_BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:^```(?:json|text)\n(.*?)^```\n)?", re.M | re.S)
_END = "@@ end of block @@"


@dataclass(frozen=True, slots=True)
class Block:
    """Commands, and what they print; None: the page does not say."""

    commands: str
    output: str | None


def blocks(page: str) -> list[Block]:
    """The blocks ```sh of a page, each with the ```json or ```text that follows it at once."""
    return [Block(found[1], found[2]) for found in _BLOCK.finditer(page)]


def run(
    page: Sequence[Block], directory: Path, variables: Mapping[str, str]
) -> tuple[list[str], str]:
    """What each block printed, up to the first whose command failed; and what bash said."""
    script = "\n".join(f"{block.commands}\necho; echo '{_END}'" for block in page)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env={
            **os.environ,
            **variables,
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    *outputs, rest = done.stdout.split(f"\n{_END}\n")
    return outputs, f"{rest}{done.stderr}"


def is_like(shown: str, printed: str) -> bool:
    """Whether an output is what the page shows; `...` stands for anything in a line, or lines."""
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"\n"
    lines = [line.rstrip() for line in printed.strip().splitlines()]
    return re.fullmatch(pattern, "\n".join([*lines, ""])) is not None
