"""The rpcs of checks."""

from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from services.snapshot.checks.catalogue import Checks
from services.snapshot.checks.runner import CheckRuns
from services.snapshot.peers import Peers
from slackwater.runtime import calls
from slackwater.v1 import secondary_pb2
from slackwater.v1 import snapshot_pb2 as api

CALL_SECONDS = 20.0
Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class CheckParts:
    """What these rpcs serve."""

    checks: Checks
    runs: CheckRuns
    answered: calls.Remembered


class CheckCalls:
    """Makes, shows, changes, removes and runs checks."""

    _peers: Peers
    _check_parts: CheckParts

    async def CreateCheck(
        self, request: api.CreateCheckRequest, context: Context
    ) -> api.CreateCheckResponse:
        """Make a check."""
        del context
        known = self._known("CreateCheck", request.request_id, api.CreateCheckResponse)
        if known is not None:
            return known
        await self._check_parts.checks.refresh()
        check = self._check_parts.checks.create(request.check, validate_only=request.validate_only)
        answer = api.CreateCheckResponse(check=check)
        if not request.validate_only:
            self._check_parts.answered.put("CreateCheck", request.request_id, answer)
        return answer

    async def GetCheck(
        self, request: api.GetCheckRequest, context: Context
    ) -> api.GetCheckResponse:
        """Return a check."""
        del context
        await self._check_parts.checks.refresh()
        return api.GetCheckResponse(check=self._check_parts.checks.get(request.name))

    async def ListChecks(
        self, request: api.ListChecksRequest, context: Context
    ) -> api.ListChecksResponse:
        """List the checks, and the files that cannot be used."""
        del context
        checks = self._check_parts.checks
        await checks.refresh()
        rows, token = calls.page(
            checks.all(), lambda check: check.name, request.page_size, request.page_token
        )
        return api.ListChecksResponse(checks=rows, next_page_token=token, problems=checks.problems)

    async def UpdateCheck(
        self, request: api.UpdateCheckRequest, context: Context
    ) -> api.UpdateCheckResponse:
        """Replace a check."""
        del context
        known = self._known("UpdateCheck", request.request_id, api.UpdateCheckResponse)
        if known is not None:
            return known
        await self._check_parts.checks.refresh()
        check = self._check_parts.checks.update(request.check, validate_only=request.validate_only)
        answer = api.UpdateCheckResponse(check=check)
        if not request.validate_only:
            self._check_parts.answered.put("UpdateCheck", request.request_id, answer)
        return answer

    async def DeleteCheck(
        self, request: api.DeleteCheckRequest, context: Context
    ) -> api.DeleteCheckResponse:
        """Remove a check."""
        del context
        known = self._known("DeleteCheck", request.request_id, api.DeleteCheckResponse)
        if known is not None:
            return known
        await self._check_parts.checks.refresh()
        losses = self._check_parts.checks.delete(request.name, validate_only=request.validate_only)
        answer = api.DeleteCheckResponse(losses=losses)
        if not request.validate_only:
            self._check_parts.answered.put("DeleteCheck", request.request_id, answer)
        return answer

    async def RunCheck(
        self, request: api.RunCheckRequest, context: Context
    ) -> api.RunCheckResponse:
        """Start a check of a snapshot."""
        known = self._known("RunCheck", request.request_id, api.RunCheckResponse)
        if known is not None:
            return known
        parts = self._check_parts
        await parts.checks.refresh()
        check = parts.checks.get(request.check, "check")
        wanted = secondary_pb2.GetSnapshotRequest(name=request.snapshot)
        call = self._peers.secondary_api.GetSnapshot(wanted, timeout=CALL_SECONDS)
        found = await self._peers.secondary.forward(call, context)
        answer = api.RunCheckResponse(run=parts.runs.start(check, found.snapshot))
        parts.answered.put("RunCheck", request.request_id, answer)
        return answer

    def _known(self, method: str, request_id: str, kind: type[M]) -> M | None:
        return self._check_parts.answered.get(method, request_id, kind)
