"""Every command: the call it makes, and what it shows in both forms."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from slackwater.cli.commands import snapshot as snapshots
from slackwater.cli.commands.ibc import applications
from slackwater.errors import FailedPrecondition
from slackwater.v1 import primary_pb2 as primary
from slackwater.v1 import resources_pb2
from slackwater.v1 import secondary_pb2 as secondary
from slackwater.v1 import snapshot_pb2 as snapshot
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine
from tests.unit.cli.fakes import not_there


@dataclass
class Case:
    """What is typed, the rpc it makes and answers, fields of the request, words on the screen."""

    words: str
    role: str
    rpc: str
    answer: Message
    asks: dict[str, Any] = field(default_factory=dict)
    shows: tuple[str, ...] = ()
    json: tuple[str, ...] = ("name",)


CASES = [
    Case(
        "group create demo --log 64MiB --durability writeback",
        "primary",
        "CreateGroup",
        primary.CreateGroupResponse(group=m.GROUP),
        {"groupId": "demo", "logBytes": "67108864", "durability": "DURABILITY_WRITEBACK"},
        ("READY", "group demo is made", "next:  slackwater volume create demo/data"),
    ),
    Case(
        "group list",
        "primary",
        "ListGroups",
        primary.ListGroupsResponse(groups=[m.GROUP]),
        {},
        ("NAME", "demo", "1/42", "64MiB"),
        ("groups",),
    ),
    Case(
        "group get groups/demo",
        "primary",
        "GetGroup",
        primary.GetGroupResponse(group=m.GROUP),
        {"name": "groups/demo"},
        ("u-1", "1/42"),
    ),
    Case(
        "group delete demo --yes",
        "primary",
        "DeleteGroup",
        primary.DeleteGroupResponse(losses=["all of it"]),
        {"name": "groups/demo"},
        ("group demo is removed",),
        ("losses",),
    ),
    Case(
        "volume create demo/data --size 256MiB",
        "primary",
        "CreateVolume",
        primary.CreateVolumeResponse(volume=m.VOLUME),
        {"group": "groups/demo", "volumeId": "data", "sizeBytes": "268435456"},
        ("256MiB", "NBD export name groups/demo/volumes/data"),
    ),
    Case(
        "volume list demo",
        "primary",
        "ListVolumes",
        primary.ListVolumesResponse(volumes=[m.VOLUME]),
        {"group": "groups/demo"},
        ("data", "256MiB"),
        ("volumes",),
    ),
    Case(
        "volume get demo data",
        "primary",
        "GetVolume",
        primary.GetVolumeResponse(volume=m.VOLUME),
        {"name": "groups/demo/volumes/data"},
        ("256MiB",),
    ),
    Case(
        "volume grow demo/data --size 512MiB",
        "primary",
        "GrowVolume",
        primary.GrowVolumeResponse(volume=m.VOLUME),
        {"name": "groups/demo/volumes/data", "sizeBytes": "536870912"},
        ("256MiB",),
    ),
    Case(
        "volume delete demo/data --yes",
        "primary",
        "DeleteVolume",
        primary.DeleteVolumeResponse(losses=["256MiB"]),
        {"name": "groups/demo/volumes/data"},
        ("volume demo/data is removed",),
        ("losses",),
    ),
    Case(
        "link create demo/site-b --endpoint 10.0.0.2:7461",
        "primary",
        "CreateLink",
        primary.CreateLinkResponse(link=m.LINK),
        {"group": "groups/demo", "linkId": "site-b", "endpoint": "10.0.0.2:7461"},
        ("STREAMING", "link demo/site-b is attached"),
    ),
    Case(
        "link attach demo/site-b --endpoint 10.0.0.2:7461 --mode synchronous-fail",
        "primary",
        "CreateLink",
        primary.CreateLinkResponse(link=m.LINK),
        {"mode": "LINK_MODE_SYNCHRONOUS_FAIL"},
        ("is attached",),
    ),
    Case(
        "link list demo",
        "primary",
        "ListLinks",
        primary.ListLinksResponse(links=[m.LINK]),
        {"group": "groups/demo"},
        ("site-b", "STREAMING", "3MiB", "1.5s", "never"),
        ("links",),
    ),
    Case(
        "link get demo/site-b",
        "primary",
        "GetLink",
        primary.GetLinkResponse(link=m.LINK),
        {"name": "groups/demo/links/site-b"},
        ("3MiB, 1.5s", "25% used", "1/42"),
    ),
    Case(
        "link update demo/site-b --pause",
        "primary",
        "UpdateLink",
        primary.UpdateLinkResponse(link=m.LINK),
        {"paused": True},
        ("STREAMING",),
    ),
    Case(
        "link resume demo/site-b",
        "primary",
        "UpdateLink",
        primary.UpdateLinkResponse(link=m.LINK),
        {"paused": False},
        ("STREAMING",),
    ),
    Case(
        "link pause demo/site-b",
        "primary",
        "UpdateLink",
        primary.UpdateLinkResponse(link=m.LINK),
        {"paused": True},
        ("STREAMING",),
    ),
    Case(
        "link update demo/site-b --discard-secondary --yes",
        "primary",
        "UpdateLink",
        primary.UpdateLinkResponse(link=m.LINK, losses=["3 records"]),
        {"discardSecondary": True},
        ("STREAMING",),
    ),
    Case(
        "link delete demo/site-b --yes",
        "primary",
        "DeleteLink",
        primary.DeleteLinkResponse(),
        {"name": "groups/demo/links/site-b"},
        ("link site-b is removed",),
        ("losses",),
    ),
    Case(
        "replica list",
        "secondary",
        "ListReplicas",
        secondary.ListReplicasResponse(replicas=[m.REPLICA]),
        {},
        ("demo", "FROZEN", "1/90", "1/42", "32MiB", "50%"),
        ("replicas",),
    ),
    Case(
        "replica get demo",
        "secondary",
        "GetReplica",
        secondary.GetReplicaResponse(replica=m.REPLICA),
        {"name": "groups/demo"},
        ("FROZEN", "me@there", "data 256MiB", "next:  slackwater ibc unfreeze"),
    ),
    Case(
        "replica delete demo --yes",
        "secondary",
        "DeleteReplica",
        secondary.DeleteReplicaResponse(),
        {"name": "groups/demo"},
        ("replica demo is removed",),
        ("losses",),
    ),
    Case(
        "ibc send demo backup --fence -m go --freeze-timeout 5m --deliver-timeout 0 --link site-b",
        "primary",
        "SendMessage",
        primary.SendMessageResponse(message=m.SENT, fence_held=m.SENT.fence_held),
        {
            "fence": True,
            "text": "go",
            "freezeTimeout": "300s",
            "deliverTimeout": "0s",
            "links": ["site-b"],
            "behaviour": "MESSAGE_BEHAVIOUR_FREEZE",
        },
        (m.MESSAGE, "1/42", "2.5 ms", "next:  slackwater ibc watch"),
        ("message", "fenceHeld"),
    ),
    Case(
        "ibc send demo backup --no-freeze --no-fence",
        "primary",
        "SendMessage",
        primary.SendMessageResponse(message=m.SENT),
        {"fence": False, "behaviour": "MESSAGE_BEHAVIOUR_NOTIFY"},
        ("fence     none",),
        ("message",),
    ),
    Case(
        "ibc receive demo backup --wait 2s --holder me",
        "secondary",
        "ReceiveMessage",
        secondary.ReceiveMessageResponse(message=m.DELIVERED),
        {"application": "backup", "waitTimeout": "2s", "holder": "me"},
        (
            "nightly",
            m.MESSAGE,
            "1/42",
            "FROZEN here",
            f"next:  slackwater ibc unfreeze {m.MESSAGE}",
        ),
        ("name", "unfreezeCommand"),
    ),
    Case(
        f"ibc unfreeze {m.MESSAGE} --by me",
        "secondary",
        "Unfreeze",
        secondary.UnfreezeResponse(position=m.POSITION, backlog_bytes=32 * m.MIB),
        {"message": m.MESSAGE, "by": "me"},
        ("1/42", "32MiB received"),
        ("position", "backlogBytes"),
    ),
    Case(
        "ibc stop demo backup",
        "secondary",
        "StopReceive",
        secondary.StopReceiveResponse(stopped=2),
        {"application": "backup"},
        ("2",),
        ("stopped",),
    ),
    Case(
        "ibc status demo --pending",
        "primary",
        "ListMessages",
        primary.PrimaryServiceListMessagesResponse(messages=[m.SENT]),
        {"group": "groups/demo", "pendingOnly": True},
        ("m1", "UNFROZEN at site-b", "2.5 ms"),
        ("messages",),
    ),
    Case(
        "ibc status demo/m1",
        "primary",
        "GetMessage",
        primary.GetMessageResponse(message=m.SENT),
        {"name": m.MESSAGE},
        ("at site-b", "UNFROZEN by me@there"),
    ),
    Case(
        "ibc watch demo m1",
        "primary",
        "WatchMessage",
        primary.WatchMessageResponse(message=m.SENT),
        {"name": m.MESSAGE},
        ("UNFROZEN",),
    ),
    Case(
        "snapshot create demo s1",
        "snapshot",
        "StartSnapshot",
        snapshot.StartSnapshotResponse(run=m.DONE),
        {"group": "groups/demo", "snapshotId": "s1", "now": {}},
        ("SUCCEEDED", m.MESSAGE, "4ms", "next:  slackwater snapshot export demo s1"),
        ("name", "snapshotDuration"),
    ),
    Case(
        "snapshot create demo/s1 --at-next backup --within 1m --no-wait",
        "snapshot",
        "StartSnapshot",
        snapshot.StartSnapshotResponse(run=m.DONE),
        {"atNextMessage": {"application": "backup", "waitTimeout": "60s"}, "snapshotId": "s1"},
        (m.RUN,),
    ),
    Case(
        "snapshot list demo",
        "snapshot",
        "ListSnapshots",
        snapshot.SnapshotServiceListSnapshotsResponse(snapshots=[m.SNAPSHOT]),
        {"group": "groups/demo"},
        ("s1", "READY", "crash (unconfirmed)", "1/42"),
        ("snapshots",),
    ),
    Case(
        "snapshot get demo s1",
        "snapshot",
        "ListSnapshots",
        snapshot.SnapshotServiceListSnapshotsResponse(snapshots=[m.SNAPSHOT]),
        {"group": "groups/demo"},
        ("s1", "READY", m.MESSAGE),
    ),
    Case(
        "snapshot delete demo s1 --yes",
        "snapshot",
        "DeleteSnapshot",
        snapshot.SnapshotServiceDeleteSnapshotResponse(),
        {"name": "groups/demo/snapshots/s1"},
        ("snapshot s1 is removed",),
        ("losses",),
    ),
    Case(
        "snapshot delete demo s1 --force --yes",
        "snapshot",
        "DeleteSnapshot",
        snapshot.SnapshotServiceDeleteSnapshotResponse(losses=["its export"]),
        {"name": "groups/demo/snapshots/s1", "force": True},
        ("snapshot s1 is removed",),
        ("losses",),
    ),
    Case(
        "snapshot refresh demo s1 --at-message m1 --yes",
        "snapshot",
        "RefreshSnapshot",
        snapshot.SnapshotServiceRefreshSnapshotResponse(snapshot=m.SNAPSHOT),
        {"name": "groups/demo/snapshots/s1", "atMessage": "groups/demo/messages/m1"},
        ("s1", "READY"),
    ),
    Case(
        "snapshot diff demo s1 s2 --volume data",
        "snapshot",
        "DiffSnapshots",
        snapshot.SnapshotServiceDiffSnapshotsResponse(
            ranges=[secondary.ChangedRange(offset=65536, length=4096, zero=True, volume="data")]
        ),
        {
            "older": "groups/demo/snapshots/s1",
            "newer": "groups/demo/snapshots/s2",
            "volume": "data",
        },
        ("data", "65536", "4096", "yes"),
        ("ranges",),
    ),
    Case(
        "snapshot diff demo --since s1",
        "snapshot",
        "DiffSnapshots",
        snapshot.SnapshotServiceDiffSnapshotsResponse(
            ranges=[secondary.ChangedRange(offset=65536, length=4096, zero=True, volume="data")]
        ),
        {"older": "groups/demo/snapshots/s1"},
        ("data", "65536", "4096", "yes"),
        ("ranges",),
    ),
    Case(
        "snapshot diff demo --allocated s1",
        "snapshot",
        "DiffSnapshots",
        snapshot.SnapshotServiceDiffSnapshotsResponse(
            ranges=[secondary.ChangedRange(offset=65536, length=4096, zero=True, volume="data")]
        ),
        {"newer": "groups/demo/snapshots/s1"},
        ("data", "65536", "4096", "yes"),
        ("ranges",),
    ),
    Case(
        "snapshot export demo s1",
        "snapshot",
        "ExportSnapshot",
        snapshot.SnapshotServiceExportSnapshotResponse(snapshot=m.SNAPSHOT, nbd_uris=["nbd://x/y"]),
        {"name": "groups/demo/snapshots/s1"},
        ("nbd://x/y", "next:  nbdinfo"),
        ("snapshot", "nbdUris"),
    ),
    Case(
        "snapshot clone create demo/s1 c1",
        "snapshot",
        "CreateClone",
        snapshot.SnapshotServiceCreateCloneResponse(clone=m.CLONE),
        {"snapshot": "groups/demo/snapshots/s1", "cloneId": "c1"},
        ("c1", "READY", "next:  slackwater snapshot clone export demo c1"),
    ),
    Case(
        "snapshot clone create demo/c1 c2 --from-clone",
        "snapshot",
        "CreateClone",
        snapshot.SnapshotServiceCreateCloneResponse(clone=m.CLONE_OF_CLONE),
        {"parent": "groups/demo/clones/c1", "cloneId": "c2"},
        ("groups/demo/clones/c1", "shared with other clones"),
    ),
    Case(
        "check create fsck --kind command --program look --argument x --group demo",
        "snapshot",
        "CreateCheck",
        snapshot.CreateCheckResponse(check=m.CHECK),
        {
            "check": {
                "name": "checks/fsck",
                "kind": "CHECK_KIND_COMMAND",
                "command": "look",
                "arguments": ["x"],
                "group": "groups/demo",
                "timeout": "300s",
            }
        },
        ("fsck", "e2fsck", "next:  slackwater snapshot check"),
    ),
    Case(
        "check create fsck --replace",
        "snapshot",
        "UpdateCheck",
        snapshot.UpdateCheckResponse(check=m.CHECK),
        {
            "check": {
                "name": "checks/fsck",
                "kind": "CHECK_KIND_FILE_SYSTEMS",
                "timeout": "300s",
            }
        },
        ("fsck",),
    ),
    Case(
        "check list",
        "snapshot",
        "ListChecks",
        snapshot.ListChecksResponse(checks=[m.CHECK]),
        {},
        ("fsck", "e2fsck", "api"),
        ("checks",),
    ),
    Case(
        "check get fsck",
        "snapshot",
        "GetCheck",
        snapshot.GetCheckResponse(check=m.CHECK),
        {"name": "checks/fsck"},
        ("fsck", "e2fsck"),
    ),
    Case(
        "check delete fsck --yes",
        "snapshot",
        "DeleteCheck",
        snapshot.DeleteCheckResponse(losses=["its definition"]),
        {"name": "checks/fsck"},
        ("check fsck is removed",),
        ("losses",),
    ),
    Case(
        "snapshot clone list demo",
        "snapshot",
        "ListClones",
        snapshot.SnapshotServiceListClonesResponse(clones=[m.CLONE]),
        {"group": "groups/demo"},
        ("c1", "s1", "READY"),
        ("clones",),
    ),
    Case(
        "snapshot clone get demo c1",
        "snapshot",
        "GetClone",
        snapshot.SnapshotServiceGetCloneResponse(clone=m.CLONE),
        {"name": "groups/demo/clones/c1"},
        ("c1", "READY"),
    ),
    Case(
        "snapshot clone delete demo c1 --force --yes",
        "snapshot",
        "DeleteClone",
        snapshot.SnapshotServiceDeleteCloneResponse(losses=["its export"]),
        {"name": "groups/demo/clones/c1", "force": True},
        ("clone c1 is removed",),
        ("losses",),
    ),
    Case(
        "snapshot clone export demo c1",
        "snapshot",
        "ExportClone",
        snapshot.SnapshotServiceExportCloneResponse(clone=m.CLONE, nbd_uris=["nbd://x/y"]),
        {"name": "groups/demo/clones/c1"},
        ("nbd://x/y", "next:  nbdinfo"),
        ("clone", "nbdUris"),
    ),
    Case(
        "snapshot clone unexport demo/c1",
        "snapshot",
        "UnexportClone",
        snapshot.SnapshotServiceUnexportCloneResponse(clone=m.CLONE),
        {"name": "groups/demo/clones/c1"},
        ("exported     no",),
    ),
    Case(
        "snapshot unexport demo/s1",
        "snapshot",
        "UnexportSnapshot",
        snapshot.SnapshotServiceUnexportSnapshotResponse(snapshot=m.SNAPSHOT),
        {"name": "groups/demo/snapshots/s1"},
        ("exported     no",),
    ),
    Case(
        "run list demo",
        "snapshot",
        "ListRuns",
        snapshot.ListRunsResponse(runs=[m.DONE]),
        {"group": "groups/demo"},
        ("r1", "SUCCEEDED", "s1"),
        ("runs",),
    ),
    Case(
        "run get r1",
        "snapshot",
        "GetRun",
        snapshot.GetRunResponse(run=m.DONE),
        {"name": m.RUN},
        ("SUCCEEDED",),
    ),
    Case(
        f"run cancel {m.RUN}",
        "snapshot",
        "CancelRun",
        snapshot.CancelRunResponse(run=m.DONE),
        {"name": m.RUN},
        ("SUCCEEDED",),
    ),
]
IDS = [case.words for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_command_asks_its_service_and_shows_the_answer(cli: CommandLine, case: Case) -> None:
    service = getattr(cli, case.role)
    service.answers[case.rpc] = case.answer
    shown = cli(*case.words.split())
    for words in case.shows:
        assert words in shown
    request = MessageToDict(service.asked(case.rpc)[-1])
    for name, value in case.asks.items():
        if value is False or value == {}:
            assert name in request
        assert request.get(name) == value, name


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_command_prints_protobufs_json_for_programs(cli: CommandLine, case: Case) -> None:
    getattr(cli, case.role).answers[case.rpc] = case.answer
    found = cli.json(*case.words.split())
    assert set(case.json) <= set(found)


@pytest.mark.parametrize("case", [case for case in CASES if "--yes" in case.words])
def test_removal_says_first_what_is_lost_and_asks(cli: CommandLine, case: Case) -> None:
    service = getattr(cli, case.role)
    service.answers[case.rpc] = case.answer
    words = case.words.replace("--yes", "").split()
    cli(*words, "--dry-run")
    cli(*words, code=2)  # nobody can be asked
    assert "--yes" in cli.error
    assert [request.validate_only for request in service.asked(case.rpc)] == [True, True]
    assert all(loss in cli.error for loss in getattr(case.answer, "losses", ()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("group list", "slackwater group create demo"),
        ("volume list demo", "slackwater volume create demo/data"),
        ("link list demo", "slackwater link create demo/site-b"),
        ("replica list", "there are no replicas"),
        ("ibc status demo", "slackwater ibc send demo"),
        ("ibc applications demo", "slackwater ibc register demo"),
        ("snapshot list demo", "slackwater snapshot create demo"),
        ("run list", "no runs"),
        ("task list", "slackwater task create"),
        ("schedule list", "slackwater schedule create"),
        ("log dump demo", "no record"),
    ],
)
def test_empty_list_says_what_to_do(cli: CommandLine, words: str, says: str) -> None:
    assert cli(*words.split()) == ""
    assert says in cli.error


def test_list_follows_its_pages(cli: CommandLine) -> None:
    def page(request: primary.ListGroupsRequest) -> primary.ListGroupsResponse:
        number = int(request.page_token or 0)
        group = resources_pb2.Group(name=f"groups/g{number}")
        token = str(number + 1) if number < 3 else ""
        return primary.ListGroupsResponse(groups=[group], next_page_token=token)

    cli.primary.answers["ListGroups"] = page
    found = cli.json("group", "list")["groups"]
    assert [group["name"] for group in found] == [f"groups/g{number}" for number in range(4)]


def test_register_covers_both_sides_and_waits_for_the_replica(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "POLL_SECONDS", 0.0)
    missing = not_there("replica")
    answers = iter([missing, missing, None])

    def register(request: Any) -> Any:
        answer = next(answers)
        if answer is not None:
            return answer(request)
        return secondary.SecondaryServiceRegisterApplicationResponse(application=m.APPLICATION)

    cli.secondary.answers["RegisterApplication"] = register
    cli.primary.answers["RegisterApplication"] = primary.PrimaryServiceRegisterApplicationResponse(
        application=m.APPLICATION
    )
    found = cli.json("ibc", "register", "demo", "backup")
    assert found["primary"]["application"] == found["secondary"]["application"] == "backup"
    assert len(cli.secondary.asked("RegisterApplication")) == 3


def test_register_gives_up_when_there_is_no_replica(cli: CommandLine) -> None:
    cli.secondary.answers["RegisterApplication"] = not_there("replica")
    cli("ibc", "register", "demo", "backup", "--wait", "0", code=4)
    assert "slackwater link list demo" in cli.error


def test_unregister_and_list_cover_both_sides(cli: CommandLine) -> None:
    cli.primary.answers["ListApplications"] = primary.PrimaryServiceListApplicationsResponse(
        applications=[m.APPLICATION]
    )
    assert "not registered" in cli("ibc", "applications", "demo")
    assert set(cli.json("ibc", "applications", "demo")) == {"primary", "secondary"}
    cli("ibc", "unregister", "demo", "backup", "--side", "primary")
    assert not cli.secondary.asked("UnregisterApplication")
    assert cli.json("ibc", "unregister", "demo", "backup") == {"primary": {}, "secondary": {}}


def test_receive_without_a_message_ends_with_its_own_code(cli: CommandLine) -> None:
    cli("ibc", "receive", "demo", "backup", "--wait", "0", code=6)
    assert "no message for backup" in cli.error


def test_receive_writes_the_body_to_a_file(cli: CommandLine, tmp_path: Path) -> None:
    cli.secondary.answers["ReceiveMessage"] = secondary.ReceiveMessageResponse(
        message=secondary.DeliveredMessage(name=m.MESSAGE, data=b"\xff\x00")
    )
    target = tmp_path / "body"
    shown = cli("ibc", "receive", "demo", "backup", "--body-file", str(target))
    assert target.read_bytes() == b"\xff\x00"
    assert "2 bytes: ff00" in shown


def test_send_takes_the_body_from_a_file_or_standard_input(
    cli: CommandLine, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\x01\x02")
    cli("ibc", "send", "demo", "backup", "--file", str(body))
    cli("ibc", "send", "demo", "backup", "--file", "-", given=b"\x03")
    assert [request.data for request in cli.primary.asked("SendMessage")] == [b"\x01\x02", b"\x03"]
    cli("ibc", "send", "demo", "backup", "--file", str(body), "--text", "x", code=2)
    cli("ibc", "send", "demo", "backup", "--file", str(tmp_path / "none"), code=2)
    assert "cannot be read" in cli.error
    assert "standard input" in cli.error


def test_unfreeze_of_a_group_finds_the_message_it_stands_at(cli: CommandLine) -> None:
    cli.secondary.answers["GetReplica"] = secondary.GetReplicaResponse(replica=m.REPLICA)
    cli("ibc", "unfreeze", "demo")
    assert cli.secondary.asked("Unfreeze")[0].message == m.MESSAGE
    cli.secondary.answers["GetReplica"] = secondary.GetReplicaResponse()
    cli("ibc", "unfreeze", "demo", code=5)


def test_snapshot_create_follows_its_run_and_fails_with_it(cli: CommandLine) -> None:
    waiting = snapshot.Run(name=m.RUN, state=snapshot.Run.STATE_WAITING)
    cli.snapshot.answers["StartSnapshot"] = snapshot.StartSnapshotResponse(run=waiting)
    cli.snapshot.answers["WatchRun"] = lambda _: [
        snapshot.WatchRunResponse(run=waiting),
        snapshot.WatchRunResponse(run=m.BROKEN),
    ]
    shown = cli("snapshot", "create", "demo", "--at-next", "backup", code=1)
    assert "FAILED" in shown
    assert "error: NO_SPACE: no space in the overlay" in cli.error
    cli("snapshot", "create", "demo", "--at-next", "backup", "--within", "25h", code=2)


def test_snapshot_with_a_prefix_is_named_by_the_time(cli: CommandLine) -> None:
    cli.snapshot.answers["StartSnapshot"] = snapshot.StartSnapshotResponse(run=m.DONE)
    cli("snapshot", "create", "demo", "--prefix", "nightly")
    (asked,) = cli.snapshot.asked("StartSnapshot")
    assert re.fullmatch(r"nightly-\d{8}-\d{6}", asked.snapshot_id)
    cli("snapshot", "create", "demo", "s1", "--prefix", "nightly", code=2)


def test_snapshot_is_waited_for_until_it_is_ready_and_graded(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "POLL_SECONDS", 0.0)
    name, ready = m.SNAPSHOT.name, resources_pb2.SNAPSHOT_STATE_READY
    ahead = resources_pb2.Snapshot(name=name, state=resources_pb2.SNAPSHOT_STATE_AHEAD)
    ungraded = resources_pb2.Snapshot(name=name, state=ready, awaits_outcome=True)

    def say(*rows: resources_pb2.Snapshot) -> None:
        turns = iter(rows)
        cli.snapshot.answers["ListSnapshots"] = lambda _: (
            snapshot.SnapshotServiceListSnapshotsResponse(snapshots=[next(turns)])
        )

    say(ahead, ungraded)
    assert cli.json("snapshot", "wait", "demo", "s1")["awaitsOutcome"]
    say(ahead, ungraded, m.SNAPSHOT)
    assert not cli.json("snapshot", "wait", "demo", "s1", "--graded")["awaitsOutcome"]
    for row, lacks in ((ahead, "is AHEAD"), (ungraded, "has no outcome yet")):
        say(row)
        cli("snapshot", "wait", "demo", "s1", "--graded", "--within", "0", code=6)
        assert lacks in cli.error and "slackwater replica get demo" in cli.error
    say(m.SNAPSHOT)
    cli("snapshot", "wait", "demo", "s9", code=4)


def test_snapshot_that_is_not_there_is_not_found(cli: CommandLine) -> None:
    cli("snapshot", "get", "demo", "s9", code=4)
    assert "slackwater snapshot list demo" in cli.error


def test_discarding_a_history_is_asked_for_first(cli: CommandLine) -> None:
    cli.primary.answers["UpdateLink"] = lambda request: primary.UpdateLinkResponse(
        link=m.LINK, losses=["3 records"] if request.validate_only else []
    )
    cli("link", "update", "demo/site-b", "--discard-secondary", code=2)
    assert [request.validate_only for request in cli.primary.asked("UpdateLink")] == [True]
    cli("link", "update", "demo/site-b", code=2)
    assert "nothing to change" in cli.error


def test_help_of_every_command_has_an_example(cli: CommandLine) -> None:
    listing: Callable[..., str] = cli
    for noun in ("group", "volume", "link", "replica", "ibc", "snapshot", "log", "context"):
        verbs = [
            line.split()[1]
            for line in listing(noun, "--help").partition("Commands")[2].splitlines()
            if line.startswith("│ ") and line[2] != " "
        ]
        assert verbs, noun
        for verb in verbs:
            assert f"Example:  slackwater {noun} {verb}" in listing(noun, verb, "--help")
    assert "Example:  slackwater status" in listing("status", "--help")


def test_refusal_of_a_precondition_names_the_services_next_step(cli: CommandLine) -> None:
    cli.primary.answers["DeleteGroup"] = FailedPrecondition(
        "HAS_LINKS", "group 'demo' has links", "Detach them: slackwater link delete demo/site-b"
    )
    cli("group", "delete", "demo", "--yes", code=5)
    assert cli.error.splitlines() == [
        "error: group 'demo' has links",
        "next:  Detach them: slackwater link delete demo/site-b",
    ]
