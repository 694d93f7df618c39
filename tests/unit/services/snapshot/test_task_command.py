"""Programs of tasks: bounded in time, output and offspring; never root unasked."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from services.snapshot.tasks import command, warden
from slackwater.errors import FailedPrecondition, InvalidRequest

ROOT = Path(__file__).parents[4]
SERVICE = """
import asyncio, sys
from pathlib import Path
from services.snapshot.tasks import command
*words, home = sys.argv[1:]
who = command.Identity("ourselves", {}, 0, 0)
asyncio.run(command.run(words, Path(home), {}, who, 60))
"""
OURSELVES = command.Identity("ourselves", {}, os.geteuid(), os.getegid())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.3)


def write(tmp_path: Path, text: str) -> list[str]:
    """A program in a directory that everybody can read."""
    tmp_path.chmod(0o755)
    file = tmp_path / "it.sh"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return ["./it.sh"]


def run(
    tmp_path: Path,
    text: str,
    *arguments: str,
    seconds: float = 20.0,
    who: command.Identity = OURSELVES,
) -> command.Ended:
    """Run a program to its end."""
    words = [*write(tmp_path, text), *arguments]
    return asyncio.run(command.run(words, tmp_path, {"SLACKWATER_TASK": "t"}, who, seconds))


def is_there(process: int) -> bool:
    """Whether a process lives."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_program_gets_its_arguments_and_a_fixed_environment(tmp_path: Path) -> None:
    ended = run(tmp_path, 'pwd; echo "$1"; env | sort', "a; b")
    assert ended.status == 0
    lines = ended.output.splitlines()
    assert lines[:2] == [str(tmp_path), "a; b"]
    assert set(lines[2:]) == {
        f"PATH={command.PATH}",
        "LANG=C.UTF-8",
        "SLACKWATER_TASK=t",
        f"PWD={tmp_path}",
    }


def test_failure_is_its_status(tmp_path: Path) -> None:
    ended = run(tmp_path, "echo no >&2; exit 3")
    assert (ended.status, ended.output) == (3, "no\n")
    with pytest.raises(FailedPrecondition, match="status 3"):
        ended.check("it", 20)


def test_program_that_dies_by_a_signal_says_so(tmp_path: Path) -> None:
    ended = run(tmp_path, "kill -SEGV $$")
    assert ended.status == 128 + signal.SIGSEGV
    with pytest.raises(FailedPrecondition, match="signal 11"):
        ended.check("it", 20)


@pytest.mark.parametrize("text", ["sleep 60", "trap '' TERM; while :; do sleep 1; done"])
def test_program_that_hangs_is_ended(tmp_path: Path, text: str) -> None:
    ended = run(tmp_path, f"echo $$; {text}", seconds=0.2)
    assert ended.timed_out
    assert not is_there(int(ended.output.split()[0]))
    with pytest.raises(FailedPrecondition, match=r"0\.2 s"):
        ended.check("it", 0.2)


def test_program_that_forks_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = run(tmp_path, "for n in 1 2 3; do setsid sleep 60 & echo $!; done; exit 0")
    assert ended.status == 0
    assert "processes that it left were ended" in ended.output
    assert not any(is_there(int(word)) for word in ended.output.split()[:3])


def test_program_that_hangs_in_a_session_of_its_own_is_ended(tmp_path: Path) -> None:
    ended = run(tmp_path, "setsid sleep 60 & echo $!; wait", seconds=0.3)
    assert ended.timed_out
    assert not is_there(int(ended.output.split()[0]))


def test_flood_of_output_keeps_head_and_tail(tmp_path: Path) -> None:
    ended = run(tmp_path, "echo head; yes | head -c 5000000; echo tail")
    assert ended.status == 0
    assert ended.output.startswith("head\n")
    assert ended.output.endswith("tail\n")
    assert "bytes left out]" in ended.output
    assert len(ended.output.encode()) <= command.OUTPUT_LIMIT_BYTES


def test_output_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    assert run(tmp_path, r"printf '\377\376ok'").output == "??ok"


def test_program_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="No such file") as caught:
        asyncio.run(command.run(["./nothing"], tmp_path, {}, OURSELVES, 5))
    assert caught.value.reason == "COMMAND_NOT_STARTED"


def test_cancelled_program_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    words = write(tmp_path, f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60")

    async def main() -> None:
        running = asyncio.ensure_future(command.run(words, tmp_path, {}, OURSELVES, 60))
        async with asyncio.timeout(20):
            while not mark.exists():
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert not is_there(int(mark.read_text()))


def test_program_does_not_outlive_a_service_that_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    words = write(
        tmp_path, f"setsid sleep 61 & echo $$ $! > {mark}.new; mv {mark}.new {mark}; wait"
    )
    service = subprocess.Popen([sys.executable, "-c", SERVICE, *words, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    service.kill()
    service.wait()
    found = [int(word) for word in mark.read_text().split()]
    while any(map(is_there, found)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_there, found))


def test_warden_that_is_killed_takes_the_answer_with_it(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="warden") as caught:
        run(tmp_path, "kill -KILL $PPID; exit 0")
    assert caught.value.reason == "COMMAND_LOST"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_warden_that_died_before_its_order_ends_the_step_and_not_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The event loop of the services says RuntimeError when nobody reads any more."""
    start = asyncio.create_subprocess_exec

    async def start_and_see_it_die(*words: str, **more: object) -> asyncio.subprocess.Process:
        process = await start(*words, **more)  # type: ignore[arg-type]
        process.kill()
        await process.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_see_it_die)
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(FailedPrecondition, match="what became of true is not known"),
    ):
        runner.run(command.run(["true"], tmp_path, {}, OURSELVES, 10.0))


def test_service_of_root_runs_programs_as_nobody(tmp_path: Path) -> None:
    who = command.identity(None)
    assert who.user == command.UNPRIVILEGED
    assert run(tmp_path, "id -un; id -G", who=who).output.split()[0] == "nobody"
    assert run(tmp_path, "id -un", who=command.identity("root")).output == "root\n"


def test_user_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="command_user"):
        command.identity("no-such-user")


def test_unprivileged_service_cannot_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert command.identity(None).numbers == {}
    with pytest.raises(InvalidRequest, match="cannot become root"):
        command.identity("root")


def test_warden_needs_the_standard_library_alone() -> None:
    text = Path(warden.__file__).read_text()
    assert "import services" not in text
    assert "from services" not in text
    assert "slackwater" not in text
