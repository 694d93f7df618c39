"""What a task may be, whether it comes from a file or over the API.

`check` refuses what cannot work, naming the field; `effective` fills in what was left out. Both
take the message of the API: it is what is kept, shown and run.

The pairs that must fit: a replica that stands (FREEZE) needs work to do while it stands (onfreeze);
what reads a snapshot (export, fsck, clone) needs one that was taken before it, by the Secondary
itself (SNAPSHOT) or by a `snapshot` or `refresh` step of onfreeze.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from slackwater import names
from slackwater.errors import InvalidRequest
from slackwater.v1 import common_pb2, snapshot_pb2

Task = snapshot_pb2.Task
TaskStep = snapshot_pb2.TaskStep

FREEZE = common_pb2.MESSAGE_BEHAVIOUR_FREEZE
NOTIFY = common_pb2.MESSAGE_BEHAVIOUR_NOTIFY
SNAPSHOT = common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT

PHASES = ("prefreeze", "onfreeze", "postfreeze")
READING = frozenset({"export", "fsck", "clone"})
"""Steps that need a snapshot."""
STEP_SECONDS, DELIVER_SECONDS = 300.0, 600.0
QUIESCE_SECONDS, MAX_HOLD_SECONDS, FENCE_SECONDS = 30.0, 10.0, 1.0
DAY_SECONDS, HOUR_SECONDS, FENCE_LIMIT_SECONDS = 86_400.0, 3600.0, 60.0
STEPS_LIMIT, LINKS_LIMIT, APPLICATIONS_LIMIT = 16, 64, 32
BODY_LIMIT_BYTES, ARGUMENTS_LIMIT_BYTES = 128 << 10, 32 << 10
PREFIX_LIMIT = 40
"""The time and four letters follow in a snapshot's name, which has at most 63 characters."""


def check(task: Task, at: str = "task.") -> None:
    """Raise InvalidRequest for what cannot work; `at` comes before the names of fields."""
    if task.group:
        names.group(f"{at}group", task.group)
    if task.application:
        names.check_label(f"{at}application", task.application)
    _check_prefix(task, at)
    _check_labels(f"{at}links", task.links, LINKS_LIMIT)
    if len(task.body.encode()) > BODY_LIMIT_BYTES:
        raise InvalidRequest(f"{at}body", "is longer than 128 KiB", "Give at most 131072 bytes")
    _check_times(task, at)
    _check_quiesce(task, at)
    _check_retention(task, at)
    _check_pairs(task, at)
    for phase in PHASES:
        steps = getattr(task, phase)
        if len(steps) > STEPS_LIMIT:
            raise InvalidRequest(f"{at}{phase}", f"has more than {STEPS_LIMIT} steps")
        for number, step in enumerate(steps):
            _check_step(step, f"{at}{phase}[{number}]")


def effective(task: Task) -> Task:
    """Return the task with everything said that was left out."""
    full = Task()
    full.CopyFrom(task)
    identity = id_of(task)
    full.application = task.application or identity
    full.snapshot_prefix = task.snapshot_prefix or identity
    full.behaviour = behaviour_of(task)
    if not task.HasField("fence"):
        full.fence = task.HasField("quiesce")
    _default(full.step_timeout, task.HasField("step_timeout"), STEP_SECONDS)
    _default(full.deliver_timeout, task.HasField("deliver_timeout"), DELIVER_SECONDS)
    if full.fence:
        _default(full.fence_timeout, task.HasField("fence_timeout"), FENCE_SECONDS)
    if task.HasField("quiesce"):
        asked = task.quiesce
        _default(full.quiesce.timeout, asked.HasField("timeout"), QUIESCE_SECONDS)
        _default(full.quiesce.max_hold, asked.HasField("max_hold"), MAX_HOLD_SECONDS)
    for phase in PHASES:
        for step in getattr(full, phase):
            step.name = name_of(step)
            if not step.HasField("timeout"):
                step.timeout.CopyFrom(full.step_timeout)
    return full


def id_of(task: Task) -> str:
    """Return t of `tasks/t`."""
    return names.parse("task.name", task.name, "tasks")[0]


def behaviour_of(task: Task) -> common_pb2.MessageBehaviour.ValueType:
    """Return what Secondaries do at its messages."""
    return task.behaviour or (FREEZE if task.onfreeze else SNAPSHOT)


def name_of(step: TaskStep) -> str:
    """Return what a step is called in runs."""
    return step.name or step.WhichOneof("action") or ""


def seconds(duration: Duration) -> float:
    """Return a length of time in seconds."""
    return duration.ToNanoseconds() / 1e9


def _default(duration: Duration, is_given: bool, value: float) -> None:
    if not is_given:
        duration.FromNanoseconds(round(value * 1e9))


def _check_prefix(task: Task, at: str) -> None:
    if task.snapshot_prefix:
        names.check_label(f"{at}snapshot_prefix", task.snapshot_prefix)
    if len(task.snapshot_prefix or id_of(task)) > PREFIX_LIMIT:
        raise InvalidRequest(
            f"{at}snapshot_prefix",
            f"is longer than {PREFIX_LIMIT} characters",
            "A snapshot's name is this with the time; give a shorter one",
        )


def _check_labels(field: str, labels: Sequence[str], limit: int) -> None:
    if len(labels) > limit:
        raise InvalidRequest(field, f"has {len(labels)} entries, at most {limit}")
    for number, label in enumerate(labels):
        names.check_label(f"{field}[{number}]", label)
        if label in labels[:number]:
            raise InvalidRequest(f"{field}[{number}]", f"{label!r} is named twice")


def _check_times(task: Task, at: str) -> None:
    _check_seconds(task, "step_timeout", DAY_SECONDS, at)
    _check_seconds(task, "deliver_timeout", DAY_SECONDS, at)
    _check_seconds(task, "fence_timeout", FENCE_LIMIT_SECONDS, at)
    for phase in PHASES:
        for number, step in enumerate(getattr(task, phase)):
            _check_seconds(step, "timeout", DAY_SECONDS, f"{at}{phase}[{number}].")


def _check_seconds(message: Message, name: str, limit: float, at: str) -> None:
    if message.HasField(name) and not 0 < seconds(getattr(message, name)) <= limit:
        raise InvalidRequest(
            f"{at}{name}",
            f"{seconds(getattr(message, name)):g} s is not more than 0 and at most {limit:g} s",
            "Leave it out for the default",
        )


def _check_quiesce(task: Task, at: str) -> None:
    if not task.HasField("quiesce"):
        return
    field = f"{at}quiesce.applications"
    if not task.quiesce.applications:
        raise InvalidRequest(field, "names nobody", "Name the agents, or leave quiesce out")
    _check_labels(field, task.quiesce.applications, APPLICATIONS_LIMIT)
    for name in ("timeout", "max_hold"):
        _check_seconds(task.quiesce, name, HOUR_SECONDS, f"{at}quiesce.")


def _check_retention(task: Task, at: str) -> None:
    if not task.HasField("retention"):
        return
    rules = task.retention
    if not any((rules.keep_last, rules.keep_hourly, rules.keep_daily, rules.keep_weekly)):
        raise InvalidRequest(
            f"{at}retention", "keeps nothing", "Give keep_last at least, or leave it out"
        )


def _check_pairs(task: Task, at: str) -> None:
    """Every step must find what it works on."""
    behaviour = behaviour_of(task)
    if behaviour not in (FREEZE, NOTIFY, SNAPSHOT):
        raise InvalidRequest(f"{at}behaviour", f"{behaviour} is not known", "Leave it out")
    word = common_pb2.MessageBehaviour.Name(behaviour).removeprefix("MESSAGE_BEHAVIOUR_")
    if behaviour == FREEZE and not task.onfreeze:
        raise InvalidRequest(
            f"{at}behaviour",
            "FREEZE lets a replica stand, and onfreeze has nothing to do there",
            "Give onfreeze a snapshot step, or leave behaviour out for SNAPSHOT",
        )
    if behaviour != FREEZE and task.onfreeze:
        raise InvalidRequest(
            f"{at}onfreeze",
            f"has steps, and with behaviour {word} a replica never stands",
            "Leave behaviour out, or move them to postfreeze",
        )
    has_snapshot = behaviour == SNAPSHOT
    for phase in PHASES:
        for number, step in enumerate(getattr(task, phase)):
            field = f"{at}{phase}[{number}]"
            action = step.WhichOneof("action")
            if action in ("snapshot", "refresh"):
                _check_snapshot_step(phase, has_snapshot, f"{field}.{action}")
                has_snapshot = True
            elif action in ("export", "fsck", "clone") and (
                not has_snapshot or phase == "prefreeze"
            ):
                raise InvalidRequest(
                    f"{field}.{action}",
                    "there is no snapshot yet for it to read",
                    "Put a snapshot step into onfreeze before it"
                    if phase != "prefreeze"
                    else "Move it to postfreeze",
                )


def _check_snapshot_step(phase: str, has_snapshot: bool, field: str) -> None:
    if phase != "onfreeze":
        raise InvalidRequest(
            field,
            f"in {phase} the replica does not stand at the message",
            "Move it to onfreeze; without onfreeze the Secondary takes the snapshot by itself",
        )
    if has_snapshot:
        raise InvalidRequest(field, "a run takes one snapshot", "Keep the first")


def _check_step(step: TaskStep, field: str) -> None:
    action = step.WhichOneof("action")
    if step.name:
        names.check_label(f"{field}.name", step.name)
    if action is None:
        known = ", ".join(row.name for row in TaskStep.DESCRIPTOR.oneofs_by_name["action"].fields)
        raise InvalidRequest(field, "does not say what to do", f"Give one of {known}")
    if action == "fsck":
        _check_labels(f"{field}.fsck.volumes", step.fsck.volumes, LINKS_LIMIT)
    if action == "refresh":
        names.check_label(f"{field}.refresh.snapshot", step.refresh.snapshot)
    if action == "command":
        check_command(step.command.arguments, f"{field}.command.arguments")


def check_command(arguments: Sequence[str], field: str) -> None:
    """Refuse what cannot be a program of a directory and its arguments.

    Raises:
        InvalidRequest: it cannot.
    """
    if not arguments or not arguments[0]:
        raise InvalidRequest(field, "names no program", "Name a file of the task's directory")
    if any("\0" in word for word in arguments):
        raise InvalidRequest(field, "a program cannot be given a zero byte")
    if sum(len(word.encode()) + 1 for word in arguments) > ARGUMENTS_LIMIT_BYTES:
        raise InvalidRequest(field, "is longer than 32 KiB", "Put the data into a file")
    program = PurePosixPath(arguments[0])
    if program.is_absolute() or ".." in program.parts:
        raise InvalidRequest(
            f"{field}[0]",
            f"{arguments[0]!r} is outside the task's directory",
            "Name a file below it, for example backup.sh; it may call programs of the system",
        )
