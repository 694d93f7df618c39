"""`slackwater run`: what the snapshot service did and does."""

from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import command
from slackwater.cli.commands.tasks import shown
from slackwater.cli.commands.tasks.arguments import resource, run_name
from slackwater.cli.commands.tasks.follow import follow
from slackwater.cli.session import Session
from slackwater.v1 import snapshot_pb2

HINT = "slackwater run list"

app = typer.Typer(help="List, show, follow and end runs of tasks.", no_args_is_help=True)
Run = Annotated[str, typer.Argument(help="As 'run list' prints it.", metavar="RUN")]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="run")


@command(app, "list", "slackwater run list --task nightly")
def list_runs(
    session: Session,
    group: Annotated[str | None, typer.Argument(help="Only this group's.", metavar="GROUP")] = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.", metavar="TASK")] = None,
    limit: Annotated[int, typer.Option(help="Newest so many.", min=1, max=10_000)] = 20,
) -> None:
    """List runs, newest first; snapshots taken by hand are runs of the task `snapshot`."""
    request = snapshot_pb2.ListRunsRequest(
        group=words.group_name(group) if group else "",
        task=resource(task, "tasks") if task else "",
    )
    found = session.pages("snapshot", session.snapshot.ListRuns, request, "runs", limit)
    rows = [
        (
            shown.run_word(run.name),
            words.last(run.group),
            shown.state(run.state),
            words.moment(run.create_time),
            words.last(run.schedule) if run.schedule else "-",
            words.last(run.snapshot) if run.snapshot else "-",
            words.or_none(run.error or (run.steps[-1].step if run.steps else "")),
        )
        for run in found
    ]
    heads = ("run", "group", "state", "started", "schedule", "snapshot", "step or error")
    session.screen.listing("runs", found, heads, rows, "no runs yet")


@command(app, "get", "slackwater run get nightly/0193f2a7")
def get(session: Session, run: Run) -> None:
    """Show one run: its steps with their outputs, and what each Secondary came to."""
    request = snapshot_pb2.GetRunRequest(name=run_name(session, run))
    answer = session.call("snapshot", session.snapshot.GetRun, request, hint=HINT)
    shown.show_run(session, answer.run, outputs=True)


@command(app, "watch", "slackwater run watch nightly/0193f2a7")
def watch(session: Session, run: Run) -> None:
    """Follow a run to its end, and end as `task run` does; Ctrl-C only ends the watching."""
    request = snapshot_pb2.GetRunRequest(name=run_name(session, run))
    found = session.call("snapshot", session.snapshot.GetRun, request, hint=HINT).run
    over = follow(session, found, cancels=False)
    shown.show_run(session, over)
    shown.refuse_failed(over)


@command(app, "cancel", "slackwater run cancel nightly/0193f2a7")
def cancel(session: Session, run: Run) -> None:
    """End a run; a freeze that it holds is thawed."""
    request = snapshot_pb2.CancelRunRequest(name=run_name(session, run))
    answer = session.call("snapshot", session.snapshot.CancelRun, request, hint=HINT)
    shown.show_run(session, answer.run)
