"""Everything can be done with grpcurl: list, describe, and the whole demo by unary calls."""

import base64
import time
from pathlib import Path

import pytest

from slackwater.v1 import primary_pb2, record_pb2, secondary_pb2, snapshot_pb2
from tests.support import transcript
from tests.support.grpcurl import Grpcurl, GrpcurlError
from tests.support.processes import APPLICATION, GROUP, LINK, MIB, Cluster, wait_until
from tests.support.tools import require

pytestmark = pytest.mark.timeout(180)

GRPCURL_PAGE = (Path(__file__).parents[2] / "docs/grpcurl.md").read_text()

SERVED = {
    "primary": ("PrimaryService", primary_pb2),
    "secondary": ("SecondaryService", secondary_pb2),
    "snapshot": ("SnapshotService", snapshot_pb2),
}


def test_every_service_lists_and_describes_itself(cluster: Cluster) -> None:
    cluster.start()
    for service in cluster.services:
        grpcurl = Grpcurl(service.endpoints.grpc)
        name, module = SERVED[service.role]
        listed = grpcurl.services()
        assert f"slackwater.v1.{name}" in listed
        assert "grpc.health.v1.Health" in listed
        text = grpcurl.describe(f"slackwater.v1.{name}")
        for method in module.DESCRIPTOR.services_by_name[name].methods_by_name:
            assert f"rpc {method} " in text
        for one in listed:
            assert f"{one} is a service" in grpcurl.describe(one)
        answer = grpcurl.call("grpc.health.v1.Health/Check", {"service": "readiness"})
        assert answer["status"] == "SERVING"
        statuses = grpcurl.call("grpc.health.v1.Health/List")["statuses"]
        assert statuses["liveness"] == statuses["readiness"] == {"status": "SERVING"}
    secondary = Grpcurl(cluster.secondary.endpoints.grpc)
    assert "slackwater.v1.ReplicationService" in secondary.services()
    described = secondary.describe("slackwater.v1.Record")
    for field in record_pb2.Record.DESCRIPTOR.oneofs_by_name["body"].fields:
        assert f" {field.name} = {field.number}" in described


def test_every_unary_method_answers(cluster: Cluster) -> None:
    cluster.replicate(data=MIB)
    for service in cluster.services:
        name, module = SERVED[service.role]
        grpcurl = Grpcurl(service.endpoints.grpc)
        for method in module.DESCRIPTOR.services_by_name[name].methods:
            if method.client_streaming or method.server_streaming:
                continue
            try:
                grpcurl.call(f"{name}/{method.name}")
            except GrpcurlError as error:  # an empty request is bad, but never breaks anything
                assert error.code not in {"", "Unknown", "Internal"}, (method.name, str(error))


def test_every_step_of_the_demo_by_unary_calls(cluster: Cluster) -> None:
    cluster.start()
    primary = Grpcurl(cluster.primary.endpoints.grpc)
    secondary = Grpcurl(cluster.secondary.endpoints.grpc)
    snapshot = Grpcurl(cluster.snapshot.endpoints.grpc)

    def write(text: str, offset: int) -> None:
        for volume in ("data", "wal"):
            primary.call(
                "PrimaryService/WriteVolume",
                {
                    "name": f"{GROUP}/volumes/{volume}",
                    "offset": offset,
                    "data": base64.b64encode(text.encode().ljust(512)).decode(),
                },
            )

    primary.call("PrimaryService/CreateGroup", {"group_id": "demo"})
    for volume in ("data", "wal"):
        primary.call(
            "PrimaryService/CreateVolume",
            {"group": GROUP, "volume_id": volume, "size_bytes": MIB},
        )
    link = {
        "group": GROUP,
        "link_id": "site-b",
        "endpoint": cluster.secondary.endpoints.grpc,
    }
    primary.call("PrimaryService/CreateLink", link)
    cluster.wait_streaming()
    name = {"group": GROUP, "application": APPLICATION}
    primary.call("PrimaryService/RegisterApplication", name)
    secondary.call("SecondaryService/RegisterApplication", name)
    write("before", 0)
    sent = primary.call(
        "PrimaryService/SendMessage", {**name, "text": "go", "fence": True, "request_id": "r1"}
    )
    again = primary.call("PrimaryService/SendMessage", {**name, "request_id": "r1"})
    assert again["message"]["name"] == sent["message"]["name"]  # C3
    got = secondary.call("SecondaryService/ReceiveMessage", {**name, "wait_timeout": "20s"})
    assert got["message"]["name"] == sent["message"]["name"]
    assert got["message"]["text"] == "go"
    write("after", 512)
    request = {"group": GROUP, "snapshot_id": "s1", "now": {}}
    run = snapshot.call("SnapshotService/StartSnapshot", request)

    def is_over() -> bool:
        run.update(snapshot.call("SnapshotService/GetRun", {"name": run["run"]["name"]}))
        assert run["run"]["state"] not in {"STATE_FAILED", "STATE_CANCELLED"}, run
        return bool(run["run"]["state"] == "STATE_SUCCEEDED")

    wait_until("the run is over", is_over)
    assert run["run"]["message"] == sent["message"]["name"]
    secondary.call("SecondaryService/Unfreeze", {"message": sent["message"]["name"]})
    wait_until("lag is 0", lambda: _has_no_lag(primary, secondary))
    snapshot.call("SnapshotService/ExportSnapshot", {"name": f"{GROUP}/snapshots/s1"})
    for volume in ("data", "wal"):
        rows = {"name": f"{GROUP}/snapshots/s1", "volume": volume, "length": 1024}
        read = secondary.call("SecondaryService/ReadSnapshot", rows)
        data = base64.b64decode(read["data"])
        assert data == b"before".ljust(512) + bytes(512)
    status = primary.call("PrimaryService/GetStatus")
    assert status["groups"][0]["links"][0]["name"] == LINK
    listed = snapshot.call("SnapshotService/ListSnapshots", {"group": GROUP})
    assert [row["name"] for row in listed["snapshots"]] == [f"{GROUP}/snapshots/s1"]
    wait_until("the verdict came back", lambda: _is_final(primary, sent["message"]["name"]))
    snapshot.call("SnapshotService/UnexportSnapshot", {"name": f"{GROUP}/snapshots/s1"})
    refreshed = snapshot.call("SnapshotService/RefreshSnapshot", {"name": f"{GROUP}/snapshots/s1"})
    assert refreshed["snapshot"]["uid"] != listed["snapshots"][0]["uid"]
    snapshot.call("SnapshotService/DeleteSnapshot", {"name": f"{GROUP}/snapshots/s1"})
    primary.call("PrimaryService/DeleteLink", {"name": LINK})


def _has_no_lag(primary: Grpcurl, secondary: Grpcurl) -> bool:
    group = primary.call("PrimaryService/GetGroup", {"name": GROUP})["group"]
    link = primary.call("PrimaryService/GetLink", {"name": LINK})["link"]
    replica = secondary.call("SecondaryService/GetReplica", {"name": GROUP})["replica"]
    return "lag_bytes" not in link and bool(replica["applied"] == group["durable"])


def _is_final(primary: Grpcurl, message: str) -> bool:
    answer = primary.call("PrimaryService/GetMessage", {"name": message})
    return bool(answer["message"].get("final"))


def test_blocks_of_the_page_print_what_it_shows(cluster: Cluster, tmp_path: Path) -> None:
    """docs/grpcurl.md: every call, in order, in one shell."""
    require("jq")
    cluster.start()
    page = transcript.blocks(GRPCURL_PAGE)
    variables = {
        "P": cluster.primary.endpoints.grpc,
        "S": cluster.secondary.endpoints.grpc,
        "M": cluster.snapshot.endpoints.grpc,
    }
    where = tmp_path / "shell"
    where.mkdir()
    outputs, rest = transcript.run(page, where, variables)
    assert len(outputs) == len(page), rest
    for block, output in zip(page, outputs, strict=True):
        if block.output is not None:
            assert transcript.is_like(block.output, output), f"{block.commands}{output}"
    for answer in (
        "VERDICT_STATE_NOTIFIED",
        "VERDICT_STATE_UNFROZEN",
        '"text": "go"',
        "/wD+",
        '"thawed"',
        "STATE_CONFIRMED",
    ):
        assert answer in "".join(outputs), "of the calls whose output the page does not show"


def test_every_call_is_on_the_page_and_what_is_not_there_yet_is_said(cluster: Cluster) -> None:
    cluster.start(snapshot=True)
    shown = "".join(block.commands for block in transcript.blocks(GRPCURL_PAGE))
    later = GRPCURL_PAGE.partition("## Not there yet")[2]
    for service in cluster.services:
        name, module = SERVED[service.role]
        grpcurl = Grpcurl(service.endpoints.grpc)
        for method in module.DESCRIPTOR.services_by_name[name].methods_by_name:
            rpc = f"{name}/{method}"
            is_shown = rpc in shown or (method == "WatchEvents" and "watch $" in shown)
            assert is_shown != (f"`{rpc}`" in later), rpc
            if not is_shown:
                with pytest.raises(GrpcurlError) as caught:
                    grpcurl.call(rpc)
                assert caught.value.code == "Unimplemented", rpc


def test_reading_the_log_shows_typed_records(cluster: Cluster) -> None:
    cluster.replicate(data=MIB)
    begun = time.time()
    message = cluster.send()
    primary = Grpcurl(cluster.primary.endpoints.grpc)
    answer = primary.call("PrimaryService/ReadLog", {"group": GROUP, "omit_payloads": True})
    records = [record for record in answer["records"] if "ibc_message" in record]
    assert len(records) == 1
    assert records[0]["ibc_message"]["text"] == "at this point"
    assert int(records[0]["lsn"]) == message.position.lsn
    assert int(records[0]["time_unix_nanos"]) / 1e9 >= begun - 5
