"""What a command ends with when it cannot do what was asked: one line, the next step, a code."""

from dataclasses import dataclass

import grpc

from slackwater.runtime.status import RemoteError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_REACHABLE = 3
EXIT_NOT_FOUND = 4
EXIT_PRECONDITION = 5
EXIT_TIMEOUT = 6
EXIT_NOT_AS_ASKED = 7

_EXITS = {
    grpc.StatusCode.INVALID_ARGUMENT: EXIT_USAGE,
    grpc.StatusCode.OUT_OF_RANGE: EXIT_USAGE,
    grpc.StatusCode.UNAVAILABLE: EXIT_NOT_REACHABLE,
    grpc.StatusCode.NOT_FOUND: EXIT_NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION: EXIT_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS: EXIT_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED: EXIT_TIMEOUT,
}

_OPTIONS = {
    "size_bytes": "--size",
    "log_bytes": "--log",
    "chunk_bytes": "--chunk",
    "endpoint": "--endpoint",
    "mode": "--mode",
    "links": "--link",
    "data": "--file",
    "text": "--text",
    "deliver_timeout": "--deliver-timeout",
    "freeze_timeout": "--freeze-timeout",
    "unregistered_timeout": "--unregistered-timeout",
    "fence_timeout": "--fence-timeout",
    "wait_timeout": "--receive-timeout",
    "body": "--file or --text",
    "behaviour": "--behaviour",
    "snapshot_id": "--snapshot-id",
    "quiesce.applications": "--quiesce",
    "quiesce.timeout": "--quiesce-timeout",
    "quiesce.max_hold": "--max-hold",
    "request_id": "--request-id",
    "first_lsn": "--first",
    "max_records": "--limit",
}
"""How the command line spells the fields of requests; the rest are arguments of the same name."""

_STEPS = {"links": "see which there are: slackwater link list GROUP"}
"""What to do about a field, where the service has nothing to say that somebody could type."""


@dataclass(eq=False)
class Failure(Exception):
    """A failed command.

    Attributes:
        message: One sentence: what is wrong.
        exit_code: What the process ends with.
        code: The gRPC code's name, or a word of the same kind.
        reason: What programs match on.
        field: The request's field that is wrong, or "".
        next_step: What to type or do now, or "".
    """

    message: str
    exit_code: int = EXIT_FAILED
    code: str = "FAILED"
    reason: str = ""
    field: str = ""
    next_step: str = ""

    def as_json(self) -> dict[str, object]:
        """The failure for programs."""
        return {
            "error": {
                "code": self.code,
                "reason": self.reason or self.code,
                "message": self.message,
                "field": self.field,
                "nextStep": self.next_step,
                "exitCode": self.exit_code,
            }
        }


def usage(message: str, next_step: str = "", field: str = "") -> Failure:
    """What was typed cannot be meant."""
    return Failure(message, EXIT_USAGE, "INVALID_ARGUMENT", "USAGE", field, next_step)


def not_found(kind: str, name: str, next_step: str) -> Failure:
    """A thing that was named is not there."""
    return Failure(
        f"there is no {kind} {name!r}",
        EXIT_NOT_FOUND,
        "NOT_FOUND",
        "NOT_FOUND",
        next_step=next_step,
    )


def from_remote(
    error: RemoteError, role: str, address: str, timeout_seconds: float, hint: str = ""
) -> Failure:
    """A failed call, for people.

    Args:
        error: What the call failed with.
        role: The service that was called.
        address: Where.
        timeout_seconds: The call's deadline.
        hint: The next step if the service named none.
    """
    exit_code = _EXITS.get(error.code, EXIT_FAILED)
    silent = not error.fields  # no rich details: it is gRPC that speaks, not the service
    if silent and error.code is grpc.StatusCode.UNAVAILABLE:
        return Failure(
            f"the {role} service at {address} cannot be reached: {_why(error.message)}",
            exit_code,
            error.code.name,
            "NOT_REACHABLE",
            next_step=f"python -m services.{role} --data-dir DIR   (or name another address:"
            f" --{role} HOST:PORT)",
        )
    if silent and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(
            f"the {role} service at {address} did not answer within {timeout_seconds:g} s",
            exit_code,
            error.code.name,
            "NO_ANSWER",
            next_step="look at it: slackwater status; or wait longer: --timeout 2m",
        )
    message = error.message or f"the {role} service answered {error.code.name}"
    if error.field and message.startswith(f"{error.field}: "):
        shown = _OPTIONS.get(error.field, error.field)
        message = f"{shown}: {message.removeprefix(f'{error.field}: ')}"
    return Failure(
        message,
        exit_code,
        error.code.name,
        error.reason,
        error.field,
        error.next_step or hint or _STEPS.get(error.field, ""),
    )


def _why(message: str) -> str:
    """The useful end of what gRPC says of a connection that did not come about."""
    lowered = message.lower()
    for word in ("connection refused", "name resolution", "timed out", "handshake", "certificate"):
        if word in lowered:
            return word
    return message.rpartition(": ")[2].strip() or "no connection"
