"""One fixture: real services, gone after the test, their logs shown if it failed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import disks
from tests.support.processes import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Planned services; the test starts them."""
    with Cluster(tmp_path) as services:
        yield services


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 of 240 MiB; ask for it before `cluster`, so that the services go first."""
    with disks.small_disk(tmp_path, 240 << 20) as where:
        yield where


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Add the end of the services' logs to a failed test's report."""
    report = yield
    services = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and services is not None:
        for service in services.services:
            report.sections.append((f"log of {service.role}", service.log_tail(60)))
    return report
