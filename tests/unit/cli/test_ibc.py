"""`ibc send`, `regsend`, `receive`, `status` and `watch` beyond one call and its answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from slackwater.cli.commands.ibc import status
from slackwater.errors import DeadlineExceeded, FailedPrecondition, NotFound
from slackwater.v1 import common_pb2, primary_pb2, record_pb2, resources_pb2, secondary_pb2
from tests.unit.cli import messages as m
from tests.unit.cli.conftest import CommandLine

LIMIT = 128 << 10
SEND = ("ibc", "send", "demo", "backup")


def message(state: str, *, is_final: bool = True, **more: Any) -> resources_pb2.Message:
    """A message with one verdict."""
    verdict = resources_pb2.Verdict(
        link="site-b",
        state=common_pb2.VerdictState.Value(f"VERDICT_STATE_{state}"),
        final=is_final,
    )
    return resources_pb2.Message(name=m.MESSAGE, verdicts=[verdict], final=is_final, **more)


def changes(*rows: resources_pb2.Message) -> Any:
    """What WatchMessage answers."""
    return lambda _: [primary_pb2.WatchMessageResponse(message=row) for row in rows]


JUDGED: dict[str, Any] = {
    "quiesced": ["db"],
    "outcome": record_pb2.Outcome.STATE_CONFIRMED,
    "judgement": record_pb2.Outcome(
        state=record_pb2.Outcome.STATE_CONFIRMED,
        grade=common_pb2.SNAPSHOT_GRADE_APPLICATION,
        evidence="all held",
        reports=[
            record_pb2.QuiesceReport(
                application="db", kind="postgres", answer="0/16", unbroken=True, held_seconds=0.04
            )
        ],
    ),
}
REVOKED: dict[str, Any] = {
    "quiesced": ["db"],
    "outcome": record_pb2.Outcome.STATE_REVOKED,
    "judgement": record_pb2.Outcome(evidence="the session died"),
}


class TestSend:
    def test_quiesce_is_asked_for_with_its_times(self, cli: CommandLine) -> None:
        words = "--quiesce db --quiesce web --quiesce-timeout 5s --max-hold 2s --no-fence"
        cli(*SEND, *words.split())
        request = cli.primary.asked("SendMessage")[0]
        assert list(request.quiesce.applications) == ["db", "web"]
        assert (request.quiesce.timeout.seconds, request.quiesce.max_hold.seconds) == (5, 2)
        assert request.fence is False

    def test_without_quiesce_none_is_asked_for(self, cli: CommandLine) -> None:
        cli(*SEND)
        request = cli.primary.asked("SendMessage")[0]
        assert not request.HasField("quiesce")
        assert not request.HasField("fence")  # the Primary decides
        cli(*SEND, "--max-hold", "1s", code=2)
        assert "--max-hold needs --quiesce" in cli.error

    def test_outcome_grade_and_evidence_are_shown(self, cli: CommandLine) -> None:
        answer = primary_pb2.SendMessageResponse(
            message=message("QUEUED", is_final=False, **JUDGED)
        )
        answer.quiesce_window.FromMilliseconds(41)
        cli.primary.answers["SendMessage"] = answer
        shown = cli(*SEND, "--quiesce", "db")
        for words in (
            "CONFIRMED",
            "application",
            "all held",
            "41.0 ms",
            "held 40ms, unbroken, 0/16",
        ):
            assert words in shown

    def test_revoked_quiesce_ends_with_its_own_code(self, cli: CommandLine) -> None:
        answer = primary_pb2.SendMessageResponse(
            message=message("QUEUED", is_final=False, **REVOKED)
        )
        cli.primary.answers["SendMessage"] = answer
        shown = cli(*SEND, "--quiesce", "db", code=7)
        assert m.MESSAGE in shown
        assert "the quiesce is REVOKED: the session died" in cli.error

    def test_snapshot_behaviour_takes_a_name(self, cli: CommandLine) -> None:
        cli(*SEND, "--behaviour", "snapshot", "--snapshot-id", "nightly")
        request = cli.primary.asked("SendMessage")[0]
        assert request.behaviour == common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
        assert request.snapshot_id == "nightly"

    def test_options_of_vxibc_mean_what_they_meant(self, cli: CommandLine, tmp_path: Path) -> None:
        body = tmp_path / "body"
        body.write_bytes(b"\xfe")
        cli(*SEND, "-D", "60", "-F", "30", "-f", str(body))
        cli(*SEND, "-N", "-m", "hello")
        first, second = cli.primary.asked("SendMessage")
        assert (first.deliver_timeout.seconds, first.freeze_timeout.seconds) == (60, 30)
        assert first.data == b"\xfe"
        assert second.behaviour == common_pb2.MESSAGE_BEHAVIOUR_NOTIFY
        assert second.text == "hello"

    @pytest.mark.parametrize("option", ["--file", "--text"])
    def test_body_at_the_limit_goes_and_over_it_does_not(  # C5
        self, cli: CommandLine, tmp_path: Path, option: str
    ) -> None:
        for size, code in ((LIMIT, 0), (LIMIT + 1, 2)):
            given = "x" * size
            if option == "--file":
                (tmp_path / "body").write_text(given)
                given = str(tmp_path / "body")
            cli(*SEND, option, given, code=code)
        assert f"{option}: the body is larger than {LIMIT} bytes" in cli.error
        assert len(cli.primary.asked("SendMessage")) == 1

    def test_text_that_is_not_utf8_is_refused(self, cli: CommandLine) -> None:
        cli(*SEND, "--text", "\udcff", code=2)
        assert "--text: not valid UTF-8" in cli.error

    def test_wait_follows_it_to_its_end(self, cli: CommandLine) -> None:
        cli.primary.answers["SendMessage"] = primary_pb2.SendMessageResponse(message=m.SENT)
        cli.primary.answers["WatchMessage"] = changes(
            message("SENT", is_final=False), message("DELIVERED", is_final=False), m.SENT
        )
        lines = [line.split()[1:3] for line in cli(*SEND, "--wait").splitlines()[-3:]]
        assert lines == [["site-b", "SENT"], ["site-b", "DELIVERED"], ["site-b", "UNFROZEN"]]

    def test_verdict_that_is_there_early_counts_only_for_who_waits(self, cli: CommandLine) -> None:
        answer = primary_pb2.SendMessageResponse(message=message("UNCLAIMED"))
        cli.primary.answers["SendMessage"] = answer
        cli(*SEND)

    def test_wait_fails_with_a_bad_verdict(self, cli: CommandLine) -> None:
        cli.primary.answers["SendMessage"] = primary_pb2.SendMessageResponse(message=m.SENT)
        cli.primary.answers["WatchMessage"] = changes(message("EXPIRED"))
        cli(*SEND, "--wait", code=7)
        assert "EXPIRED at site-b" in cli.error


class TestRegsend:
    def test_registers_sends_waits_and_takes_the_name_back(self, cli: CommandLine) -> None:
        cli.primary.answers["SendMessage"] = primary_pb2.SendMessageResponse(message=m.SENT)
        cli.primary.answers["WatchMessage"] = changes(m.SENT)
        cli("ibc", "regsend", "demo", "backup", "--deliver-timeout", "60")
        made = [name for name, _ in cli.primary.requests]
        assert made == [
            "ListApplications",
            "RegisterApplication",
            "SendMessage",
            "WatchMessage",
            "UnregisterApplication",
        ]

    def test_name_that_was_there_is_left(self, cli: CommandLine) -> None:
        cli.primary.answers["ListApplications"] = (
            primary_pb2.PrimaryServiceListApplicationsResponse(applications=[m.APPLICATION])
        )
        cli("ibc", "regsend", "demo", "backup", "--no-wait")
        assert [name for name, _ in cli.primary.requests] == ["ListApplications", "SendMessage"]

    def test_name_is_taken_back_when_the_send_failed(self, cli: CommandLine) -> None:
        cli.primary.answers["SendMessage"] = DeadlineExceeded("the fence", 1.0)
        cli("ibc", "regsend", "demo", "backup", code=6)
        assert cli.primary.asked("UnregisterApplication")

    def test_without_waiting_the_name_stays_and_that_is_said(self, cli: CommandLine) -> None:
        cli("ibc", "regsend", "demo", "backup", "--no-wait")
        assert not cli.primary.asked("UnregisterApplication")
        assert "slackwater ibc unregister demo backup --side primary" in cli.error

    def test_name_that_cannot_be_taken_back_changes_no_answer(self, cli: CommandLine) -> None:
        cli.primary.answers["SendMessage"] = primary_pb2.SendMessageResponse(message=m.SENT)
        cli.primary.answers["WatchMessage"] = changes(m.SENT)
        cli.primary.answers["UnregisterApplication"] = FailedPrecondition("PENDING", "busy", "")
        cli("ibc", "regsend", "demo", "backup")
        assert "backup stays registered on the Primary: busy" in cli.error


class TestReceive:
    def test_waits_until_one_comes_unless_told_otherwise(self, cli: CommandLine) -> None:
        answers = iter([secondary_pb2.ReceiveMessageResponse()] * 2)
        delivered = secondary_pb2.ReceiveMessageResponse(message=m.DELIVERED)
        cli.secondary.answers["ReceiveMessage"] = lambda _: next(answers, delivered)
        cli("ibc", "receive", "demo", "backup")
        asked = cli.secondary.asked("ReceiveMessage")
        assert [request.wait_timeout.seconds for request in asked] == [3600] * 3
        assert len({request.request_id for request in asked}) == 3

    def test_without_waiting_it_is_asked_for_once(self, cli: CommandLine) -> None:
        cli("ibc", "receive", "demo", "backup", "-n", code=6)
        cli("ibc", "receive", "demo", "backup", "-R", "0", code=6)
        assert len(cli.secondary.asked("ReceiveMessage")) == 2
        cli("ibc", "receive", "demo", "backup", "-n", "-R", "5", code=2)

    def test_file_that_cannot_be_written_is_found_before_the_freeze(
        self, cli: CommandLine, tmp_path: Path
    ) -> None:
        cli("ibc", "receive", "demo", "backup", "-f", str(tmp_path / "none" / "body"), code=1)
        assert not cli.secondary.asked("ReceiveMessage")

    def test_snapshot_that_was_taken_at_the_message_is_shown(self, cli: CommandLine) -> None:
        cli.secondary.answers["ReceiveMessage"] = secondary_pb2.ReceiveMessageResponse(
            message=secondary_pb2.DeliveredMessage(
                name=m.MESSAGE,
                behaviour=common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT,
                snapshot="groups/demo/snapshots/ibc-1",
                dropped=2,
                redelivered=True,
            )
        )
        shown = cli("ibc", "receive", "demo", "backup")
        for words in ("snapshots/ibc-1", "went on", "2 before it", "handed over before"):
            assert words in shown
        assert "unfreeze" not in shown


class TestWatch:
    def test_changes_are_one_line_each(self, cli: CommandLine) -> None:
        cli.primary.answers["WatchMessage"] = changes(
            message("ARRIVED", is_final=False, quiesced=["db"]),
            message("ARRIVED", is_final=False, **JUDGED),
            message("SNAPSHOTTED", **JUDGED),
        )
        rows = [line.split(maxsplit=1)[1] for line in cli("ibc", "watch", m.MESSAGE).splitlines()]
        assert rows == [
            "site-b  ARRIVED",
            "outcome  not known yet",
            "outcome  CONFIRMED",
            "site-b  SNAPSHOTTED",
        ]

    def test_programs_get_one_document_a_line(self, cli: CommandLine) -> None:
        cli.primary.answers["WatchMessage"] = changes(
            message("SENT", is_final=False), message("NOTIFIED")
        )
        found = [
            json.loads(line)
            for line in cli("ibc", "watch", "demo/m1", "-o", "json").split("\n")[:-1]
        ]
        assert [row["final"] for row in found] == [False, True]

    @pytest.mark.parametrize(
        "state",
        [
            "EXPIRED",
            "UNCLAIMED",
            "FREEZE_TIMED_OUT",
            "FREEZE_LOG_LIMIT",
            "LEASE_LOST",
            "SKIPPED_INCONSISTENT",
            "LINK_DETACHED",
        ],
    )
    def test_every_bad_end_has_its_code(self, cli: CommandLine, state: str) -> None:  # C16
        cli.primary.answers["WatchMessage"] = changes(message(state))
        cli("ibc", "watch", m.MESSAGE, "-o", "json", code=7)
        assert json.loads(cli.error)["error"]["reason"] == state

    def test_stream_that_ends_early_is_opened_again(
        self, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "AGAIN_SECONDS", 0.0)
        answers = iter([changes(message("SENT", is_final=False))] * 2)
        cli.primary.answers["WatchMessage"] = lambda request: next(answers, changes(m.SENT))(
            request
        )
        cli("ibc", "watch", m.MESSAGE)
        assert len(cli.primary.asked("WatchMessage")) == 3

    def test_message_that_is_not_final_in_time_ends_with_6(self, cli: CommandLine) -> None:
        cli.primary.answers["WatchMessage"] = changes(message("SENT", is_final=False))
        cli("ibc", "watch", m.MESSAGE, "--within", "100ms", code=6)
        assert "is not final after 100ms" in cli.error or "not final after 0.1s" in cli.error

    def test_message_that_is_not_there_is_not_found(self, cli: CommandLine) -> None:
        cli.primary.answers["WatchMessage"] = NotFound("message", "m1")
        cli("ibc", "watch", m.MESSAGE, code=4)


class TestStatus:
    def fill(self, cli: CommandLine) -> None:
        """Both sides know something."""
        cli.primary.answers["ListApplications"] = (
            primary_pb2.PrimaryServiceListApplicationsResponse(applications=[m.APPLICATION])
        )
        cli.primary.answers["ListMessages"] = primary_pb2.PrimaryServiceListMessagesResponse(
            messages=[message("DELIVERED", is_final=False, application="backup", **REVOKED)]
        )
        agent = primary_pb2.AgentStatus(application="db", kind="fsfreeze", host="db1")
        agent.held_for.FromSeconds(1)
        cli.primary.answers["GetStatus"] = primary_pb2.PrimaryServiceGetStatusResponse(
            groups=[primary_pb2.GroupStatus(group=m.GROUP, agents=[agent])]
        )
        cli.secondary.answers["GetReplica"] = secondary_pb2.GetReplicaResponse(replica=m.REPLICA)
        cli.secondary.answers["ListMessages"] = secondary_pb2.SecondaryServiceListMessagesResponse(
            messages=[message("DELIVERED", is_final=False, application="there")]
        )

    def test_group_shows_names_agents_messages_and_the_freeze(self, cli: CommandLine) -> None:
        self.fill(cli)
        shown = cli("ibc", "status", "demo")
        for words in (
            "not registered",
            "db1",
            "fsfreeze",
            "for 1s",
            "DELIVERED at site-b",
            "REVOKED",
            "holder     me@there",
            "32MiB received and not applied",
            f"next:  slackwater ibc unfreeze {m.MESSAGE}",
        ):
            assert words in shown, words

    def test_group_for_programs(self, cli: CommandLine) -> None:
        self.fill(cli)
        found = cli.json("ibc", "status", "demo")
        assert found["applications"]["primary"][0]["application"] == "backup"
        assert found["applications"]["secondary"] == []
        assert found["agents"][0]["host"] == "db1"
        assert found["freeze"]["holder"] == "me@there"
        assert found["messages"][0]["application"] == "backup"
        assert found["missing"] == {}

    def test_what_one_side_knows_is_shown_without_the_other(self, cli: CommandLine) -> None:
        self.fill(cli)
        cli.primary.stop()
        shown = cli("ibc", "status", "demo", code=3)
        assert "there" in shown
        assert "missing: the primary service" in cli.error

    def test_group_without_a_replica_yet_is_no_failure(self, cli: CommandLine) -> None:
        self.fill(cli)
        cli.secondary.answers["GetReplica"] = NotFound("replica", "groups/demo")
        cli("ibc", "status", "demo")
        assert "missing: " in cli.error

    def test_group_that_nobody_knows_is_not_found(self, cli: CommandLine) -> None:
        cli.secondary.answers["GetReplica"] = NotFound("replica", "groups/demo")
        cli.primary.answers["GetStatus"] = NotFound("group", "groups/demo")
        cli("ibc", "status", "demo", code=4)

    def test_one_application_and_what_is_pending_can_be_asked_for(self, cli: CommandLine) -> None:
        cli("ibc", "status", "demo", "--pending", "--application", "backup")
        for service in (cli.primary, cli.secondary):
            request = service.asked("ListMessages")[0]
            assert (request.pending_only, request.application) == (True, "backup")
