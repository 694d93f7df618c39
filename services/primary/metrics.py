"""What the Primary counts, read at each scrape from the objects that count it.

States are labels, times are timestamps, and a sender's figures come from the shared page: they
stand still, and lag grows, when a sender hangs.
"""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.primary.group import PrimaryGroup
from services.primary.links import PrimaryLink
from services.primary.node import PrimaryNode
from slackwater.link.actions import LinkState
from slackwater.runtime import nbd
from slackwater.runtime.metrics import histogram_family

_GROUP = ["group"]
_LINK = ["group", "link"]

GroupValue = Callable[[PrimaryGroup], float]
LinkValue = Callable[[PrimaryLink, PrimaryGroup], float]

_GROUP_COUNTERS: dict[str, tuple[str, GroupValue]] = {
    "slackwater_primary_records": (
        "Records appended to the group's log.",
        lambda group: group.writer.committer.records_total,
    ),
    "slackwater_primary_write_bytes": (
        "Bytes of writes logged.",
        lambda group: group.writer.committer.payload_bytes_total,
    ),
    "slackwater_primary_commits": (
        "Group commits: gathered writes to the log.",
        lambda group: group.writer.committer.commits_total,
    ),
    "slackwater_primary_checkpoints": (
        "Checkpoints: syncs of the volumes that let the log go.",
        lambda group: group.writer.checkpoints_total,
    ),
}

_GROUP_GAUGES: dict[str, tuple[str, GroupValue]] = {
    "slackwater_primary_durable_lsn": (
        "The last durable record of the group's log.",
        lambda group: group.writer.log.durable.position.lsn,
    ),
    "slackwater_primary_epoch": (
        "The fencing token of this Primary.",
        lambda group: group.open.identity.epoch,
    ),
    "slackwater_primary_log_used_bytes": (
        "Bytes of the log that are kept.",
        lambda group: group.writer.log.used_bytes,
    ),
    "slackwater_primary_log_capacity_bytes": (
        "Bytes the log can hold.",
        lambda group: group.writer.log.capacity_bytes,
    ),
    "slackwater_primary_pending_bytes": (
        "Bytes answered that wait for a volume.",
        lambda group: group.writer.committer.pending.held_bytes,
    ),
    "slackwater_primary_failed": (
        "1 if the group has failed and takes nothing more.",
        lambda group: float(group.failure is not None),
    ),
    "slackwater_primary_volume_stalled": (
        "1 while a volume refuses what the log holds, for example because the disk is full.",
        lambda group: float(group.writer.committer.stalled is not None),
    ),
    "slackwater_restore_total_bytes": (
        "Bytes that the restore under way compares; 0 if none is.",
        lambda group: 0 if (row := group.restores.active) is None else row.total_bytes,
    ),
    "slackwater_restore_done_bytes": (
        "Bytes of them that were compared, and written where they differed.",
        lambda group: 0 if (row := group.restores.active) is None else row.done_bytes,
    ),
    "slackwater_restore_active": (
        "1 while a restore keeps volumes of the group closed.",
        lambda group: float(group.restores.active is not None),
    ),
    "slackwater_ibc_pending_messages": (
        "Messages with a verdict that is not final.",
        lambda group: len(group.messages.pending()),
    ),
    "slackwater_ibc_agents": (
        "Sessions of agents that can quiesce an application.",
        lambda group: len(group.quiesce.core.sessions()),
    ),
    "slackwater_ibc_quiesce_holds": (
        "Applications that agents hold right now.",
        lambda group: group.quiesce.holding,
    ),
}

_LINK_COUNTERS: dict[str, tuple[str, LinkValue]] = {
    "slackwater_link_sent_bytes": (
        "Bytes of log sent, sent again included.",
        lambda link, _group: link.marks.sent_bytes,
    ),
    "slackwater_link_sent_records": (
        "Records sent, sent again included.",
        lambda link, _group: link.marks.sent_records,
    ),
    "slackwater_link_connects": (
        "Streams opened to the Secondary.",
        lambda link, _group: link.marks.reconnects,
    ),
    "slackwater_link_sender_restarts": (
        "Times the sender process of the link had to be started again.",
        lambda link, _group: link.sender.restarts,
    ),
}

_LINK_GAUGES: dict[str, tuple[str, LinkValue]] = {
    "slackwater_link_up": (
        "1 while the stream to the Secondary is open.",
        lambda link, _group: float(link.status.connected),
    ),
    "slackwater_link_acked_lsn": (
        "The last record durable on the Secondary, as far as acked.",
        lambda link, _group: link.marks.acked_lsn,
    ),
    "slackwater_link_applied_lsn": (
        "The last record in the replica's volumes, as far as acked.",
        lambda link, _group: link.marks.applied_lsn,
    ),
    "slackwater_link_lag_bytes": (
        "Bytes of durable log that the Secondary does not hold.",
        lambda link, group: max(group.writer.log.durable.offset - link.marks.acked_offset, 0),
    ),
    "slackwater_link_lag_seconds": (
        "Age of the oldest record that the Secondary does not hold; 0 if it holds all.",
        lambda link, _group: link.lag_seconds(),
    ),
    "slackwater_link_inflight_bytes": (
        "Bytes sent and not yet acked.",
        lambda link, _group: link.marks.inflight_bytes,
    ),
    "slackwater_link_last_applied_primary_timestamp_seconds": (
        "When the Primary built the last record that the replica has applied.",
        lambda link, _group: link.marks.applied_time_ns / 1e9,
    ),
    "slackwater_link_last_ack_timestamp_seconds": (
        "When the last ack came; 0 if never.",
        lambda link, _group: link.marks.last_ack_time_ns / 1e9,
    ),
    "slackwater_link_sync_total_bytes": (
        "Bytes of volumes the running sync covers; 0 if none runs.",
        lambda link, _group: link.marks.regions_total_bytes,
    ),
    "slackwater_link_sync_done_bytes": (
        "Bytes of them that are durable on the Secondary.",
        lambda link, _group: link.marks.regions_done_bytes,
    ),
}


def collect(node: PrimaryNode) -> Iterable[Metric]:
    """Return all families of the node as of now."""
    groups = list(node.groups.values())
    links = [(group, link) for group in groups for link in list(group.links.values())]
    for name, (text, value) in _GROUP_COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=_GROUP)
        for group in groups:
            counter.add_metric([group.name], value(group))
        yield counter
    for name, (text, value) in _GROUP_GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_GROUP)
        for group in groups:
            gauge.add_metric([group.name], value(group))
        yield gauge
    for name, (text, link_value) in _LINK_COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=_LINK)
        for group, link in links:
            counter.add_metric([group.name, link.name], link_value(link, group))
        yield counter
    for name, (text, link_value) in _LINK_GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_LINK)
        for group, link in links:
            gauge.add_metric([group.name, link.name], link_value(link, group))
        yield gauge
    yield _states(links)
    yield histogram_family(
        "slackwater_primary_log_sync_seconds",
        "How long a sync of the log took.",
        _GROUP,
        [([group.name], group.writer.committer.sync_seconds) for group in groups],
    )
    yield histogram_family(
        "slackwater_ibc_fence_seconds",
        "How long a fenced message held writes back.",
        _GROUP,
        [([group.name], group.writer.fence_seconds) for group in groups],
    )
    yield histogram_family(
        "slackwater_ibc_quiesce_window_seconds",
        "From the first agent's answer to the last one's resume.",
        _GROUP,
        [([group.name], group.quiesce.window_seconds) for group in groups],
    )
    yield _messages(groups)
    yield _rounds(groups)
    yield _restores(groups)
    broken = GaugeMetricFamily(
        "slackwater_primary_groups_broken", "Groups that could not be opened."
    )
    broken.add_metric([], len(node.broken))
    yield broken
    yield from nbd.families(node.server)


def _messages(groups: list[PrimaryGroup]) -> Metric:
    family = CounterMetricFamily(
        "slackwater_ibc_messages",
        "Messages placed in the stream.",
        labels=[*_GROUP, "behaviour"],
    )
    for group in groups:
        for behaviour, count in group.messages.sent_total.items():
            family.add_metric([group.name, behaviour.value.lower()], count)
    return family


def _rounds(groups: list[PrimaryGroup]) -> Metric:
    family = CounterMetricFamily(
        "slackwater_ibc_quiesce_rounds",
        "Quiesces by what came of them; interrupted: a stop of the service left it unjudged.",
        labels=[*_GROUP, "result"],
    )
    for group in groups:
        for result, count in group.quiesce.rounds_total.items():
            family.add_metric([group.name, result], count)
    return family


def _restores(groups: list[PrimaryGroup]) -> Metric:
    family = CounterMetricFamily(
        "slackwater_restores",
        "Restores that ended, by how; abandoned ones left volumes a mixture.",
        labels=[*_GROUP, "result"],
    )
    for group in groups:
        for result, count in group.restores.ended_total.items():
            family.add_metric([group.name, result.lower()], count)
    return family


def _states(links: list[tuple[PrimaryGroup, PrimaryLink]]) -> Metric:
    family = GaugeMetricFamily(
        "slackwater_link_state", "1 for the state the link is in.", labels=[*_LINK, "state"]
    )
    for group, link in links:
        for state in LinkState:
            value = float(link.status.state == state.value)
            family.add_metric([group.name, link.name, state.value], value)
    return family
