"""Calls that the API has and this release does not: each says so, and when it will be there."""

from typing import Any, NoReturn

import grpc

from slackwater.v1 import snapshot_pb2, snapshot_pb2_grpc

RELEASES = {
    "Mirror": "0.3",
}
"""The release that brings each noun, or rpc."""


class PlannedServicer(snapshot_pb2_grpc.SnapshotServiceServicer):
    """Answers UNIMPLEMENTED, with a sentence, to every rpc of RELEASES."""


def release_of(method: str) -> str | None:
    """The release that brings an rpc; None if it is here."""
    for noun, release in RELEASES.items():
        if noun in method:
            return release
    return None


def _refuse(method: str, release: str) -> Any:
    async def answer(
        self: PlannedServicer, request: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> NoReturn:
        del self, request
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            f"{method} is planned for release {release}; this one has StartSnapshot and its runs,"
            " the snapshots they make, tasks, schedules and checks",
        )

    answer.__name__ = method
    return answer


for _method in snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"].methods:
    _release = release_of(_method.name)
    if _release is not None:
        setattr(PlannedServicer, _method.name, _refuse(_method.name, _release))
