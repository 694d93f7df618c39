"""What the Secondary counts, read at each scrape from the objects that count it.

Runs on the metrics page's thread and takes no lock of a replica; states are labels, times are
timestamps, and every counter is there from the start.
"""

import time
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.secondary.group import SecondaryGroup
from services.secondary.node import SecondaryNode
from services.secondary.translate import awaits_outcome
from slackwater.apply.status import ReplicaState
from slackwater.clones.catalogue import FAILED
from slackwater.histogram import Histogram
from slackwater.runtime import nbd
from slackwater.runtime.metrics import histogram_family
from slackwater.snapshots import budget

_GROUP = ["group"]
GRADES = ("crash", "filesystem", "application")

Value = Callable[[SecondaryGroup], float]
Times = Callable[[SecondaryGroup], Histogram]

_COUNTERS: dict[str, tuple[str, Value]] = {
    "slackwater_snapshot_copied_bytes": (
        "Bytes read for full copies of snapshots since the start.",
        lambda group: group.replica.catalogue.copied_bytes,
    ),
    "slackwater_snapshots_expired": (
        "Snapshots that the budget took.",
        lambda group: group.replica.expired_total,
    ),
    "slackwater_secondary_received_bytes": (
        "Bytes of records made durable in the replica's log.",
        lambda group: group.replica.receiver.received_bytes,
    ),
    "slackwater_secondary_received_records": (
        "Records taken from the Primary.",
        lambda group: group.replica.receiver.received_records,
    ),
    "slackwater_secondary_applied_bytes": (
        "Bytes of writes applied to the replica's volumes.",
        lambda group: group.replica.applier.applied_bytes,
    ),
    "slackwater_secondary_applied_records": (
        "Writes and zeroes applied to the replica's volumes.",
        lambda group: group.replica.applier.applied_records,
    ),
    "slackwater_secondary_checkpoints": (
        "Checkpoints: syncs of the volumes that let the log go.",
        lambda group: group.replica.checkpointer.checkpoints_total,
    ),
    "slackwater_secondary_streams": (
        "Streams that the Primary opened.",
        lambda group: group.tally.streams,
    ),
    "slackwater_secondary_rejects": (
        "Things sent by the Primary that were not taken.",
        lambda group: group.tally.rejects,
    ),
    "slackwater_secondary_apply_errors": (
        "Times that applying came to stand still for an error, for example a full disk.",
        lambda group: group.tally.stalls,
    ),
}

_GAUGES: dict[str, tuple[str, Value]] = {
    "slackwater_secondary_received_lsn": (
        "The last record durable in the replica's log.",
        lambda group: group.replica.durable.lsn,
    ),
    "slackwater_secondary_applied_lsn": (
        "The last record in the replica's volumes.",
        lambda group: group.replica.applied.lsn,
    ),
    "slackwater_secondary_epoch": (
        "The highest fencing token known.",
        lambda group: group.epoch,
    ),
    "slackwater_secondary_backlog_bytes": (
        "Bytes of log received and not applied.",
        lambda group: max(
            0,
            group.replica.receiver.log.durable.offset - group.replica.applier.reached.offset,
        ),
    ),
    "slackwater_secondary_log_used_bytes": (
        "Bytes of the log that are kept.",
        lambda group: group.replica.receiver.log.used_bytes,
    ),
    "slackwater_secondary_log_capacity_bytes": (
        "Bytes the log can hold.",
        lambda group: group.replica.receiver.log.capacity_bytes,
    ),
    "slackwater_secondary_queued_bytes": (
        "Bytes received that wait for the log.",
        lambda group: group.replica.receiver.held_bytes,
    ),
    "slackwater_secondary_stream_open": (
        "1 while the Primary's stream is open.",
        lambda group: float(group.is_connected),
    ),
    "slackwater_secondary_heard_timestamp_seconds": (
        "When the Primary was last heard, by this machine's clock; 0 if never.",
        lambda group: group.heard_ns / 1e9,
    ),
    "slackwater_secondary_primary_timestamp_seconds": (
        "The Primary's clock as last heard; 0 if never.",
        lambda group: group.primary_time_ns / 1e9,
    ),
    "slackwater_secondary_applied_primary_timestamp_seconds": (
        "When the Primary built the last record that was applied; 0 if none was.",
        lambda group: group.replica.applier.applied_time_ns / 1e9,
    ),
    "slackwater_secondary_stalled": (
        "1 while applying stands still for an error, for example a full disk.",
        lambda group: float(group.replica.applier.stall is not None),
    ),
    "slackwater_secondary_log_full": (
        "1 while the log has no room for what was received.",
        lambda group: float(group.replica.is_log_full),
    ),
    "slackwater_secondary_sync_running": (
        "1 while the replica is being synchronised.",
        lambda group: float(group.replica.syncing.is_running),
    ),
    "slackwater_ibc_frozen_since_timestamp_seconds": (
        "Since when applying stands still at a message, downtime not counted; 0 if it does not.",
        lambda group: frozen_since(group),
    ),
    "slackwater_ibc_leased": (
        "1 while a lease owns the freeze, its holder's grace included.",
        lambda group: float(is_leased(group)),
    ),
    "slackwater_snapshot_bytes": (
        "Bytes that snapshots keep.",
        lambda group: group.replica.catalogue.used_bytes,
    ),
    "slackwater_snapshot_copy_remaining_bytes": (
        "Bytes that full copies of snapshots still lack, at most.",
        lambda group: group.replica.catalogue.remaining_bytes,
    ),
    "slackwater_snapshot_budget_bytes": (
        "Bytes that snapshots may keep; 0: no limit.",
        lambda group: (
            0
            if (settings := group.replica.catalogue.budget.settings) is None
            else settings.limit_bytes
        ),
    ),
    "slackwater_snapshots_held": (
        "Snapshots that cannot be deleted because somebody holds them.",
        lambda group: sum(row.held for row in group.replica.snapshots()),
    ),
    "slackwater_snapshot_clones": (
        "Writable clones of snapshots.",
        lambda group: len(group.replica.clones.ready()),
    ),
    "slackwater_snapshot_checks_failed": (
        "Snapshots whose latest check found them not usable.",
        lambda group: sum(
            [found.verdict for found in group.replica.checks.of(row.uid)[:1]] == ["FAILED"]
            for row in group.replica.catalogue.ready()
        ),
    ),
    "slackwater_snapshot_clones_failed": (
        "Writable clones that take no more writes because a sync of theirs failed.",
        lambda group: sum(row.state == FAILED for row in group.replica.clones.ready()),
    ),
    "slackwater_snapshots_awaiting_outcome": (
        "Snapshots at a quiesced message whose outcome is still to come.",
        lambda group: sum(awaits_outcome(row) for row in group.replica.snapshots()),
    ),
}

_HISTOGRAMS: dict[str, tuple[str, Times]] = {
    "slackwater_secondary_log_sync_seconds": (
        "How long a sync of the replica's log took.",
        lambda group: group.replica.receiver.sync_seconds,
    ),
    "slackwater_secondary_durable_seconds": (
        "How long received records waited until they were durable.",
        lambda group: group.tally.durable_seconds,
    ),
    "slackwater_secondary_apply_seconds": (
        "How long a step of applying took.",
        lambda group: group.replica.apply_seconds,
    ),
    "slackwater_ibc_freeze_seconds": (
        "How long applying stood still at messages.",
        lambda group: group.tally.freeze_seconds,
    ),
}


def frozen_since(group: SecondaryGroup) -> float:
    """Return when the freeze began, 0 if there is none."""
    info = group.replica.freeze()
    return 0.0 if info is None else time.time() - info.stood_seconds


def is_leased(group: SecondaryGroup) -> bool:
    """Return whether a lease owns the freeze."""
    info = group.replica.freeze()
    return info is not None and info.leased


def collect(node: SecondaryNode) -> Iterable[Metric]:
    """Return all families of the node as of now."""
    groups = [node.groups[name] for name in sorted(node.groups)]
    for name, (text, value) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=_GROUP)
        for group in groups:
            counter.add_metric([group.name], value(group))
        yield counter
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_GROUP)
        for group in groups:
            gauge.add_metric([group.name], value(group))
        yield gauge
    for name, (text, times) in _HISTOGRAMS.items():
        yield histogram_family(
            name, text, _GROUP, [([group.name], times(group)) for group in groups]
        )
    yield _states(groups)
    yield _budgets(groups)
    yield _messages(groups)
    yield from _snapshots(groups)
    broken = GaugeMetricFamily(
        "slackwater_secondary_groups_broken", "Replicas that could not be opened."
    )
    broken.add_metric([], len(node.broken))
    yield broken
    yield from nbd.families(node.server)


def _states(groups: list[SecondaryGroup]) -> Metric:
    family = GaugeMetricFamily(
        "slackwater_secondary_state",
        "1 for the state the replica is in.",
        labels=[*_GROUP, "state"],
    )
    for group in groups:
        now = group.replica.state
        for state in ReplicaState:
            family.add_metric([group.name, state.value], float(state is now))
    return family


def _budgets(groups: list[SecondaryGroup]) -> Metric:
    family = GaugeMetricFamily(
        "slackwater_snapshot_budget_state",
        "1 for where the bytes that snapshots keep are: OK, SOFT, HARD.",
        labels=[*_GROUP, "state"],
    )
    for group in groups:
        now = group.replica.catalogue.budget.state()
        for state in budget.STATES:
            family.add_metric([group.name, state], float(state == now))
    return family


def _messages(groups: list[SecondaryGroup]) -> Metric:
    family = CounterMetricFamily(
        "slackwater_ibc_messages",
        "Messages that came to their end here, by what became of them.",
        labels=[*_GROUP, "behaviour", "result"],
    )
    for group in groups:
        for (behaviour, result), count in list(group.tally.messages.items()):
            family.add_metric([group.name, behaviour.lower(), result.lower()], count)
    return family


def _snapshots(groups: list[SecondaryGroup]) -> Iterable[Metric]:
    held = GaugeMetricFamily(
        "slackwater_snapshots", "Snapshots held, by grade.", labels=[*_GROUP, "grade"]
    )
    newest = GaugeMetricFamily(
        "slackwater_snapshot_last_created_timestamp_seconds",
        "When the newest snapshot of a grade was made; 0 if there is none.",
        labels=[*_GROUP, "grade"],
    )
    for group in groups:
        rows = group.replica.snapshots()
        for grade in GRADES:
            times = [row.created_ns for row in rows if row.grade == grade]
            held.add_metric([group.name, grade], len(times))
            newest.add_metric([group.name, grade], max(times, default=0) / 1e9)
    yield held
    yield newest
