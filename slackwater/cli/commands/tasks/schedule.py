"""`slackwater schedule`: when tasks are run by themselves."""

import enum
import uuid
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.tasks.arguments import Link, Replace, Validate, resource
from slackwater.cli.commands.tasks.shown import run_word
from slackwater.cli.commands.tasks.task import alarm_about
from slackwater.cli.session import Session
from slackwater.v1 import snapshot_pb2

HINT = "slackwater schedule list"

app = typer.Typer(help="Run tasks by the clock (UTC).", no_args_is_help=True)
Schedule = Annotated[str, typer.Argument(help="For example nightly.", metavar="SCHEDULE")]


class Overlap(enum.StrEnum):
    """What happens when it is time and the last run is not over."""

    SKIP = "skip"
    WAIT = "wait"
    CANCEL = "cancel"


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="schedule")


@command(app, "list", "slackwater schedule list")
def list_schedules(session: Session) -> None:
    """List the schedules: when each runs next, and what it missed."""
    problems: list[snapshot_pb2.FileProblem] = []

    def ask(
        asked: snapshot_pb2.ListSchedulesRequest, timeout: float
    ) -> snapshot_pb2.ListSchedulesResponse:
        answer: snapshot_pb2.ListSchedulesResponse = session.snapshot.ListSchedules(
            asked, timeout=timeout
        )
        problems[:] = answer.problems
        return answer

    found = session.pages("snapshot", ask, snapshot_pb2.ListSchedulesRequest(), "schedules")
    rows = [
        (
            words.last(row.name),
            words.last(row.task),
            row.cron,
            "PAUSED" if row.paused else words.moment(row.next_time),
            words.moment(row.last_time),
            str(row.missed),
            row.source,
        )
        for row in found
    ]
    heads = ("schedule", "task", "cron (utc)", "next", "last", "missed", "source")
    empty = "no schedules; make one: slackwater schedule create nightly nightly --cron '0 2 * * *'"
    session.screen.listing("schedules", found, heads, rows, empty)
    alarm_about(session, problems)


@command(app, "describe", "slackwater schedule describe nightly")
def describe(session: Session, schedule: Schedule) -> None:
    """Show one schedule."""
    _show(session, _get(session, schedule))


@command(app, "create", "slackwater schedule create nightly nightly --cron '0 2 * * *'")
def create(
    session: Session,
    schedule: Schedule,
    task: Annotated[str, typer.Argument(help="The task that it runs.", metavar="TASK")],
    cron: Annotated[
        str, typer.Option(help="Five fields of cron, in UTC.", metavar="'M H DOM MON DOW'")
    ],
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="The group, if the task names none.")
    ] = None,
    link: Link = None,
    jitter: Annotated[
        str, typer.Option(help="Put each start off by a random part of this.", metavar="DURATION")
    ] = "0",
    overlap: Annotated[
        Overlap, typer.Option(help="What to do if the last run is not over.")
    ] = Overlap.SKIP,
    catch_up: Annotated[
        str,
        typer.Option(help="Make up for a missed start for so long.", metavar="DURATION"),
    ] = "0",
    paused: Annotated[bool, typer.Option("--paused", help="It starts nothing yet.")] = False,
    replace: Replace = False,
    dry_run: Validate = False,
) -> None:
    """Make a schedule."""
    made = snapshot_pb2.Schedule(
        name=resource(schedule, "schedules"),
        task=resource(task, "tasks"),
        cron=cron,
        group=words.group_name(group) if group else "",
        links=link,
        paused=paused,
        overlap=snapshot_pb2.Schedule.Overlap.Value(f"OVERLAP_{overlap.name}"),
    )
    for name, text in (("jitter", jitter), ("catch_up", catch_up)):
        value = words.parse_duration(text, f"--{name.replace('_', '-')}")
        if value:
            getattr(made, name).CopyFrom(words.as_duration(value))
    identity = str(uuid.uuid4())
    if replace:
        update = snapshot_pb2.UpdateScheduleRequest(
            schedule=made, request_id=identity, validate_only=dry_run
        )
        found = _update(session, update)
    else:
        new = snapshot_pb2.CreateScheduleRequest(
            schedule=made, request_id=identity, validate_only=dry_run
        )
        answer = session.call("snapshot", session.snapshot.CreateSchedule, new, hint=HINT)
        found = answer.schedule
    _show(session, found)
    if dry_run:
        session.screen.note("nothing was changed")


@command(app, "delete", "slackwater schedule delete nightly --yes")
def delete(session: Session, schedule: Schedule, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a schedule; a run that it started goes on."""
    request = snapshot_pb2.DeleteScheduleRequest(
        name=resource(schedule, "schedules"), validate_only=True
    )
    answer = session.call("snapshot", session.snapshot.DeleteSchedule, request, hint=HINT)
    shown_as = f"schedule {words.last(request.name)}"
    if not confirm(session, list(answer.losses), shown_as, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.DeleteSchedule, request, hint=HINT)
    session.screen.removed(shown_as, answer.losses)


@command(app, "pause", "slackwater schedule pause nightly")
def pause(session: Session, schedule: Schedule) -> None:
    """Let a schedule start nothing; a run under way goes on."""
    _set_paused(session, schedule, paused=True)


@command(app, "resume", "slackwater schedule resume nightly")
def resume(session: Session, schedule: Schedule) -> None:
    """Let a schedule start runs again, from now on."""
    _set_paused(session, schedule, paused=False)


def _set_paused(session: Session, schedule: str, *, paused: bool) -> None:
    found = _get(session, schedule)
    if found.paused != paused:
        found.paused = paused
        request = snapshot_pb2.UpdateScheduleRequest(schedule=found, request_id=str(uuid.uuid4()))
        found = _update(session, request)
    _show(session, found)


def _update(session: Session, request: snapshot_pb2.UpdateScheduleRequest) -> snapshot_pb2.Schedule:
    return session.call("snapshot", session.snapshot.UpdateSchedule, request, hint=HINT).schedule


def _get(session: Session, schedule: str) -> snapshot_pb2.Schedule:
    request = snapshot_pb2.GetScheduleRequest(name=resource(schedule, "schedules"))
    return session.call("snapshot", session.snapshot.GetSchedule, request, hint=HINT).schedule


def _show(session: Session, row: snapshot_pb2.Schedule) -> None:
    overlap = words.word(snapshot_pb2.Schedule.Overlap.Name(row.overlap), "OVERLAP_")
    session.screen.resource(
        row,
        [
            ("schedule", row.name),
            ("source", row.source),
            ("task", row.task),
            ("group", row.group),
            ("links", words.listed(row.links)),
            ("cron", f"{row.cron} (UTC)"),
            ("overlap", "SKIP" if overlap == "-" else overlap),
            ("jitter", words.duration(row.jitter) if row.HasField("jitter") else ""),
            ("catch up", words.duration(row.catch_up) if row.HasField("catch_up") else ""),
            ("next", "PAUSED" if row.paused else words.moment(row.next_time)),
            ("last", words.moment(row.last_time)),
            ("last run", run_word(row.last_run)),
            ("missed", f"{row.missed}: {row.missed_reason}" if row.missed else ""),
        ],
    )
