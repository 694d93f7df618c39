"""The rpcs of tasks."""

from typing import Any

import grpc

from services.snapshot.peers import Peers
from services.snapshot.planned import PlannedServicer
from services.snapshot.retention.sweeper import Sweeper
from services.snapshot.tasks.catalogue import Catalogue
from services.snapshot.tasks.starting import Starter
from slackwater.runtime import calls
from slackwater.v1 import snapshot_pb2 as api

Context = grpc.aio.ServicerContext[Any, Any]


class TaskServicer(PlannedServicer):
    """Makes, shows, changes, removes and starts tasks."""

    def __init__(
        self, catalogue: Catalogue, starter: Starter, peers: Peers, sweeper: Sweeper
    ) -> None:
        """Serve these tasks."""
        self._sweeper = sweeper
        self._catalogue = catalogue
        self._starter = starter
        self._primary = peers.primary
        self._answered = calls.Remembered()

    async def CreateTask(
        self, request: api.CreateTaskRequest, context: object
    ) -> api.CreateTaskResponse:
        """Make a task."""
        del context
        known = self._answered.get("CreateTask", request.request_id, api.CreateTaskResponse)
        if known is not None:
            return known
        await self._catalogue.refresh()
        task = self._catalogue.create(request.task, validate_only=request.validate_only)
        answer = api.CreateTaskResponse(task=task)
        if not request.validate_only:
            self._answered.put("CreateTask", request.request_id, answer)
        return answer

    async def GetTask(self, request: api.GetTaskRequest, context: object) -> api.GetTaskResponse:
        """Return a task."""
        del context
        await self._catalogue.refresh()
        task = self._catalogue.get(request.name)
        return api.GetTaskResponse(task=task, made=await self._sweeper.shown(task))

    async def ListTasks(
        self, request: api.ListTasksRequest, context: object
    ) -> api.ListTasksResponse:
        """List the tasks, and the files that cannot be used."""
        del context
        await self._catalogue.refresh()
        tasks, token = calls.page(
            self._catalogue.all(), lambda task: task.name, request.page_size, request.page_token
        )
        return api.ListTasksResponse(
            tasks=tasks, next_page_token=token, problems=self._catalogue.problems
        )

    async def UpdateTask(
        self, request: api.UpdateTaskRequest, context: object
    ) -> api.UpdateTaskResponse:
        """Replace a task."""
        del context
        known = self._answered.get("UpdateTask", request.request_id, api.UpdateTaskResponse)
        if known is not None:
            return known
        await self._catalogue.refresh()
        task = self._catalogue.update(request.task, validate_only=request.validate_only)
        answer = api.UpdateTaskResponse(task=task)
        if not request.validate_only:
            self._answered.put("UpdateTask", request.request_id, answer)
        return answer

    async def DeleteTask(
        self, request: api.DeleteTaskRequest, context: object
    ) -> api.DeleteTaskResponse:
        """Remove a task."""
        del context
        known = self._answered.get("DeleteTask", request.request_id, api.DeleteTaskResponse)
        if known is not None:
            return known
        await self._catalogue.refresh()
        losses = self._catalogue.delete(request.name, validate_only=request.validate_only)
        answer = api.DeleteTaskResponse(losses=losses)
        if not request.validate_only:
            self._answered.put("DeleteTask", request.request_id, answer)
        return answer

    async def StartTask(
        self, request: api.StartTaskRequest, context: Context
    ) -> api.StartTaskResponse:
        """Start a run, or say what it would do."""
        try:
            if request.validate_only:
                return api.StartTaskResponse(plan=await self._starter.plan(request))
            return api.StartTaskResponse(run=await self._starter.start(request))
        except grpc.aio.AioRpcError as error:
            await self._primary.relay(error, context)
