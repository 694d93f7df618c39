"""Whether the programs that a task names are there and may be run; said before they are needed."""

from pathlib import Path

from services.snapshot.tasks import model, trust
from slackwater.runtime.yamlfile import Lines
from slackwater.v1 import snapshot_pb2

FileProblem = snapshot_pb2.FileProblem


def problems(
    directory: Path, task: snapshot_pb2.Task, file: Path | None, lines: Lines | None
) -> tuple[FileProblem, ...]:
    """Return what is wrong with the programs of a task, one entry for each step.

    Args:
        directory: The task's own, where its programs are.
        task: The task.
        file: Where it is defined, if that is a file; else the directory is named.
        lines: Where its fields stand in that file.
    """
    found = []
    for phase in model.PHASES:
        for number, step in enumerate(getattr(task, phase)):
            if not step.HasField("command"):
                continue
            problem = trust.program_problem(directory, step.command.arguments[0])
            if problem:
                field = f"{phase}[{number}].command"
                line = 0 if lines is None else lines.of(field)
                where = str(file or directory)
                found.append(FileProblem(file=where, line=line, field=field, problem=problem))
    return tuple(found)
