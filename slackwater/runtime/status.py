"""Errors on the wire: every SlackwaterError as a rich gRPC status, and back again for clients.

A status carries `google.rpc.ErrorInfo` (reason, domain, the error's own fields, the next step),
and where they say more `BadRequest`, `PreconditionFailure` and `ResourceInfo`.
"""

import dataclasses
from collections.abc import Mapping
from typing import NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from slackwater import errors

DOMAIN = "slackwater.dev"
NEXT_STEP = "next_step"
"""Key of ErrorInfo.metadata: what the caller can do now, one sentence."""

_DETAILS_KEY = "grpc-status-details-bin"
# Details ride in trailers, which peers limit to 8 KiB by default.
_MAX_VALUE = 400
_MAX_MESSAGE = 1500

CODES: Mapping[type[errors.SlackwaterError], grpc.StatusCode] = {
    errors.SlackwaterError: grpc.StatusCode.INTERNAL,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OutOfOrder: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Diverged: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Fenced: grpc.StatusCode.ABORTED,
    errors.NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.LogCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.DataCorrupt: grpc.StatusCode.DATA_LOSS,
    errors.StorageFailed: grpc.StatusCode.UNAVAILABLE,
    errors.GroupFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
}


class Aborting(Protocol):
    """The part of a servicer's context that ends a call."""

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn:
        """End the call with this status."""


def code_of(error: errors.SlackwaterError) -> grpc.StatusCode:
    """The gRPC code of an error: its own class's, or the nearest parent's."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def to_status(error: errors.SlackwaterError) -> status_pb2.Status:
    """The rich status of an error."""
    status = status_pb2.Status(code=code_of(error).value[0], message=str(error)[:_MAX_MESSAGE])
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_fields(error))
    )
    match error:
        case errors.InvalidRequest() | errors.OutOfRange() | errors.QuotaExceeded():
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(
                field=error.field[:_MAX_VALUE], description=error.problem[:_MAX_VALUE]
            )
            status.details.add().Pack(bad)
        case errors.NotFound() | errors.AlreadyExists():
            status.details.add().Pack(
                error_details_pb2.ResourceInfo(
                    resource_type=error.kind, resource_name=error.name[:_MAX_VALUE]
                )
            )
        case _ if code_of(error) in (
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.ABORTED,
        ):
            failure = error_details_pb2.PreconditionFailure()
            failure.violations.add(
                type=error.reason, subject=DOMAIN, description=str(error)[:_MAX_VALUE]
            )
            status.details.add().Pack(failure)
        case _:
            pass
    return status


async def abort(context: Aborting, error: errors.SlackwaterError) -> NoReturn:
    """End a call with the rich status of `error`."""
    status = to_status(error)
    await context.abort(
        code_of(error), status.message, ((_DETAILS_KEY, status.SerializeToString()),)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteError:
    """What a call failed with, as a client shows it.

    Attributes:
        code: The gRPC code.
        message: One sentence for people, without the next step.
        reason: What programs match on; the code's name if the peer gave none.
        field: The request's field that is wrong, or "".
        next_step: What to do now, or "".
        fields: The error's own fields, as text.
    """

    code: grpc.StatusCode
    message: str
    reason: str
    field: str = ""
    next_step: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)


def decode(error: grpc.RpcError) -> RemoteError:
    """Read a failed call; rich details if the peer sent them, else what gRPC itself says."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), "only calls fail with a status"
    code = error.code()
    message = error.details() or ""
    plain = RemoteError(code, message, code.name)
    raw = next(
        (value for key, value in error.trailing_metadata() or () if key == _DETAILS_KEY), None
    )
    if not isinstance(raw, bytes):
        return plain
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return plain
    return _read_details(plain, status)


def _read_details(plain: RemoteError, status: status_pb2.Status) -> RemoteError:
    """Fill a plain error from the details that we know; others are left alone."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    fields = dict(info.metadata)
    next_step = fields.pop(NEXT_STEP, "")
    return RemoteError(
        code=plain.code,
        message=plain.message.removesuffix(f". {next_step}") if next_step else plain.message,
        reason=info.reason or plain.reason,
        field=bad.field_violations[0].field if bad.field_violations else "",
        next_step=next_step,
        fields=fields,
    )


def _fields(error: errors.SlackwaterError) -> dict[str, str]:
    """The error's typed fields as text; the next step among them."""
    return {
        name: str(value)[:_MAX_VALUE]
        for name, value in vars(error).items()
        if not name.startswith("_") and name != "reason" and value != ""
    }
