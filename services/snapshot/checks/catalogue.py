"""All named checks: those of the API, durable in the service's file, and those of files.

A file is `<tasks_dir>/<check>/check.yaml`; the programs of a check are beside it, as a task's are.
A file that cannot be used takes its check away and nothing else, and the problem is shown.
"""

from collections.abc import Callable
from pathlib import Path

from services.snapshot.documents import Documents
from services.snapshot.tasks import model
from slackwater import names
from slackwater.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from slackwater.runtime import calls, yamlfile
from slackwater.runtime.trust import distrust
from slackwater.v1 import snapshot_pb2

FILE = "check.yaml"
SOURCE_API = "api"
LIMIT = 1000
DEFAULT_SECONDS, MAX_SECONDS = 300, 86_400
VOLUMES_LIMIT = 64

Check = snapshot_pb2.Check
FileProblem = snapshot_pb2.FileProblem
Told = Callable[[str, str, str], None]

_REFUSED = {
    "name": "the directory's name is the check's name",
    "source": "the service fills it in",
}


class Checks:
    """The definitions of the service's checks."""

    def __init__(self, documents: Documents[Check], directory: Path, told: Told) -> None:
        """Know no file yet.

        Args:
            documents: Checks of the API.
            directory: Where each check has its directory.
            told: Called with resource, kind and sentence when something changes.
        """
        self._documents = documents
        self._made = documents.all()
        self._directory = directory
        self._told = told
        self._files: dict[str, Check] = {}
        self._bad: list[FileProblem] = []

    @property
    def problems(self) -> list[FileProblem]:
        """Files that cannot be used as they are."""
        text = "the API has a check of this name, which counts. Delete one of the two"
        clashes = [
            FileProblem(file=row.source, problem=text)
            for key, row in sorted(self._files.items())
            if key in self._made
        ]
        return [*self._bad, *clashes]

    async def refresh(self) -> None:
        """Look at the files again."""
        self._files, self._bad = await calls.in_thread(_scan, self._directory)

    def directory_of(self, check: Check) -> Path:
        """Return where the programs of a check are."""
        return self._directory / check.name.rpartition("/")[2]

    def all(self) -> list[Check]:
        """Return every check, in the order of names."""
        rows = self._files | self._made
        return [rows[key] for key in sorted(rows)]

    def get(self, name: str, field: str = "name") -> Check:
        """Return a check by its resource name.

        Raises:
            InvalidRequest: it is no check's name.
            NotFound: there is no such check.
            FailedPrecondition: its file has an error.
        """
        (key,) = names.parse(field, name, "checks")
        found = self._made.get(key) or self._files.get(key)
        file = str(self._directory / key / FILE)
        for problem in self._bad:
            if found is None and problem.file == file:
                where = f"{file}:{problem.line}: {problem.field}: {problem.problem}"
                raise FailedPrecondition("CHECK_FILE_BAD", where, "Mend the file")
        if found is None:
            raise NotFound("check", name, "List them with: slackwater check list")
        return found

    def create(self, check: Check, *, validate_only: bool) -> Check:
        """Make a check.

        Raises:
            InvalidRequest: it cannot work.
            AlreadyExists: there is one of that name.
            FailedPrecondition: there are too many.
        """
        key, checked = _checked(check)
        if key in self._made or key in self._files:
            raise AlreadyExists("check", check.name, "Choose another name, or update that one")
        if len(self._made) >= LIMIT:
            raise FailedPrecondition("TOO_MANY_CHECKS", f"there are {LIMIT} checks", "Delete one")
        return checked if validate_only else self._put(key, checked, "CHECK_CREATED")

    def update(self, check: Check, *, validate_only: bool) -> Check:
        """Replace a check.

        Raises:
            InvalidRequest: it cannot work.
            NotFound: there is no such check.
            FailedPrecondition: it stands in a file.
        """
        key, checked = _checked(check)
        self._check_ours(check.name, "check.name")
        return checked if validate_only else self._put(key, checked, "CHECK_UPDATED")

    def delete(self, name: str, *, validate_only: bool) -> list[str]:
        """Remove a check; returns what is lost.

        Raises:
            NotFound: there is no such check.
            FailedPrecondition: it stands in a file.
        """
        self._check_ours(name, "name")
        (key,) = names.parse("name", name, "checks")
        if not validate_only:
            self._documents.remove(key)
            del self._made[key]
            self._told(name, "CHECK_DELETED", "the check was deleted")
        return [f"the definition of {name}; what it found stays with the snapshots"]

    def _check_ours(self, name: str, field: str) -> None:
        found = self.get(name, field)
        if found.source != SOURCE_API:
            raise FailedPrecondition(
                "CHECK_OF_FILE", f"{name} stands in {found.source}", "Change the file"
            )

    def _put(self, key: str, check: Check, kind: str) -> Check:
        self._documents.put(key, check)
        self._made[key] = check
        self._told(check.name, kind, "the check was defined over the API")
        return check


def seconds_of(check: Check) -> float:
    """Return how long a check may take."""
    return check.timeout.ToNanoseconds() / 1e9 if check.HasField("timeout") else DEFAULT_SECONDS


def _checked(check: Check) -> tuple[str, Check]:
    """Return the id and a check of the API as it will be kept."""
    (key,) = names.parse("check.name", check.name, "checks")
    _check_fields(check, "check.")
    kept = Check()
    kept.CopyFrom(check)
    kept.source = SOURCE_API
    return key, kept


def _check_fields(check: Check, at: str) -> None:
    if check.group:
        names.group(f"{at}group", check.group)
    if not check.kind or check.kind not in snapshot_pb2.CheckKind.values():
        raise InvalidRequest(f"{at}kind", "is missing or not known", "Say FILE_SYSTEMS or COMMAND")
    if check.kind == snapshot_pb2.CHECK_KIND_COMMAND:
        model.check_command([check.command, *check.arguments], f"{at}command")
    elif check.command or check.arguments:
        raise InvalidRequest(f"{at}command", "is for the kind COMMAND", "Leave it out")
    if len(check.volumes) > VOLUMES_LIMIT:
        raise InvalidRequest(f"{at}volumes", f"has more than {VOLUMES_LIMIT} entries")
    for volume in check.volumes:
        names.check_label(f"{at}volumes", volume)
    if not 0 < seconds_of(check) <= MAX_SECONDS:
        raise InvalidRequest(f"{at}timeout", "is not more than 0 and at most 24 hours")


def _scan(directory: Path) -> tuple[dict[str, Check], list[FileProblem]]:
    """Read every file of a check; there are few, and they are small."""
    found: dict[str, Check] = {}
    bad: list[FileProblem] = []
    try:
        files = sorted(directory.glob(f"*/{FILE}"))
    except OSError:
        return found, bad  # the tasks beside them say so
    for file in files[:LIMIT]:
        try:
            found[file.parent.name] = _read(file)
        except yamlfile.BadFile as error:
            bad.append(
                FileProblem(
                    file=str(file), line=error.line, field=error.field, problem=error.problem
                )
            )
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}. Mend its permissions"
            bad.append(FileProblem(file=str(file), problem=problem))
    return found, bad


def _read(file: Path) -> Check:
    for path in (file.parent.parent, file.parent, file):
        problem = distrust(path)
        if problem:
            raise yamlfile.BadFile(0, "", f"{path} {problem}", f"chmod go-w {path}, or chown it")
    key = file.parent.name
    try:
        names.check_label("the directory's name", key)
    except InvalidRequest as error:
        raise yamlfile.BadFile(0, "", f"{error.field} {error.problem}", error.next_step) from error
    if file.stat().st_size > yamlfile.FILE_LIMIT_BYTES:
        raise yamlfile.BadFile(0, "", "the file is larger than 256 KiB")
    check = Check(name=names.resource("checks", key), source=str(file))
    try:
        lines = yamlfile.read(file.read_text("utf-8"), check, _REFUSED)
    except UnicodeDecodeError as error:
        raise yamlfile.BadFile(0, "", "the file is not UTF-8") from error
    try:
        _check_fields(check, "")
    except InvalidRequest as error:
        raise lines.bad(error) from error
    return check
