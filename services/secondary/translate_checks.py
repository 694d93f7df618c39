"""Results of checks as the API shows and takes them."""

import uuid

from slackwater import names
from slackwater.errors import InvalidRequest
from slackwater.group.rows import CheckRow
from slackwater.runtime.wire import timestamp
from slackwater.v1 import resources_pb2

REASON_LIMIT, OUTPUT_LIMIT_BYTES = 1000, 8 << 10
_PREFIX = "CHECK_VERDICT_"


def result(row: CheckRow) -> resources_pb2.CheckResult:
    """Return a result."""
    found = resources_pb2.CheckResult(
        id=row.id,
        check=names.resource("checks", row.check),
        verdict=resources_pb2.CheckVerdict.Value(f"{_PREFIX}{row.verdict}"),
        start_time=timestamp(row.start_ns),
        reason=row.reason,
        output=row.output,
    )
    found.took.FromNanoseconds(row.took_ns)
    return found


def row(given: resources_pb2.CheckResult, snapshot_uid: uuid.UUID) -> CheckRow:
    """Return what is kept of a result.

    Raises:
        InvalidRequest: a field is missing, not known or too long.
    """
    names.check_label("result.id", given.id)
    (check,) = names.parse("result.check", given.check, "checks")
    if given.verdict not in resources_pb2.CheckVerdict.values() or not given.verdict:
        raise InvalidRequest("result.verdict", "is missing or not known")
    if len(given.reason) > REASON_LIMIT:
        raise InvalidRequest("result.reason", f"is longer than {REASON_LIMIT} characters")
    if len(given.output.encode()) > OUTPUT_LIMIT_BYTES:
        raise InvalidRequest("result.output", f"is longer than {OUTPUT_LIMIT_BYTES} bytes")
    return CheckRow(
        id=given.id,
        snapshot_uid=snapshot_uid,
        check=check,
        verdict=resources_pb2.CheckVerdict.Name(given.verdict).removeprefix(_PREFIX),
        start_ns=given.start_time.ToNanoseconds(),
        took_ns=given.took.ToNanoseconds(),
        reason=given.reason,
        output=given.output,
    )
