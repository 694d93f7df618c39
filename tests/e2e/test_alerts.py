"""Alert rules by promtool: each fires, not too early, and resolves; and says what to do."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tools import require

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "monitoring/rules/slackwater.yml"
RUNBOOKS = REPOSITORY / "docs/runbooks"
METRICS = REPOSITORY / "docs/metrics.md"
OF_OTHERS = {"up"}
GROUP = 'group="demo"'
LINK = 'group="demo",link="site-b"'
PAGE = 'instance="a:9460",job="slackwater"'


@dataclass(frozen=True)
class Case:
    """Series a minute apart: quiet at `early`, firing at `late`, quiet again at `after`."""

    alert: str
    series: Mapping[str, str]
    labels: Mapping[str, str]
    early: str
    late: str
    after: str


LINK_LABELS = {"group": "demo", "link": "site-b"}
GROUP_LABELS = {"group": "demo"}


def _link_state(state: str, values: str) -> dict[str, str]:
    return {f'slackwater_link_state{{{LINK},state="{state}",{PAGE}}}': values}


CASES = (
    Case(
        "SlackwaterReplicationLagHigh",
        {f"slackwater_link_lag_seconds{{{LINK},{PAGE}}}": "0x10 61+0x20 0x20"},
        LINK_LABELS,
        *("13m", "20m", "40m"),
    ),
    Case(
        "SlackwaterReplicationStopped",
        {
            f"slackwater_link_up{{{LINK},{PAGE}}}": "1x10 0x20 1x20",
            **_link_state("CONNECTING", "0x10 1x20 0x20"),
        },
        LINK_LABELS,
        *("13m", "20m", "40m"),
    ),
    Case(
        "SlackwaterLinkFailed",
        _link_state("FAILED", "0x10 1x20 0x20"),
        LINK_LABELS,
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterDiverged",
        _link_state("DIVERGED", "0x10 1x20 0x20"),
        LINK_LABELS,
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterResyncNeeded",
        _link_state("DIRTY", "0x10 1x20 0x20"),
        LINK_LABELS,
        *("18m", "25m", "40m"),
    ),
    Case(
        "SlackwaterSyncWithoutProgress",
        {
            f"slackwater_link_sync_total_bytes{{{LINK},{PAGE}}}": "100x60",
            f"slackwater_link_sync_done_bytes{{{LINK},{PAGE}}}": "0+1x10 10+0x30 10+1x20",
        },
        LINK_LABELS,
        *("15m", "35m", "55m"),
    ),
    Case(
        "SlackwaterSenderRestarting",
        {f"slackwater_link_sender_restarts_total{{{LINK},{PAGE}}}": "0x20 0+1x10 10x40"},
        LINK_LABELS,
        *("20m", "30m", "60m"),
    ),
    Case(
        "SlackwaterLogFillingUp",
        {
            f"slackwater_primary_log_used_bytes{{{GROUP},{PAGE}}}": "50+0x10 50+1x20 20x40",
            f"slackwater_primary_log_capacity_bytes{{{GROUP},{PAGE}}}": "100x80",
        },
        GROUP_LABELS,
        *("10m", "28m", "60m"),
    ),
    Case(
        "SlackwaterGroupFailed",
        {f"slackwater_primary_failed{{{GROUP},{PAGE}}}": "0x10 1x20 0x20"},
        GROUP_LABELS,
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterGroupNotOpened",
        {f"slackwater_secondary_groups_broken{{{PAGE}}}": "0x10 1x20 0x20"},
        {"instance": "a:9460"},
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterReplicaFailed",
        {f'slackwater_secondary_state{{{GROUP},state="FAILED",{PAGE}}}': "0x10 1x20 0x20"},
        GROUP_LABELS,
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterVolumeStalled",
        {f"slackwater_primary_volume_stalled{{{GROUP},{PAGE}}}": "0x10 1x20 0x20"},
        {**GROUP_LABELS, "instance": "a:9460"},
        *("9m", "20m", "40m"),
    ),
    Case(
        "SlackwaterNoProgress",
        {
            f"slackwater_secondary_backlog_bytes{{{GROUP},{PAGE}}}": "0x10 9x30 0x20",
            f"slackwater_secondary_applied_records_total{{{GROUP},{PAGE}}}": "0+1x10 10x30 10+1x20",
            f"slackwater_ibc_frozen_since_timestamp_seconds{{{GROUP},{PAGE}}}": "0x80",
        },
        GROUP_LABELS,
        *("15m", "35m", "45m"),
    ),
    Case(
        "SlackwaterSecondaryFrozenTooLong",
        {f"slackwater_ibc_frozen_since_timestamp_seconds{{{GROUP},{PAGE}}}": "0x10 600x30 0x20"},
        GROUP_LABELS,
        *("20m", "35m", "45m"),
    ),
    Case(
        "SlackwaterMessageNotUnfrozen",
        {
            f'slackwater_ibc_messages_total{{{GROUP},result="expired",{PAGE}}}': "0x10 1x60",
        },
        {**GROUP_LABELS, "result": "expired"},
        *("10m", "20m", "40m"),
    ),
    Case(
        "SlackwaterQuiesceFailed",
        {
            f'slackwater_ibc_quiesce_rounds_total{{{GROUP},result="revoked",{PAGE}}}': "0x10 1x60",
            f'slackwater_ibc_quiesce_rounds_total{{{GROUP},result="confirmed",{PAGE}}}': "0+1x70",
        },
        {**GROUP_LABELS, "result": "revoked"},
        *("10m", "20m", "40m"),
    ),
    Case(
        "SlackwaterQuiesceStuck",
        {f"slackwater_ibc_quiesce_holds{{{GROUP},{PAGE}}}": "0x10 2x30 0x20"},
        GROUP_LABELS,
        *("18m", "30m", "45m"),
    ),
    Case(
        "SlackwaterNoRecentApplicationSnapshot",
        {
            "slackwater_snapshot_last_created_timestamp_seconds{"
            f'{GROUP},grade="application",{PAGE}}}': "60x1580 94800x100",
        },
        GROUP_LABELS,
        *("1500m", "1575m", "1600m"),
    ),
    Case(
        "SlackwaterSnapshotBudgetLow",
        {f'slackwater_snapshot_budget_state{{{GROUP},state="SOFT",{PAGE}}}': "0x10 1x20 0x20"},
        GROUP_LABELS,
        *("13m", "20m", "40m"),
    ),
    Case(
        "SlackwaterSnapshotBudgetSpent",
        {f'slackwater_snapshot_budget_state{{{GROUP},state="HARD",{PAGE}}}': "0x10 1x20 0x20"},
        GROUP_LABELS,
        *("12m", "20m", "40m"),
    ),
    Case(
        "SlackwaterSnapshotExpired",
        {f"slackwater_snapshots_expired_total{{{GROUP},{PAGE}}}": "0x10 1x120"},
        GROUP_LABELS,
        *("9m", "20m", "120m"),
    ),
    Case(
        "SlackwaterRunFailed",
        {f'slackwater_snapshot_runs_total{{result="FAILED",{PAGE}}}': "0x10 1x100"},
        {"instance": "a:9460"},
        *("10m", "20m", "90m"),
    ),
    Case(
        "SlackwaterScheduleMissed",
        {
            "slackwater_snapshot_schedule_missed_total{"
            f'reason="overlap",schedule="nightly",{PAGE}}}': "0x10 1x100",
            "slackwater_snapshot_schedule_missed_total{"
            f'reason="restart",schedule="nightly",{PAGE}}}': "3x110",
        },
        {"reason": "overlap", "schedule": "nightly"},
        *("10m", "20m", "90m"),
    ),
    Case(
        "SlackwaterTaskFilesBad",
        {f"slackwater_snapshot_task_files_bad{{{PAGE}}}": "0x10 2x20 0x20"},
        {"instance": "a:9460"},
        *("13m", "20m", "40m"),
    ),
    Case(
        "SlackwaterTargetMissing",
        {f"up{{{PAGE}}}": "1x10 0x20 1x20"},
        {"instance": "a:9460", "job": "slackwater"},
        *("13m", "20m", "40m"),
    ),
    Case(
        "SlackwaterPeerUnreachable",
        {f'slackwater_snapshot_peer_up{{peer="primary",{PAGE}}}': "1x10 0x20 1x20"},
        {"instance": "a:9460", "peer": "primary"},
        *("18m", "25m", "40m"),
    ),
    Case(
        "SlackwaterCertificateExpiry",
        {
            f"slackwater_certificate_expiry_timestamp_seconds{{{PAGE}}}": (
                "99999999x10 1000x30 99999999x20"
            )
        },
        {"instance": "a:9460"},
        *("15m", "30m", "45m"),
    ),
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        [require("promtool"), *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_rules() -> None:
    promtool("check", "rules", str(RULES), cwd=REPOSITORY)


def test_every_alert_has_a_case() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in rules()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert_fires_and_resolves(case: Case, tmp_path: Path) -> None:
    (rule,) = [rule for rule in rules() if rule["alert"] == case.alert]
    firing = [{"exp_labels": {**case.labels, **rule["labels"]}}]
    evaluate(case.alert, case.series, {case.early: [], case.late: firing, case.after: []}, tmp_path)


def evaluate(
    alert: str, series: Mapping[str, str], moments: Mapping[str, object], directory: Path
) -> None:
    """Hold an alert to what it should say at each moment; annotations apart."""
    bare = yaml.safe_load(RULES.read_text())
    for group in bare["groups"]:
        for one in group["rules"]:
            del one["annotations"]
    (directory / "rules.yml").write_text(yaml.safe_dump(bare))
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "alert_rule_test": [
                    {"eval_time": moment, "alertname": alert, "exp_alerts": expected}
                    for moment, expected in moments.items()
                ],
            }
        ],
    }
    (directory / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", "test.yml", cwd=directory)


@pytest.mark.parametrize("state", ["PAUSED", "DETACHED"])
def test_link_that_an_operator_holds_is_not_stopped(state: str, tmp_path: Path) -> None:
    series = {
        f"slackwater_link_up{{{LINK},{PAGE}}}": "0x60",
        **_link_state(state, "1x60"),
    }
    evaluate("SlackwaterReplicationStopped", series, {"30m": []}, tmp_path)


def test_replica_that_stands_at_a_message_is_no_replica_without_progress(tmp_path: Path) -> None:
    series = {
        f"slackwater_secondary_backlog_bytes{{{GROUP},{PAGE}}}": "9x60",
        f"slackwater_secondary_applied_records_total{{{GROUP},{PAGE}}}": "10x60",
        f"slackwater_ibc_frozen_since_timestamp_seconds{{{GROUP},{PAGE}}}": "60x60",
    }
    evaluate("SlackwaterNoProgress", series, {"40m": []}, tmp_path)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_uses_metrics_that_are_there_and_says_what_to_do(rule: dict[str, Any]) -> None:
    known = set(re.findall(r"^\| `(\w+)`", METRICS.read_text(), re.MULTILINE)) | OF_OTHERS
    used = set(re.findall(r"\b(slackwater_\w+|up)\b(?=[{\[\s)>]|$)", rule["expr"]))
    assert used and used <= known, used - known
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_has_a_runbook_with_something_to_look_at_and_to_type(rule: dict[str, Any]) -> None:
    text = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    for heading in ("## What it means", "## Look at", "## What to do"):
        assert heading in text
    assert "slackwater " in text


def test_every_runbook_has_its_alert() -> None:
    names = {rule["alert"] for rule in rules()}
    assert {path.stem for path in RUNBOOKS.glob("Slackwater*.md")} == names
