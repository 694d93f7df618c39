"""Definitions that came over the API, on disk: a document each, by kind and id."""

from typing import Generic, TypeVar

from google.protobuf.message import Message

from slackwater.storage.seam import Database

M = TypeVar("M", bound=Message)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT
"""


class Documents(Generic[M]):
    """All definitions of one kind. Every change is one short transaction."""

    def __init__(self, database: Database, kind: str, message: type[M]) -> None:
        """Keep messages of one type in the service's file."""
        self._database = database
        self._kind = kind
        self._message = message
        with database.transaction() as connection:
            connection.execute(_SCHEMA)

    def all(self) -> dict[str, M]:
        """Return every definition by its id, in the order of ids."""
        rows = self._database.query(
            "SELECT id, document FROM documents WHERE kind = ? ORDER BY id", (self._kind,)
        )
        return {row["id"]: self._message.FromString(row["document"]) for row in rows}

    def put(self, key: str, document: M) -> None:
        """Make or replace a definition."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)",
                (self._kind, key, document.SerializeToString()),
            )

    def remove(self, key: str) -> None:
        """Remove a definition."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM documents WHERE kind = ? AND id = ?", (self._kind, key))
