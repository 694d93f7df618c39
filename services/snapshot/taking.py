"""A snapshot taken on a Secondary: again while there is no answer, but never twice."""

import asyncio
import time

import grpc

from services.snapshot import steps
from services.snapshot.peers import GONE
from slackwater.v1 import resources_pb2, secondary_pb2, secondary_pb2_grpc

CALL_SECONDS = 15.0
PATIENCE_SECONDS = 30.0
"""So long it is tried again while the Secondary does not answer: it may be restarting."""


async def take(
    secondary: "secondary_pb2_grpc.SecondaryServiceAsyncStub",
    request: secondary_pb2.CreateSnapshotRequest,
) -> resources_pb2.Snapshot:
    """Have the Secondary take a snapshot; `request` has a request id of its own.

    Raises:
        grpc.aio.AioRpcError: it was refused, or there was no answer for too long.
    """
    tried = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = await secondary.CreateSnapshot(request, timeout=CALL_SECONDS)
            return answer.snapshot
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ALREADY_EXISTS and tried:
                made = await _made(secondary, request)
                if made is not None:
                    return made  # by the call whose answer was lost
            if error.code() not in GONE or time.monotonic() > deadline:
                raise
        tried += 1
        await asyncio.sleep(steps.FIRST_RETRY_SECONDS)


async def refresh(
    secondary: "secondary_pb2_grpc.SecondaryServiceAsyncStub",
    request: secondary_pb2.SecondaryServiceRefreshSnapshotRequest,
) -> resources_pb2.Snapshot:
    """Have the Secondary refresh a snapshot; `request` has a request id of its own.

    Raises:
        grpc.aio.AioRpcError: it was refused, or there was no answer for too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            answer = await secondary.RefreshSnapshot(request, timeout=CALL_SECONDS)
            return answer.snapshot
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE or time.monotonic() > deadline:
                raise
        # Again is no harm: while the replica stands at the message, the point is the same.
        await asyncio.sleep(steps.FIRST_RETRY_SECONDS)


async def _made(
    secondary: "secondary_pb2_grpc.SecondaryServiceAsyncStub",
    request: secondary_pb2.CreateSnapshotRequest,
) -> resources_pb2.Snapshot | None:
    name = f"{request.group}/snapshots/{request.snapshot_id}"
    wanted = secondary_pb2.GetSnapshotRequest(name=name)
    answer = await secondary.GetSnapshot(wanted, timeout=CALL_SECONDS)
    return answer.snapshot if answer.snapshot.message == request.at_message else None
