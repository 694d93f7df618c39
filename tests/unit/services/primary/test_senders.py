"""Sender processes: started, killed, hung, stopped; and the service that owns them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from services.primary.senders import SenderPool
from slackwater.log.marks import SharedMarks
from slackwater.runtime import logs
from slackwater.v1 import common_pb2, replication_pb2
from slackwater.v1 import primary_pb2 as api
from tests.unit.services.primary.primary_site import (
    GROUP,
    LINK,
    FakeSecondary,
    Site,
    in_loop,
    until,
)


def pool(marks: SharedMarks) -> SenderPool:
    return SenderPool(marks, 1, None, logs.get("test"))


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def streaming(site: Site, secondary: FakeSecondary) -> None:
    group = site.node.group("demo")
    await until(lambda: secondary.durable == group.writer.log.durable.position)
    await until(lambda: group.link("site-b").status.state == "STREAMING")


async def linked_site(site: Site, secondary: FakeSecondary) -> None:
    await site.with_group()
    await site.with_link(secondary.address)
    await site.write(b"one")
    await streaming(site, secondary)


@in_loop
async def test_killed_sender_is_started_again_and_goes_on(tmp_path: Path) -> None:
    """D15."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        process = site.senders.processes[0]
        for number in range(1, 3):
            os.kill(process.pid, signal.SIGKILL)
            await site.write(b"two")
            await until(lambda expected=number: process.restarts == expected)  # type: ignore[misc]
            await streaming(site, secondary)
        durable = site.node.group("demo").writer.log.durable.position
        assert secondary.records == list(range(1, durable.lsn + 1))
        assert not secondary.syncs


@in_loop
async def test_sender_leaves_only_when_the_main_process_says_so(tmp_path: Path) -> None:
    """A signal to the whole process group must not cut the drain short."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        process = site.senders.processes[0]
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(process.pid, number)
        await site.write(b"two")
        await streaming(site, secondary)
        assert process.restarts == 0
        pid = process.pid
    assert not is_alive(pid)


@in_loop
async def test_hung_sender_holds_nobody_up(tmp_path: Path) -> None:
    """D26: a writer that has to let go of a link does not wait for who carries it."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        process = site.senders.processes[0]
        link = site.node.group("demo").link("site-b")
        os.kill(process.pid, signal.SIGSTOP)
        try:

            def tell() -> None:
                for _ in range(20_000):  # megabytes more than the channel holds
                    link.operate("overflow", reason="r" * 100, generation=0)

            await asyncio.wait_for(asyncio.to_thread(tell), 20)
            await site.write(b"goes on")
            await until(lambda: link.lag_seconds() > 0)
        finally:
            os.kill(process.pid, signal.SIGKILL)
        await until(lambda: process.restarts == 1)
        await streaming(site, secondary)


@in_loop
async def test_slot_of_a_deleted_link_is_free_once_its_sender_let_go(tmp_path: Path) -> None:
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        free = site._marks._free_links
        before = len(free)
        await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
        await until(lambda: len(free) == before + 1)
        # Also while nobody can answer: the sender dials, or is dead.
        for endpoint in ("127.0.0.1:1", secondary.address):
            await site.with_link(endpoint)
            os.kill(site.senders.processes[0].pid, signal.SIGKILL)
            await site.api.DeleteLink(api.DeleteLinkRequest(name=LINK))
            await until(lambda: len(free) == before + 1)


@in_loop
async def test_restart_of_the_service_in_the_middle_of_a_sync_ends_it(tmp_path: Path) -> None:
    """D25."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        await secondary.hang_up()
        for _ in range(70):  # more than the log holds
            await site.write(bytes(1 << 20))
        assert site.node.group("demo").link("site-b").is_dirty
        secondary.break_after_regions = 1
        await secondary.come_back()
        await until(lambda: bool(secondary.syncs) and not secondary.break_after_regions)
        await site.restart()
        await until(lambda: not secondary.sync_id)
        await streaming(site, secondary)
        row = site.node.group("demo").database.link("site-b")
        assert not row.dirty


@in_loop
async def test_message_is_sent_before_it_has_arrived(tmp_path: Path) -> None:
    """C16: SENT while the Secondary does not answer, ARRIVED once it has."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        await site.api.RegisterApplication(
            api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup")
        )
        await streaming(site, secondary)
        secondary.is_reading.clear()
        request = api.SendMessageRequest(group=GROUP, application="backup")
        # The answer that is under way may cover the first of them; the second waits for sure.
        await site.api.SendMessage(request)
        name = (await site.api.SendMessage(request)).message.name

        async def is_now(state: common_pb2.VerdictState.ValueType) -> None:
            deadline = time.monotonic() + 20
            while True:
                seen = (await site.api.GetMessage(api.GetMessageRequest(name=name))).message
                if seen.verdicts[0].state == state:
                    return
                assert time.monotonic() < deadline, seen.verdicts
                await asyncio.sleep(0.02)

        await is_now(common_pb2.VERDICT_STATE_SENT)
        secondary.is_reading.set()
        await is_now(common_pb2.VERDICT_STATE_ARRIVED)


@in_loop
async def test_verdict_of_a_message_comes_back(tmp_path: Path) -> None:
    """C16, D17."""
    async with FakeSecondary() as secondary, Site(tmp_path, pool=pool) as site:
        await linked_site(site, secondary)
        await site.api.RegisterApplication(
            api.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="backup")
        )
        request = api.SendMessageRequest(group=GROUP, application="backup")
        sent = (await site.api.SendMessage(request)).message
        await streaming(site, secondary)
        secondary.verdicts = [
            replication_pb2.VerdictReport(
                sequence=1,
                message_id=sent.name.rpartition("/")[2],
                lsn=sent.position.lsn,
                state=common_pb2.VERDICT_STATE_EXPIRED,
            )
        ]
        await secondary.hang_up()
        await secondary.come_back()
        await until(lambda: secondary.confirmed == [1])
        seen = (await site.api.GetMessage(api.GetMessageRequest(name=sent.name))).message
        assert seen.final
        assert [one.state for one in seen.verdicts] == [common_pb2.VERDICT_STATE_EXPIRED]


# -- the whole service ----------------------------------------------------------------------------


class Process:
    """`python -m services.primary`."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.endpoints_file = path / "endpoints.json"
        self.log = (path / "log.txt").open("w")
        command = [sys.executable, "-m", "services.primary", "--data-dir", str(path / "data")]
        for name in ("listen", "health-listen", "metrics-listen", "nbd-listen"):
            command += [f"--{name}", "127.0.0.1:0"]
        command += ["--endpoints-file", str(self.endpoints_file), *arguments]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def children(self) -> list[int]:
        listing = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for one in listing for pid in one.read_text().split()]

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *about: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


async def ready(service: Process) -> dict[str, Any]:
    await until(service.endpoints_file.exists)
    found: dict[str, Any] = json.loads(service.endpoints_file.read_text())
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_service_ends_within_its_grace_and_leaves_no_orphan(
    tmp_path: Path, number: signal.Signals
) -> None:
    @in_loop
    async def run(path: Path) -> None:
        with Process(path, "--sender-processes", "2", "--grace-seconds", "15") as service:
            await ready(service)
            children = service.children()
            assert len(children) == 2
            for pid in children:
                os.kill(pid, number)  # as Ctrl-C does, or a supervisor that signals the group
            service.process.send_signal(number)
            assert await asyncio.to_thread(service.process.wait, 15) == 0
            assert not any(is_alive(pid) for pid in children)
        text = (path / "log.txt").read_text()
        assert "Traceback" not in text
        assert "sender ended" not in text

    run(tmp_path)


@in_loop
async def test_senders_die_with_a_killed_service_so_that_it_can_start_again(
    tmp_path: Path,
) -> None:
    """D15."""
    with Process(tmp_path) as service:
        await ready(service)
        (child,) = service.children()
        service.process.kill()
        await until(lambda: not is_alive(child))
        service.endpoints_file.unlink()
    with Process(tmp_path) as again:
        await ready(again)


@in_loop
async def test_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with Process(tmp_path) as service:
        await ready(service)
        other = tmp_path / "other"
        other.mkdir()
        (other / "data").symlink_to(tmp_path / "data")
        with Process(other) as second:
            assert await asyncio.to_thread(second.process.wait, 15) == 1
        assert "DIRECTORY_IN_USE" in (other / "log.txt").read_text()
