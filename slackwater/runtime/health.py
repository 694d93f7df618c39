"""Health of a service, by `grpc.health.v1`.

Names: `liveness` (this process answers; never depends on a peer or a group), `readiness` (recovery
is done and the service is not draining), `groups/<g>` (that group alone), and `` for readiness.
A frozen, paused, full or corrupt group changes its own name only.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

LIVENESS = "liveness"
READINESS = "readiness"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Servicer(aio.HealthServicer):
    """The library's servicer, whose registry can also forget a name, and list all."""

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__()
        self._listed: dict[str, int] = {}

    async def set(self, service: str, status: int) -> None:
        """Let a name have a status."""
        self._listed[service] = status
        if status == _UNKNOWN:
            del self._listed[service]
        await super().set(service, status)

    async def Check(  # noqa: N802  gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: Any,
    ) -> health_pb2.HealthCheckResponse:
        """Answer; a forgotten name is as unknown as one never heard of."""
        answer = await super().Check(request, context)
        if answer.status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return answer

    async def List(  # noqa: N802  gRPC's name; the stubs do not know it yet
        self, request: Any, context: Any
    ) -> Any:
        """Return the status of every name."""
        answer = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for name, status in self._listed.items():
            answer.statuses[name].status = status
        return answer


class Health:
    """What a service says of itself. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        """Alive, not ready."""
        self.servicer = _Servicer()
        self._groups: dict[str, bool] = {}

    async def start(self) -> None:
        """Begin to answer: alive, not ready."""
        await self.servicer.set(LIVENESS, _SERVING)
        await self._set_readiness(_NOT_SERVING)

    async def become_ready(self) -> None:
        """Recovery is done."""
        await self._set_readiness(_SERVING)

    async def become_draining(self) -> None:
        """The end has begun: not ready, and no group is served; still alive."""
        await self._set_readiness(_NOT_SERVING)
        await asyncio.gather(*(self.set_group(group, is_serving=False) for group in self._groups))

    async def set_group(self, group: str, *, is_serving: bool) -> None:
        """Say whether a group is served."""
        self._groups[group] = is_serving
        await self.servicer.set(f"groups/{group}", _SERVING if is_serving else _NOT_SERVING)

    async def forget_group(self, group: str) -> None:
        """A deleted group has no health."""
        self._groups.pop(group, None)
        await self.servicer.set(f"groups/{group}", _UNKNOWN)

    def register(self, server: grpc.aio.Server) -> None:
        """Serve `grpc.health.v1.Health` on `server`."""
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, server)

    async def _set_readiness(self, status: int) -> None:
        await self.servicer.set(READINESS, status)
        await self.servicer.set("", status)
