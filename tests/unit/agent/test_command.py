"""Kind `command`: how its programs are run, and what becomes of programs that misbehave."""

import os
import signal
from pathlib import Path

import pytest

from slackwater.agent.keeper import Request
from slackwater.agent.kinds.command import Command
from slackwater.agent.kinds.kind import KindFailed, Patience
from slackwater.agent.kinds.program import OUTPUT_BYTES, Output, Program
from slackwater.agent.undo import prepare
from tests.support.agents import is_gone
from tests.support.commands import Pair, write
from tests.support.scripted_primary import eventually

ASKED = Request("h1", 30.0, 10.0, "backup", "tasks/nightly", ("site-b", "site-c"))
PATIENCE = 30.0


def program(directory: Path, body: str) -> Program:
    directory.chmod(0o755)
    return Program(str(write(directory / "program", body)), ("a b", ""), {"PATH": os.defpath})


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "scripts", quiesce="env | sort", resume="env | sort; pwd")


def kind_of(pair: Pair) -> Command:
    return Command("demo", "backup", str(pair.quiesce), str(pair.resume), PATIENCE)


def test_programs_get_what_vvrs_scripts_get_and_a_fixed_environment(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk group, RVG, task, and the RLINKs in one word."""
    monkeypatch.setenv("SECRET", "not for them")
    kind = kind_of(pair)
    kind.check()
    lines = kind.hold(ASKED, Patience(PATIENCE)).splitlines()
    assert lines[-1] == "held 4: nightly"
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found.pop("PWD") == str(pair.quiesce.parent)
    for of_the_shell in ("_", "SHLVL", "OLDPWD"):
        found.pop(of_the_shell, None)
    assert found == {
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SLACKWATER_APPLICATION": "backup",
        "SLACKWATER_GROUP": "demo",
        "SLACKWATER_HOLD_ID": "h1",
        "SLACKWATER_LINK": "site-b site-c",
        "SLACKWATER_MESSAGE_ID": "",
        "SLACKWATER_POSITION": "",
        "SLACKWATER_SNAPSHOT": "",
        "SLACKWATER_TASK": "nightly",
    }
    resumption = kind.resume(ASKED, "groups/demo/messages/0193", Patience(PATIENCE))
    assert resumption.unbroken
    assert "SLACKWATER_MESSAGE_ID=0193" in resumption.answer.splitlines()
    assert pair.calls.read_text().splitlines() == [
        "quiesce demo demo nightly site-b site-c",
        "resume demo demo nightly site-b site-c",
    ]


def test_without_a_task_the_application_of_the_message_stands_for_it(pair: Pair) -> None:
    kind_of(pair).hold(Request("h1", 1.0, 1.0, "mail"), Patience(PATIENCE))
    assert pair.calls.read_text() == "quiesce demo demo mail \n"


def test_another_process_runs_the_same_resume(pair: Pair) -> None:
    kind = kind_of(pair)
    kind.hold(ASKED, Patience(PATIENCE))
    undo = kind.undo(ASKED)
    assert undo is not None
    assert prepare(undo).run().startswith(f"ran {pair.resume}: ")
    assert not pair.is_held()
    assert pair.calls.read_text().splitlines()[-1] == "resume demo demo nightly site-b site-c"


def test_words_reach_the_program_without_a_shell(tmp_path: Path) -> None:
    run = Program(
        str(write(tmp_path / "program", 'printf "%s|" "$@"')), ("$(id)", "; ls", "a b", ""), {}
    )
    tmp_path.chmod(0o755)
    assert run.run(Patience(PATIENCE)) == "$(id)|; ls|a b||"


def test_program_that_fails_is_told_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(KindFailed, match=r"ended with 3; it printed: out\nerr"):
        program(tmp_path, "echo out; echo err >&2; exit 3").run(Patience(PATIENCE))


def test_program_that_dies_of_a_signal_is_told(tmp_path: Path) -> None:
    with pytest.raises(KindFailed, match="was ended by SIGKILL"):
        program(tmp_path, "kill -KILL $$").run(Patience(PATIENCE))


@pytest.mark.parametrize("deaf", ["", "trap '' TERM;"], ids=["polite", "deaf-to-sigterm"])
def test_program_that_hangs_is_ended_with_all_its_children(tmp_path: Path, deaf: str) -> None:
    body = f"{deaf} sleep 1000 & echo $! >{tmp_path}/child; echo $$ >{tmp_path}/self; wait; wait"
    with pytest.raises(KindFailed, match=r"did not end within .* and was ended"):
        program(tmp_path, body).run(Patience(0.5))
    for name in ("child", "self"):
        pid = int((tmp_path / name).read_text())
        eventually(f"{name} is gone", lambda pid=pid: is_gone(pid))  # type: ignore[misc]


def test_program_that_nobody_waits_for_any_more_is_ended(tmp_path: Path) -> None:
    patience = Patience(1000.0)
    patience.give_up()
    with pytest.raises(KindFailed, match="was ended"):
        program(tmp_path, "exec sleep 1000").run(patience)


def test_children_of_a_failed_program_are_ended(tmp_path: Path) -> None:
    with pytest.raises(KindFailed, match="ended with 1"):
        program(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/child; exit 1").run(Patience(30))
    pid = int((tmp_path / "child").read_text())
    eventually("the child is gone", lambda: is_gone(pid))


def test_what_a_program_leaves_behind_on_purpose_stays(tmp_path: Path) -> None:
    """A quiesce may keep a client with a lock in the background, output still open."""
    body = f"sleep 1000 & echo $! >{tmp_path}/child; echo held"
    assert program(tmp_path, body).run(Patience(PATIENCE)) == "held"
    pid = int((tmp_path / "child").read_text())
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_flood_of_output_is_read_and_cut(tmp_path: Path) -> None:
    body = "echo begin; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end"
    said = program(tmp_path, body).run(Patience(PATIENCE))
    assert said.startswith("begin") and said.endswith("end")
    assert "bytes left out" in said
    assert len(said) < OUTPUT_BYTES + 100


def test_output_that_is_no_text_becomes_text() -> None:
    output = Output(8)
    output.add(b"\xff\x00")
    assert output.text == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o644, "is not executable"), (0o775, "by its group or by others"), (0o757, "by others")],
)
def test_program_that_cannot_be_run_or_trusted_is_refused(
    tmp_path: Path, mode: int, words: str
) -> None:
    tmp_path.chmod(0o755)
    path = write(tmp_path / "program", "touch ran", mode)
    with pytest.raises(KindFailed, match=words):
        Program(str(path), (), {}).run(Patience(PATIENCE))
    assert not (tmp_path / "ran").exists()


def test_program_in_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "open" / "program", "true")
    path.parent.chmod(0o777)
    with pytest.raises(KindFailed, match="by its group or by others"):
        Program(str(path), (), {}).check()


def test_program_that_is_not_there_or_no_program_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(KindFailed, match="No such file"):
        Program(str(tmp_path / "nothing"), (), {}).check()
    with pytest.raises(KindFailed, match="is not an absolute path"):
        Program("program", (), {}).check()
    with pytest.raises(KindFailed, match="is not a file"):
        Program(str(tmp_path), (), {}).check()
    broken = write(tmp_path / "broken", "")
    broken.write_text("#!/no/such/interpreter\n")
    with pytest.raises(KindFailed, match="cannot be started"):
        Program(str(broken), (), {}).run(Patience(PATIENCE))
