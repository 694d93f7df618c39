"""What the tables of group.db share: the open database."""

import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from slackwater.storage.seam import Database


class Table:
    """Holds the open database."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._database = database

    @cached_property
    def name(self) -> str:
        """The group's id, which never changes."""
        return str(self.query("SELECT name FROM identity")[0]["name"])

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run the body in one durable transaction."""
        return self._database.transaction()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return all rows of a select."""
        return self._database.query(sql, parameters)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
