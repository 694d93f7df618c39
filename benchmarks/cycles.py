"""The whole cycle of a message, again and again under load: send, deliver, snapshot, unfreeze."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc

from demo.sites import Sites
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    resources_pb2,
    secondary_pb2,
    secondary_pb2_grpc,
)

CALL_SECONDS = 60.0
SETTLE_SECONDS = 180.0
LOG_BYTES = 1 << 30
APPLICATION = "bench"
SCATTERED_WRITES = 20_000
LOAD_BYTES = 256 << 20
LOAD_SECONDS = 600
PACE = 1000
"""Writes a second of a load that a Secondary keeps up with, so that what is measured is the way of
a message and not a backlog; the smallest and the largest case also run without a pace."""


@dataclass(frozen=True, slots=True)
class Case:
    """One group under the cycle."""

    gib: int
    fragmented: bool
    snapshots: int
    writes_per_second: int = PACE

    @property
    def name(self) -> str:
        """For tables."""
        kind = "fragmented" if self.fragmented else "sparse"
        plural = "s" if self.snapshots > 1 else ""
        pace = "" if self.writes_per_second else ", unpaced"
        return f"{self.gib} GiB {kind}, {self.snapshots} snapshot{plural}{pace}"

    @property
    def group(self) -> str:
        """Its group's id."""
        kind = "f" if self.fragmented else "s"
        return f"g{self.gib}{kind}{self.snapshots}p{self.writes_per_second}"


CASES = (
    Case(1, False, 1),
    Case(1, False, 10),
    Case(1, False, 50),
    Case(1, True, 1),
    Case(10, False, 1),
    Case(10, True, 1),
    Case(100, False, 1),
    Case(100, True, 1),
    Case(100, True, 50),
    Case(1, False, 1, writes_per_second=0),
    Case(100, True, 50, writes_per_second=0),
)


@dataclass(slots=True)
class Samples:
    """Milliseconds, one entry for each cycle."""

    window: list[float] = field(default_factory=list)
    fence: list[float] = field(default_factory=list)
    freeze: list[float] = field(default_factory=list)
    snapshot: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)


class Bench:
    """Cycles against running services."""

    def __init__(self, sites: Sites, primary: grpc.Channel, secondary: grpc.Channel) -> None:
        """Use these services."""
        self._sites = sites
        self._primary = primary_pb2_grpc.PrimaryServiceStub(primary)
        self._secondary = secondary_pb2_grpc.SecondaryServiceStub(secondary)

    def prepare(self, case: Case) -> None:
        """Make group, link, names and the older snapshots of a case, and let it settle."""
        group, volume = f"groups/{case.group}", f"groups/{case.group}/volumes/data"
        self._primary.CreateGroup(
            primary_pb2.CreateGroupRequest(group_id=case.group, log_bytes=LOG_BYTES),
            timeout=CALL_SECONDS,
        )
        self._primary.CreateVolume(
            primary_pb2.CreateVolumeRequest(
                group=group, volume_id="data", size_bytes=case.gib << 30
            ),
            timeout=CALL_SECONDS,
        )
        self._primary.CreateLink(
            primary_pb2.CreateLinkRequest(
                group=group, link_id="site-b", endpoint=self._sites.secondary.endpoints.grpc
            ),
            timeout=CALL_SECONDS,
        )
        self._settle(group)
        self._primary.RegisterApplication(
            primary_pb2.PrimaryServiceRegisterApplicationRequest(
                group=group, application=APPLICATION
            ),
            timeout=CALL_SECONDS,
        )
        self._secondary.RegisterApplication(
            secondary_pb2.SecondaryServiceRegisterApplicationRequest(
                group=group, application=APPLICATION
            ),
            timeout=CALL_SECONDS,
        )
        if case.fragmented:
            uri = self._sites.primary.endpoints.nbd_uri(volume)
            words = [f"--number_ios={SCATTERED_WRITES}", "--norandommap", "--iodepth=32"]
            subprocess.run(
                _fio(uri, case.gib << 30, *words), capture_output=True, timeout=120, check=True
            )
            self._settle(group)
        for number in range(case.snapshots - 1):
            self._take(group, f"old-{number}", "")

    def cycles(self, case: Case, count: int) -> Samples:
        """Run so many cycles under a load of 4 KiB writes at depth 16."""
        group = f"groups/{case.group}"
        uri = self._sites.primary.endpoints.nbd_uri(f"{group}/volumes/data")
        samples = Samples()
        kept = [f"old-{number}" for number in range(case.snapshots - 1)]
        with _load(uri, case.writes_per_second):
            for number in range(count):
                name = f"s-{number}"
                self._cycle(group, name, samples)
                kept.append(name)
                if len(kept) > case.snapshots:
                    self._delete(group, kept.pop(0))
        return samples

    def remove(self, case: Case) -> None:
        """Take the group away on both sides, so that cases do not share the machine."""
        group = f"groups/{case.group}"
        link = primary_pb2.DeleteLinkRequest(name=f"{group}/links/site-b")
        self._primary.DeleteLink(link, timeout=CALL_SECONDS)
        for call, request in (
            (self._primary.DeleteGroup, primary_pb2.DeleteGroupRequest(name=group)),
            (self._secondary.DeleteReplica, secondary_pb2.DeleteReplicaRequest(name=group)),
        ):
            _patiently(call, request)

    def _cycle(self, group: str, name: str, samples: Samples) -> None:
        receive = secondary_pb2.ReceiveMessageRequest(
            group=group, application=APPLICATION, holder="bench"
        )
        receive.wait_timeout.FromSeconds(int(CALL_SECONDS))
        arrived: list[float] = []
        waiting = self._secondary.ReceiveMessage.future(receive, timeout=2 * CALL_SECONDS)
        waiting.add_done_callback(lambda _: arrived.append(time.monotonic()))
        send = primary_pb2.SendMessageRequest(
            group=group,
            application=APPLICATION,
            quiesce=primary_pb2.Quiesce(applications=[APPLICATION]),
        )
        began = time.monotonic()
        sent = self._primary.SendMessage(send, timeout=CALL_SECONDS)
        message = waiting.result().message
        samples.latency.append((_first(arrived) - began) * 1e3)
        assert message.name == sent.message.name, "messages come one at a time and in order"
        snapshot = self._take(group, name, message.name)
        thaw = secondary_pb2.UnfreezeRequest(message=message.name, by="bench")
        thawed = self._secondary.Unfreeze(thaw, timeout=CALL_SECONDS)
        samples.window.append(sent.quiesce_window.ToNanoseconds() / 1e6)
        samples.fence.append(sent.fence_held.ToNanoseconds() / 1e6)
        samples.freeze.append(thawed.frozen_for.ToNanoseconds() / 1e6)
        samples.snapshot.append(snapshot.create_duration.ToNanoseconds() / 1e6)

    def _take(self, group: str, name: str, message: str) -> resources_pb2.Snapshot:
        request = secondary_pb2.CreateSnapshotRequest(
            group=group, snapshot_id=name, at_message=message
        )
        return self._secondary.CreateSnapshot(request, timeout=CALL_SECONDS).snapshot

    def _delete(self, group: str, name: str) -> None:
        request = secondary_pb2.SecondaryServiceDeleteSnapshotRequest(
            name=f"{group}/snapshots/{name}"
        )
        self._secondary.DeleteSnapshot(request, timeout=CALL_SECONDS)

    def _settle(self, group: str) -> None:
        """Wait until everything is in the replica's volumes."""
        request = primary_pb2.GetLinkRequest(name=f"{group}/links/site-b")
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            link = self._primary.GetLink(request, timeout=CALL_SECONDS).link
            streams = link.state == common_pb2.LINK_STATE_STREAMING
            if streams and not link.lag_bytes and link.applied_lsn >= link.acked.lsn:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{group} does not settle: {link}")
            time.sleep(0.1)


@contextlib.contextmanager
def _load(uri: str, per_second: int) -> Iterator[None]:
    """4 KiB random writes at depth 16 while the context lasts; they never pause."""
    words = ["--iodepth=16", "--time_based", f"--runtime={LOAD_SECONDS}"]
    if per_second:
        words.append(f"--rate_iops={per_second}")
    process = subprocess.Popen(
        _fio(uri, LOAD_BYTES, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(1.0)  # until it writes
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the load ended by itself with {process.returncode}")
    finally:
        process.terminate()
        process.wait(30)


def _fio(uri: str, size_bytes: int, *words: str) -> list[str]:
    target = ["--ioengine=nbd", f"--uri={uri}", f"--size={size_bytes}"]
    return ["fio", "--name=load", "--rw=randwrite", "--bs=4k", "--randrepeat=0", *target, *words]


def _first(arrived: list[float]) -> float:
    """When the answer came; its callback may run a moment after the answer is seen."""
    while not arrived:
        time.sleep(0.0001)
    return arrived[0]


def _patiently(call: Callable[..., object], request: object) -> None:
    """Make a call that is refused until a connection has ended."""
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        try:
            call(request, timeout=CALL_SECONDS)
            return
        except grpc.RpcError as error:
            is_early = error.code() is grpc.StatusCode.FAILED_PRECONDITION
            if not is_early or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
