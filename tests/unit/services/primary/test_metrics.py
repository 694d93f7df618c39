"""What the Primary exports: complete from the start, and clean by promtool's rules."""

import subprocess
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from services.primary import metrics
from slackwater.v1 import primary_pb2 as api
from tests.support.tools import require
from tests.unit.services.primary.primary_site import GROUP, Site, in_loop


def page(site: Site) -> str:
    class Once(Collector):
        def collect(self) -> list[Metric]:
            return list(metrics.collect(site.node))

    registry = CollectorRegistry()
    registry.register(Once())
    return generate_latest(registry).decode()


def families(text: str) -> set[str]:
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


@in_loop
async def test_metrics_begin_at_zero_and_follow_the_group(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        without = families(page(site))
        await site.with_group()
        await site.with_link()
        text = page(site)
        assert families(text) == without, "families are there before anything has happened"
        assert 'slackwater_ibc_messages_total{behaviour="freeze",group="demo"} 0.0' in text
        assert 'slackwater_ibc_messages_total{behaviour="notify",group="demo"} 0.0' in text
        for result in ("confirmed", "revoked", "timed_out", "failed", "interrupted"):
            rounds = f'slackwater_ibc_quiesce_rounds_total{{group="demo",result="{result}"}} 0.0'
            assert rounds in text
        assert 'slackwater_ibc_agents{group="demo"} 0.0' in text
        assert 'slackwater_ibc_quiesce_holds{group="demo"} 0.0' in text
        assert 'slackwater_ibc_quiesce_window_seconds_count{group="demo"} 0.0' in text
        assert 'slackwater_primary_write_bytes_total{group="demo"} 0.0' in text
        assert 'slackwater_link_sent_bytes_total{group="demo",link="site-b"} 0.0' in text
        for command in ("read", "write", "flush", "trim", "write_zeroes"):
            assert f'slackwater_nbd_requests_total{{command="{command}"}} 0.0' in text
        await site.api.RegisterApplication(
            api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup")
        )
        await site.api.SendMessage(
            api.SendMessageRequest(group=GROUP, application="backup", request_id="r", fence=True)
        )
        await site.api.SendMessage(
            api.SendMessageRequest(group=GROUP, application="backup", request_id="r")
        )
        await site.write(b"x" * 1024)
        text = page(site)
        assert 'slackwater_ibc_messages_total{behaviour="freeze",group="demo"} 1.0' in text
        assert 'slackwater_primary_write_bytes_total{group="demo"} 1024.0' in text
        assert 'slackwater_ibc_pending_messages{group="demo"} 1.0' in text
        assert 'slackwater_ibc_fence_seconds_count{group="demo"} 1.0' in text
        assert 'slackwater_link_state{group="demo",link="site-b",state="CONNECTING"} 1.0' in text


@in_loop
async def test_metrics_are_clean(tmp_path: Path) -> None:
    promtool = require("promtool")
    async with Site(tmp_path) as site:
        empty = page(site)
        await site.with_group()
        await site.with_link()
        for text in (empty, page(site)):
            found = subprocess.run(
                [promtool, "check", "metrics"],
                input=text.encode(),
                capture_output=True,
                check=False,
            )
            assert found.returncode == 0, found.stderr.decode()
