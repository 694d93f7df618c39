"""What the Secondary exports: complete from the start, and clean by promtool's rules."""

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from services.secondary import metrics
from tests.unit.services.secondary.secondary_site import (
    PrimaryEnd,
    Site,
    in_loop,
    two_volumes,
    until,
)


def page(site: Site) -> str:
    class Once(Collector):
        def collect(self) -> list[Metric]:
            return list(metrics.collect(site.node))

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry).decode()


@in_loop
async def test_metrics_begin_at_zero_and_follow_the_replica(tmp_path: Path) -> None:
    stream = two_volumes()
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        assert "slackwater_secondary_groups_broken 0.0" in page(site)
        await primary.hello()
        text = page(site)
        assert 'slackwater_secondary_received_records_total{group="demo"} 0.0' in text
        labels = 'behaviour="freeze",group="demo",result="unfrozen"'
        assert f"slackwater_ibc_messages_total{{{labels}}} 0.0" in text
        assert 'slackwater_ibc_frozen_since_timestamp_seconds{group="demo"} 0.0' in text
        site.register()
        stream.message("m1")
        await primary.replicate(stream)
        replica = site.group().replica
        await until(lambda: replica.freeze() is not None)
        text = page(site)
        lsn = float(stream.position.lsn)
        assert f'slackwater_secondary_applied_lsn{{group="demo"}} {lsn}' in text
        assert 'slackwater_secondary_state{group="demo",state="FROZEN"} 1.0' in text
        assert 'slackwater_ibc_frozen_since_timestamp_seconds{group="demo"} 0.0' not in text
        assert 'slackwater_secondary_stream_open{group="demo"} 1.0' in text
        replica.receive_message("app", holder="me")
        replica.unfreeze("m1", "me")
        text = page(site)
        assert f"slackwater_ibc_messages_total{{{labels}}} 1.0" in text
        assert 'slackwater_ibc_freeze_seconds_count{group="demo"} 1.0' in text


@in_loop
async def test_promtool_has_nothing_to_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    async with Site(tmp_path) as site, PrimaryEnd(site) as primary:
        await primary.hello()
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=page(site),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
