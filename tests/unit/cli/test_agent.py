"""`slackwater agent`: what it refuses before it starts, and the list."""

from pathlib import Path

import pytest

from slackwater.cli.commands.agent import default_state_directory
from slackwater.v1 import primary_pb2
from tests.support.commands import Pair, write
from tests.unit.cli.conftest import CommandLine

RUN = ("agent", "run", "--group", "demo", "--application", "files")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("agent", "run", "sync", "/srv"), "--group: '' is not a name"),
        (("agent", "run", "-g", "demo", "sync", "/srv"), "--application: '' is not a name"),
        (("agent", "run", "-g", "demo", "-a", "No", "sync", "/srv"), "--application: 'No'"),
        ((*RUN, "sync"), "kind sync needs a path"),
        ((*RUN, "fsfreeze"), "kind fsfreeze needs a path"),
        ((*RUN, "command", "/bin/true"), "kind command takes two programs"),
        ((*RUN, "postgres", "a", "b"), "kind postgres takes one connection string"),
        ((*RUN, "sync", "/srv", "--light"), "--light is for kind postgres only"),
        ((*RUN, "sync", "/srv", "--resume-timeout", "0"), "--resume-timeout: must be more"),
        ((*RUN, "sync", "/srv", "--resume-timeout", "soon"), "is not a duration"),
        ((*RUN, "thaw", "/srv"), "'thaw' is not one of"),
    ],
)
def test_agent_refuses_what_cannot_be_meant(
    cli: CommandLine, words: tuple[str, ...], error: str
) -> None:
    cli(*words, code=2)
    assert error in cli.error


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (("fsfreeze", "/nowhere/at/all"), "No such file"),
        (("sync", "/nowhere/at/all"), "No such file"),
        (("fsfreeze", "/proc/self"), "is not a mount point"),
        (("command", "quiesce", "resume"), "is not an absolute path"),
        (("postgres", "no such=option"), "cannot be read"),
    ],
)
def test_agent_refuses_what_it_could_not_hold(
    cli: CommandLine, tmp_path: Path, kind: tuple[str, ...], error: str
) -> None:
    cli(*RUN, "--state-dir", str(tmp_path / "state"), *kind, code=5)
    assert error in cli.error


def test_agent_refuses_programs_that_others_can_change(cli: CommandLine, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "scripts")
    write(pair.quiesce, "true", 0o777)
    cli(*RUN, "--state-dir", str(tmp_path / "state"), *pair.words, code=5)
    assert "can be written by its group or by others" in cli.error


def test_agent_refuses_a_state_directory_that_it_cannot_trust(
    cli: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    cli(*RUN, "--state-dir", str(tmp_path / "state"), "sync", "/", code=1)
    assert "others can write into" in cli.error


def test_agents_are_listed(cli: CommandLine) -> None:
    answer = primary_pb2.PrimaryServiceGetStatusResponse()
    row = answer.groups.add()
    row.group.name = "groups/demo"
    held = row.agents.add(application="db", kind="postgres", host="db-1")
    held.connect_time.GetCurrentTime()
    held.held_for.FromMilliseconds(1500)
    row.agents.add(application="files", kind="fsfreeze")
    cli.primary.answers["GetStatus"] = answer
    lines = cli("agent", "list", "demo").splitlines()
    assert lines[0].split() == ["GROUP", "APPLICATION", "KIND", "HOST", "CONNECTED", "HOLDS"]
    assert lines[1].startswith("demo") and lines[1].endswith("for 1.5s")
    assert lines[2].split()[1:4] == ["files", "fsfreeze", "-"] and lines[2].endswith("no")
    (request,) = cli.primary.asked("GetStatus")
    assert request.group == "groups/demo"
    (first, second) = cli.json("agent", "list")["agents"]
    assert (first["group"], first["heldFor"], second["kind"]) == (
        "groups/demo",
        "1.500s",
        "fsfreeze",
    )


def test_list_without_agents_says_how_to_start_one(cli: CommandLine) -> None:
    cli("agent", "list")
    assert "slackwater agent run --group demo --application files" in cli.error


def test_state_directory_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state_directory() == Path("/var/lib/slackwater/agent")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert default_state_directory() == Path("/home/me/state/slackwater/agent")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_state_directory() == Path("/home/me/.local/state/slackwater/agent")
