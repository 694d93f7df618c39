"""Application names: where senders and receivers of messages meet (C9)."""

from dataclasses import dataclass

from slackwater import errors
from slackwater.names import check_label

MAX_APPLICATIONS = 32


@dataclass(frozen=True, slots=True)
class Application:
    """A registered name."""

    name: str
    registered_ns: int


class Applications:
    """The names registered for one group on one side.

    The rows live in group.db; this holds the rules, and what is asked on every message.
    """

    def __init__(self, group: str, registered: list[Application] | None = None) -> None:
        """Take up the rows of group.db; the group's id is for what errors say."""
        self.group = group
        self._registered = {application.name: application for application in registered or ()}

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is registered."""
        return name in self._registered

    def list(self) -> list[Application]:
        """Return the registrations in the order of their names."""
        return [self._registered[name] for name in sorted(self._registered)]

    def get(self, name: str) -> Application:
        """Return a registration.

        Raises:
            InvalidRequest: The name is no DNS label.
            NotFound: The name is not registered.
        """
        check_label("application", name)
        if name not in self._registered:
            raise errors.NotFound("application", name, f"Register it: {self.how_to(name)}")
        return self._registered[name]

    def how_to(self, name: str) -> str:
        """Return the command that registers a name."""
        return f"slackwater ibc register {self.group} {name}"

    def check_register(self, name: str) -> bool:
        """Tell whether registering `name` adds a row.

        Raises:
            InvalidRequest: The name is no DNS label.
            FailedPrecondition: The group has 32 names on this side.
        """
        check_label("application", name)
        if name in self._registered:
            return False
        if len(self._registered) >= MAX_APPLICATIONS:
            raise errors.FailedPrecondition(
                "TOO_MANY_APPLICATIONS",
                f"the group has {MAX_APPLICATIONS} applications, the most it may have",
                "Unregister one first",
            )
        return True

    def add(self, application: Application) -> None:
        """Note a registration that is durable."""
        assert len(self._registered) < MAX_APPLICATIONS, "checked before it was made durable"
        self._registered[application.name] = application

    def check_unregister(self, name: str, is_pending: bool) -> None:
        """Allow to take `name` back, or say why not.

        Raises:
            NotFound: The name is not registered.
            FailedPrecondition: A message of that name is pending.
        """
        self.get(name)
        if is_pending:
            raise errors.FailedPrecondition(
                "MESSAGE_PENDING",
                f"a message of application {name!r} is pending",
                "Let it be received or let it expire",
            )

    def remove(self, name: str) -> None:
        """Note that a registration is durably gone."""
        del self._registered[name]
