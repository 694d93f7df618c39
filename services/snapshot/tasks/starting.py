"""From a request to a run: which task, which group, which links; all checked before it starts."""

from collections.abc import Sequence

from services.snapshot.peers import Peer, Peers, Secondaries
from services.snapshot.runs import Runs
from services.snapshot.tasks import model, plan
from services.snapshot.tasks.catalogue import Catalogue, sentence
from slackwater import names
from slackwater.errors import FailedPrecondition, InvalidRequest
from slackwater.runtime import calls
from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, snapshot_pb2

CALL_SECONDS = 15.0

_UNUSABLE = frozenset(
    {
        common_pb2.LINK_STATE_DETACHED,
        common_pb2.LINK_STATE_DIVERGED,
        common_pb2.LINK_STATE_FAILED,
    }
)
"""States that only an operator ends: no message comes through meanwhile. In others one may."""

Request = snapshot_pb2.StartTaskRequest
Link = resources_pb2.Link


class Starter:
    """Starts runs of tasks, for callers and for schedules."""

    def __init__(
        self, catalogue: Catalogue, runs: Runs, peers: Peers, secondaries: Secondaries
    ) -> None:
        """Start runs in `runs`."""
        self._catalogue = catalogue
        self._runs = runs
        self._peers = peers
        self._secondaries = secondaries

    async def start(self, request: Request, schedule: str = "") -> snapshot_pb2.Run:
        """Start a run, for a caller or for the schedule named; a repeated request gets the first.

        Raises:
            grpc.aio.AioRpcError: the Primary does not know the group, or does not answer.
            SlackwaterError: it cannot be started.
        """
        calls.check_request_id(request.request_id)
        known = self._runs.started_by(request.request_id)
        if known is not None:
            return known.run
        task, run = await self._prepare(request)
        run.schedule = schedule
        return self._runs.start_task(request, task, run)

    async def start_scheduled(self, request: Request, schedule: str) -> snapshot_pb2.Run:
        """Start a run for a schedule: of every attached link, unless it or the task names some.

        Raises:
            grpc.aio.AioRpcError, SlackwaterError: as `start` would.
        """
        await self._catalogue.refresh()
        request.all_links = not request.links and not self._catalogue.get(request.name).links
        return await self.start(request, schedule)

    @property
    def primary(self) -> Peer:
        """Whom it asks."""
        return self._peers.primary

    async def plan(self, request: Request) -> list[snapshot_pb2.PlannedStep]:
        """Return what a run would do.

        Raises:
            grpc.aio.AioRpcError, SlackwaterError: as `start` would.
        """
        calls.check_request_id(request.request_id)
        task, run = await self._prepare(request)
        return plan.plan(task, run.group, [row.link for row in run.replicas])

    async def _prepare(self, request: Request) -> tuple[snapshot_pb2.Task, snapshot_pb2.Run]:
        await self._catalogue.refresh()
        task = model.effective(self._catalogue.get(request.name))
        group = _group(request, task)
        self._check_programs(model.id_of(task))
        run = snapshot_pb2.Run(group=group)
        for link in _chosen(group, request, task, await self._links(group)):
            identity = _id(link)
            row = run.replicas.add(link=identity, state=snapshot_pb2.Run.STATE_PENDING)
            row.endpoint = self._secondaries.address(identity, link.endpoint)
            if link.state in _UNUSABLE:
                row.state = snapshot_pb2.Run.STATE_FAILED
                row.error = _unusable(link)
        if all(row.error for row in run.replicas):
            raise FailedPrecondition(
                "NO_LINK", "; ".join(row.error for row in run.replicas), "Attach one, or mend it"
            )
        return task, run

    async def _links(self, group: str) -> list[Link]:
        found: list[Link] = []
        request = primary_pb2.ListLinksRequest(group=group, page_size=1000)
        while True:
            answer = await self._peers.primary_api.ListLinks(request, timeout=CALL_SECONDS)
            found += answer.links
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def _check_programs(self, task_id: str) -> None:
        """Refuse now what would be refused in the middle."""
        for problem in self._catalogue.program_problems(task_id):
            raise FailedPrecondition(
                "COMMAND_REFUSED",
                sentence(problem),
                "Mend it; docs/tasks.md says whose programs run",
            )


def _group(request: Request, task: snapshot_pb2.Task) -> str:
    if request.group:
        names.group("group", request.group)
    if request.group and task.group and request.group != task.group:
        raise InvalidRequest(
            "group", f"{request.group} is not the task's, which is {task.group}", "Leave it out"
        )
    found = request.group or task.group
    if not found:
        raise InvalidRequest("group", "is empty, and the task names none", "Name the group")
    return found


def _chosen(
    group: str, request: Request, task: snapshot_pb2.Task, links: Sequence[Link]
) -> list[Link]:
    """Return the links that a run takes in: those named, all, the task's, or the only one."""
    by_id = {_id(link): link for link in links}
    attached = [link for link in links if link.state != common_pb2.LINK_STATE_DETACHED]
    if request.links and request.all_links:
        raise InvalidRequest("all_links", "is true, and links are named", "Give one of the two")
    if request.all_links or not by_id:
        if not attached:
            raise FailedPrecondition(
                "NO_LINK",
                "the group has no attached link",
                f"Make one: slackwater link create {group.removeprefix('groups/')}/LINK"
                " --endpoint HOST:PORT",
            )
        return attached
    field, wanted = ("links", request.links) if request.links else ("task.links", task.links)
    if not wanted:
        if len(by_id) > 1:
            raise InvalidRequest(
                "links", f"the group has {', '.join(sorted(by_id))}", "Name some, or all_links"
            )
        return list(links)
    for number, identity in enumerate(wanted):
        if identity not in by_id:
            known = ", ".join(sorted(by_id))
            raise InvalidRequest(
                f"{field}[{number}]", f"there is no link {identity!r}", f"There are: {known}"
            )
        if identity in wanted[:number]:
            raise InvalidRequest(f"{field}[{number}]", f"{identity!r} is named twice")
    return [by_id[identity] for identity in wanted]


def _unusable(link: Link) -> str:
    word = common_pb2.LinkState.Name(link.state).removeprefix("LINK_STATE_")
    reason = f": {link.state_reason}" if link.state_reason else ""
    return f"LINK_{word}: link {_id(link)} is {word}{reason}"


def _id(link: Link) -> str:
    return link.name.rpartition("/")[2]
