"""All tasks: those of the API, durable in the service's file, and those of files.

A file is `<tasks_dir>/<task>/task.yaml`. Files are looked at again whenever tasks are asked for and
every few seconds, so a change needs no signal. A file that cannot be used takes its task away and
nothing else: the task is not started by what it was before, and the problem is shown. A task whose
programs cannot be run is there, is not started, and the problem is shown too.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from services.snapshot.documents import Documents
from services.snapshot.store import BUILT_IN
from services.snapshot.tasks import model, programs
from slackwater import names
from slackwater.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from slackwater.runtime import calls, yamlfile
from slackwater.runtime.trust import distrust
from slackwater.v1 import snapshot_pb2

FILE = "task.yaml"
SOURCE_API = "api"
TASKS_LIMIT = 1000

_REFUSED = {
    "name": "the directory's name is the task's name",
    "source": "the service fills it in",
}

FileProblem = snapshot_pb2.FileProblem
Task = snapshot_pb2.Task
Signature = tuple[object, ...]
Told = Callable[[str, str, str], None]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a file said when it had this signature."""

    signature: Signature
    task: Task | None
    problem: FileProblem | None
    lines: yamlfile.Lines | None = None
    programs: tuple[FileProblem, ...] = ()


class Catalogue:
    """The tasks of the service."""

    def __init__(self, documents: Documents[Task], directory: Path, told: Told) -> None:
        """Know no file yet.

        Args:
            documents: Tasks of the API.
            directory: Where each task has its directory.
            told: Called with resource, kind and sentence when something changes.
        """
        self.directory = directory
        self._documents = documents
        self._made = documents.all()
        self._told = told
        self._read: dict[str, _Read] = {}
        self._programs_of_made: dict[str, tuple[FileProblem, ...]] = {}
        self._lock = asyncio.Lock()

    @property
    def problems(self) -> list[FileProblem]:
        """Files and programs that cannot be used as they are."""
        found = [row.problem for _, row in sorted(self._read.items()) if row.problem]
        clashes = [self._clash(key) for key in sorted(self._made) if key in self._files()]
        names_of_tasks = sorted(self._files().keys() | self._made.keys())
        return [*found, *clashes, *chain(*map(self.program_problems, names_of_tasks))]

    def program_problems(self, task_id: str) -> tuple[FileProblem, ...]:
        """Return what was wrong with a task's programs when they were last looked at."""
        if task_id in self._made:
            return self._programs_of_made.get(task_id, ())
        row = self._read.get(task_id)
        return () if row is None else row.programs

    def directory_of(self, task_id: str) -> Path:
        """Return where the commands of a task are."""
        return self.directory / task_id

    async def refresh(self) -> None:
        """Look at the files again."""
        async with self._lock:
            before = self._read
            self._read = await calls.in_thread(_scan, self.directory, before)
            self._programs_of_made = await calls.in_thread(self._look_at_programs, self._made)
            self._tell(before, self._read)

    def all(self) -> list[Task]:
        """Return every task, in the order of names."""
        tasks = self._files() | self._made
        return [tasks[key] for key in sorted(tasks)]

    def get(self, name: str, field: str = "name") -> Task:
        """Return a task by its resource name.

        Raises:
            InvalidRequest: it is no task's name.
            NotFound: there is no such task.
            FailedPrecondition: its file has an error.
        """
        (task_id,) = names.parse(field, name, "tasks")
        if task_id in self._made:
            return self._made[task_id]
        row = self._read.get(task_id)
        if row is not None and row.task is not None:
            return row.task
        if row is not None and row.problem is not None:
            raise FailedPrecondition("TASK_FILE_BAD", sentence(row.problem), "Mend the file")
        raise NotFound("task", name, f"Make it, or write {self.directory_of(task_id) / FILE}")

    def create(self, task: Task, *, validate_only: bool) -> Task:
        """Make a task.

        Raises:
            InvalidRequest: it cannot work.
            AlreadyExists: there is one of that name.
        """
        checked = _checked(task)
        task_id = model.id_of(checked)
        if task_id in self._made or task_id in self._read:
            raise AlreadyExists("task", task.name, "Choose another name, or update that one")
        if len(self._made) >= TASKS_LIMIT:
            raise FailedPrecondition(
                "TOO_MANY_TASKS", f"there are {TASKS_LIMIT} tasks", "Delete one"
            )
        return checked if validate_only else self._put(task_id, checked, "TASK_CREATED")

    def update(self, task: Task, *, validate_only: bool) -> Task:
        """Replace a task.

        Raises:
            InvalidRequest: it cannot work.
            NotFound: there is no such task.
            FailedPrecondition: it stands in a file.
        """
        checked = _checked(task)
        task_id = self._ours(task.name, "task.name")
        return checked if validate_only else self._put(task_id, checked, "TASK_UPDATED")

    def delete(self, name: str, *, validate_only: bool) -> list[str]:
        """Remove a task; returns what is lost.

        Raises:
            NotFound: there is no such task.
            FailedPrecondition: it stands in a file.
        """
        task_id = self._ours(name, "name")
        if not validate_only:
            self._documents.remove(task_id)
            del self._made[task_id]
            self._told(name, "TASK_DELETED", "the task was deleted")
        return [f"the definition of {name}; its runs stay in the list of runs"]

    def _ours(self, name: str, field: str) -> str:
        """Return the id of a task that the API may change."""
        (task_id,) = names.parse(field, name, "tasks")
        if task_id in self._made:
            return task_id
        if task_id in self._read:
            raise FailedPrecondition(
                "TASK_IN_FILE",
                f"{name} is defined by {self.directory_of(task_id) / FILE}",
                "Edit that file",
            )
        raise NotFound("task", name, "List the tasks with ListTasks")

    def _put(self, task_id: str, task: Task, kind: str) -> Task:
        self._documents.put(task_id, task)
        self._made[task_id] = task
        self._told(task.name, kind, "the task was defined over the API")
        return task

    def _look_at_programs(self, tasks: dict[str, Task]) -> dict[str, tuple[FileProblem, ...]]:
        return {
            key: programs.problems(self.directory_of(key), task, None, None)
            for key, task in list(tasks.items())
        }

    def _files(self) -> dict[str, Task]:
        return {key: row.task for key, row in self._read.items() if row.task is not None}

    def _clash(self, task_id: str) -> FileProblem:
        return FileProblem(
            file=str(self.directory_of(task_id) / FILE),
            problem="the API has a task of this name, which counts. Delete one of the two",
        )

    def _tell(self, before: dict[str, _Read], now: dict[str, _Read]) -> None:
        for key in sorted(before.keys() | now.keys()):
            old, new = before.get(key), now.get(key)
            if old == new:
                continue
            name = f"tasks/{key}" if key else "tasks"
            if new is None:
                self._told(name, "TASK_FILE_GONE", "the task's file is gone")
            elif new.problem is not None:
                self._told(name, "TASK_FILE_BAD", sentence(new.problem))
            elif new.programs:
                self._told(name, "TASK_PROGRAM_BAD", sentence(new.programs[0]))
            else:
                self._told(name, "TASK_FILE_READ", "the task's file was read")


def sentence(problem: FileProblem) -> str:
    """Return a problem as `file:line: field: what`."""
    where = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return ": ".join(part for part in (where, problem.field, problem.problem) if part)


def _checked(task: Task) -> Task:
    """Return a task of the API as it will be kept."""
    (task_id,) = names.parse("task.name", task.name, "tasks")
    if task_id == BUILT_IN:
        raise InvalidRequest("task.name", f"{task_id!r} is the built-in task", "Choose another")
    model.check(task)
    kept = Task()
    kept.CopyFrom(task)
    kept.source = SOURCE_API
    return kept


def _scan(directory: Path, known: dict[str, _Read]) -> dict[str, _Read]:
    """Read what changed below the directory of tasks."""
    found: dict[str, _Read] = {}
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return found
    except OSError as error:
        return {"": _unreadable(directory, error)}
    for path in entries:
        file = path / FILE
        try:
            signature = _signature(directory, path, file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            found[path.name] = _unreadable(file, error)
            continue
        row = known.get(path.name)
        if row is None or row.signature != signature:
            row = _read(file, signature)
        if row.task is not None:
            row = replace(row, programs=programs.problems(path, row.task, file, row.lines))
        found[path.name] = row
    return found


def _unreadable(path: Path, error: OSError) -> _Read:
    problem = f"it cannot be read: {error.strerror}. Mend its permissions"
    return _Read((), None, FileProblem(file=str(path), problem=problem))


def _signature(*paths: Path) -> Signature:
    """Return what changes when one of the files does."""
    rows = (path.stat() for path in paths)
    *above, file = [
        (row.st_ino, row.st_uid, row.st_mode, row.st_mtime_ns, row.st_size) for row in rows
    ]
    return (*(row[:3] for row in above), file)


def _read(file: Path, signature: Signature) -> _Read:
    try:
        task, lines = _task(file)
        return _Read(signature, task, None, lines)
    except yamlfile.BadFile as error:
        problem = FileProblem(
            file=str(file), line=error.line, field=error.field, problem=error.problem
        )
    except OSError as error:
        return _Read(signature, None, _unreadable(file, error).problem)
    return _Read(signature, None, problem)


def _task(file: Path) -> tuple[Task, yamlfile.Lines]:
    """Read one task, and where its fields stand.

    Raises:
        BadFile: it cannot be used.
        OSError: it cannot be read.
    """
    task_id = file.parent.name
    for path in (file.parent.parent, file.parent, file):
        problem = distrust(path)
        if problem:
            raise yamlfile.BadFile(0, "", f"{path} {problem}", f"chmod go-w {path}, or chown it")
    if task_id == BUILT_IN:
        raise yamlfile.BadFile(
            0, "", "the built-in task has this name", "Give the directory another"
        )
    try:
        names.check_label("the directory's name", task_id)
    except InvalidRequest as error:
        raise yamlfile.BadFile(0, "", f"{error.field} {error.problem}", error.next_step) from error
    task = Task(name=names.resource("tasks", task_id), source=str(file))
    lines = yamlfile.read(_text(file), task, _REFUSED)
    try:
        model.check(task, "")
    except InvalidRequest as error:
        raise lines.bad(error) from error
    return task, lines


def _text(file: Path) -> str:
    if file.stat().st_size > yamlfile.FILE_LIMIT_BYTES:
        raise yamlfile.BadFile(0, "", "the file is larger than 256 KiB")
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise yamlfile.BadFile(0, "", "the file is not UTF-8") from error
