"""The memory of a log's first storage failure (D3)."""

import errno
from pathlib import Path

from slackwater.errors import StorageFailed


class FailStop:
    """Remembers the first failure and repeats it for ever: nothing is retried (D3)."""

    __slots__ = ("cause",)

    def __init__(self) -> None:
        """Start without a failure."""
        self.cause: StorageFailed | None = None

    def check(self) -> None:
        """Raise the failure that was remembered, if there is one."""
        cause = self.cause
        if cause is not None:
            raise StorageFailed(cause.path, cause.operation, cause.errno)

    def fail(self, path: Path, operation: str, error: OSError) -> StorageFailed:
        """Remember a failure, the first one for good, and return what to raise."""
        failure = failed(path, operation, error)
        if self.cause is None:
            self.cause = failure
        return failure


def failed(path: Path, operation: str, error: OSError) -> StorageFailed:
    """Return an error of the storage as the domain's."""
    return StorageFailed(str(path), operation, error.errno or errno.EIO)
