"""What the Grafana dashboards show: panels and their queries."""

from collections.abc import Iterator

from tools.boards_tasks import TASKS
from tools.panels import GROUP, THIRD, WHOLE, Board, Panel, most, quantiles, query, rate

OVERVIEW = Board(
    "slackwater-overview",
    "Slackwater / Overview",
    "What would be lost, what stands still, and when the last good point was.",
    (
        Panel(
            "Recovery point: age of the oldest write that a Secondary lacks",
            [
                query(
                    most("slackwater_link_lag_seconds", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "s",
            about="0 if the Secondary holds everything durably.",
        ),
        Panel(
            "Bytes that a Secondary lacks",
            [
                query(
                    most("slackwater_link_lag_bytes", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "Links",
            [
                query(
                    f"max by (group, link, state) (slackwater_link_state{{{GROUP}}}) == 1",
                    "{{group}} {{link}}: {{state}}",
                )
            ],
            kind="states",
        ),
        Panel(
            "Replicas",
            [
                query(
                    f"max by (group, state) (slackwater_secondary_state{{{GROUP}}}) == 1",
                    "{{group}}: {{state}}",
                )
            ],
            kind="states",
        ),
        Panel(
            "Age of the newest snapshot, by grade",
            [
                query(
                    "time() - max by (group, grade)"
                    f" (slackwater_snapshot_last_created_timestamp_seconds{{{GROUP}}} > 0)",
                    "{{group}} {{grade}}",
                )
            ],
            "s",
            kind="number",
        ),
        Panel(
            "Use of the logs",
            [
                query(
                    f"max by (group) (slackwater_primary_log_used_bytes{{{GROUP}}}"
                    f" / slackwater_primary_log_capacity_bytes{{{GROUP}}})",
                    "{{group}} Primary",
                ),
                query(
                    f"max by (group) (slackwater_secondary_log_used_bytes{{{GROUP}}}"
                    f" / slackwater_secondary_log_capacity_bytes{{{GROUP}}})",
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
            [query(rate("slackwater_primary_write_bytes_total"))],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Sent",
            [
                query(
                    rate("slackwater_link_sent_bytes_total", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Applied",
            [query(rate("slackwater_secondary_applied_bytes_total"))],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Records in a commit",
            [
                query(
                    f"{rate('slackwater_primary_records_total')}"
                    f" / {rate('slackwater_primary_commits_total')}"
                )
            ],
            about="The deeper the queue of the writers, the more share one sync of the log.",
        ),
        Panel(
            "Sync of the Primary's log",
            quantiles("slackwater_primary_log_sync_seconds", GROUP),
            "s",
        ),
        Panel(
            "From received to durable on the Secondary",
            quantiles("slackwater_secondary_durable_seconds", GROUP),
            "s",
        ),
        Panel("One step of applying", quantiles("slackwater_secondary_apply_seconds", GROUP), "s"),
        Panel(
            "Sent and not yet acked",
            [
                query(
                    most("slackwater_link_inflight_bytes", "group, link"),
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "Received and not yet applied",
            [query(most("slackwater_secondary_backlog_bytes"))],
            "bytes",
        ),
        Panel(
            "Streams opened, senders started again",
            [
                query(
                    "sum by (group, link)"
                    f" (increase(slackwater_link_connects_total{{{GROUP}}}[1h]))",
                    "{{group}} {{link}} streams",
                ),
                query(
                    "sum by (group, link)"
                    f" (increase(slackwater_link_sender_restarts_total{{{GROUP}}}[1h]))",
                    "{{group}} {{link}} senders",
                ),
            ],
            about="Within the last hour.",
        ),
        Panel(
            "Sync: bytes still to copy",
            [
                query(
                    f"max by (group, link) (slackwater_link_sync_total_bytes{{{GROUP}}}"
                    f" - slackwater_link_sync_done_bytes{{{GROUP}}})",
                    "{{group}} {{link}}",
                )
            ],
            "bytes",
        ),
        Panel(
            "RPCs that did not end OK",
            [
                query(
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
            [query(f"{most('slackwater_ibc_frozen_since_timestamp_seconds')} > bool 0")],
            kind="states",
            span=WHOLE,
        ),
        Panel("Held by the fence", quantiles("slackwater_ibc_fence_seconds", GROUP), "s"),
        Panel("Applying stood still", quantiles("slackwater_ibc_freeze_seconds", GROUP), "s"),
        Panel(
            "Freezes, by how long they lasted",
            [
                query(
                    "sum by (le)"
                    f" (increase(slackwater_ibc_freeze_seconds_bucket{{{GROUP}}}"
                    "[$__rate_interval]))",
                    "{{le}}",
                )
            ],
            "s",
            kind="heatmap",
        ),
        Panel(
            "Messages that came to their end, by what became of them",
            [
                query(
                    "sum by (group, result) (increase(slackwater_ibc_messages_total"
                    f'{{{GROUP},result!=""}}[1h]))',
                    "{{group}} {{result}}",
                )
            ],
            about="Within the last hour.",
        ),
        Panel(
            "Messages that are not final",
            [query(most("slackwater_ibc_pending_messages"))],
        ),
        Panel(
            "Freezes that a lease owns",
            [query(most("slackwater_ibc_leased"))],
            kind="states",
        ),
        Panel("Held by agents", quantiles("slackwater_ibc_quiesce_window_seconds", GROUP), "s"),
        Panel(
            "Agents, and applications held right now",
            [
                query(most("slackwater_ibc_agents"), "{{group}} agents"),
                query(most("slackwater_ibc_quiesce_holds"), "{{group}} held"),
            ],
        ),
        Panel(
            "Quiesces, by what came of them",
            [
                query(
                    "sum by (group, result)"
                    f" (increase(slackwater_ibc_quiesce_rounds_total{{{GROUP}}}[1h]))",
                    "{{group}} {{result}}",
                )
            ],
            about="Within the last hour.",
        ),
    ),
    (
        (
            "Messages",
            f"sum by (group) (changes(slackwater_ibc_messages_total{{{GROUP}}}[1m])) > 0",
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
            [query(most("slackwater_snapshots", "group, grade"), "{{group}} {{grade}}")],
        ),
        Panel(
            "Bytes that snapshots keep, and may keep",
            [
                query(most("slackwater_snapshot_bytes", "group"), "{{group}}"),
                query(most("slackwater_snapshot_budget_bytes", "group"), "{{group}} limit"),
            ],
            "bytes",
        ),
        Panel(
            "Snapshots that the budget took in an hour",
            [
                query(
                    f"sum by (group) (increase(slackwater_snapshots_expired_total{{{GROUP}}}[1h]))",
                    "{{group}}",
                )
            ],
        ),
        Panel(
            "Newest snapshot, by grade",
            [
                query(
                    "max by (group, grade)"
                    f" (slackwater_snapshot_last_created_timestamp_seconds{{{GROUP}}} > 0) * 1000",
                    "{{group}} {{grade}}",
                )
            ],
            "dateTimeFromNow",
            kind="number",
        ),
        Panel(
            "Runs, by how they ended",
            [query("sum by (result) (increase(slackwater_snapshot_runs_total[1h]))", "{{result}}")],
            about="Within the last hour.",
        ),
        Panel("Runs that are not over", [query("max(slackwater_snapshot_runs_active)", "runs")]),
        Panel(
            "Other services, as the snapshot service sees them",
            [query("max by (peer) (slackwater_snapshot_peer_up)", "{{peer}}")],
            kind="states",
            span=WHOLE,
        ),
    ),
)

BOARDS = (OVERVIEW, REPLICATION, MESSAGES, SNAPSHOTS, TASKS)


def expressions(board: Board) -> Iterator[str]:
    """Every query of a dashboard."""
    for panel in board.panels:
        yield from (expression for expression, _ in panel.queries)
    yield from (expression for _, expression in board.annotations)
