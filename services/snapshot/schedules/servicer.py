"""The rpcs of schedules."""

from dataclasses import dataclass

from services.snapshot.peers import Peers
from services.snapshot.retention.sweeper import Sweeper
from services.snapshot.schedules.catalogue import Schedules
from services.snapshot.schedules.keeper import Timekeeper
from services.snapshot.tasks.catalogue import Catalogue
from services.snapshot.tasks.servicer import TaskServicer
from services.snapshot.tasks.starting import Starter
from slackwater.runtime import calls
from slackwater.v1 import snapshot_pb2 as api


@dataclass(frozen=True, slots=True)
class Parts:
    """What the rpcs of tasks and schedules work with.

    Attributes:
        catalogue: The tasks.
        starter: Starts runs of them.
        sweeper: Knows what they made.
        schedules: When they run by themselves.
        keeper: Knows what became of schedules.
        peers: The Primary, and the configured Secondary.
    """

    catalogue: Catalogue
    starter: Starter
    sweeper: Sweeper
    schedules: Schedules
    keeper: Timekeeper
    peers: Peers


class ScheduleServicer(TaskServicer):
    """Makes, shows, changes and removes schedules."""

    def __init__(self, parts: Parts) -> None:
        """Serve these schedules, of these tasks."""
        super().__init__(parts.catalogue, parts.starter, parts.peers, parts.sweeper)
        self._schedules = parts.schedules
        self._keeper = parts.keeper
        self._tasks = parts.catalogue
        self._answered_schedules = calls.Remembered()

    async def CreateSchedule(
        self, request: api.CreateScheduleRequest, context: object
    ) -> api.CreateScheduleResponse:
        """Make a schedule of a task that is there."""
        del context
        answered = self._answered_schedules
        known = answered.get("CreateSchedule", request.request_id, api.CreateScheduleResponse)
        if known is not None:
            return known
        await self._refresh()
        self._schedules.create(request.schedule, validate_only=True)
        self._tasks.get(request.schedule.task, "schedule.task")
        made = self._schedules.create(request.schedule, validate_only=request.validate_only)
        answer = api.CreateScheduleResponse(schedule=self._looked_at(made))
        if not request.validate_only:
            answered.put("CreateSchedule", request.request_id, answer)
        return answer

    async def GetSchedule(
        self, request: api.GetScheduleRequest, context: object
    ) -> api.GetScheduleResponse:
        """Return a schedule."""
        del context
        await self._refresh()
        found = self._schedules.get(request.name)
        return api.GetScheduleResponse(schedule=self._looked_at(found))

    async def ListSchedules(
        self, request: api.ListSchedulesRequest, context: object
    ) -> api.ListSchedulesResponse:
        """List the schedules, and the files that cannot be used."""
        del context
        await self._refresh()
        self._keeper.look()
        found, token = calls.page(
            self._schedules.all(), lambda row: row.name, request.page_size, request.page_token
        )
        return api.ListSchedulesResponse(
            schedules=[self._keeper.shown(row) for row in found],
            next_page_token=token,
            problems=self._schedules.problems,
        )

    async def UpdateSchedule(
        self, request: api.UpdateScheduleRequest, context: object
    ) -> api.UpdateScheduleResponse:
        """Replace a schedule."""
        del context
        answered = self._answered_schedules
        known = answered.get("UpdateSchedule", request.request_id, api.UpdateScheduleResponse)
        if known is not None:
            return known
        await self._refresh()
        self._schedules.update(request.schedule, validate_only=True)
        self._tasks.get(request.schedule.task, "schedule.task")
        made = self._schedules.update(request.schedule, validate_only=request.validate_only)
        answer = api.UpdateScheduleResponse(schedule=self._looked_at(made))
        if not request.validate_only:
            answered.put("UpdateSchedule", request.request_id, answer)
        return answer

    async def DeleteSchedule(
        self, request: api.DeleteScheduleRequest, context: object
    ) -> api.DeleteScheduleResponse:
        """Remove a schedule."""
        del context
        answered = self._answered_schedules
        known = answered.get("DeleteSchedule", request.request_id, api.DeleteScheduleResponse)
        if known is not None:
            return known
        await self._refresh()
        losses = self._schedules.delete(request.name, validate_only=request.validate_only)
        answer = api.DeleteScheduleResponse(losses=losses)
        if not request.validate_only:
            self._keeper.forget(request.name)
            answered.put("DeleteSchedule", request.request_id, answer)
        return answer

    async def _refresh(self) -> None:
        await self._tasks.refresh()
        await self._schedules.refresh()

    def _looked_at(self, schedule: api.Schedule) -> api.Schedule:
        """A schedule with what became of it so far, and when it runs next."""
        self._keeper.look()
        return self._keeper.shown(schedule)
