"""What a refused call says: its code, its reason for programs, the fields it blames."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Refusal:
    """A gRPC error, unpacked."""

    code: str
    text: str
    reason: str
    fields: tuple[str, ...]


def refusal(error: grpc.RpcError) -> Refusal:
    """Unpack an error of a call."""
    reason, fields = "", []
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    return Refusal(error.code().name, str(error.details()), reason, tuple(fields))


def refused(call: Callable[[], object]) -> Refusal:
    """Make a call that has to be refused; every refusal has a reason and says something."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found = refusal(caught.value)
    assert found.reason, f"no ErrorInfo in {found}"
    assert found.text, f"no sentence in {found}"
    return found
