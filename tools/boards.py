"""What the Grafana dashboards show: panels and their queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HALF, THIRD, WHOLE = 12, 8, 24
_G = 'group=~"$group"'


@dataclass(frozen=True)
class Panel:
    """One panel: what it is called, what it asks, in which unit, drawn how, how wide."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "lines"
    span: int = HALF
    about: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    about: str
    panels: Sequence[Panel]
    annotations: Sequence[tuple[str, str]] = ()


def _query(expression: str, legend: str = "{{group}}") -> tuple[str, str]:
    return expression, legend


def _rate(name: str, by: str = "group") -> str:
    return f"sum by ({by}) (rate({name}{{{_G}}}[$__rate_interval]))"


def _most(name: str, by: str = "group") -> str:
    return f"max by ({by}) ({name}{{{_G}}})"


def _quantiles(name: str, selector: str) -> list[tuple[str, str]]:
    """The median and the 99th percentile of a histogram, by group."""
    rate = f"sum by (group, le) (rate({name}_bucket{{{selector}}}[$__rate_interval]))"
    return [
        (f"histogram_quantile({share}, {rate})", f"{{{{group}}}} {word}")
        for share, word in ((0.5, "p50"), (0.99, "p99"))
    ]


OVERVIEW = Board(
    "slackwater-overview",
    "Slackwater / Overview",
    "What would be lost, what stands still, and when the last good point was.",
    (
        Panel(
            "Recovery point: age of the oldest write that a Secondary lacks",
            [
                _query(
                    _most("slackwater_link_lag_seconds", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "s",
            about="0 if the Secondary holds everything durably.",
        ),
        Panel(
            "Bytes that a Secondary lacks",
            [
                _query(
                    _most("slackwater_link_lag_bytes", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "Links",
            [
                _query(
                    f"max by (group, link, state) (slackwater_link_state{{{_G}}}) == 1",
                    "{{group}} {{link}}: {{state}}",
                )
            ],
            kind="states",
        ),
        Panel(
            "Replicas",
            [
                _query(
                    f"max by (group, state) (slackwater_secondary_state{{{_G}}}) == 1",
                    "{{group}}: {{state}}",
                )
            ],
            kind="states",
        ),
        Panel(
            "Age of the newest snapshot, by grade",
            [
                _query(
                    "time() - max by (group, grade)"
                    f" (slackwater_snapshot_last_created_timestamp_seconds{{{_G}}} > 0)",
                    "{{group}} {{grade}}",
                )
            ],
            "s",
            kind="number",
        ),
        Panel(
            "Use of the logs",
            [
                _query(
                    f"max by (group) (slackwater_primary_log_used_bytes{{{_G}}}"
                    f" / slackwater_primary_log_capacity_bytes{{{_G}}})",
                    "{{group}} Primary",
                ),
                _query(
                    f"max by (group) (slackwater_secondary_log_used_bytes{{{_G}}}"
                    f" / slackwater_secondary_log_capacity_bytes{{{_G}}})",
                    "{{group}} Secondary",
                ),
            ],
            "percentunit",
        ),
    ),
)

REPLICATION = Board(
    "slackwater-replication",
    "Slackwater / Replication",
    "The way of a write: logged, sent, durable on the Secondary, applied.",
    (
        Panel(
            "Written",
            [_query(_rate("slackwater_primary_write_bytes_total"))],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Sent",
            [
                _query(
                    _rate("slackwater_link_sent_bytes_total", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Applied",
            [_query(_rate("slackwater_secondary_applied_bytes_total"))],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Records in a commit",
            [
                _query(
                    f"{_rate('slackwater_primary_records_total')}"
                    f" / {_rate('slackwater_primary_commits_total')}"
                )
            ],
            about="The deeper the queue of the writers, the more share one sync of the log.",
        ),
        Panel(
            "Sync of the Primary's log",
            _quantiles("slackwater_primary_log_sync_seconds", _G),
            "s",
        ),
        Panel(
            "From received to durable on the Secondary",
            _quantiles("slackwater_secondary_durable_seconds", _G),
            "s",
        ),
        Panel("One step of applying", _quantiles("slackwater_secondary_apply_seconds", _G), "s"),
        Panel(
            "Sent and not yet acked",
            [
                _query(
                    _most("slackwater_link_inflight_bytes", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "Received and not yet applied",
            [_query(_most("slackwater_secondary_backlog_bytes"))],
            "bytes",
        ),
        Panel(
            "Streams opened, senders started again",
            [
                _query(
                    f"sum by (group, link) (increase(slackwater_link_connects_total{{{_G}}}[1h]))",
                    "{{group}} {{link}} streams",
                ),
                _query(
                    "sum by (group, link)"
                    f" (increase(slackwater_link_sender_restarts_total{{{_G}}}[1h]))",
                    "{{group}} {{link}} senders",
                ),
            ],
            about="Within the last hour.",
        ),
        Panel(
            "Sync: bytes still to copy",
            [
                _query(
                    f"max by (group, link) (slackwater_link_sync_total_bytes{{{_G}}}"
                    f" - slackwater_link_sync_done_bytes{{{_G}}})",
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "RPCs that did not end OK",
            [
                _query(
                    "sum by (grpc_service, grpc_method, grpc_code)"
                    ' (rate(grpc_server_handled_total{grpc_code!="OK"}[$__rate_interval]))',
                    "{{grpc_method}} {{grpc_code}}",
                )
            ],
            "reqps",
            span=WHOLE,
        ),
    ),
)

MESSAGES = Board(
    "slackwater-ibc",
    "Slackwater / IBC time line",
    "When replicas stood at a message, for how long, and what became of the messages.",
    (
        Panel(
            "Standing at a message",
            [_query(f"{_most('slackwater_ibc_frozen_since_timestamp_seconds')} > bool 0")],
            kind="states",
            span=WHOLE,
        ),
        Panel("Held by the fence", _quantiles("slackwater_ibc_fence_seconds", _G), "s"),
        Panel("Applying stood still", _quantiles("slackwater_ibc_freeze_seconds", _G), "s"),
        Panel(
            "Freezes, by how long they lasted",
            [
                _query(
                    "sum by (le)"
                    f" (increase(slackwater_ibc_freeze_seconds_bucket{{{_G}}}[$__rate_interval]))",
                    "{{le}}",
                )
            ],
            "s",
            kind="heatmap",
        ),
        Panel(
            "Messages that came to their end, by what became of them",
            [
                _query(
                    "sum by (group, result) (increase(slackwater_ibc_messages_total"
                    f'{{{_G},result!=""}}[1h]))',
                    "{{group}} {{result}}",
                )
            ],
            about="Within the last hour.",
        ),
        Panel(
            "Messages that are not final",
            [_query(_most("slackwater_ibc_pending_messages"))],
        ),
    ),
    (
        (
            "Messages",
            f"sum by (group) (changes(slackwater_ibc_messages_total{{{_G}}}[1m])) > 0",
        ),
    ),
)

SNAPSHOTS = Board(
    "slackwater-snapshots",
    "Slackwater / Snapshots",
    "What is kept, how good it is, and the runs that make it.",
    (
        Panel(
            "Snapshots held, by grade",
            [_query(_most("slackwater_snapshots", "group, grade"), "{{group}} {{grade}}")],
        ),
        Panel(
            "Newest snapshot, by grade",
            [
                _query(
                    "max by (group, grade)"
                    f" (slackwater_snapshot_last_created_timestamp_seconds{{{_G}}} > 0) * 1000",
                    "{{group}} {{grade}}",
                )
            ],
            "dateTimeFromNow",
            kind="number",
        ),
        Panel(
            "Runs, by how they ended",
            [
                _query(
                    "sum by (result) (increase(slackwater_snapshot_runs_total[1h]))", "{{result}}"
                )
            ],
            about="Within the last hour.",
        ),
        Panel("Runs that are not over", [_query("max(slackwater_snapshot_runs_active)", "runs")]),
        Panel(
            "Other services, as the snapshot service sees them",
            [_query("max by (peer) (slackwater_snapshot_peer_up)", "{{peer}}")],
            kind="states",
            span=WHOLE,
        ),
    ),
)

BOARDS = (OVERVIEW, REPLICATION, MESSAGES, SNAPSHOTS)


def expressions(board: Board) -> Iterator[str]:
    """Every query of a dashboard."""
    for panel in board.panels:
        yield from (expression for expression, _ in panel.queries)
    yield from (expression for _, expression in board.annotations)
