"""The send side: what is taken, and what the sender learns."""

from dataclasses import replace

import pytest

from slackwater import errors
from slackwater.ibc.messages import (
    MAX_BODY_BYTES,
    Send,
    VerdictState,
    check_send,
)
from slackwater.ibc.names import MAX_APPLICATIONS, Application, Applications

APPLICATIONS = Applications("demo", [Application("backup", 0)])
SEND = Send("backup", body=b"x")


class TestCheckSend:
    def test_no_links_named_means_all_attached_c4(self) -> None:
        assert check_send(SEND, APPLICATIONS, ["b", "a"]) == ("a", "b")
        assert check_send(replace(SEND, links=("b", "b")), APPLICATIONS, ["b", "a"]) == ("b",)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"body": bytes(MAX_BODY_BYTES + 1)}, "body"),
            ({"request_id": "r" * 129}, "request_id"),
            ({"deliver_timeout_seconds": -1.0}, "deliver_timeout"),
            ({"freeze_timeout_seconds": float("nan")}, "freeze_timeout"),
            ({"unregistered_timeout_seconds": 1e12}, "unregistered_timeout"),
            ({"links": ("nowhere",)}, "links"),
        ],
    )
    def test_malformed_send_is_refused_by_field(
        self, change: dict[str, object], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            check_send(replace(SEND, **change), APPLICATIONS, ["a"])  # type: ignore[arg-type]
        assert caught.value.field == field

    def test_body_of_128_kib_is_taken_c5(self) -> None:
        assert check_send(replace(SEND, body=bytes(128 << 10)), APPLICATIONS, ["a"]) == ("a",)

    def test_unregistered_application_is_not_found_c9(self) -> None:
        with pytest.raises(errors.NotFound, match="Register it"):
            check_send(Send("other"), APPLICATIONS, ["a"])

    def test_group_without_links_has_nobody_to_send_to(self) -> None:
        with pytest.raises(errors.FailedPrecondition) as caught:
            check_send(SEND, APPLICATIONS, [])
        assert caught.value.reason == "NO_LINK"


class TestVerdicts:
    def test_every_state_is_final_but_those_on_the_way(self) -> None:
        on_the_way = {state for state in VerdictState if not state.is_final}
        assert {state.name for state in on_the_way} == {"QUEUED", "SENT", "ARRIVED", "DELIVERED"}


class TestApplications:
    def test_at_most_32_names_for_a_group_and_side_c9(self) -> None:
        applications = Applications(
            "demo", [Application(f"a{n}", 0) for n in range(MAX_APPLICATIONS)]
        )
        with pytest.raises(errors.FailedPrecondition) as caught:
            applications.check_register("one-more")
        assert caught.value.reason == "TOO_MANY_APPLICATIONS"
        assert not applications.check_register("a1"), "a known name is returned as it is"

    def test_names_are_dns_labels(self) -> None:
        with pytest.raises(errors.InvalidRequest):
            Applications("demo").check_register("No")

    def test_registration_comes_and_goes(self) -> None:
        applications = Applications("demo")
        assert applications.check_register("b")
        applications.add(Application("b", 1))
        applications.add(Application("a", 2))
        assert [application.name for application in applications.list()] == ["a", "b"]
        applications.check_unregister("b", is_pending=False)
        applications.remove("b")
        assert "b" not in applications
        with pytest.raises(errors.NotFound):
            applications.check_unregister("b", is_pending=False)
