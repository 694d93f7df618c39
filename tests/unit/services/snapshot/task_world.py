"""A fake Primary with fake Secondaries, as far as a run of a task can tell them from real ones."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slackwater.errors import FailedPrecondition, NotFound, SlackwaterError
from slackwater.v1 import common_pb2, primary_pb2, record_pb2, resources_pb2, snapshot_pb2
from slackwater.v1 import secondary_pb2 as there
from tests.unit.cli.fakes import DESCRIPTORS, FakeService
from tests.unit.services.snapshot.world import GROUP, World

TASK = "tasks/nightly"
SENT = f"{GROUP}/messages/m1"
WAIT_SECONDS = 20.0

FREEZE = common_pb2.MESSAGE_BEHAVIOUR_FREEZE
SNAPSHOT = common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
Response = there.HoldMessageResponse


@dataclass
class Site:
    """A Secondary: stands at messages that are put into `coming`, under a lease or without."""

    link: str
    registered: set[str] = field(default_factory=set)
    snapshots: dict[str, resources_pb2.Snapshot] = field(default_factory=dict)
    exported: list[str] = field(default_factory=list)
    frozen_at: str = ""
    holder: str = ""
    thaw_as: common_pb2.VerdictState.ValueType = common_pb2.VERDICT_STATE_UNFROZEN
    thaw_now: threading.Event = field(default_factory=threading.Event)
    break_once: threading.Event = field(default_factory=threading.Event)
    coming: "queue.Queue[there.DeliveredMessage]" = field(default_factory=queue.Queue)
    verdict: Callable[[common_pb2.VerdictState.ValueType], None] = lambda _: None
    outcome: record_pb2.Outcome | None = None
    service: FakeService = field(init=False)

    def __post_init__(self) -> None:
        """Begin to serve."""
        self.service = FakeService(DESCRIPTORS["secondary"])
        self.service.answers |= {
            "GetReplica": self.get_replica,
            "ListApplications": self.list_applications,
            "RegisterApplication": self.register,
            "UnregisterApplication": self.unregister,
            "HoldMessage": self.hold,
            "ReceiveMessage": self.receive,
            "Unfreeze": self.unfreeze,
            "CreateSnapshot": self.create_snapshot,
            "GetSnapshot": self.get_snapshot,
            "ExportSnapshot": self.export,
            "UnexportSnapshot": self.unexport,
        }

    @property
    def calls(self) -> list[str]:
        """Calls that change something, in order."""
        reading = ("Get", "List")
        return [name for name, _ in self.service.requests if not name.startswith(reading)]

    def get_replica(self, request: Any) -> Any:
        """The replica, with its freeze."""
        replica = resources_pb2.Replica(name=request.name)
        if self.frozen_at:
            replica.freeze.message = self.frozen_at
            replica.freeze.application = "nightly"
            replica.freeze.holder = self.holder
            replica.freeze.phase = resources_pb2.Freeze.PHASE_FROZEN
        return there.GetReplicaResponse(replica=replica)

    def list_applications(self, _: Any) -> Any:
        """The registered names."""
        rows = [resources_pb2.Application(application=name) for name in self.registered]
        return there.SecondaryServiceListApplicationsResponse(applications=rows)

    def register(self, request: Any) -> Any:
        """Register a name."""
        self.registered.add(request.application)
        return there.SecondaryServiceRegisterApplicationResponse()

    def unregister(self, request: Any) -> Any:
        """Take a name back."""
        self.registered.discard(request.application)
        return there.SecondaryServiceUnregisterApplicationResponse()

    def hold(self, requests: Iterator[there.HoldMessageRequest]) -> Iterator[Response]:
        """Hand the next message over, and thaw when told to."""
        opened = next(requests).open
        if opened.application not in self.registered:
            raise NotFound("application", opened.application)
        said: queue.Queue[str] = queue.Queue()
        thread = threading.Thread(target=self._listen, args=(requests, said), daemon=True)
        thread.start()
        return self._answers(opened, said)

    def _listen(self, requests: Iterator[Any], said: "queue.Queue[str]") -> None:
        try:
            for request in requests:
                said.put(request.WhichOneof("message"))
        except Exception:  # the client hung up
            pass
        said.put("gone")

    def _answers(self, opened: Any, said: "queue.Queue[str]") -> Iterator[Response]:
        yield Response(heartbeat=Response.Heartbeat())
        message = delivered(opened.message) if opened.message else None
        while message is None:
            with contextlib.suppress(queue.Empty):
                message = self.coming.get(timeout=0.01)
            is_gone = message is None and not said.empty() and said.get() == "gone"
            if is_gone or self.service.stopping.is_set():
                return
        self.frozen_at, self.holder = message.name, opened.holder
        self._say(common_pb2.VERDICT_STATE_DELIVERED)
        yield Response(delivered=message)
        while not self.thaw_now.is_set():
            try:
                word = said.get(timeout=0.01)
            except queue.Empty:
                if self.break_once.is_set():
                    self.break_once.clear()
                    return
                if self.service.stopping.is_set():
                    return
                continue
            if word == "gone":
                self._thaw(common_pb2.VERDICT_STATE_LEASE_LOST)
                return
            if word == "unfreeze":
                break
        self._thaw(self.thaw_as)
        thawed = Response.Thawed(state=self.thaw_as)
        thawed.frozen_for.FromMilliseconds(70)
        yield Response(thawed=thawed)

    def _thaw(self, state: common_pb2.VerdictState.ValueType) -> None:
        self._say(state)
        self.frozen_at = self.holder = ""

    def _say(self, state: common_pb2.VerdictState.ValueType) -> None:
        if self.frozen_at == SENT:
            self.verdict(state)

    def receive(self, request: Any) -> Any:
        """Hand a message over without a lease."""
        message = self.coming.get_nowait()
        self.frozen_at, self.holder = message.name, request.holder
        return there.ReceiveMessageResponse(message=message)

    def unfreeze(self, request: Any) -> Any:
        """End a freeze that no lease holds."""
        if request.message != self.frozen_at:
            raise FailedPrecondition("NOT_FROZEN", "the replica does not stand at the message")
        self._thaw(common_pb2.VERDICT_STATE_UNFROZEN)
        return there.UnfreezeResponse()

    def create_snapshot(self, request: Any) -> Any:
        """Take a snapshot where the replica stands."""
        if request.at_message != self.frozen_at:
            raise FailedPrecondition("NOT_THERE", "the replica does not stand at the message")
        return there.CreateSnapshotResponse(
            snapshot=self.snapshot(request.snapshot_id, request.at_message)
        )

    def snapshot(self, snapshot_id: str, message: str) -> resources_pb2.Snapshot:
        """A snapshot at a message, whose outcome may be to come."""
        row = resources_pb2.Snapshot(
            name=f"{GROUP}/snapshots/{snapshot_id}",
            position=common_pb2.Position(epoch=1, lsn=42),
            grade=common_pb2.SNAPSHOT_GRADE_CRASH,
            message=message,
            awaits_outcome=self.outcome is not None,
        )
        self.snapshots[row.name] = row
        return row

    def get_snapshot(self, request: Any) -> Any:
        """A snapshot; looking at it applies the outcome."""
        if request.name not in self.snapshots:
            raise NotFound("snapshot", request.name)
        row = self.snapshots[request.name]
        if self.outcome is not None:
            row.awaits_outcome = False
            row.judgement.CopyFrom(self.outcome)
            row.grade = self.outcome.grade
        return there.GetSnapshotResponse(snapshot=row)

    def export(self, request: Any) -> Any:
        """Export a snapshot."""
        self.exported.append(request.name)
        return there.SecondaryServiceExportSnapshotResponse(
            snapshot=self.snapshots[request.name], nbd_uris=[f"nbd://127.0.0.1/{request.name}"]
        )

    def unexport(self, request: Any) -> Any:
        """End an export."""
        self.exported.remove(request.name)
        return there.SecondaryServiceUnexportSnapshotResponse()


class Desk:
    """A Primary with a link to each site."""

    def __init__(self, *links: str) -> None:
        """Serve the links, all attached."""
        self.sites = {link: Site(link) for link in links or ("site-b",)}
        self.states = dict.fromkeys(self.sites, common_pb2.LINK_STATE_STREAMING)
        self.registered: set[str] = set()
        self.messages: dict[str, resources_pb2.Message] = {}
        self.judgement: record_pb2.Outcome | None = None
        self.send_error: list[SlackwaterError] = []
        self.undelivered: dict[str, common_pb2.VerdictState.ValueType] = {}
        self.before_send: Callable[[], None] = lambda: None
        self.service = FakeService(DESCRIPTORS["primary"])
        self.service.answers |= {
            "ListLinks": self.list_links,
            "ListApplications": self.list_applications,
            "RegisterApplication": self.register,
            "UnregisterApplication": self.unregister,
            "SendMessage": self.send,
            "WatchMessage": self.watch,
            "GetMessage": self.get,
            "ListMessages": self.list,
        }

    @property
    def site(self) -> Site:
        """The first site."""
        return next(iter(self.sites.values()))

    def stop(self) -> None:
        """Hang up everywhere."""
        for service in (self.service, *(site.service for site in self.sites.values())):
            service.stop()

    def list_links(self, request: Any) -> Any:
        """The links of the group."""
        if request.group != GROUP:
            raise NotFound("group", request.group)
        rows = [
            resources_pb2.Link(
                name=f"{GROUP}/links/{link}",
                endpoint=site.service.address,
                state=self.states[link],
            )
            for link, site in self.sites.items()
        ]
        return primary_pb2.ListLinksResponse(links=rows)

    def list_applications(self, _: Any) -> Any:
        """The registered names."""
        rows = [resources_pb2.Application(application=name) for name in self.registered]
        return primary_pb2.PrimaryServiceListApplicationsResponse(applications=rows)

    def register(self, request: Any) -> Any:
        """Register a name."""
        self.registered.add(request.application)
        return primary_pb2.PrimaryServiceRegisterApplicationResponse()

    def unregister(self, request: Any) -> Any:
        """Take a name back."""
        self.registered.discard(request.application)
        return primary_pb2.PrimaryServiceUnregisterApplicationResponse()

    def send(self, request: primary_pb2.SendMessageRequest) -> Any:
        """Place a message and let it come out everywhere."""
        self.before_send()
        if self.send_error:
            raise self.send_error.pop(0)
        if request.application not in self.registered:
            raise NotFound("application", request.application)
        message = self._place(request)
        answer = primary_pb2.SendMessageResponse(message=message)
        if request.fence:
            answer.fence_held.FromMilliseconds(3)
        if request.HasField("quiesce"):
            answer.quiesce_window.FromMilliseconds(40)
        return answer

    def _place(self, request: primary_pb2.SendMessageRequest) -> resources_pb2.Message:
        if SENT in self.messages:
            return self.messages[SENT]
        message = self.messages[SENT] = resources_pb2.Message(
            name=SENT,
            application=request.application,
            behaviour=request.behaviour,
            position=common_pb2.Position(epoch=1, lsn=42),
            quiesced=request.quiesce.applications,
            task=request.task,
        )
        if self.judgement is not None:
            message.judgement.CopyFrom(self.judgement)
        for link in request.links:
            message.verdicts.add(link=link, state=common_pb2.VERDICT_STATE_SENT)
            self._deliver(link, request, message)
        return message

    def _deliver(self, link: str, request: Any, message: resources_pb2.Message) -> None:
        site = self.sites[link]

        def verdict(state: common_pb2.VerdictState.ValueType, snapshot: str = "") -> None:
            row = next(row for row in message.verdicts if row.link == link)
            row.state = state
            row.detail.snapshot_id = snapshot
            row.final = state >= common_pb2.VERDICT_STATE_UNFROZEN
            message.final = all(row.final for row in message.verdicts)

        site.verdict = verdict
        site.outcome = self.judgement
        if link in self.undelivered:
            verdict(self.undelivered[link])
        elif request.behaviour == SNAPSHOT:
            site.snapshot(request.snapshot_id, message.name)
            verdict(common_pb2.VERDICT_STATE_SNAPSHOTTED, request.snapshot_id)
        elif request.behaviour == FREEZE:
            site.coming.put(delivered(message.name))
        else:
            verdict(common_pb2.VERDICT_STATE_NOTIFIED)

    def watch(self, request: Any) -> Iterator[primary_pb2.WatchMessageResponse]:
        """Tell of the message until it is final."""
        deadline = time.monotonic() + WAIT_SECONDS
        message = self.messages[request.name]
        while time.monotonic() < deadline and not self.service.stopping.is_set():
            yield primary_pb2.WatchMessageResponse(message=message)
            if message.final:
                return
            time.sleep(0.01)

    def get(self, request: Any) -> Any:
        """One message."""
        return primary_pb2.GetMessageResponse(message=self.messages[request.name])

    def list(self, request: Any) -> Any:
        """Messages that are not final."""
        rows = [row for row in self.messages.values() if not row.final]
        return primary_pb2.PrimaryServiceListMessagesResponse(messages=rows)


def delivered(name: str) -> there.DeliveredMessage:
    """A FREEZE message of the task as a receiver gets it."""
    return there.DeliveredMessage(
        name=name,
        application="nightly",
        behaviour=FREEZE,
        position=common_pb2.Position(epoch=1, lsn=42),
        task=TASK,
    )


def outcome(state: record_pb2.Outcome.State.ValueType) -> record_pb2.Outcome:
    """The judgement of a quiesce."""
    confirmed = state == record_pb2.Outcome.STATE_CONFIRMED
    return record_pb2.Outcome(
        message_id="m1",
        state=state,
        grade=common_pb2.SNAPSHOT_GRADE_APPLICATION
        if confirmed
        else common_pb2.SNAPSHOT_GRADE_CRASH,
        evidence="db held unbroken" if confirmed else "db's session died",
    )


async def start(world: World, **fields: Any) -> snapshot_pb2.Run:
    """Start a run of the task."""
    request = snapshot_pb2.StartTaskRequest(name=TASK, **{"group": GROUP, **fields})
    run: snapshot_pb2.Run = (await world.api.StartTask(request)).run
    return run


async def run_task(world: World, task: snapshot_pb2.Task, **fields: Any) -> snapshot_pb2.Run:
    """Make the task, run it, and wait until the run is over."""
    await world.api.CreateTask(snapshot_pb2.CreateTaskRequest(task=task))
    return await world.end(await start(world, **fields))


def task(**fields: Any) -> snapshot_pb2.Task:
    """The task; `onfreeze` and the other phases as words or steps."""
    made = snapshot_pb2.Task(name=TASK)
    for name, value in fields.items():
        if name not in ("prefreeze", "onfreeze", "postfreeze"):
            part = getattr(made, name)
            if hasattr(part, "CopyFrom"):
                part.CopyFrom(value)
            else:
                setattr(made, name, value)
            continue
        for word in value:
            step = getattr(made, name).add()
            if isinstance(word, str):
                getattr(step, word).SetInParent()
            else:
                step.command.arguments.extend(word)
    return made


def program(data_dir: Path, name: str, text: str, mode: int = 0o755) -> Path:
    """A program in the task's directory."""
    home = data_dir / "tasks" / "nightly"
    home.mkdir(parents=True, exist_ok=True)
    for path in (home.parent, home):
        path.chmod(0o755)
    file = home / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(mode)
    return file


def words(run: snapshot_pb2.Run, link: str = "site-b") -> list[str]:
    """Names of the steps that concern a link or all, in order."""
    return [step.step for step in run.steps if step.link in ("", link)]
