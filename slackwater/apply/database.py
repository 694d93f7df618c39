"""group.db as the replica uses it: failures told apart, what belongs together in one step."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from slackwater import errors
from slackwater.group.database import GroupDatabase
from slackwater.group.database_messages import add_verdict
from slackwater.group.rows import MessageRow, VerdictRow

INBOX: Final = "INBOX"
TAKEN: Final = "TAKEN"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class ReplicaDatabase(GroupDatabase):
    """A `GroupDatabase` whose commits either may be tried again or are final.

    No room (an OSError with ENOSPC) changed nothing and may be tried again. Anything else is a
    commit that may or may not be durable, and is final (D3).
    """

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the body in one durable transaction.

        Raises:
            OSError: no room; nothing was changed.
            StorageFailed: the commit failed, which is final.
        """
        try:
            with super().transaction() as connection:
                yield connection
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, str(error), "group.db") from error
            raise errors.StorageFailed("group.db", "commit", errno.EIO) from error
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise errors.StorageFailed("group.db", "commit", error.errno or errno.EIO) from error

    def keep_message(self, message: MessageRow) -> None:
        """Add a message's row; one of another history at the same lsn goes."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM messages WHERE lsn = ? AND id != ?",
                (message.position.lsn, message.id),
            )
        self.put_message(message)

    def keep_notified(self, verdict: VerdictRow) -> None:
        """Put a message into the inbox, with its effect and its verdict, in one step (D20)."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE messages SET state = ? WHERE id = ?", (INBOX, verdict.message_id)
            )
            connection.execute(
                "INSERT OR REPLACE INTO effects VALUES (?, ?, ?)",
                (verdict.lsn, verdict.state, "{}"),
            )
            add_verdict(connection, verdict)
