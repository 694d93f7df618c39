"""NOTIFY messages that nobody has taken yet, and a count of what receivers missed."""

from collections import deque
from collections.abc import Iterable

from slackwater.ibc.messages import Message

INBOX_KEPT = 1000
INBOX_BYTES = 16 << 20


class Inbox:
    """The messages group.db keeps for receivers to come, oldest first, bounded in memory too."""

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        """Take up the rows of group.db."""
        self._messages = deque(messages)
        self._bytes = sum(len(message.body) for message in self._messages)
        self._dropped: dict[str, int] = {}

    def holds(self, application: str) -> bool:
        """Tell whether a message of this application waits."""
        return any(message.application == application for message in self._messages)

    def keep(self, message: Message) -> list[Message]:
        """Keep a message; return the oldest ones that have to go for that."""
        self._messages.append(message)
        self._bytes += len(message.body)
        gone = []
        while len(self._messages) > INBOX_KEPT or self._bytes > INBOX_BYTES:
            oldest = self._messages.popleft()
            self._bytes -= len(oldest.body)
            self.drop(oldest.application)
            gone.append(oldest)
        return gone

    def take(self, application: str) -> Message | None:
        """Take the oldest message of an application out, if there is one."""
        for message in self._messages:
            if message.application == application:
                self._messages.remove(message)
                self._bytes -= len(message.body)
                return message
        return None

    def drop(self, application: str) -> None:
        """Count a message that no receiver got."""
        self._dropped[application] = self._dropped.get(application, 0) + 1

    def take_dropped(self, application: str) -> int:
        """Return how many were dropped since the last call."""
        return self._dropped.pop(application, 0)
