"""Every `slackwater ibc` command against real services: what it does, and what it ends with."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import APPLICATION, GROUP, MIB, Cluster, wait_until
from tests.support.typed import Running, Typed

pytestmark = pytest.mark.timeout(180)

LIMIT = 128 << 10
NAMES = ("demo", APPLICATION)


@pytest.fixture
def slackwater(cluster: Cluster) -> Iterator[Typed]:
    """The command line, over a link that streams and a name that both sides know."""
    cluster.replicate(data=MIB)
    with Typed(cluster) as typed:
        yield typed


def sent(slackwater: Typed, *options: str) -> str:
    """Send a message; its name."""
    return str(slackwater.json("ibc", "send", *NAMES, *options)["message"]["name"])


def test_cycle_by_hand(slackwater: Typed, cluster: Cluster) -> None:
    """Send, watch, receive, status, unfreeze: C1, C2, C6, C16."""
    message = sent(slackwater, "--fence", "--text", "nightly", "--request-id", "r1")
    assert sent(slackwater, "--request-id", "r1") == message  # C3
    watching = slackwater.start("ibc", "watch", message)
    taken = slackwater.json("ibc", "receive", *NAMES, "--receive-timeout", "30s", "--holder", "me")
    assert (taken["name"], taken["text"], taken["fenced"]) == (message, "nightly", True)
    shown = slackwater("ibc", "status", "demo")
    for words in ("DELIVERED at site-b", "holder     me", f"slackwater ibc unfreeze {message}"):
        assert words in shown
    slackwater(*taken["unfreezeCommand"].split()[1:], "--by", "me")
    rows = [line.split()[1:3] for line in watching.ends().splitlines()]
    assert rows[-1] == ["site-b", "UNFROZEN"]
    assert "by me" in slackwater("ibc", "status", message)
    slackwater("ibc", "unfreeze", message, code=5)  # C12: it says how the freeze ended
    assert "UNFROZEN" in slackwater.error
    slackwater("ibc", "unfreeze", "demo", code=5)
    slackwater("ibc", "unfreeze", "demo/no-such-message", code=5)


def test_names_are_registered_listed_and_taken_back(slackwater: Typed) -> None:
    slackwater("ibc", "register", "demo", "second")
    assert slackwater("ibc", "applications", "demo").count("second") == 1
    found = slackwater.json("ibc", "status", "demo")["applications"]
    assert {row["application"] for row in found["primary"]} == {APPLICATION, "second"}
    slackwater("ibc", "unregister", "demo", "second", "--side", "secondary")
    assert "not registered" in slackwater("ibc", "status", "demo")
    slackwater("ibc", "unregister", "demo", "second", "--side", "primary")
    slackwater("ibc", "unregister", "demo", "second", code=4)


def test_name_with_a_pending_message_is_not_taken_back(slackwater: Typed) -> None:  # C9
    message = sent(slackwater)
    slackwater("ibc", "receive", *NAMES)
    slackwater("ibc", "unregister", *NAMES, "--side", "primary", code=5)
    slackwater("ibc", "unregister", *NAMES, "--side", "secondary", code=5)
    slackwater("ibc", "unfreeze", message)
    slackwater("ibc", "watch", message)
    slackwater("ibc", "unregister", *NAMES)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("send demo nobody", 4),
        ("send nowhere backup", 4),
        ("send demo backup --link nowhere", 2),  # C4
        ("send demo Bad_Name", 2),
        ("send demo backup --quiesce backup", 5),  # no agent: never silently a lower grade
        ("receive demo nobody -n", 4),
        ("receive nowhere backup -n", 4),
        ("receive demo backup -n", 6),
        ("stoprecv nowhere backup", 4),
        ("register demo Bad_Name", 2),
        ("register nowhere backup --wait 0", 4),
        ("watch demo/nothing", 4),
        ("status demo/nothing", 4),
        ("status nowhere", 4),
        ("regsend nowhere backup", 4),
        ("regrecv nowhere backup -- true", 125),
        ("regrecv demo backup -- no-such-program-here", 127),
    ],
)
def test_what_cannot_be_is_refused_with_its_code_and_changes_nothing(
    slackwater: Typed, words: str, code: int
) -> None:
    slackwater("ibc", *words.split(), code=code)
    assert slackwater.error.startswith("error: ") or "\nerror: " in slackwater.error
    assert "\nnext:  " in slackwater.error
    assert slackwater.json("ibc", "status", "demo")["messages"] == []


def test_body_is_carried_byte_for_byte_up_to_its_limit(  # C5
    slackwater: Typed, tmp_path: Path
) -> None:
    given, got = tmp_path / "given", tmp_path / "got"
    whole = bytes(range(256)) * (LIMIT // 256)
    for body in (b"", b"\xff\xfe\x00", whole):
        given.write_bytes(body)
        message = sent(slackwater, "--file", str(given))
        slackwater("ibc", "receive", *NAMES, "-f", str(got))
        assert got.read_bytes() == body
        slackwater("ibc", "unfreeze", message)
    given.write_bytes(whole + b"x")
    slackwater("ibc", "send", *NAMES, "-f", str(given), code=2)
    assert f"larger than {LIMIT} bytes" in slackwater.error
    assert len(slackwater.json("ibc", "status", "demo")["messages"]) == 3


def test_of_two_receivers_one_gets_the_message(slackwater: Typed) -> None:  # C10
    receivers = [
        slackwater.start("ibc", "receive", *NAMES, "-R", "5s", "-o", "json", "--holder", name)
        for name in ("one", "two")
    ]
    message = sent(slackwater)
    ended = [_end(receiver) for receiver in receivers]
    assert sorted(code for code, _ in ended) == [0, 6]
    assert [json.loads(out)["name"] for code, out in ended if code == 0] == [message]
    slackwater("ibc", "unfreeze", message)


def test_waiting_receivers_are_stopped(slackwater: Typed, cluster: Cluster) -> None:
    receiver = slackwater.start("ibc", "receive", *NAMES)

    def is_stopped() -> bool:
        return bool(slackwater.json("ibc", "stoprecv", *NAMES)["stopped"])

    wait_until("the receiver waits and is stopped", is_stopped)
    receiver.ends(1)
    assert "receiving for 'backup' was stopped" in receiver.error


def test_notification_stops_nothing(slackwater: Typed, cluster: Cluster) -> None:  # C7
    message = sent(slackwater, "--no-freeze", "-m", "go")
    slackwater("ibc", "watch", message)
    taken = slackwater.json("ibc", "receive", *NAMES)
    assert "unfreezeCommand" not in taken
    assert (taken["name"], taken["text"]) == (message, "go")
    cluster.wait_no_lag()


def test_bad_ends_are_told_to_the_sender(slackwater: Typed) -> None:  # C11, C12, C16
    for options, verdict in (
        (["--deliver-timeout", "300ms"], "EXPIRED"),
        (["--freeze-timeout", "300ms"], "FREEZE_TIMED_OUT"),
    ):
        sender = slackwater.start("ibc", "send", *NAMES, "--wait", *options)
        if verdict == "FREEZE_TIMED_OUT":
            slackwater("ibc", "receive", *NAMES)
        sender.ends(7)
        assert f"{verdict}" in sender.error
    slackwater("ibc", "unregister", *NAMES, "--side", "secondary")
    slackwater("ibc", "send", *NAMES, "--wait", "--unregistered-timeout", "300ms", code=7)
    assert "UNCLAIMED" in slackwater.error


def test_regsend_takes_back_what_it_registered(slackwater: Typed) -> None:
    slackwater("ibc", "register", "demo", "once", "--side", "secondary")
    sender = slackwater.start("ibc", "regsend", "demo", "once", "--fence")
    message = slackwater.json("ibc", "receive", "demo", "once")["name"]
    slackwater("ibc", "unfreeze", message)
    sender.ends()
    names = slackwater.json("ibc", "applications", "demo")["primary"]
    assert [row["application"] for row in names] == [APPLICATION]
    slackwater("ibc", "regsend", *NAMES, "-N")
    names = slackwater.json("ibc", "applications", "demo")["primary"]
    assert [row["application"] for row in names] == [APPLICATION]


def test_status_shows_one_side_when_the_other_is_away(slackwater: Typed, cluster: Cluster) -> None:
    message = sent(slackwater)
    slackwater("ibc", "receive", *NAMES)
    cluster.primary.kill()
    shown = slackwater("ibc", "status", "demo", code=3)
    assert message in shown
    assert "cannot be reached" in slackwater.error
    assert GROUP in slackwater("ibc", "unfreeze", message)


def _end(running: Running) -> tuple[int, str]:
    out, err = running.process.communicate(timeout=60)
    running.error = err.decode()
    return running.process.returncode, out.decode()
