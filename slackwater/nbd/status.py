"""From what failed inside to what an NBD client is told.

Two total tables: every `SlackwaterError` has an errno, every errno has one of the few numbers the
protocol knows. Option replies during the handshake have a third.
"""

import errno
from typing import Final

from slackwater import errors
from slackwater.nbd import wire

# The protocol's error numbers are Linux's, fixed by the protocol whatever the host uses.
_ON_WIRE: Final = {
    errno.EPERM: 1,
    errno.EACCES: 1,
    errno.EROFS: 1,
    errno.EIO: 5,
    errno.ENOMEM: 12,
    errno.EINVAL: 22,
    errno.ENOSPC: 28,
    errno.EDQUOT: 28,
    errno.EFBIG: 28,
    errno.EOVERFLOW: 75,
    errno.EOPNOTSUPP: 95,
    errno.ESHUTDOWN: 108,
}
_EIO: Final = 5

ERRNOS: Final[dict[type[errors.SlackwaterError], int]] = {
    errors.InvalidRequest: errno.EINVAL,
    errors.OutOfRange: errno.EINVAL,
    errors.NotFound: errno.EIO,
    errors.AlreadyExists: errno.EIO,
    errors.FailedPrecondition: errno.EPERM,
    errors.OutOfOrder: errno.EIO,
    errors.Diverged: errno.EIO,
    errors.Fenced: errno.EPERM,
    errors.NoSpace: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.LimitReached: errno.ENOSPC,
    errors.LogCorrupt: errno.EIO,
    errors.DataCorrupt: errno.EIO,
    errors.StorageFailed: errno.EIO,
    errors.GroupFailed: errno.EIO,
    errors.DeadlineExceeded: errno.EIO,
    errors.Unavailable: errno.ESHUTDOWN,
    errors.PermissionDenied: errno.EPERM,
}

_OPTION_REPLIES: Final[dict[type[errors.SlackwaterError], int]] = {
    errors.InvalidRequest: wire.REP_ERR_INVALID,
    errors.NotFound: wire.REP_ERR_UNKNOWN,
    errors.Unavailable: wire.REP_ERR_SHUTDOWN,
}


def error_on_wire(number: int) -> int:
    """The protocol's number for an errno; what it does not know is an I/O error."""
    return _ON_WIRE.get(number, _EIO)


def errno_of(error: errors.SlackwaterError | OSError) -> int:
    """The errno that answers a request which failed with this error; never 0."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    for kind in type(error).__mro__:
        if kind in ERRNOS:
            return ERRNOS[kind]
    return errno.EIO


def option_reply_of(error: errors.SlackwaterError | OSError) -> int:
    """The handshake's answer when an export could not be opened."""
    for kind in type(error).__mro__:
        if kind in _OPTION_REPLIES:
            return _OPTION_REPLIES[kind]
    return wire.REP_ERR_POLICY
