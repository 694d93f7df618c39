"""`slackwater task`: the whole cycle around one message, defined once and run by one command."""

import uuid
from typing import Annotated, Literal

import typer

from slackwater.cli import words
from slackwater.cli.command import command, confirm
from slackwater.cli.commands.group import DryRun, Yes
from slackwater.cli.commands.tasks import shown
from slackwater.cli.commands.tasks.arguments import (
    File,
    Link,
    Replace,
    Task,
    Validate,
    read_definition,
    resource,
)
from slackwater.cli.commands.tasks.follow import follow
from slackwater.cli.failure import usage
from slackwater.cli.screen import as_dict
from slackwater.cli.session import Session
from slackwater.v1 import common_pb2, snapshot_pb2

PHASES = ("prefreeze", "onfreeze", "postfreeze")
HINT = "slackwater task list"

app = typer.Typer(
    help="Quiesce, send a message, work at it on the other side: one command.",
    no_args_is_help=True,
)
GroupOption = Annotated[
    str | None, typer.Option("--group", "-g", help="The group, if the task names none.")
]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="task")


@command(app, "list", "slackwater task list")
def list_tasks(session: Session) -> None:
    """List the tasks, and the files that cannot be used."""
    request = snapshot_pb2.ListTasksRequest()
    problems: list[snapshot_pb2.FileProblem] = []

    def ask(asked: snapshot_pb2.ListTasksRequest, timeout: float) -> snapshot_pb2.ListTasksResponse:
        answer: snapshot_pb2.ListTasksResponse = session.snapshot.ListTasks(asked, timeout=timeout)
        problems[:] = answer.problems
        return answer

    tasks = session.pages("snapshot", ask, request, "tasks")
    rows = [
        (
            words.last(row.name),
            words.last(row.group) if row.group else "-",
            words.listed(row.quiesce.applications),
            words.listed(_steps(row)),
            keeps(row.retention) if row.HasField("retention") else "all",
            row.source,
        )
        for row in tasks
    ]
    heads = ("task", "group", "quiesces", "steps", "keeps", "source")
    empty = "no tasks; make one: slackwater task create nightly --group demo"
    session.screen.listing("tasks", tasks, heads, rows, empty)
    alarm_about(session, problems)


@command(app, "describe", "slackwater task describe nightly")
def describe(session: Session, task: Task) -> None:
    """Show a task: its steps, and which of the snapshots it made would go."""
    request = snapshot_pb2.GetTaskRequest(name=resource(task, "tasks"))
    answer = session.call("snapshot", session.snapshot.GetTask, request, hint=HINT)
    screen = session.screen
    if screen.is_json:
        screen.json(as_dict(answer))
        return
    screen.facts(_facts(answer.task))
    for phase in PHASES:
        for step in getattr(answer.task, phase):
            limit = f", at most {words.duration(step.timeout)}" if step.HasField("timeout") else ""
            screen.facts([(phase, f"{_step(step)}{limit}")])
    if answer.made:
        screen.line("snapshots it made")
        rows = [
            (
                words.last(row.snapshot),
                row.link,
                words.moment(row.create_time),
                "goes" if row.expires else "stays",
                row.reason or "-",
            )
            for row in answer.made
        ]
        screen.table(("snapshot", "link", "made", "retention", "why"), rows, indent=2)
    screen.follow(f"slackwater task run {words.last(answer.task.name)} --dry-run")


@command(app, "create", "slackwater task create nightly --group demo --quiesce db --keep-daily 7")
def create(
    session: Session,
    task: Task,
    file: File = None,
    group: GroupOption = None,
    quiesce: Annotated[
        list[str] | None,
        typer.Option("--quiesce", help="Have this application's agent hold it.", metavar="APP"),
    ] = None,
    link: Link = None,
    keep_last: Annotated[int, typer.Option(help="Keep the newest so many.", min=0)] = 0,
    keep_hourly: Annotated[int, typer.Option(help="Newest of so many hours.", min=0)] = 0,
    keep_daily: Annotated[int, typer.Option(help="Newest of so many days.", min=0)] = 0,
    keep_weekly: Annotated[int, typer.Option(help="Newest of so many weeks.", min=0)] = 0,
    replace: Replace = False,
    dry_run: Validate = False,
) -> None:
    """Make a task, from YAML as docs/tasks.md has it, from options, or both (options win).

    Without steps the Secondary takes the snapshot by itself and never stands still.
    """
    made = snapshot_pb2.Task()
    if file is not None:
        read_definition(file, made)
    made.name = resource(task, "tasks")
    if group is not None:
        made.group = words.group_name(group)
    if quiesce:
        made.quiesce.applications[:] = quiesce
    if link:
        made.links[:] = link
    rules = {
        "keep_last": keep_last,
        "keep_hourly": keep_hourly,
        "keep_daily": keep_daily,
        "keep_weekly": keep_weekly,
    }
    for name, number in rules.items():
        if number:
            setattr(made.retention, name, number)
    found: snapshot_pb2.Task
    identity = str(uuid.uuid4())
    if replace:
        update = snapshot_pb2.UpdateTaskRequest(
            task=made, request_id=identity, validate_only=dry_run
        )
        found = session.call("snapshot", session.snapshot.UpdateTask, update, hint=HINT).task
    else:
        new = snapshot_pb2.CreateTaskRequest(task=made, request_id=identity, validate_only=dry_run)
        found = session.call("snapshot", session.snapshot.CreateTask, new, hint=HINT).task
    session.screen.resource(found, _facts(found))
    if dry_run:
        session.screen.note("nothing was changed")
    else:
        session.screen.done(
            f"{made.name} is {'replaced' if replace else 'made'}",
            f"slackwater task run {words.last(made.name)} --dry-run",
        )


@command(app, "delete", "slackwater task delete nightly --yes")
def delete(session: Session, task: Task, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a task; its runs stay in the list, its snapshots where they are."""
    request = snapshot_pb2.DeleteTaskRequest(name=resource(task, "tasks"), validate_only=True)
    answer = session.call("snapshot", session.snapshot.DeleteTask, request, hint=HINT)
    shown_as = f"task {words.last(request.name)}"
    if not confirm(session, list(answer.losses), shown_as, yes, dry_run):
        return
    request.validate_only = False
    answer = session.call("snapshot", session.snapshot.DeleteTask, request, hint=HINT)
    session.screen.removed(shown_as, answer.losses)


@command(app, "run", "slackwater task run nightly --group demo --all")
def run(
    session: Session,
    task: Task,
    group: GroupOption = None,
    link: Link = None,
    every: Annotated[bool, typer.Option("--all", help="Along every attached link.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--validate-only", help="Show the plan, start nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start it, do not follow it.")] = False,
    request_id: Annotated[
        str | None,
        typer.Option(help="A repeated call gets the first run.", metavar="ID"),
    ] = None,
) -> None:
    """Run a task on one or many Secondaries, and follow it to its end.

    Ends with 0 only if every Secondary succeeded. Ctrl-C asks for the end of the run and waits for
    it; a second one leaves at once.
    """
    if link and every:
        raise usage("--all and --link together", "give one of them", "links")
    request = snapshot_pb2.StartTaskRequest(
        name=resource(task, "tasks"),
        group=words.group_name(group) if group else "",
        links=link,
        all_links=every,
        validate_only=dry_run,
        request_id=request_id or str(uuid.uuid4()),
    )
    answer = session.call("snapshot", session.snapshot.StartTask, request, hint=HINT)
    if dry_run:
        shown.show_plan(session, answer.plan)
        return
    if detach:
        session.screen.resource(answer.run, [("run", answer.run.name)])
        session.screen.follow(f"slackwater run watch {shown.run_word(answer.run.name)}")
        return
    over = follow(session, answer.run, cancels=True)
    shown.show_run(session, over)
    shown.refuse_failed(over)


def alarm_about(session: Session, problems: list[snapshot_pb2.FileProblem]) -> None:
    """Say which files of definitions cannot be used."""
    for row in problems:
        where = f"{row.file}:{row.line}" if row.line else row.file
        session.screen.alarm(": ".join(part for part in (where, row.field, row.problem) if part))


def keeps(rules: snapshot_pb2.Retention) -> str:
    """Which snapshots are kept, in words."""
    found = {
        "last": rules.keep_last,
        "hourly": rules.keep_hourly,
        "daily": rules.keep_daily,
        "weekly": rules.keep_weekly,
    }
    return words.listed(f"{number} {name}" for name, number in found.items() if number)


def _step(step: snapshot_pb2.TaskStep) -> str:
    action = step.WhichOneof("action") or "-"
    detail = ""
    if action == "command":
        detail = " " + " ".join(step.command.arguments)
    elif action == "fsck" and step.fsck.volumes:
        detail = " " + ", ".join(step.fsck.volumes)
    return f"{step.name}: {action}{detail}" if step.name else f"{action}{detail}"


def _steps(task: snapshot_pb2.Task) -> list[str]:
    return [
        step.name or step.WhichOneof("action") or "-"
        for phase in PHASES
        for step in getattr(task, phase)
    ]


def _facts(task: snapshot_pb2.Task) -> list[tuple[str, str]]:
    def length(name: Literal["fence_timeout", "step_timeout", "deliver_timeout"]) -> str:
        return words.duration(getattr(task, name)) if task.HasField(name) else ""

    behaviour = common_pb2.MessageBehaviour.Name(task.behaviour)
    quiesce = words.listed(task.quiesce.applications)
    return [
        ("task", task.name),
        ("source", task.source),
        ("group", task.group),
        ("application", task.application),
        ("behaviour", words.word(behaviour, "MESSAGE_BEHAVIOUR_")),
        ("quiesces", quiesce),
        ("links", words.listed(task.links)),
        ("fence", ("yes" if task.fence else "no") if task.HasField("fence") else ""),
        ("fence timeout", length("fence_timeout")),
        ("step timeout", length("step_timeout")),
        ("deliver timeout", length("deliver_timeout")),
        ("snapshots", f"{task.snapshot_prefix}-..." if task.snapshot_prefix else ""),
        ("keeps", keeps(task.retention) if task.HasField("retention") else "all"),
    ]
