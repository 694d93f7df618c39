"""The dashboard of tasks: runs, schedules and retention; and what serves all of them."""

from tools.panels import HALF, THIRD, Board, Panel, query

_HOUR = "Within the last hour."
_RUN_SECONDS = "sum by (task, le) (rate(slackwater_snapshot_run_seconds_bucket[$__rate_interval]))"


def _increase(name: str, by: str) -> str:
    return f"sum by ({by}) (increase({name}[1h]))"


TASKS = Board(
    "slackwater-tasks",
    "Slackwater / Tasks and clients",
    "Which runs succeeded and when the next one starts; NBD clients, and certificates.",
    (
        Panel(
            "Last success",
            [
                query(
                    "max by (task, group)"
                    " (slackwater_snapshot_last_success_timestamp_seconds > 0) * 1000",
                    "{{task}} {{group}}",
                )
            ],
            "dateTimeFromNow",
            kind="number",
        ),
        Panel(
            "Next start",
            [
                query(
                    "max by (schedule)"
                    " (slackwater_snapshot_schedule_next_timestamp_seconds) * 1000",
                    "{{schedule}}",
                )
            ],
            "dateTimeFromNow",
            kind="number",
        ),
        Panel(
            "Runs, by task and how they ended",
            [
                query(
                    _increase("slackwater_snapshot_runs_total", "task, result"),
                    "{{task}} {{result}}",
                )
            ],
            about=_HOUR,
        ),
        Panel(
            "How long runs take",
            [
                query(f"histogram_quantile({share}, {_RUN_SECONDS})", f"{{{{task}}}} {word}")
                for share, word in ((0.5, "p50"), (0.99, "p99"))
            ],
            "s",
        ),
        Panel(
            "Starts by schedules, and those they missed",
            [
                query(
                    _increase("slackwater_snapshot_schedule_starts_total", "schedule"),
                    "{{schedule}}",
                ),
                query(
                    _increase("slackwater_snapshot_schedule_missed_total", "schedule, reason"),
                    "{{schedule}} missed: {{reason}}",
                ),
            ],
            about=_HOUR,
        ),
        Panel(
            "Snapshots that retention deleted, and was refused",
            [
                query(_increase("slackwater_snapshot_retention_deleted_total", "task"), "{{task}}"),
                query(
                    _increase("slackwater_snapshot_retention_refused_total", "task"),
                    "{{task}} refused",
                ),
            ],
            about=_HOUR,
        ),
        Panel(
            "Tasks", [query("max by (source) (slackwater_snapshot_tasks)", "{{source}}")], span=HALF
        ),
        Panel(
            "Files and programs of tasks that cannot be used",
            [query("max(slackwater_snapshot_task_files_bad)", "bad")],
        ),
        Panel(
            "NBD clients, and those hung up on",
            [
                query("max by (instance) (slackwater_nbd_connections)", "{{instance}}"),
                query(
                    _increase("slackwater_nbd_refused_total", "instance, limit"),
                    "{{instance}} refused: {{limit}}",
                ),
            ],
            span=THIRD,
        ),
        Panel(
            "NBD bytes",
            [
                query(
                    "sum by (instance, direction)"
                    " (rate(slackwater_nbd_bytes_total[$__rate_interval]))",
                    "{{instance}} {{direction}}",
                )
            ],
            "Bps",
            span=THIRD,
        ),
        Panel(
            "Certificates end",
            [
                query(
                    "max by (instance) (slackwater_certificate_expiry_timestamp_seconds) * 1000",
                    "{{instance}}",
                )
            ],
            "dateTimeFromNow",
            kind="number",
            span=THIRD,
            about="Over plaintext there is none, and this shows 1970.",
        ),
    ),
)
