"""`slackwater task`, `run` and `schedule` with real services: Secondaries, an agent, the clock."""

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.task_site import Agent, TaskSite
from tests.support.typed import Typed

pytestmark = pytest.mark.timeout(240)

MINUTE_SECONDS = 60
PAGE = Path(__file__).parents[2] / "docs" / "schedules.md"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[TaskSite]:
    """Planned services; the test starts them."""
    with TaskSite(tmp_path) as made:
        yield made


def test_one_command_does_the_whole_cycle_and_keeps_what_the_rules_name(site: TaskSite) -> None:
    site.begin(both=True)
    agent = Agent(site)
    with Typed(site) as slackwater:
        create = "task create nightly --group demo --quiesce db --keep-last 1"
        slackwater(*create.split())
        plan = slackwater("task", "run", "nightly", "--all", "--dry-run")
        assert all(word in plan for word in ("quiesce", "send", "snapshot", "site-b", "site-c"))
        assert not site.messages()
        shown = slackwater("task", "run", "nightly", "--group", "demo", "--all")
        assert shown.count("SNAPSHOTTED") == 2
        assert shown.count("application (confirmed)") == 2
        assert "send" in shown
        first = site.snapshots()[0].name
        slackwater("snapshot", "hold", first.removeprefix("groups/").replace("/snapshots", ""))
        found = slackwater.json("task", "run", "nightly", "--all")
        assert [row["confirmed"] for row in found["replicas"]] == [True, True]
        # The first one is held on site-b alone: there it stays, on site-c it goes.
        wait_until("it went", lambda: len(site.snapshots("site-c")) == 1)
        assert site.snapshots("site-c")[0].name == found["replicas"][1]["snapshot"]
        wait_until(
            "it is said why it stays", lambda: "held" in slackwater("task", "describe", "nightly")
        )
        assert len(site.snapshots()) == 2
        listed = slackwater.json("run", "list", "--task", "nightly")["runs"]
        assert [row["state"] for row in listed] == ["STATE_SUCCEEDED"] * 2
    agent.close()


def test_a_broken_hold_and_a_failed_step_end_the_command_with_one(site: TaskSite) -> None:
    site.begin(both=True)
    agent = Agent(site)
    agent.unbroken = False
    site.program("only-b.sh", '[ "$SLACKWATER_LINK" = site-b ]')
    with Typed(site) as slackwater:
        slackwater("task", "create", "revoked", "--group", "demo", "--quiesce", "db")
        slackwater("task", "run", "revoked", "--link", "site-b", code=1)
        assert "QUIESCE_REVOKED" in slackwater.error
        site.write_task(postfreeze=[{"command": ["only-b.sh"]}])
        shown = slackwater.start("task", "run", "nightly", "--all").ends(1)
        rows = [line.split()[:2] for line in shown.partition("secondaries")[2].splitlines()]
        assert ["site-b", "SUCCEEDED"] in rows
        assert ["site-c", "FAILED"] in rows
        slackwater("task", "run", "nightly", "--link", "nowhere", code=2)
        slackwater("task", "run", "nothing", code=4)
    agent.close()


def test_an_interrupt_ends_the_run_and_unfreezes(site: TaskSite) -> None:
    site.begin()
    site.program("long.sh", "sleep 600")
    site.write_task(onfreeze=["snapshot", {"command": ["long.sh"], "timeout": "10m"}])
    with Typed(site) as slackwater:
        running = slackwater.start("task", "run", "nightly")
        wait_until("it stands", lambda: bool(site.frozen()))
        running.signal(signal.SIGINT)
        assert "CANCELLED" in running.ends(1)
        assert not site.frozen()
        detached = slackwater.json("task", "run", "nightly", "--detach")
        wait_until("it stands again", lambda: bool(site.frozen()))
        watching = slackwater.start("run", "watch", detached["name"])
        slackwater("run", "cancel", detached["name"])
        watching.ends(1)
    site.check_nothing_left()


def test_the_calls_of_the_page_run_as_they_stand(site: TaskSite) -> None:
    site.begin()
    site.write_task()
    text = PAGE.read_text().partition("## With grpcurl\n```\n")[2].partition("```")[0]
    assert text
    ended = subprocess.run(
        ["bash", "-e", "-c", text.replace("127.0.0.1:7462", site.snapshot.endpoints.grpc)],
        env={"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert '"cron": "0 2 * * *"' in ended.stdout


def test_a_schedule_starts_once_a_minute_also_over_a_sigkill(site: TaskSite) -> None:
    site.begin()
    with Typed(site) as slackwater:
        slackwater("task", "create", "nightly", "--group", "demo")
        words = ("schedule", "create", "often", "nightly", "--cron", "* * * * *")
        made = slackwater.json(*words, "--catch-up", "1h")
        assert made["nextTime"]

        def runs() -> list[str]:
            found = slackwater.json("run", "list", "--task", "nightly")["runs"]
            assert all(row["schedule"] == "schedules/often" for row in found)
            return [row["createTime"][:16] for row in found]

        wait_until("it started", lambda: bool(runs()), MINUTE_SECONDS + 20)
        site.snapshot.restart(kill=True)
        slackwater("schedule", "list")
        before = runs()
        # What was decided about stays so: a look or two later there is no second start.
        time.sleep(2.5)  # not for something to come about: for nothing to
        slackwater("schedule", "pause", "often")
        assert len(set(runs())) == len(runs()) <= len(before) + 1
        shown = slackwater.json("schedule", "describe", "often")
        assert (shown["paused"], shown["missed"]) == (True, "0")
        assert shown["lastRun"]
        slackwater("schedule", "delete", "often", "--yes")
        slackwater("schedule", "describe", "often", code=4)
