"""What the service tells Prometheus."""

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.snapshot.counts import RESULTS, Counts
from services.snapshot.peers import Peers
from services.snapshot.retention.sweeper import Sweeper
from services.snapshot.runs import Runs
from services.snapshot.schedules.catalogue import Schedules
from services.snapshot.schedules.keeper import REASONS, Timekeeper
from services.snapshot.store import BUILT_IN
from services.snapshot.tasks.catalogue import SOURCE_API, Catalogue
from slackwater.runtime.metrics import histogram_family


def collect(runs: Runs, peers: Peers) -> Iterator[Metric]:
    """Yield the service's metrics as of now."""
    active = GaugeMetricFamily(
        "slackwater_snapshot_runs_active", "Runs that are not over, or still hold something."
    )
    active.add_metric([], len(runs.live))
    yield active
    yield from _counts(runs.counts)
    up = GaugeMetricFamily(
        "slackwater_snapshot_peer_up",
        "1 if the other service answered the last time it was asked.",
        labels=["peer"],
    )
    heard = GaugeMetricFamily(
        "slackwater_snapshot_peer_answered_timestamp_seconds",
        "When the other service last answered.",
        labels=["peer"],
    )
    for peer in peers.all:
        up.add_metric([peer.role], peer.is_reachable)
        if peer.answered_at is not None:
            heard.add_metric([peer.role], time.time() - time.monotonic() + peer.answered_at)
    yield up
    yield heard


def collect_tasks(catalogue: Catalogue) -> Iterator[Metric]:
    """Yield what there is of tasks, and of files that define none."""
    tasks = catalogue.all()
    from_api = sum(task.source == SOURCE_API for task in tasks)
    known = GaugeMetricFamily("slackwater_snapshot_tasks", "Tasks, by source.", labels=["source"])
    known.add_metric([SOURCE_API], from_api)
    known.add_metric(["file"], len(tasks) - from_api)
    yield known
    bad = GaugeMetricFamily(
        "slackwater_snapshot_task_files_bad",
        "Files and programs of tasks that cannot be used as they are.",
    )
    bad.add_metric([], len(catalogue.problems))
    yield bad


def collect_schedules(schedules: Schedules, keeper: Timekeeper) -> Iterator[Metric]:
    """Yield what schedules started and missed, and when each runs next."""
    starts = CounterMetricFamily(
        "slackwater_snapshot_schedule_starts",
        "Runs that the schedule started.",
        labels=["schedule"],
    )
    missed = CounterMetricFamily(
        "slackwater_snapshot_schedule_missed",
        "Starts that the schedule missed, by reason.",
        labels=["schedule", "reason"],
    )
    upcoming = GaugeMetricFamily(
        "slackwater_snapshot_schedule_next_timestamp_seconds",
        "When the schedule starts its task next; absent while it is paused.",
        labels=["schedule"],
    )
    for schedule in schedules.all():
        word = schedule.name.removeprefix("schedules/")
        started, by_reason = keeper.counts(schedule)
        starts.add_metric([word], started)
        for reason in REASONS:
            missed.add_metric([word, reason], by_reason[reason])
        moment = keeper.next_time(schedule)
        if moment is not None:
            upcoming.add_metric([word], moment)
    yield starts
    yield missed
    yield upcoming


def collect_retention(sweeper: Sweeper) -> Iterator[Metric]:
    """Yield what retention deleted, and what it could not."""
    deleted = CounterMetricFamily(
        "slackwater_snapshot_retention_deleted",
        "Snapshots of the task that no rule kept, and that were deleted.",
        labels=["task"],
    )
    refused = CounterMetricFamily(
        "slackwater_snapshot_retention_refused",
        "Times that a Secondary refused to delete one; it is tried again.",
        labels=["task"],
    )
    for task, number in sorted(dict(sweeper.deleted).items()):
        deleted.add_metric([task], number)
    for task, number in sorted(dict(sweeper.refused).items()):
        refused.add_metric([task], number)
    yield deleted
    yield refused


def _counts(counts: Counts) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "slackwater_snapshot_runs",
        "Runs that were over, by task and how.",
        labels=["task", "result"],
    )
    rows = {(BUILT_IN, result): 0 for result in RESULTS} | dict(counts.ended)
    for (task, result), number in sorted(rows.items()):
        ended.add_metric([task, result], number)
    yield ended
    yield histogram_family(
        "slackwater_snapshot_run_seconds",
        "How long runs took that were over.",
        ["task"],
        [([task], row) for task, row in sorted(dict(counts.seconds).items())],
    )
    success = GaugeMetricFamily(
        "slackwater_snapshot_last_success_timestamp_seconds",
        "When a run of the task last succeeded for the group, since this service started.",
        labels=["task", "group"],
    )
    for (task, group), moment in sorted(dict(counts.last_success).items()):
        success.add_metric([task, group], moment)
    yield success
