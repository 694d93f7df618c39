import subprocess
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

import slackwater
from slackwater.histogram import Histogram
from slackwater.runtime.metrics import Metrics, histogram_family
from tests.support.tools import require


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics("primary")
    yield made
    made.stop()


def page(metrics: Metrics) -> str:
    return prometheus_client.generate_latest(metrics.registry).decode()


def test_build_names_version_and_service(metrics: Metrics) -> None:
    labels = {"version": slackwater.__version__, "service": "primary"}
    assert metrics.registry.get_sample_value("slackwater_build_info", labels) == 1


def test_page_is_served_on_its_own_port(metrics: Metrics) -> None:
    port = metrics.start("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"slackwater_build_info" in answer.read()


def test_collector_is_asked_at_every_scrape(metrics: Metrics) -> None:
    lag = iter((1.0, 2.0))

    def collect() -> Iterator[Metric]:
        yield GaugeMetricFamily("slackwater_lag_bytes", "Lag.", next(lag))

    metrics.collect_with(collect)
    assert "slackwater_lag_bytes 1.0" in page(metrics)
    assert "slackwater_lag_bytes 2.0" in page(metrics)


def test_cheap_histogram_becomes_a_cumulative_one(metrics: Metrics) -> None:
    row = Histogram((0.1, 1))
    for value in (0.05, 0.5, 0.5, 7):
        row.observe(value)
    metrics.collect_with(
        lambda: [histogram_family("slackwater_x_seconds", "X.", ["group"], [(("g",), row)])]
    )
    lines = page(metrics).splitlines()
    assert 'slackwater_x_seconds_bucket{group="g",le="0.1"} 1.0' in lines
    assert 'slackwater_x_seconds_bucket{group="g",le="1.0"} 3.0' in lines
    assert 'slackwater_x_seconds_bucket{group="g",le="+Inf"} 4.0' in lines
    assert 'slackwater_x_seconds_count{group="g"} 4.0' in lines
    assert 'slackwater_x_seconds_sum{group="g"} 8.05' in lines


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    metrics.calls_started.labels("unary", "s", "m").inc()
    metrics.calls_handled.labels("unary", "s", "m", "OK").inc()
    metrics.call_seconds.labels("unary", "s", "m").observe(0.1)
    checked = subprocess.run(
        [require("promtool"), "check", "metrics"],
        input=page(metrics),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
