"""All schedules: those of the API, durable in the service's file, and those of files.

A file is `<tasks_dir>/<task>/<schedule>.schedule.yaml`, beside the task that it runs. What became
of a schedule so far (its cursor, what it missed, its last run) is kept apart, for both kinds.
"""

from collections.abc import Callable
from pathlib import Path

from services.snapshot.documents import Documents
from services.snapshot.schedules import timetable
from slackwater import names
from slackwater.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from slackwater.runtime import calls, yamlfile
from slackwater.runtime.trust import distrust
from slackwater.v1 import snapshot_pb2

SUFFIX = ".schedule.yaml"
SOURCE_API = "api"
LIMIT = 1000

Schedule = snapshot_pb2.Schedule
FileProblem = snapshot_pb2.FileProblem
Told = Callable[[str, str, str], None]

_REFUSED = {
    "name": "the file's name is the schedule's name",
    "task": "the directory's name is the task's name",
    **dict.fromkeys(
        ("next_time", "last_run", "last_time", "missed", "missed_reason", "source"),
        "the service fills it in",
    ),
}
OUTPUT = ("next_time", "last_run", "last_time", "missed", "missed_reason")
"""Fields that only the service writes."""


class Schedules:
    """The definitions of the service's schedules."""

    def __init__(self, documents: Documents[Schedule], directory: Path, told: Told) -> None:
        """Know no file yet.

        Args:
            documents: Schedules of the API.
            directory: Where each task has its directory.
            told: Called with resource, kind and sentence when something changes.
        """
        self._documents = documents
        self._made = documents.all()
        self._directory = directory
        self._told = told
        self._files: dict[str, Schedule] = {}
        self._bad: list[FileProblem] = []

    @property
    def problems(self) -> list[FileProblem]:
        """Files that cannot be used as they are."""
        clashes = [
            FileProblem(
                file=row.source,
                problem="the API has a schedule of this name, which counts. Delete one of the two",
            )
            for key, row in sorted(self._files.items())
            if key in self._made
        ]
        return [*self._bad, *clashes]

    async def refresh(self) -> None:
        """Look at the files again."""
        before, bad = self._files, self._bad
        self._files, self._bad = await calls.in_thread(_scan, self._directory)
        for key in sorted(before.keys() | self._files.keys()):
            if before.get(key) != self._files.get(key):
                gone = key not in self._files
                kind = "SCHEDULE_FILE_GONE" if gone else "SCHEDULE_FILE_READ"
                text = "the schedule's file is gone" if gone else "the schedule's file was read"
                self._told(f"schedules/{key}", kind, text)
        for problem in self._bad:
            if problem not in bad:
                where = f"{problem.file}:{problem.line}: {problem.field}: {problem.problem}"
                self._told("schedules", "SCHEDULE_FILE_BAD", where)

    def all(self) -> list[Schedule]:
        """Return every schedule as it is defined, in the order of names."""
        rows = self._files | self._made
        return [rows[key] for key in sorted(rows)]

    def get(self, name: str, field: str = "name") -> Schedule:
        """Return a schedule by its resource name.

        Raises:
            InvalidRequest: it is no schedule's name.
            NotFound: there is no such schedule.
        """
        (key,) = names.parse(field, name, "schedules")
        found = self._made.get(key) or self._files.get(key)
        if found is None:
            raise NotFound("schedule", name, "List them with: slackwater schedule list")
        return found

    def create(self, schedule: Schedule, *, validate_only: bool) -> Schedule:
        """Make a schedule.

        Raises:
            InvalidRequest: it cannot work.
            AlreadyExists: there is one of that name.
        """
        key, checked = _checked(schedule)
        if key in self._made or key in self._files:
            raise AlreadyExists(
                "schedule", schedule.name, "Choose another name, or update that one"
            )
        if len(self._made) >= LIMIT:
            raise FailedPrecondition(
                "TOO_MANY_SCHEDULES", f"there are {LIMIT} schedules", "Delete one"
            )
        if not validate_only:
            self._put(key, checked, "SCHEDULE_CREATED")
        return checked

    def update(self, schedule: Schedule, *, validate_only: bool) -> Schedule:
        """Replace a schedule.

        Raises:
            InvalidRequest: it cannot work.
            NotFound: there is no such schedule.
            FailedPrecondition: it stands in a file.
        """
        key, checked = _checked(schedule)
        self._check_ours(schedule.name, "schedule.name")
        if not validate_only:
            self._put(key, checked, "SCHEDULE_UPDATED")
        return checked

    def delete(self, name: str, *, validate_only: bool) -> list[str]:
        """Remove a schedule; returns what is lost.

        Raises:
            NotFound: there is no such schedule.
            FailedPrecondition: it stands in a file.
        """
        self._check_ours(name, "name")
        (key,) = names.parse("name", name, "schedules")
        if not validate_only:
            self._documents.remove(key)
            del self._made[key]
            self._told(name, "SCHEDULE_DELETED", "the schedule was deleted")
        return [f"the definition of {name}, and what it counts; a run of it goes on"]

    def _check_ours(self, name: str, field: str) -> None:
        found = self.get(name, field)
        if found.source != SOURCE_API:
            raise FailedPrecondition(
                "SCHEDULE_OF_FILE", f"{name} stands in {found.source}", "Change the file"
            )

    def _put(self, key: str, schedule: Schedule, kind: str) -> None:
        self._documents.put(key, schedule)
        self._made[key] = schedule
        self._told(schedule.name, kind, "the schedule was defined over the API")


def _checked(schedule: Schedule) -> tuple[str, Schedule]:
    """Return the id and a schedule of the API as it will be kept."""
    (key,) = names.parse("schedule.name", schedule.name, "schedules")
    timetable.check(schedule)
    kept = Schedule()
    kept.CopyFrom(schedule)
    for name in OUTPUT:
        kept.ClearField(name)  # type: ignore[arg-type]  # names of its fields
    kept.source = SOURCE_API
    return key, kept


def _scan(directory: Path) -> tuple[dict[str, Schedule], list[FileProblem]]:
    """Read every file of a schedule; there are few, and they are small."""
    found: dict[str, Schedule] = {}
    bad: list[FileProblem] = []
    try:
        files = sorted(directory.glob(f"*/*{SUFFIX}"))
    except OSError:
        return found, bad  # the tasks beside them say so
    for file in files[:LIMIT]:
        key = file.name.removesuffix(SUFFIX)
        try:
            row = _read(file, key)
        except yamlfile.BadFile as error:
            bad.append(
                FileProblem(
                    file=str(file), line=error.line, field=error.field, problem=error.problem
                )
            )
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}. Mend its permissions"
            bad.append(FileProblem(file=str(file), problem=problem))
        else:
            if key in found:
                problem = f"{found[key].source} has this name, and counts. Rename one"
                bad.append(FileProblem(file=str(file), problem=problem))
            found.setdefault(key, row)
    return found, bad


def _read(file: Path, key: str) -> Schedule:
    for path in (file.parent.parent, file.parent, file):
        problem = distrust(path)
        if problem:
            raise yamlfile.BadFile(0, "", f"{path} {problem}", f"chmod go-w {path}, or chown it")
    task = names.resource("tasks", file.parent.name)
    try:
        names.check_label("the file's name", key)
        names.parse("the directory's name", task, "tasks")
    except InvalidRequest as error:
        raise yamlfile.BadFile(0, "", f"{error.field} {error.problem}", error.next_step) from error
    if file.stat().st_size > yamlfile.FILE_LIMIT_BYTES:
        raise yamlfile.BadFile(0, "", "the file is larger than 256 KiB")
    schedule = Schedule(name=names.resource("schedules", key), task=task, source=str(file))
    try:
        lines = yamlfile.read(file.read_text("utf-8"), schedule, _REFUSED)
    except UnicodeDecodeError as error:
        raise yamlfile.BadFile(0, "", "the file is not UTF-8") from error
    try:
        timetable.check(schedule, "")
    except InvalidRequest as error:
        raise lines.bad(error) from error
    return schedule
