"""`/metrics` of all three services: well formed, and telling what an operator asks first."""

import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.support.oracle import Journal
from tests.support.oracle_cycle import SIZES, freeze_at, start_load
from tests.support.processes import DATA, WAL, Cluster

pytestmark = pytest.mark.timeout(120)


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read()
        assert isinstance(text, bytes)
        return text.decode()


def value(text: str, name: str) -> float:
    """The sum of a metric over its labels."""
    rows = [row for row in text.splitlines() if row.startswith((f"{name} ", f"{name}{{")) and row]
    assert rows, f"no {name}"
    return sum(float(row.rpartition(" ")[2]) for row in rows)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing; Debian's package prometheus has it")
        pytest.skip("promtool is not installed")
    return found


def test_promtool_has_nothing_to_say_about_any_service(cluster: Cluster, promtool: str) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(100)
        point = freeze_at(cluster, journal)
        texts = {service.role: scrape(service.endpoints.metrics) for service in cluster.services}
        cluster.unfreeze(point.message.name)
    for role, text in texts.items():
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{role}: {done.stdout}{done.stderr}"
        assert not done.stderr.strip(), f"{role}: {done.stderr}"
        assert "slackwater_" in text


def test_metrics_know_lag_and_freeze(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    journal = Journal()
    with start_load(cluster, journal) as load:
        load.wait_for(100)
        point = freeze_at(cluster, journal)
        load.wait_for(100)
        primary = scrape(cluster.primary.endpoints.metrics)
        secondary = scrape(cluster.secondary.endpoints.metrics)
        cluster.unfreeze(point.message.name)
    names = {row.split("{")[0].split(" ")[0] for row in (primary + secondary).splitlines()}
    assert any("lag" in name for name in names)
    assert any("frozen" in name or "freeze" in name for name in names)


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_each_service_serves_what_the_list_of_metrics_says(cluster: Cluster) -> None:
    cluster.replicate(data=SIZES[DATA], wal=SIZES[WAL])
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    listed = {
        section.split("\n", 1)[0]: dict(
            re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
        )
        for section in sections
    }
    served = {
        service.role: dict(
            re.findall(
                r"^# TYPE (slackwater_\w+) (\w+)$", scrape(service.endpoints.metrics), re.MULTILINE
            )
        )
        for service in cluster.services
    }
    assert served == listed
