"""What a run of a task would do, step by step, before it does it."""

import shlex
from collections.abc import Iterator, Sequence

from google.protobuf.duration_pb2 import Duration

from services.snapshot.tasks import model
from services.snapshot.tasks.actions import THERE
from slackwater.v1 import common_pb2, snapshot_pb2

PlannedStep = snapshot_pb2.PlannedStep


def plan(task: snapshot_pb2.Task, group: str, links: Sequence[str]) -> list[PlannedStep]:
    """Return the steps of a run, in order.

    Args:
        task: The task, with its defaults filled in.
        group: `groups/<group>`.
        links: Ids of the links it takes in.
    """
    return list(_steps(task, group, links))


def _steps(task: snapshot_pb2.Task, group: str, links: Sequence[str]) -> Iterator[PlannedStep]:
    stands = task.behaviour == model.FREEZE
    for link in links:
        yield from _task_steps(task.prefreeze, link, "")
    name = f"application {task.application}, if it is not registered"
    yield PlannedStep(step="register", where="primary", detail=name)
    if stands:
        for link in links:
            yield PlannedStep(step="register", where="secondary", detail=name, link=link)
            waiting = f"wait for the message of {task.application} under a lease"
            yield PlannedStep(step="hold", where="secondary", detail=waiting, link=link)
    yield from _primary(task, group)
    for link in links:
        yield from _secondary(task, link, stands=stands)
    yield PlannedStep(step="unregister", where="primary", detail="what was registered here")


def _primary(task: snapshot_pb2.Task, group: str) -> Iterator[PlannedStep]:
    if task.HasField("quiesce"):
        who = ", ".join(task.quiesce.applications)
        yield PlannedStep(
            step="quiesce",
            where="primary",
            holds=f"{who}: each at most {model.seconds(task.quiesce.max_hold):g} s",
            timeout=task.quiesce.timeout,
            detail=f"agents of {who}, all at once",
        )
    behaviour = common_pb2.MessageBehaviour.Name(task.behaviour)
    word = behaviour.removeprefix("MESSAGE_BEHAVIOUR_")
    send = PlannedStep(step="send", where="primary", detail=f"message {word} to {task.application}")
    if task.fence:
        send.holds = f"writes to {group}: at most {model.seconds(task.fence_timeout):g} s"
        send.timeout.CopyFrom(task.fence_timeout)
    yield send


def _secondary(task: snapshot_pb2.Task, link: str, *, stands: bool) -> Iterator[PlannedStep]:
    def there(step: str, detail: str, timeout: Duration | None = None) -> PlannedStep:
        return PlannedStep(step=step, where="secondary", detail=detail, timeout=timeout, link=link)

    wait = task.deliver_timeout
    if stands:
        yield there("receive", "the replica stands at the message", wait)
        yield from _task_steps(task.onfreeze, link, f"applying on {link}; receiving goes on")
        yield there("unfreeze", "always, whatever became of the steps")
    elif task.behaviour == model.SNAPSHOT:
        yield there("snapshot", "taken by the Secondary itself at the message", wait)
    else:
        yield there("notify", "into the inbox at the message", wait)
    if task.HasField("quiesce") and (stands or task.behaviour == model.SNAPSHOT):
        yield there("outcome", "what the quiesce was worth is applied: the grade")
    yield from _task_steps(task.postfreeze, link, "")
    if any(step.HasField("clone") for step in (*task.onfreeze, *task.postfreeze)):
        yield there("unclone", "the run's clone goes, with what was written to it")
    if any(step.HasField("export") for step in (*task.onfreeze, *task.postfreeze)):
        yield there("unexport", "what the run exported")
    if stands:
        yield there("unregister", "what was registered here")


def _task_steps(
    steps: Sequence[snapshot_pb2.TaskStep], link: str, holds: str
) -> Iterator[PlannedStep]:
    for step in steps:
        action = step.WhichOneof("action")
        yield PlannedStep(
            step=step.name,
            where="secondary" if action in THERE else "manager",
            holds=holds,
            timeout=step.timeout,
            detail=_detail(step),
            link=link,
        )


def _detail(step: snapshot_pb2.TaskStep) -> str:
    action = step.WhichOneof("action")
    if action == "command":
        return shlex.join(step.command.arguments)
    if action == "fsck":
        what = ", ".join(step.fsck.volumes) or "every volume with a file system"
        return f"check {what} on a temporary copy"
    if action == "clone":
        return "make a writable clone and serve it over NBD until the run is over"
    if action == "refresh":
        return f"move snapshot {step.refresh.snapshot} on to the message; make it the first time"
    if action == "export":
        return "serve the snapshot over NBD until the run is over"
    return "take the snapshot of the group at the message"
