"""The worked examples of docs/ibc.md run as they stand."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import MIB, Cluster
from tests.support.typed import Typed

pytestmark = pytest.mark.timeout(180)

PAGE = (Path(__file__).parents[2] / "docs/ibc.md").read_text()
EXAMPLES = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?^```sh\n(.*?)^```", PAGE, re.M | re.S))


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example_runs_as_it_stands(cluster: Cluster, tmp_path: Path, name: str) -> None:
    cluster.start()
    cluster.create_group(data=MIB)
    cluster.create_link()
    cluster.wait_streaming()
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", EXAMPLES[name]],
        env=Typed(cluster).environment,
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.wait_no_lag()  # no example leaves a replica that stands


def test_every_example_of_the_page_is_run() -> None:
    assert len(EXAMPLES) == PAGE.count("```sh\n") >= 3
