"""Kind `postgres`: a backup is under way in PostgreSQL while the message is placed.

`pg_backup_start` and `pg_backup_stop` in one live connection: the server checkpoints, and keeps
full pages in its WAL until the stop. Nothing waits: the database goes on. The label, the tablespace
map and both LSNs become evidence. The backup belongs to the connection, so whatever kills this
process or the connection ends it, and the server is left as if nothing had been.

The light mode only issues a CHECKPOINT: recovery at the point begins near it, nothing more.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slackwater.agent.keeper import Request
from slackwater.agent.kinds.kind import KindFailed, Patience, Resumption, Undo

if TYPE_CHECKING:
    import psycopg

NEWER_NAMES_SINCE = 150000
STOP_SECONDS = 30.0
_LABEL_CHARACTERS = 200
_CANCEL_POLL_SECONDS = 0.05


class Postgres:
    """A backup in one connection, or with `light` a checkpoint."""

    def __init__(self, dsn: str, *, light: bool = False) -> None:
        """`dsn` is libpq's; what it leaves out comes from libpq's environment and files."""
        self.name = "checkpoint" if light else "postgres"
        self._dsn = dsn
        self._light = light
        self._connection: psycopg.Connection[Any] | None = None

    def check(self) -> None:
        """The driver is installed and the connection string can be read; no connection is made."""
        driver = _driver()
        try:
            driver.conninfo.conninfo_to_dict(self._dsn)
        except driver.ProgrammingError as error:
            raise KindFailed(
                f"the connection string cannot be read: {_without_quotations(str(error))}"
            ) from None

    def undo(self, request: Request) -> Undo | None:
        """Nothing: the server ends the backup with the connection."""
        del request
        return None

    def hold(self, request: Request, patience: Patience) -> str:
        """Start the backup."""
        with _told(f"cannot {'checkpoint' if self._light else 'start the backup'}"):
            self._connection = connection = self._connect(patience)
            with _bounded(connection, patience):
                return json.dumps(self._start(connection, request))

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        """Stop the backup; a connection that is gone has broken the hold, and ended it."""
        del request, message
        connection, self._connection = self._connection, None
        if connection is None:
            return Resumption(True, "")
        try:
            if self._light:
                return Resumption(True, "")
            with _told("the backup was not stopped"), _bounded(connection, patience):
                return Resumption(True, json.dumps(_stop(connection)))
        except KindFailed as failure:
            return Resumption(False, str(failure))
        finally:
            connection.close()

    def forget(self) -> None:
        """Close the connection; the server ends the backup."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self, patience: Patience) -> "psycopg.Connection[Any]":
        # A server that is gone shows within seconds, not after TCP's two hours.
        alive: dict[str, Any] = {
            "keepalives_idle": 2,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "application_name": "slackwater agent",
        }
        seconds = max(2, int(patience.left_seconds))  # libpq takes no less
        connection: psycopg.Connection[Any] = _driver().connect(
            self._dsn, autocommit=True, connect_timeout=seconds, **alive
        )
        return connection

    def _start(self, connection: "psycopg.Connection[Any]", request: Request) -> dict[str, Any]:
        version = connection.info.server_version
        about: dict[str, Any] = {"serverVersion": version, "database": connection.info.dbname}
        if self._light:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT redo_lsn::text FROM pg_control_checkpoint()")
            return {**about, "checkpoint": _only(row)}
        label = f"slackwater {request.application} {request.hold_id}"[:_LABEL_CHARACTERS]
        call = (
            "SELECT pg_backup_start(%s, true)::text"
            if version >= NEWER_NAMES_SINCE
            else "SELECT pg_start_backup(%s, true, false)::text"
        )
        system = "SELECT system_identifier::text FROM pg_control_system()"
        about["systemIdentifier"] = _only(connection.execute(system))
        return {**about, "label": label, "startLsn": _only(connection.execute(call, (label,)))}


def _stop(connection: "psycopg.Connection[Any]") -> dict[str, str]:
    newer = connection.info.server_version >= NEWER_NAMES_SINCE
    call = "pg_backup_stop(false)" if newer else "pg_stop_backup(false, false)"
    # Not waiting for archiving: the snapshot of the same point carries its own WAL.
    row = connection.execute(f"SELECT lsn::text, labelfile, spcmapfile FROM {call}").fetchone()  # noqa: S608
    assert row is not None, "the function returns one row"
    return {"stopLsn": row[0], "backupLabel": row[1], "tablespaceMap": row[2] or ""}


def _only(cursor: "psycopg.Cursor[Any]") -> str:
    row = cursor.fetchone()
    assert row is not None, "the function returns one row"
    return str(row[0])


def _driver() -> ModuleType:
    """The driver, imported only by those who use it."""
    try:
        import psycopg
    except ImportError as error:
        raise KindFailed(
            "kind postgres needs psycopg; install it: pip install 'slackwater[postgres]'"
        ) from error
    return psycopg


def _without_quotations(said: str) -> str:
    """What libpq says of a string without the parts it quotes, which may be of a password."""
    first, quote, rest = said.partition('"')
    if not quote:
        return said.splitlines()[0]
    last = rest.rpartition('"')[2].splitlines()
    return f'{first}"..."{last[0] if last else ""}'


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the driver's errors into one sentence."""
    driver = _driver()
    try:
        yield
    except driver.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise KindFailed(f"{what}: {said}") from error


@contextlib.contextmanager
def _bounded(connection: "psycopg.Connection[Any]", patience: Patience) -> Iterator[None]:
    """Cancel what the connection runs when patience is over, and hang up if that does not help."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_CANCEL_POLL_SECONDS):
            if patience.is_over:
                with contextlib.suppress(Exception):  # it is hung up on anyway
                    connection.cancel()
                if not is_done.wait(1.0):
                    _hang_up(connection)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()


def _hang_up(connection: "psycopg.Connection[Any]") -> None:
    """Break the socket under a statement that does not end; the statement then fails."""
    with (
        contextlib.suppress(Exception),
        socket.socket(fileno=socket.dup(connection.fileno())) as twin,
    ):
        twin.shutdown(socket.SHUT_RDWR)
