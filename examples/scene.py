"""What every sample needs: three services, a group that replicates, an agent, a run of a task."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf import json_format

from demo import mounts
from demo.commands import CommandError, CommandLine, pick
from demo.screen import milliseconds
from demo.sites import REPOSITORY, Sites
from examples.watch import Watch
from slackwater.v1 import common_pb2, snapshot_pb2

EXAMPLES = REPOSITORY / "examples"
GROUP = "demo"
WAIT_SECONDS = 60.0
RUN_SECONDS = 180.0


class SceneFailed(Exception):
    """Something that a sample shows is not so."""


class Scene:
    """A group on one site, replicated to another, under one directory."""

    def __init__(
        self, directory: Path, stack: contextlib.ExitStack, *, command_user: str = ""
    ) -> None:
        """Plan it; what it starts ends with `stack`; tasks' programs run as `command_user`."""
        self.directory = directory
        self.stack = stack
        self.tasks = self.install("tasks")
        words = ["--tasks-dir", str(self.tasks)]
        words += ["--command-user", command_user] if command_user else []
        self.sites = stack.enter_context(Sites(directory, arguments={"snapshot": words}))

    def install(self, name: str) -> Path:
        """A copy of a part of `examples`: programs are run only where nobody else can write."""
        there = self.directory / name
        shutil.copytree(EXAMPLES / name, there)
        for path in (there, *there.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o022)
        return there

    def start(self, **volume_sizes: str) -> None:
        """Start the services; make the group with these volumes, and its link."""
        self.sites.start()
        self.cli = CommandLine(self.sites)
        self.cli("group", "create", GROUP)
        for volume, size in volume_sizes.items():
            self.cli("volume", "create", f"{GROUP}/{volume}", "--size", size)
        endpoint = self.sites.secondary.endpoints.grpc
        self.cli("link", "create", f"{GROUP}/site-b", "--endpoint", endpoint)
        wait("the link streams", lambda: self.link_state() == "STREAMING")

    def link_state(self) -> str:
        """The link's state, as its last word."""
        answer = self.cli.quietly("link", "get", f"{GROUP}/site-b")
        link = pick(answer, "link") or answer
        return str(pick(link, "state")).removeprefix("LINK_STATE_")

    def uri(self, volume: str) -> str:
        """NBD URI of a volume on the Primary."""
        return self.sites.primary.endpoints.nbd_uri(f"groups/{GROUP}/volumes/{volume}")

    def snapshot_uri(self, snapshot: str, volume: str) -> str:
        """NBD URI of a volume of an exported snapshot on the Secondary."""
        name = f"groups/{GROUP}/snapshots/{snapshot}/volumes/{volume}"
        return self.sites.secondary.endpoints.nbd_uri(name)

    def agent(self, application: str, *kind: str) -> None:
        """Start an agent beside the application, and wait until the Primary knows it."""
        self.cli("ibc", "register", GROUP, application, "--side", "primary")
        log = self.directory / "run" / f"agent-{application}.log"
        command = [sys.executable, "-m", "slackwater.cli", "agent", "run"]
        command += ["--primary", self.sites.primary.endpoints.grpc]
        command += ["--group", GROUP, "--application", application]
        command += ["--state-dir", str(self.directory / "agent"), *kind]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        self.stack.callback(stop, process)

        def is_there() -> bool:
            require(process.poll() is None, f"the agent has ended:\n{log.read_text()}")
            agents = pick(self.cli.quietly("agent", "list", GROUP), "agents") or []
            return any(pick(row, "application") == application for row in agents)

        wait("the agent is connected", is_there)

    def watch(self) -> Watch:
        """Watch replication from now on."""
        watch = Watch(self.sites, GROUP, "site-b")
        self.stack.callback(watch.stop)
        watch.start()
        return watch

    def run_task(self, task: str) -> snapshot_pb2.Run:
        """Run a task to its end, as an operator does; it has to succeed."""
        try:
            answer = self.cli.start("task", "run", task, "--group", GROUP).answer(RUN_SECONDS)
        except CommandError as error:
            raise SceneFailed(str(error)) from error
        return json_format.ParseDict(answer, snapshot_pb2.Run())

    def export(self, run: snapshot_pb2.Run, grade: str) -> str:
        """Export the snapshot that a run made, if it has that grade, confirmed; its id."""
        made = run.replicas[0]
        found = common_pb2.SnapshotGrade.Name(made.grade)
        require(
            found == f"SNAPSHOT_GRADE_{grade}" and made.confirmed,
            f"the snapshot is {found}, confirmed: {made.confirmed}",
        )
        snapshot = made.snapshot.rpartition("/")[2]
        self.cli("snapshot", "export", GROUP, snapshot)
        return snapshot

    @contextlib.contextmanager
    def clone(self, snapshot: str) -> Iterator[str]:
        """A writable clone of a snapshot, exported; thrown away at the end. Yields its id."""
        clone = f"{snapshot[:40]}-clone"
        self.cli("snapshot", "clone", "create", f"{GROUP}/{snapshot}", clone, "--export")
        try:
            yield clone
        finally:
            self.cli("snapshot", "clone", "delete", GROUP, clone, "--force", "--yes")

    def clone_uri(self, clone: str, volume: str) -> str:
        """NBD URI of a volume of a clone on the Secondary."""
        name = f"groups/{GROUP}/clones/{clone}/volumes/{volume}"
        return self.sites.secondary.endpoints.nbd_uri(name)

    def copy_out(self, snapshot: str, volume: str) -> Path:
        """A writable sparse copy of one volume of an exported snapshot."""
        copy = self.directory / f"{snapshot}-{volume}.raw"
        mounts.run("nbdcopy", self.snapshot_uri(snapshot, volume), str(copy), timeout_seconds=120)
        self.stack.callback(lambda: copy.unlink(missing_ok=True))
        return copy


def sent_between(run: snapshot_pb2.Run) -> tuple[float, float]:
    """When the run called SendMessage and when that returned, in seconds since 1970."""
    return step_times(run, "send")


def step_times(run: snapshot_pb2.Run, name: str) -> tuple[float, float]:
    """When a step of a run began and ended, in seconds since 1970."""
    (step,) = [step for step in run.steps if step.step == name]
    return (step.start_time.ToNanoseconds() / 1e9, step.end_time.ToNanoseconds() / 1e9)


def window(run: snapshot_pb2.Run) -> str:
    """How long the application was held, for people."""
    return milliseconds(run.quiesce_window.ToNanoseconds() / 1e9)


@contextlib.contextmanager
def file_system(uri: str, directory: Path, kind: str) -> Iterator[Path]:
    """A new file system on a volume, mounted as an application has it."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounts.as_file(uri, directory / "fuse"))
        device = stack.enter_context(mounts.as_disk(disk))
        make(kind, device)
        yield stack.enter_context(mounts.mounted(device, directory / "mnt", "noatime"))


@contextlib.contextmanager
def read_only(uri: str, directory: Path, kind: str) -> Iterator[Path]:
    """A file system on an export, mounted without a change to it, its journal not replayed."""
    options = {"ext4": "ro,norecovery", "xfs": "ro,norecovery,nouuid"}[kind]
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounts.as_file(uri, directory / "fuse", read_only=True))
        device = stack.enter_context(mounts.as_disk(disk, read_only=True))
        yield stack.enter_context(mounts.mounted(device, directory / "mnt", options))


@contextlib.contextmanager
def cloned(uri: str, directory: Path, kind: str) -> Iterator[Path]:
    """A file system on a clone, mounted for writing; its journal is replayed as after a crash."""
    options = {"ext4": "noatime", "xfs": "noatime,nouuid"}[kind]
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounts.as_file(uri, directory / "fuse"))
        device = stack.enter_context(mounts.as_disk(disk))
        yield stack.enter_context(mounts.mounted(device, directory / "mnt", options))


@contextlib.contextmanager
def writable(image: Path, where: Path, kind: str = "ext4") -> Iterator[Path]:
    """A copy mounted for writing; its journal is replayed as after a crash."""
    options = {"ext4": "noatime", "xfs": "noatime,nouuid"}[kind]
    with (
        mounts.as_disk(image) as device,
        mounts.mounted(device, where, options) as root,
    ):
        yield root


def make(kind: str, device: str) -> None:
    """Make a file system."""
    if kind == "xfs":
        mounts.run("mkfs.xfs", "-q", "-f", device)
    else:
        mounts.make_file_system(device)


def wait(what: str, condition: Callable[[], bool], timeout_seconds: float = WAIT_SECONDS) -> None:
    """Wait for something that has to come about."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SceneFailed(f"not within {timeout_seconds:.0f} s: {what}")
        time.sleep(0.05)


def require(condition: bool, problem: str) -> None:
    """Raise SceneFailed unless something is so."""
    if not condition:
        raise SceneFailed(problem)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program of ours and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(30)
