"""The rpcs of clones: passed on to the Secondary, whose they are, field by field."""

from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from services.snapshot.peers import Peers
from slackwater.v1 import secondary_pb2
from slackwater.v1 import snapshot_pb2 as api

CALL_SECONDS = 20.0
Context = grpc.aio.ServicerContext[Any, Any]
B = TypeVar("B", bound=Message)


class CloneCalls:
    """Passes calls on. The messages of both services have the same fields, which a test holds."""

    _peers: Peers

    async def CreateClone(
        self, request: api.SnapshotServiceCreateCloneRequest, context: Context
    ) -> api.SnapshotServiceCreateCloneResponse:
        """Have the Secondary make a writable clone of a snapshot."""
        asked = _as(secondary_pb2.SecondaryServiceCreateCloneRequest, request)
        call = self._peers.secondary_api.CreateClone(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceCreateCloneResponse, answer)

    async def GetClone(
        self, request: api.SnapshotServiceGetCloneRequest, context: Context
    ) -> api.SnapshotServiceGetCloneResponse:
        """Return a clone as the Secondary has it."""
        asked = _as(secondary_pb2.SecondaryServiceGetCloneRequest, request)
        call = self._peers.secondary_api.GetClone(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceGetCloneResponse, answer)

    async def ListClones(
        self, request: api.SnapshotServiceListClonesRequest, context: Context
    ) -> api.SnapshotServiceListClonesResponse:
        """List clones as the Secondary has them."""
        asked = _as(secondary_pb2.SecondaryServiceListClonesRequest, request)
        call = self._peers.secondary_api.ListClones(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceListClonesResponse, answer)

    async def DeleteClone(
        self, request: api.SnapshotServiceDeleteCloneRequest, context: Context
    ) -> api.SnapshotServiceDeleteCloneResponse:
        """Have the Secondary remove a clone."""
        asked = _as(secondary_pb2.SecondaryServiceDeleteCloneRequest, request)
        call = self._peers.secondary_api.DeleteClone(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceDeleteCloneResponse, answer)

    async def ExportClone(
        self, request: api.SnapshotServiceExportCloneRequest, context: Context
    ) -> api.SnapshotServiceExportCloneResponse:
        """Have the Secondary export a clone."""
        asked = _as(secondary_pb2.SecondaryServiceExportCloneRequest, request)
        call = self._peers.secondary_api.ExportClone(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceExportCloneResponse, answer)

    async def UnexportClone(
        self, request: api.SnapshotServiceUnexportCloneRequest, context: Context
    ) -> api.SnapshotServiceUnexportCloneResponse:
        """Have the Secondary end the export of a clone."""
        asked = _as(secondary_pb2.SecondaryServiceUnexportCloneRequest, request)
        call = self._peers.secondary_api.UnexportClone(asked, timeout=CALL_SECONDS)
        answer = await self._peers.secondary.forward(call, context)
        return _as(api.SnapshotServiceUnexportCloneResponse, answer)


def _as(kind: type[B], message: Message) -> B:
    """Return a message as the other service's of the same fields."""
    result = kind()
    result.ParseFromString(message.SerializeToString())
    return result
