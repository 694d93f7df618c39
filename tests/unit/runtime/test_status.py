import inspect

import grpc
import pytest
from google.rpc import error_details_pb2

from slackwater import errors
from slackwater.position import Position
from slackwater.runtime import status

HERE, THERE = Position(1, 7, 0xAA), Position(1, 9, 0xBB)

EXAMPLES: list[tuple[errors.SlackwaterError, grpc.StatusCode]] = [
    (errors.InvalidRequest("size", "is odd", "Give an even one"), grpc.StatusCode.INVALID_ARGUMENT),
    (errors.OutOfRange("offset", "is past the end"), grpc.StatusCode.OUT_OF_RANGE),
    (errors.NotFound("group", "g"), grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists("group", "g"), grpc.StatusCode.ALREADY_EXISTS),
    (errors.FailedPrecondition("FROZEN", "it is frozen"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.OutOfOrder(HERE, THERE), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Diverged(HERE, THERE), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Fenced(3, 2), grpc.StatusCode.ABORTED),
    (errors.NoSpace("the log"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.QuotaExceeded("size", "lab", 9, 5, 6), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.LimitReached("gRPC calls", 8, "Wait"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.LogCorrupt("000000000001.seg", 4096, "chain"), grpc.StatusCode.DATA_LOSS),
    (errors.DataCorrupt("overlay", "crc"), grpc.StatusCode.DATA_LOSS),
    (errors.StorageFailed("log/1.seg", "sync", 5), grpc.StatusCode.UNAVAILABLE),
    (errors.GroupFailed("g", "a sync failed"), grpc.StatusCode.FAILED_PRECONDITION),
    (errors.DeadlineExceeded("the fence", 10), grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.Unavailable("the Secondary"), grpc.StatusCode.UNAVAILABLE),
    (errors.PermissionDenied("promote"), grpc.StatusCode.PERMISSION_DENIED),
]


class Failed(grpc.aio.AioRpcError):
    """A call that came back with what a server would have sent."""

    def __init__(self, error: errors.SlackwaterError) -> None:
        sent = status.to_status(error)
        super().__init__(
            status.code_of(error),
            grpc.aio.Metadata(),
            grpc.aio.Metadata(("grpc-status-details-bin", sent.SerializeToString())),
            sent.message,
        )


def test_every_error_class_has_a_code_of_its_own() -> None:
    classes = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SlackwaterError)
    }
    assert classes == set(status.CODES)
    assert {type(error) for error, _ in EXAMPLES} == classes - {errors.SlackwaterError}


def test_class_derived_elsewhere_takes_the_code_of_its_parent() -> None:
    class Trimmed(errors.NotFound):
        pass

    assert status.code_of(Trimmed("segment", "1")) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("error", "code"), EXAMPLES, ids=lambda value: type(value).__name__)
class TestEveryError:
    def test_error_has_its_code_and_reason_on_the_wire(
        self, error: errors.SlackwaterError, code: grpc.StatusCode
    ) -> None:
        sent = status.to_status(error)
        info = error_details_pb2.ErrorInfo()
        assert sent.details[0].Unpack(info)
        assert sent.code == code.value[0]
        assert (info.reason, info.domain) == (error.reason, "slackwater.dev")

    def test_client_reads_code_reason_and_next_step_back(
        self, error: errors.SlackwaterError, code: grpc.StatusCode
    ) -> None:
        read = status.decode(Failed(error))
        assert (read.code, read.reason, read.next_step) == (code, error.reason, error.next_step)
        assert read.field == getattr(error, "field", "")
        assert str(error) == (
            f"{read.message}. {read.next_step}" if read.next_step else read.message
        )


def test_positions_of_a_divergence_reach_the_client() -> None:
    fields = status.decode(Failed(errors.Diverged(HERE, THERE))).fields
    assert (fields["ours"], fields["theirs"]) == ("1/7", "1/9")


def test_details_stay_small_however_long_the_input_was() -> None:
    error = errors.InvalidRequest("name" * 1000, "x" * 100_000, "y" * 100_000)
    assert len(status.to_status(error).SerializeToString()) < 6000


def test_error_without_details_is_read_plainly() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "refused"
    )
    read = status.decode(error)
    assert (read.reason, read.message, read.next_step) == ("UNAVAILABLE", "refused", "")


def test_error_with_garbled_details_is_read_plainly() -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, "nothing"
    )
    assert status.decode(error) == status.RemoteError(
        grpc.StatusCode.NOT_FOUND, "nothing", "NOT_FOUND"
    )
