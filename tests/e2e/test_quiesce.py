"""A quiesce with real services: the Outcome reaches the Secondary, and no kill leaves it open."""

import os
import re
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from demo import mounts
from slackwater.v1 import common_pb2, primary_pb2, record_pb2, resources_pb2, secondary_pb2
from tests.e2e.test_metrics import scrape
from tests.support import agents
from tests.support.commands import AT_ONCE_SECONDS, Pair
from tests.support.processes import (
    APPLICATION,
    CALL_SECONDS,
    DATA,
    GROUP,
    MIB,
    Cluster,
    wait_until,
)
from tests.support.scripted_agent import ScriptedAgent

CONFIRMED = record_pb2.Outcome.STATE_CONFIRMED
REVOKED = record_pb2.Outcome.STATE_REVOKED
AGENT = "db"


def ready(cluster: Cluster) -> None:
    cluster.replicate(data=MIB)
    register = primary_pb2.PrimaryServiceRegisterApplicationRequest(group=GROUP, application=AGENT)
    cluster.primary_api.RegisterApplication(register, timeout=CALL_SECONDS)


def agent(cluster: Cluster, kind: str = "command") -> ScriptedAgent:
    return ScriptedAgent(cluster.primary_api, GROUP, AGENT, kind)


def quiescing(**fields: Any) -> primary_pb2.SendMessageRequest:
    given = {"group": GROUP, "application": APPLICATION, "request_id": "once", **fields}
    request = primary_pb2.SendMessageRequest(**given)
    request.quiesce.applications.append(AGENT)
    return request


def send(
    pool: ThreadPoolExecutor, cluster: Cluster, request: primary_pb2.SendMessageRequest
) -> "Future[primary_pb2.SendMessageResponse]":
    return pool.submit(cluster.primary_api.SendMessage, request, timeout=4 * CALL_SECONDS)


def write(cluster: Cluster, data: bytes) -> None:
    with cluster.device(DATA) as device:
        device.write(0, data, fua=True)


def nbd_writes(cluster: Cluster) -> int:
    """How many writes came in over NBD."""
    found = re.search(
        r'^slackwater_nbd_requests_total\{command="write"\} (\S+)$',
        scrape(cluster.primary.endpoints.metrics),
        re.MULTILINE,
    )
    return int(float(found[1])) if found else 0


def messages(cluster: Cluster) -> list[resources_pb2.Message]:
    request = primary_pb2.PrimaryServiceListMessagesRequest(group=GROUP)
    return list(cluster.primary_api.ListMessages(request, timeout=CALL_SECONDS).messages)


def outcomes_in_log(cluster: Cluster) -> list[record_pb2.Outcome]:
    request = primary_pb2.PrimaryServiceReadLogRequest(
        group=GROUP, max_records=1000, omit_payloads=True
    )
    read = cluster.primary_api.ReadLog(request, timeout=CALL_SECONDS)
    return [one.outcome for one in read.records if one.HasField("outcome")]


def outcome_on_secondary(cluster: Cluster, message: str) -> int:
    request = secondary_pb2.SecondaryServiceListMessagesRequest(group=GROUP)
    listed = cluster.secondary_api.ListMessages(request, timeout=CALL_SECONDS).messages
    return next((one.outcome for one in listed if one.name == message), 0)


def test_snapshot_at_a_quiesced_message_holds_just_what_was_written_before(
    cluster: Cluster,
) -> None:
    """C1, C2, C7, C16, C17: write, hold, place, go on, write; the Secondary has the first."""
    ready(cluster)
    before, after = b"before".ljust(512), b"after".ljust(512)
    write(cluster, before)
    with ThreadPoolExecutor(1) as pool, agent(cluster) as quiescer:
        request = quiescing(
            behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT, snapshot_id="held", task="tasks/t"
        )
        sending = send(pool, cluster, request)
        quiescer.hold()
        name = quiescer.resume()
        write(cluster, after)
        answer = sending.result()
    assert answer.message.name == name
    assert answer.message.outcome == CONFIRMED
    watch = primary_pb2.WatchMessageRequest(name=name)
    *_, last = cluster.primary_api.WatchMessage(watch, timeout=CALL_SECONDS)
    (verdict,) = last.message.verdicts
    assert verdict.state == common_pb2.VERDICT_STATE_SNAPSHOTTED
    assert verdict.detail.snapshot_id == "held"
    cluster.secondary_api.ExportSnapshot(
        secondary_pb2.SecondaryServiceExportSnapshotRequest(name=f"{GROUP}/snapshots/held"),
        timeout=CALL_SECONDS,
    )
    assert cluster.read_snapshot("held", "data")[:512] == before
    cluster.wait_no_lag()
    assert outcome_on_secondary(cluster, name) == CONFIRMED
    assert [one.state for one in outcomes_in_log(cluster)] == [CONFIRMED]


def test_kill_of_the_primary_before_the_message_leaves_none(cluster: Cluster) -> None:
    """The Primary dies while the application is held: nothing was sent, and writes go on."""
    ready(cluster)
    with ThreadPoolExecutor(1) as pool, agent(cluster) as quiescer:
        request = quiescing()
        request.quiesce.applications.append("slow")
        register = primary_pb2.PrimaryServiceRegisterApplicationRequest(
            group=GROUP, application="slow"
        )
        cluster.primary_api.RegisterApplication(register, timeout=CALL_SECONDS)
        with ScriptedAgent(cluster.primary_api, GROUP, "slow") as slow:
            sending = send(pool, cluster, request)
            quiescer.hold()
            assert slow.next().HasField("hold")
            cluster.primary.restart(kill=True)
            assert isinstance(sending.exception(), grpc.RpcError)
            assert quiescer.wait_over() is grpc.StatusCode.UNAVAILABLE
    assert messages(cluster) == []
    assert outcomes_in_log(cluster) == []
    write(cluster, b"goes on".ljust(512))
    cluster.wait_no_lag()


def test_kill_of_the_primary_inside_the_fence_with_a_write_in_flight(
    small_disk: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """C2: the write that the fence waits for is stuck in a disk that takes none."""
    cluster.primary.data_dir = small_disk / "primary"
    cluster.primary.arguments += ["--fence-seconds", "60", "--agent-grace-seconds", "2"]
    cluster.replicate(data=MIB, log_bytes=64 * MIB)
    for name in (AGENT, "slow"):
        register = primary_pb2.PrimaryServiceRegisterApplicationRequest(
            group=GROUP, application=name
        )
        cluster.primary_api.RegisterApplication(register, timeout=CALL_SECONDS)
    before, stuck = b"b" * 4096, b"s" * 4096
    write(cluster, before)
    pair = Pair(tmp_path / "scripts")
    address = cluster.primary.endpoints.grpc
    with (
        ThreadPoolExecutor(2) as pool,
        agents.running(address, tmp_path, *pair.words, application=AGENT),
        ScriptedAgent(cluster.primary_api, GROUP, "slow") as slow,
    ):
        wait_until("both agents are there", lambda: len(cluster.group_status().agents) == 2)
        request = quiescing()
        request.quiesce.applications.append("slow")
        request.quiesce.max_hold.FromSeconds(60)
        request.fence_timeout.FromSeconds(60)
        sending = send(pool, cluster, request)
        hold = slow.next()
        wait_until("the application is held", pair.is_held)
        mounts.freeze(small_disk)
        try:
            writing = pool.submit(write, cluster, stuck)
            wait_until("the write is in flight", lambda: nbd_writes(cluster) == 2)
            slow.say_held(hold)
            wait_until("the fence stands", lambda: cluster.group_status().HasField("fence_held"))
            assert not sending.done() and not writing.done()
            os.kill(cluster.primary.pid, signal.SIGKILL)
            pair.goes_on(within=2.0 + AT_ONCE_SECONDS)
        finally:
            mounts.thaw(small_disk)
        cluster.primary.kill()
        assert isinstance(sending.exception(), grpc.RpcError)
        assert isinstance(writing.exception(), OSError)
        cluster.primary.start(same_ports=True)
    assert messages(cluster) == [] and outcomes_in_log(cluster) == []
    assert cluster.read_volume("data")[:4096] in {before, stuck}, "it was not answered"
    write(cluster, b"goes on".ljust(512))
    cluster.wait_no_lag()


def test_kill_of_the_primary_after_the_message_revokes_it(cluster: Cluster) -> None:
    """C17: the message is in the log without an Outcome, so REVOKED after recovery, once."""
    ready(cluster)
    with ThreadPoolExecutor(1) as pool, agent(cluster) as quiescer:
        sending = send(pool, cluster, quiescing(behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY))
        quiescer.hold()
        asked = quiescer.next()
        assert asked.resume.message, "it is placed, and the agent never answers"
        cluster.primary.restart(kill=True)
        assert isinstance(sending.exception(), grpc.RpcError)
    (message,) = messages(cluster)
    assert message.name == asked.resume.message
    assert message.outcome == REVOKED
    assert "stopped" in message.judgement.evidence
    assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_CRASH
    write(cluster, b"goes on".ljust(512))
    wait_until(
        "the Secondary knows", lambda: outcome_on_secondary(cluster, message.name) == REVOKED
    )
    again = cluster.primary_api.SendMessage(quiescing(), timeout=CALL_SECONDS)
    assert again.message.name == message.name
    cluster.primary.restart(kill=True)
    assert [one.state for one in outcomes_in_log(cluster)] == [REVOKED]


def test_primary_that_is_told_to_end_sees_the_quiesce_through(cluster: Cluster) -> None:
    """SIGTERM: the round goes to its end, then the sessions end and with them the service."""
    ready(cluster)
    with ThreadPoolExecutor(2) as pool, agent(cluster, "fsfreeze") as quiescer:
        sending = send(pool, cluster, quiescing())
        hold = quiescer.next()
        stopping = pool.submit(cluster.primary.stop)
        quiescer.say_held(hold)
        quiescer.resume()
        assert sending.result().message.outcome == CONFIRMED
        assert quiescer.wait_over() is grpc.StatusCode.UNAVAILABLE
        assert stopping.result() == 0
    cluster.primary.start()
    (message,) = messages(cluster)
    assert message.outcome == CONFIRMED
    assert message.judgement.grade == common_pb2.SNAPSHOT_GRADE_FILESYSTEM
