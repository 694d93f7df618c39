"""Real services with two Secondaries, a scripted agent, and runs of one task."""

import getpass
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import yaml

from demo.sites import Service
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    resources_pb2,
    secondary_pb2,
    secondary_pb2_grpc,
    snapshot_pb2,
)
from tests.support.processes import CALL_SECONDS, GROUP, Cluster, wait_until

TASK = "tasks/nightly"
OVER = {
    snapshot_pb2.Run.STATE_SUCCEEDED,
    snapshot_pb2.Run.STATE_FAILED,
    snapshot_pb2.Run.STATE_CANCELLED,
}
Request = primary_pb2.HoldQuiesceRequest


class TaskSite(Cluster):
    """A Primary with links site-b and, if wanted, site-c; the snapshot service with one task."""

    def __init__(self, directory: Path) -> None:
        """Plan the services; programs of tasks run as whoever runs the test."""
        super().__init__(directory, arguments={"snapshot": ["--command-user", getpass.getuser()]})
        self.second = Service("secondary", directory / "secondary-c", directory / "run-c")
        (directory / "run-c").mkdir()

    def __exit__(self, *about: object) -> None:
        """Kill what is left."""
        self.second.kill()
        super().__exit__(*about)

    @property
    def home(self) -> Path:
        """The task's directory."""
        home = self.snapshot.data_dir / "tasks" / "nightly"
        home.mkdir(parents=True, exist_ok=True)
        for path in (home.parent, home):
            path.chmod(0o755)
        return home

    @property
    def second_api(self) -> secondary_pb2_grpc.SecondaryServiceStub:
        """The administration of the Secondary of site-c."""
        return secondary_pb2_grpc.SecondaryServiceStub(self._channel(self.second.endpoints.grpc))

    def api_of(self, link: str) -> secondary_pb2_grpc.SecondaryServiceStub:
        """The administration of a link's Secondary."""
        return self.secondary_api if link == "site-b" else self.second_api

    def begin(self, *, both: bool = False) -> None:
        """Start all, replicate one volume, and wait until the links stream."""
        self.start()
        self.create_group(data=4 << 20)
        self.create_link()
        if both:
            self.second.start()
            self.primary_api.CreateLink(
                primary_pb2.CreateLinkRequest(
                    group=GROUP, link_id="site-c", endpoint=self.second.endpoints.grpc
                ),
                timeout=CALL_SECONDS,
            )
        for link in ("site-b", "site-c") if both else ("site-b",):
            wait_until(f"{link} streams", lambda link=link: self._streams(link))  # type: ignore[misc]

    def _streams(self, link: str) -> bool:
        name = primary_pb2.GetLinkRequest(name=f"{GROUP}/links/{link}")
        row = self.primary_api.GetLink(name, timeout=CALL_SECONDS).link
        there = secondary_pb2.GetReplicaRequest(name=GROUP)
        replica = self.api_of(link).GetReplica(there, timeout=CALL_SECONDS).replica
        return (
            row.state == common_pb2.LINK_STATE_STREAMING
            and replica.state == common_pb2.REPLICA_STATE_CONSISTENT
        )

    def program(self, name: str, text: str) -> None:
        """Put a program into the task's directory."""
        file = self.home / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def receive_nightly(self) -> None:
        """Register the task's application on site-b, as somebody who reads its inbox would."""
        request = secondary_pb2.SecondaryServiceRegisterApplicationRequest(
            group=GROUP, application="nightly"
        )
        self.secondary_api.RegisterApplication(request, timeout=CALL_SECONDS)

    def write_task(self, **fields: Any) -> None:
        """Write the task's file."""
        file = self.home / "task.yaml"
        file.write_text(yaml.safe_dump({"group": GROUP, **fields}))
        file.chmod(0o644)

    def start_task(self, *links: str, all_links: bool = False) -> snapshot_pb2.Run:
        """Start a run."""
        request = snapshot_pb2.StartTaskRequest(name=TASK, links=links, all_links=all_links)
        return self.snapshot_api.StartTask(request, timeout=CALL_SECONDS).run

    def run(self, name: str) -> snapshot_pb2.Run:
        """A run as of now."""
        request = snapshot_pb2.GetRunRequest(name=name)
        return self.snapshot_api.GetRun(request, timeout=CALL_SECONDS).run

    def wait_over(self, name: str) -> snapshot_pb2.Run:
        """Wait until a run is over and holds nothing any more; returns it."""
        wait_until("the run is over", lambda: self.run(name).state in OVER)
        wait_until("it left nothing", lambda: name not in [run.name for run in self.live()])
        return self.run(name)

    def live(self) -> Sequence[snapshot_pb2.Run]:
        """Runs that are not over, or hold something."""
        request = snapshot_pb2.SnapshotServiceGetStatusRequest()
        return self.snapshot_api.GetStatus(request, timeout=CALL_SECONDS).runs

    def run_to_end(self, *links: str, all_links: bool = False) -> snapshot_pb2.Run:
        """Run the task to its end."""
        return self.wait_over(self.start_task(*links, all_links=all_links).name)

    def wait_step(self, name: str, step: str) -> snapshot_pb2.RunStep:
        """Wait until a step of a run is under way, and return it."""

        def found() -> list[snapshot_pb2.RunStep]:
            steps = self.run(name).steps
            return [row for row in steps if row.step == step and not row.HasField("end_time")]

        wait_until(f"{step} is under way", lambda: bool(found()))
        return found()[0]

    def messages(self) -> Sequence[resources_pb2.Message]:
        """What the Primary placed, newest first."""
        request = primary_pb2.PrimaryServiceListMessagesRequest(group=GROUP)
        return self.primary_api.ListMessages(request, timeout=CALL_SECONDS).messages

    def frozen(self, link: str = "site-b") -> str:
        """The message at which a replica stands, or ""."""
        request = secondary_pb2.GetReplicaRequest(name=GROUP)
        replica = self.api_of(link).GetReplica(request, timeout=CALL_SECONDS).replica
        return replica.freeze.message

    def snapshots(self, link: str = "site-b") -> Sequence[resources_pb2.Snapshot]:
        """The snapshots a Secondary has."""
        request = secondary_pb2.SecondaryServiceListSnapshotsRequest(group=GROUP)
        return self.api_of(link).ListSnapshots(request, timeout=CALL_SECONDS).snapshots

    def names(self, link: str = "") -> list[str]:
        """Applications registered at the Primary, or at a link's Secondary."""
        if not link:
            here = primary_pb2.PrimaryServiceListApplicationsRequest(group=GROUP)
            rows = self.primary_api.ListApplications(here, timeout=CALL_SECONDS).applications
        else:
            there = secondary_pb2.SecondaryServiceListApplicationsRequest(group=GROUP)
            rows = self.api_of(link).ListApplications(there, timeout=CALL_SECONDS).applications
        return [row.application for row in rows]

    def check_nothing_left(self, *links: str) -> None:
        """No name, no export, no freeze of a run is left."""
        assert "nightly" not in self.names()
        for link in links or ("site-b",):
            assert "nightly" not in self.names(link)
            assert not self.frozen(link)
            assert not any(row.exported for row in self.snapshots(link))


class Agent:
    """An agent that does what the test says; it holds nothing real."""

    def __init__(self, site: TaskSite, application: str = "db") -> None:
        """Register the application and open a session."""
        site.primary_api.RegisterApplication(
            primary_pb2.PrimaryServiceRegisterApplicationRequest(
                group=GROUP, application=application
            ),
            timeout=CALL_SECONDS,
        )
        self.answers_hold = True
        self.refuses = ""
        self.answers_resume = True
        self.unbroken = True
        self.asked: list[str] = []
        """What the Primary asked for so far: hold, resume."""

        self._said: queue.Queue[Request | None] = queue.Queue()
        self._said.put(
            Request(
                open=Request.Open(group=GROUP, application=application, kind="command", host="test")
            )
        )
        self._opened = threading.Event()
        self._call = site.primary_api.HoldQuiesce(self._requests())
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._opened.wait(CALL_SECONDS), "no session"

    def close(self) -> None:
        """End the session."""
        self._said.put(None)
        self._call.cancel()
        self._thread.join(CALL_SECONDS)

    def wait(self, word: str) -> None:
        """Wait until the Primary has asked for something."""
        wait_until(f"the agent was asked to {word}", lambda: word in self.asked)

    def _requests(self) -> Iterator[Request]:
        while True:
            try:
                request = self._said.get(timeout=1.0)
            except queue.Empty:
                request = Request(heartbeat=Request.Heartbeat())
            if request is None:
                return
            yield request

    def _listen(self) -> None:
        try:
            for answer in self._call:
                kind = answer.WhichOneof("message")
                if kind == "opened":
                    self._opened.set()
                elif kind == "hold":
                    self._hold(answer.hold.hold_id)
                elif kind == "resume":
                    self._resume(answer.resume.hold_id)
        except grpc.RpcError:
            return

    def _hold(self, hold: str) -> None:
        self.asked.append("hold")
        if self.refuses:
            self._said.put(Request(failed=Request.Failed(hold_id=hold, problem=self.refuses)))
        elif self.answers_hold:
            self._said.put(Request(quiesced=Request.Quiesced(hold_id=hold, answer="held")))

    def _resume(self, hold: str) -> None:
        self.asked.append("resume")
        if self.answers_resume:
            resumed = Request.Resumed(hold_id=hold, unbroken=self.unbroken, answer="on")
            self._said.put(Request(resumed=resumed))
