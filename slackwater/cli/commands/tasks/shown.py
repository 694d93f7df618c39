"""Runs, plans and schedules in words."""

import time
from collections.abc import Sequence
from typing import Literal

from slackwater.cli import words
from slackwater.cli.failure import EXIT_FAILED, Failure
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, record_pb2, resources_pb2, snapshot_pb2

Run = snapshot_pb2.Run
RunStep = snapshot_pb2.RunStep

_Length = Literal["quiesce_window", "fence_held", "snapshot_duration", "frozen_for"]

OVER = frozenset((Run.STATE_SUCCEEDED, Run.STATE_FAILED, Run.STATE_CANCELLED))
"""States in which a run does not change any more."""


def run_word(name: str) -> str:
    """`tasks/nightly/runs/0193` as people type it: nightly/0193."""
    parts = name.split("/")
    return f"{parts[1]}/{parts[3]}" if len(parts) == 4 else name


def state(value: Run.State.ValueType) -> str:
    """A state, as one word."""
    return words.word(Run.State.Name(value), "STATE_")


def grade(value: common_pb2.SnapshotGrade.ValueType, reason: str = "") -> str:
    """What a snapshot is worth."""
    name = words.word(common_pb2.SnapshotGrade.Name(value), "SNAPSHOT_GRADE_").lower()
    return f"{name} ({reason})" if reason else name


def confirmed(row: resources_pb2.Snapshot) -> str:
    """Whether its grade rests on a CONFIRMED outcome; `-` if none was asked for."""
    if row.awaits_outcome:
        return "to come"
    if not row.HasField("judgement"):
        return "-"
    return "yes" if row.judgement.state == record_pb2.Outcome.STATE_CONFIRMED else "revoked"


def spent(step: RunStep) -> str:
    """How long a step took, or that it runs, or how it failed."""
    if not step.HasField("end_time"):
        return "running"
    took = (step.end_time.ToNanoseconds() - step.start_time.ToNanoseconds()) / 1e9
    return f"FAILED after {words.seconds(took)}" if step.error else words.seconds(took)


def show_run(session: Session, run: Run, *, outputs: bool = False) -> None:
    """Show a run with its steps and what each Secondary came to."""
    screen = session.screen
    if screen.is_json:
        screen.json(as_dict(run))
        return
    screen.facts(_facts(run))
    if run.steps:
        screen.line("steps")
        rows = [
            (row.step, row.where or "-", row.link or "-", spent(row), row.error or "-")
            for row in run.steps
        ]
        screen.table(("step", "where", "link", "took", "error"), rows, indent=2)
    if outputs:
        for row in run.steps:
            if row.output:
                screen.line(f"output of {row.step}", f" on {row.link}" if row.link else "")
                screen.line(row.output.rstrip("\n"))
    show_replicas(session, run)


def _facts(run: Run) -> list[tuple[str, str]]:
    def length(name: _Length) -> str:
        return words.duration(getattr(run, name)) if run.HasField(name) else ""

    judged = ""
    if run.HasField("judgement"):
        judged = words.word(type(run.judgement).State.Name(run.judgement.state), "STATE_")
    began = run.create_time
    return [
        ("run", run.name),
        ("state", state(run.state)),
        ("error", run.error),
        ("group", run.group),
        ("schedule", run.schedule),
        ("snapshot", run.snapshot),
        ("grade", grade(run.grade)),
        ("message", run.message),
        ("position", words.position(run.position)),
        ("outcome", judged),
        ("quiesced for", length("quiesce_window")),
        ("fence held", length("fence_held")),
        ("taken in", length("snapshot_duration")),
        ("frozen for", length("frozen_for")),
        ("started", f"{words.moment(began)}, {words.age(began, time.time())}"),
    ]


def show_replicas(session: Session, run: Run) -> None:
    """Show what became of a run on each Secondary."""
    if not run.replicas:
        return
    rows = []
    for row in run.replicas:
        verdict = words.word(common_pb2.VerdictState.Name(row.verdict), "VERDICT_STATE_")
        worth = grade(row.grade)
        if row.snapshot:
            worth += " (confirmed)" if row.confirmed else " (not confirmed)"
        rows.append(
            (
                row.link,
                state(row.state),
                verdict,
                worth,
                words.last(row.snapshot) if row.snapshot else "-",
                words.duration(row.frozen_for) if row.HasField("frozen_for") else "-",
                words.or_none(row.error),
            )
        )
    session.screen.line("secondaries")
    heads = ("link", "state", "verdict", "grade", "snapshot", "frozen", "error")
    session.screen.table(heads, rows, indent=2)
    for row in run.replicas:
        for uri in row.nbd_uris:
            session.screen.line(f"  nbd {row.link}  {uri}")


def show_plan(session: Session, plan: Sequence[snapshot_pb2.PlannedStep]) -> None:
    """Show what a run would do."""
    rows = [
        (
            step.step,
            step.where,
            step.link or "-",
            step.holds or "-",
            words.duration(step.timeout) if step.HasField("timeout") else "-",
            step.detail or "-",
        )
        for step in plan
    ]
    heads = ("step", "where", "link", "holds", "timeout", "what")
    session.screen.listing("plan", list(plan), heads, rows, "nothing would be done")
    session.screen.summary({"started": False}, "nothing was started")


def refuse_failed(run: Run) -> None:
    """Raise Failure for a run that did not succeed everywhere."""
    bad = [row.link for row in run.replicas if row.state != Run.STATE_SUCCEEDED]
    if run.state == Run.STATE_SUCCEEDED and not bad:
        return
    raise Failure(
        run.error or f"the run {state(run.state)}: {words.listed(bad)}",
        EXIT_FAILED,
        state(run.state) if run.state != Run.STATE_SUCCEEDED else "FAILED",
        "RUN_FAILED",
        next_step=f"slackwater run get {run_word(run.name)}",
    )
