"""Alert rules ask for label values that the services give: a rule that does not never fires."""

import re
from pathlib import Path

import pytest
import yaml

from services.secondary import group
from services.secondary.metrics import GRADES
from services.snapshot.counts import RESULTS
from slackwater.apply.status import ReplicaState
from slackwater.link.actions import LinkState
from slackwater.snapshots import budget

RULES = Path(__file__).parents[2] / "monitoring/rules/slackwater.yml"
VALUES = {
    ("slackwater_ibc_messages_total", "result"): {value.lower() for value in group.RESULTS},
    ("slackwater_link_state", "state"): {state.value for state in LinkState},
    ("slackwater_secondary_state", "state"): {state.value for state in ReplicaState},
    ("slackwater_snapshot_budget_state", "state"): set(budget.STATES),
    ("slackwater_snapshot_last_created_timestamp_seconds", "grade"): set(GRADES),
    ("slackwater_snapshot_runs_total", "result"): set(RESULTS),
}
"""As the tests of each service's metrics see them in a scrape."""


def asked() -> list[tuple[str, str, str]]:
    """Metric, label, value for each that a rule asks for."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    text = " ".join(str(rule["expr"]) for group in groups for rule in group["rules"])
    return [
        (metric, label, value)
        for metric, selectors in re.findall(r"(slackwater_\w+)\{([^}]*)\}", text)
        for label, values in re.findall(r'(\w+)[=!]~?"([^"]*)"', selectors)
        for value in values.split("|")
    ]


@pytest.mark.parametrize(("metric", "label", "value"), asked())
def test_rule_asks_for_a_value_that_the_metric_has(metric: str, label: str, value: str) -> None:
    assert value in VALUES[metric, label]
