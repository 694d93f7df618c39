"""The snapshot service, whole and in this process, between a fake Primary and a fake Secondary."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.snapshot.__main__ import Snapshots
from slackwater.clock import Clock
from slackwater.errors import FailedPrecondition, NotFound
from slackwater.group.directory import DataDirectory
from slackwater.runtime import client
from slackwater.runtime.config import SnapshotConfig, parse_arguments
from slackwater.runtime.health import Health
from slackwater.runtime.lifecycle import Service
from slackwater.runtime.metrics import Metrics
from slackwater.storage.real import RealStorage
from slackwater.v1 import common_pb2, resources_pb2, snapshot_pb2, snapshot_pb2_grpc
from slackwater.v1 import secondary_pb2 as there
from tests.unit.cli.fakes import DESCRIPTORS, FakeService

GROUP = "groups/demo"
MESSAGE = f"{GROUP}/messages/m1"
OVER = {
    snapshot_pb2.Run.STATE_SUCCEEDED,
    snapshot_pb2.Run.STATE_FAILED,
    snapshot_pb2.Run.STATE_CANCELLED,
}


@dataclass
class Secondary:
    """What a Secondary does at a message, as far as the snapshot service can tell.

    `messages` are handed over in turn; a FREEZE message freezes the replica until Unfreeze.
    """

    messages: list[there.DeliveredMessage] = field(default_factory=list)
    registered: set[str] = field(default_factory=set)
    snapshots: dict[str, resources_pb2.Snapshot] = field(default_factory=dict)
    frozen_at: str = ""
    holder: str = ""
    service: FakeService = field(init=False)

    def __post_init__(self) -> None:
        """Begin to serve."""
        self.serve("127.0.0.1:0")

    def serve(self, address: str) -> None:
        """Serve, the first time or again."""
        self.service = FakeService(DESCRIPTORS["secondary"], address)
        self.service.answers |= {
            "GetReplica": self.get_replica,
            "ListApplications": self.list_applications,
            "RegisterApplication": self.register,
            "UnregisterApplication": self.unregister,
            "ReceiveMessage": self.receive,
            "CreateSnapshot": self.create_snapshot,
            "GetSnapshot": self.get_snapshot,
            "Unfreeze": self.unfreeze,
        }

    @property
    def calls(self) -> list[str]:
        """Names of the calls that change something, in order."""
        reading = {"GetReplica", "ListApplications", "GetSnapshot"}
        return [name for name, _ in self.service.requests if name not in reading]

    def get_replica(self, request: there.GetReplicaRequest) -> there.GetReplicaResponse:
        """The replica, with its freeze."""
        if request.name != GROUP:
            raise NotFound("group", request.name)
        replica = resources_pb2.Replica(name=request.name)
        if self.frozen_at:
            replica.freeze.message = self.frozen_at
            replica.freeze.holder = self.holder
            replica.freeze.phase = resources_pb2.Freeze.PHASE_FROZEN
        return there.GetReplicaResponse(replica=replica)

    def list_applications(self, _: Any) -> Any:
        """The registered names."""
        return there.SecondaryServiceListApplicationsResponse(
            applications=[
                resources_pb2.Application(group=GROUP, application=name)
                for name in sorted(self.registered)
            ]
        )

    def register(self, request: Any) -> Any:
        """Register a name."""
        self.registered.add(request.application)
        return there.SecondaryServiceRegisterApplicationResponse()

    def unregister(self, request: Any) -> Any:
        """Take a name back."""
        self.registered.discard(request.application)
        return there.SecondaryServiceUnregisterApplicationResponse()

    def receive(self, request: there.ReceiveMessageRequest) -> there.ReceiveMessageResponse:
        """Hand a message over."""
        if request.application not in self.registered:
            raise NotFound("application", request.application)
        if not self.messages:
            return there.ReceiveMessageResponse()
        message = self.messages.pop(0)
        if message.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE:
            self.frozen_at, self.holder = message.name, request.holder
        return there.ReceiveMessageResponse(message=message)

    def create_snapshot(self, request: there.CreateSnapshotRequest) -> Any:
        """Take a snapshot where the replica is."""
        if request.at_message != self.frozen_at and request.at_message:
            raise FailedPrecondition("NOT_THERE", "the replica does not stand at the message")
        row = resources_pb2.Snapshot(
            name=f"{request.group}/snapshots/{request.snapshot_id}",
            position=common_pb2.Position(epoch=1, lsn=42),
            grade=common_pb2.SNAPSHOT_GRADE_CRASH,
            message=request.at_message,
        )
        row.create_duration.FromMilliseconds(4)
        self.snapshots[row.name] = row
        return there.CreateSnapshotResponse(snapshot=row)

    def get_snapshot(self, request: there.GetSnapshotRequest) -> Any:
        """A snapshot, if it is there."""
        if request.name not in self.snapshots:
            raise NotFound("snapshot", request.name)
        return there.GetSnapshotResponse(snapshot=self.snapshots[request.name])

    def unfreeze(self, request: there.UnfreezeRequest) -> there.UnfreezeResponse:
        """End the freeze."""
        if request.message != self.frozen_at:
            raise FailedPrecondition("NOT_FROZEN", "the replica does not stand at the message")
        self.frozen_at = self.holder = ""
        answer = there.UnfreezeResponse()
        answer.frozen_for.FromMilliseconds(70)
        return answer


def freeze_message(name: str = MESSAGE) -> there.DeliveredMessage:
    """A FREEZE message as a receiver gets it."""
    return there.DeliveredMessage(
        name=name,
        application="backup",
        behaviour=common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
        position=common_pb2.Position(epoch=1, lsn=42),
    )


class World:
    """The service under test, with its API."""

    def __init__(self, service: Service, api: Any, secondary: Secondary) -> None:
        """See `world`."""
        self.service = service
        self.api = api
        self.secondary = secondary

    async def start(self, *, at_next: str = "", wait: float = 20.0, **fields: Any) -> Any:
        """Start a run."""
        request = snapshot_pb2.StartSnapshotRequest(group=GROUP, **fields)
        if at_next:
            request.at_next_message.application = at_next
            request.at_next_message.wait_timeout.FromNanoseconds(round(wait * 1e9))
        return (await self.api.StartSnapshot(request)).run

    async def get(self, run: snapshot_pb2.Run) -> snapshot_pb2.Run:
        """A run as of now."""
        answer = await self.api.GetRun(snapshot_pb2.GetRunRequest(name=run.name))
        found: snapshot_pb2.Run = answer.run
        return found

    async def end(self, run: snapshot_pb2.Run) -> snapshot_pb2.Run:
        """Wait until a run is over, and return it."""
        last = run
        async for change in self.api.WatchRun(snapshot_pb2.WatchRunRequest(name=run.name)):
            last = change.run
        assert last.state in OVER
        return last

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait for something that another thread makes so."""
        async with asyncio.timeout(20):
            while not what():
                await asyncio.sleep(0.005)

    async def run_to_end(self, **fields: Any) -> snapshot_pb2.Run:
        """Start a run and wait until it is over."""
        return await self.end(await self.start(**fields))


@asynccontextmanager
async def world(
    data_dir: Path,
    secondary: Secondary,
    primary: str = "127.0.0.1:1",
    clock: Clock | None = None,
    **settings: object,
) -> AsyncIterator[World]:
    """The service, from its start to the end of its drain."""
    flags: dict[str, object] = {
        "data-dir": data_dir,
        "listen": "127.0.0.1:0",
        "health-listen": "127.0.0.1:0",
        "metrics-listen": "127.0.0.1:0",
        "primary": primary,
        "secondary": secondary.service.address,
        "grace-seconds": 4,
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    config = parse_arguments(SnapshotConfig, words)
    data = DataDirectory.open(RealStorage(), data_dir, "snapshot")
    service = Service("snapshot", config, Health(), Metrics("snapshot"), None)
    Snapshots(service, config, clock).add_parts()
    task = asyncio.get_running_loop().create_task(service.run(), name="service")
    try:
        while "grpc" not in service.endpoints:
            await asyncio.sleep(0.005)
            assert not task.done() or not task.exception()
        async with client.open_channel(service.endpoints["grpc"]) as channel:
            yield World(service, snapshot_pb2_grpc.SnapshotServiceStub(channel), secondary)
            service.request_end()
            await task
    finally:
        data.close()
        if not task.done():
            task.cancel()


def play(
    data_dir: Path,
    scene: Callable[[World], Coroutine[Any, Any, Any]],
    secondary: Secondary | None = None,
    **settings: Any,
) -> Any:
    """Run a scene in a world; returns what the scene returns."""
    known = secondary or Secondary()

    async def main() -> Any:
        async with asyncio.timeout(50):
            async with world(data_dir, known, **settings) as found:
                return await scene(found)

    try:
        return asyncio.run(main())
    finally:
        known.service.stop()
