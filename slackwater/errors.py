"""Everything that can go wrong and is not a programmer's error.

Each exception carries typed fields and builds its own sentence; `reason` is what a caller's
program matches on (`google.rpc.ErrorInfo.reason`). `slackwater.runtime.status` maps every class
to a gRPC code and `slackwater.nbd` to an errno; both tables are tested to be total.

* SlackwaterError
    * InvalidRequest         the request is malformed, whatever the state
    * OutOfRange             a range reaches past the end of what it names
    * NotFound               a named thing is not there
    * AlreadyExists          a named thing is there already
    * FailedPrecondition     the state does not allow it now
    * OutOfOrder             records do not continue where the log ends
    * Diverged               the other side holds another history
    * Fenced                 a higher epoch is known
    * NoSpace                no room, for now
    * QuotaExceeded          the caller's certificate grants fewer bytes
    * LimitReached           as much of something is in use as the settings allow
    * LogCorrupt             durable log bytes are damaged
    * DataCorrupt            other durable bytes are damaged
    * StorageFailed          the storage reported an error
    * GroupFailed            the group stopped after an earlier failure
    * DeadlineExceeded       a bounded wait ran out
    * Unavailable            try again later
    * PermissionDenied       the caller's role does not allow it
"""

import os

from slackwater.position import Position


class SlackwaterError(Exception):
    """The root; never raised itself."""

    reason: str = "INTERNAL"
    next_step: str = ""

    def __init__(self, sentence: str, next_step: str = "") -> None:
        """Keep the sentence, and what the reader can do about it when there is something."""
        self.next_step = next_step
        super().__init__(f"{sentence}. {next_step}" if next_step else sentence)


class InvalidRequest(SlackwaterError):
    """A field of a request is malformed; nothing was changed."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str, next_step: str = "") -> None:
        """Name the field and what is wrong with it."""
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}", next_step)


class OutOfRange(SlackwaterError):
    """A range reaches past the end of what it names."""

    reason = "OUT_OF_RANGE"

    def __init__(self, field: str, problem: str, next_step: str = "") -> None:
        """Name the field and how it reaches too far."""
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}", next_step)


class NotFound(SlackwaterError):
    """A named thing does not exist."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str, next_step: str = "") -> None:
        """Name what was looked for."""
        self.kind = kind
        self.name = name
        super().__init__(f"there is no {kind} {name!r}", next_step)


class AlreadyExists(SlackwaterError):
    """A thing of that name exists already."""

    reason = "ALREADY_EXISTS"

    def __init__(self, kind: str, name: str, next_step: str = "") -> None:
        """Name what exists."""
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name!r} exists already", next_step)


class FailedPrecondition(SlackwaterError):
    """The state does not allow the call now; repeating it alone will not help."""

    def __init__(self, reason: str, problem: str, next_step: str = "") -> None:
        """Give the program's reason and the reader's problem."""
        self.reason = reason
        self.problem = problem
        super().__init__(problem, next_step)


class OutOfOrder(SlackwaterError):
    """Records do not continue where the log ends."""

    reason = "GAP"

    def __init__(self, expected: Position, got: Position) -> None:
        """Keep the end of the log and the place the records claim to follow."""
        self.expected = expected
        self.got = got
        super().__init__(f"records must continue at {expected}, these follow {got}")


class Diverged(SlackwaterError):
    """The two sides hold different histories (D16)."""

    reason = "DIVERGED"

    def __init__(self, ours: Position, theirs: Position) -> None:
        """Keep both positions, so that both histories can be shown."""
        self.ours = ours
        self.theirs = theirs
        super().__init__(
            f"histories differ: here {ours} chain {ours.chain:08x},"
            f" there {theirs} chain {theirs.chain:08x}",
            "Nothing was overwritten; choose which side to keep",
        )


class Fenced(SlackwaterError):
    """A higher epoch is known: the caller is no longer the Primary."""

    reason = "FENCED"

    def __init__(self, epoch_known: int, epoch_got: int) -> None:
        """Keep the epoch known here and the caller's."""
        self.epoch_known = epoch_known
        self.epoch_got = epoch_got
        super().__init__(f"epoch {epoch_got} is fenced by epoch {epoch_known}")


class NoSpace(SlackwaterError):
    """There is no room, for now; nothing answered is lost."""

    reason = "NO_SPACE"

    def __init__(self, where: str, next_step: str = "") -> None:
        """Name what is full."""
        self.where = where
        super().__init__(f"no space in {where}", next_step)


class QuotaExceeded(SlackwaterError):
    """Volumes would take more bytes than the caller's certificate grants; nothing was changed."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, field: str, holder: str, quota: int, held: int, asked: int) -> None:
        """Name the field, whose quota it is, and the bytes: granted, in use beside, asked for."""
        self.field = field
        self.holder = holder
        self.quota = quota
        self.held = held
        self.asked = asked
        self.problem = (
            f"{asked} bytes beside {held} in use are more than the quota of {quota} bytes in the"
            f" certificate of {holder}"
        )
        super().__init__(
            f"{field}: {self.problem}",
            "Delete volumes that are not needed, or have a certificate with a larger quota issued",
        )


class LimitReached(SlackwaterError):
    """As much of something is in use as the settings allow; nothing was begun."""

    reason = "LIMIT_REACHED"

    def __init__(self, what: str, limit: int, next_step: str) -> None:
        """Name what there is too much of, its bound, and the way out."""
        self.what = what
        self.limit = limit
        super().__init__(f"{what}: all {limit} are in use", next_step)


class LogCorrupt(SlackwaterError):
    """Durable bytes of a log are damaged; nothing was cut (D6)."""

    reason = "LOG_CORRUPT"

    def __init__(self, segment: str, offset: int, detail: str) -> None:
        """Name the segment and the byte."""
        self.segment = segment
        self.offset = offset
        self.detail = detail
        super().__init__(f"log segment {segment} is corrupt at byte {offset}: {detail}")


class DataCorrupt(SlackwaterError):
    """Durable bytes outside the log are damaged."""

    reason = "DATA_CORRUPT"

    def __init__(self, what: str, detail: str) -> None:
        """Name what is damaged."""
        self.what = what
        self.detail = detail
        super().__init__(f"{what} is corrupt: {detail}")


class StorageFailed(SlackwaterError):
    """The storage reported an error; a failed sync is never retried (D3)."""

    reason = "STORAGE_FAILED"

    def __init__(self, path: str, operation: str, errno: int) -> None:
        """Name the file, the operation and the errno."""
        self.path = str(path)
        self.operation = operation
        self.errno = errno
        super().__init__(f"{operation} of {path} failed: {os.strerror(errno)}")


class GroupFailed(SlackwaterError):
    """The group stopped after an earlier failure and takes nothing more."""

    reason = "GROUP_FAILED"

    def __init__(self, group: str, cause: str) -> None:
        """Name the group and why it stopped."""
        self.group = group
        self.cause = cause
        super().__init__(
            f"group {group!r} has failed: {cause}", "Cure the cause and restart the service"
        )


class DeadlineExceeded(SlackwaterError):
    """A bounded wait ran out."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self, what: str, seconds: float) -> None:
        """Name what was waited for, and how long."""
        self.what = what
        self.seconds = seconds
        super().__init__(f"{what} took longer than {seconds:g} s")


class Unavailable(SlackwaterError):
    """It cannot be done now; the same call may succeed later."""

    reason = "UNAVAILABLE"

    def __init__(self, what: str, next_step: str = "") -> None:
        """Name what is not available."""
        self.what = what
        super().__init__(f"{what} is not available", next_step)


class PermissionDenied(SlackwaterError):
    """The caller's role does not allow it."""

    reason = "PERMISSION_DENIED"

    def __init__(self, what: str) -> None:
        """Name what was refused."""
        self.what = what
        super().__init__(f"not permitted: {what}")
