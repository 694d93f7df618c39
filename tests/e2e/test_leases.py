"""Leases and SNAPSHOT messages with real processes that die (C7, C13, C14, C15, C16)."""

import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, secondary_pb2, secondary_pb2_grpc
from tests.support.processes import (
    APPLICATION,
    CALL_SECONDS,
    GROUP,
    MIB,
    Cluster,
    wait_until,
)

pytestmark = pytest.mark.timeout(240)

Request = secondary_pb2.HoldMessageRequest
FROZEN = resources_pb2.Freeze.PHASE_FROZEN

HOLDER = """
import sys, time, grpc
from slackwater.v1 import secondary_pb2 as api, secondary_pb2_grpc
Request = api.HoldMessageRequest
def requests():
    yield Request(open=Request.Open(group=sys.argv[2], application=sys.argv[3], holder="child"))
    while True:
        time.sleep(0.5)
        yield Request(heartbeat=Request.Heartbeat())
stub = secondary_pb2_grpc.SecondaryServiceStub(grpc.insecure_channel(sys.argv[1]))
for response in stub.HoldMessage(requests()):
    if response.WhichOneof("message") != "heartbeat":
        print(response.WhichOneof("message"), flush=True)
"""


class Holder:
    """A lease held by this process, which lives until it is closed."""

    def __init__(self, cluster: Cluster, message: str = "") -> None:
        self._channel = grpc.insecure_channel(cluster.secondary.endpoints.grpc)
        self._said: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        opening = Request.Open(group=GROUP, application=APPLICATION, holder="test", message=message)
        self._said.put(Request(open=opening))
        stub = secondary_pb2_grpc.SecondaryServiceStub(self._channel)
        self._call = stub.HoldMessage(iter(self._next, None))
        self.heard: queue.SimpleQueue[secondary_pb2.HoldMessageResponse] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _next(self) -> Request | None:
        try:
            return self._said.get(timeout=0.5)
        except queue.Empty:
            return Request(heartbeat=Request.Heartbeat())

    def _listen(self) -> None:
        try:
            for response in self._call:
                if response.WhichOneof("message") != "heartbeat":
                    self.heard.put(response)
        except grpc.RpcError:
            pass

    def until(self, kind: str) -> secondary_pb2.HoldMessageResponse:
        response = self.heard.get(timeout=CALL_SECONDS)
        assert response.WhichOneof("message") == kind
        return response

    def unfreeze(self) -> None:
        self._said.put(Request(unfreeze=Request.Unfreeze()))

    def close(self) -> None:
        self._said.put(None)
        self._channel.close()


def verdict(cluster: Cluster, name: str) -> resources_pb2.Verdict:
    """What the Primary knows of a message on the one link."""
    request = primary_pb2.GetMessageRequest(name=name)
    message = cluster.primary_api.GetMessage(request, timeout=CALL_SECONDS).message
    (found,) = message.verdicts
    return found


def ends_as(cluster: Cluster, name: str, state: common_pb2.VerdictState.ValueType) -> None:
    """Wait until the sender has learnt how its message ended (C16)."""
    wait_until("the verdict is final", lambda: verdict(cluster, name).final)
    assert verdict(cluster, name).state == state


@pytest.fixture
def child(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the next message."""
    cluster.replicate(data=4 * MIB)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, cluster.secondary.endpoints.grpc, GROUP, APPLICATION],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_holder_that_dies_or_hangs_loses_its_lease_and_the_sender_learns_c13(
    cluster: Cluster, child: "subprocess.Popen[str]", end: signal.Signals
) -> None:
    sent = cluster.send()
    assert child.stdout is not None and child.stdout.readline() == "delivered\n"
    freeze = cluster.replica().freeze
    assert freeze.leased and freeze.holder == "child" and freeze.phase == FROZEN
    time.sleep(6)  # longer than the grace: it lives
    assert cluster.replica().freeze.leased
    child.send_signal(end)
    ends_as(cluster, sent.name, common_pb2.VERDICT_STATE_LEASE_LOST)
    assert not cluster.replica().HasField("freeze")


def test_lease_outlives_a_sigkill_of_the_secondary_c15(cluster: Cluster) -> None:
    cluster.replicate(data=4 * MIB)
    holder = Holder(cluster)
    sent = cluster.send()
    at = holder.until("delivered").delivered.position
    for _ in range(2):
        holder.close()
        cluster.secondary.restart(kill=True)
        wait_until("it stands again", lambda: cluster.replica().HasField("freeze"))
        replica = cluster.replica()
        assert replica.freeze.leased and replica.applied == at
        holder = Holder(cluster, sent.name)
        got = holder.until("delivered").delivered
        assert got.name == sent.name and got.redelivered
        time.sleep(6)
        assert cluster.replica().freeze.leased, "its holder came back"
    holder.unfreeze()
    assert holder.until("thawed").thawed.state == common_pb2.VERDICT_STATE_UNFROZEN
    holder.close()
    ends_as(cluster, sent.name, common_pb2.VERDICT_STATE_UNFROZEN)


def send_snapshot(cluster: Cluster, number: int) -> resources_pb2.Message:
    """Write something, then ask for a snapshot at exactly this point."""
    cluster.primary_api.WriteVolume(
        primary_pb2.WriteVolumeRequest(
            name=f"{GROUP}/volumes/data", offset=0, data=number.to_bytes(4, "little") * 1024
        ),
        timeout=CALL_SECONDS,
    )
    request = primary_pb2.SendMessageRequest(
        group=GROUP, application=APPLICATION, behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
    )
    return cluster.primary_api.SendMessage(request, timeout=CALL_SECONDS).message


def test_each_snapshot_message_makes_one_snapshot_through_sigkills_c7(cluster: Cluster) -> None:
    cluster.replicate(data=4 * MIB)
    choice = random.Random(7)
    sent = []
    for number in range(24):
        sent.append(send_snapshot(cluster, number))
        if number % 6 == 5:
            time.sleep(choice.uniform(0, 0.05))
            cluster.secondary.restart(kill=True)
    for message in sent:
        ends_as(cluster, message.name, common_pb2.VERDICT_STATE_SNAPSHOTTED)
    cluster.wait_no_lag()
    request = secondary_pb2.SecondaryServiceListSnapshotsRequest(group=GROUP)
    found = cluster.secondary_api.ListSnapshots(request, timeout=CALL_SECONDS).snapshots
    assert sorted(row.message for row in found) == sorted(message.name for message in sent)
    by_message = {row.message: row for row in found}
    for number, message in enumerate(sent):
        row = by_message[message.name]
        short = row.name.split("/")[-1]
        assert short == "ibc-" + message.name.split("/")[-1][:13]
        assert verdict(cluster, message.name).detail.snapshot_id == short
        assert row.position == message.position
        data = cluster.secondary_api.ReadSnapshot(
            secondary_pb2.ReadSnapshotRequest(name=row.name, volume="data", length=8192),
            timeout=CALL_SECONDS,
        ).data
        assert data == number.to_bytes(4, "little") * 1024 + bytes(4096)
    told = []
    while (got := cluster.receive(0)) is not None:
        told.append((got.name, got.snapshot))
    # A receive that is lost in a crash comes again; here none was, so each is told once, in order.
    assert told == [(one.name, by_message[one.name].name) for one in sent]
