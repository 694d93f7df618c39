"""The part of `slackwater.v1.SecondaryService` that is about the snapshot budget."""

from typing import Any

import grpc

from services.secondary import translate_budget
from services.secondary.clone_servicer import CloneServicer
from slackwater.errors import InvalidRequest
from slackwater.runtime.calls import check_request_id, in_thread, page
from slackwater.snapshots.budget import BudgetSettings
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as api

MIN_LIMIT_BYTES = 1 << 20
MAX_LIMIT_BYTES = 1 << 60
Context = grpc.aio.ServicerContext[Any, Any]


class BudgetServicer(CloneServicer):
    """Sets the budget, and shows what it took."""

    async def SetSnapshotBudget(
        self, request: api.SetSnapshotBudgetRequest, context: Context
    ) -> api.SetSnapshotBudgetResponse:
        """Say how many bytes the snapshots of a group may keep."""
        del context
        group = self._group("group", request.group)
        settings = _settings(request.budget) if request.HasField("budget") else None
        kind = api.SetSnapshotBudgetResponse

        def shown() -> api.SetSnapshotBudgetResponse:
            if settings is None:
                return kind()
            return kind(budget=translate_budget.budget(group.replica, settings))

        def change() -> api.SetSnapshotBudgetResponse:
            group.replica.set_budget(settings)
            return shown()

        if request.validate_only:
            check_request_id(request.request_id)
            return await in_thread(shown)
        return await self._once(group, "SetSnapshotBudget", request.request_id, change)

    async def ListExpiredSnapshots(
        self, request: api.ListExpiredSnapshotsRequest, context: Context
    ) -> api.ListExpiredSnapshotsResponse:
        """List the snapshots that the budget took."""
        del context
        group = self._group("group", request.group)
        rows = list(enumerate(await in_thread(group.replica.expired)))
        chosen, token = page(
            rows, lambda row: f"{row[0]:06d}", request.page_size, request.page_token
        )
        return api.ListExpiredSnapshotsResponse(
            snapshots=[translate_budget.expired(group.name, row) for _, row in chosen],
            next_page_token=token,
        )


def _settings(asked: resources_pb2.SnapshotBudget) -> BudgetSettings:
    if not MIN_LIMIT_BYTES <= asked.limit_bytes <= MAX_LIMIT_BYTES:
        raise InvalidRequest(
            "budget.limit_bytes",
            f"{asked.limit_bytes} is not from {MIN_LIMIT_BYTES} to {MAX_LIMIT_BYTES}",
            "Leave the budget out for no limit",
        )
    if asked.soft_percent > 100:
        raise InvalidRequest("budget.soft_percent", f"{asked.soft_percent} is more than 100")
    policy = translate_budget.POLICY_OF.get(asked.at_limit)
    if policy is None:
        raise InvalidRequest("budget.at_limit", f"{asked.at_limit} is not known")
    return BudgetSettings(asked.limit_bytes, asked.soft_percent or 80, policy)
