"""A whole service in this process: order, readiness, drain, exit status."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from slackwater.errors import FailedPrecondition
from slackwater.runtime import client, lifecycle
from slackwater.runtime.config import SnapshotConfig
from slackwater.runtime.lifecycle import Service

HealthStub: Any = health_pb2_grpc.HealthStub
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def settings(tmp_path: Path, **more: Any) -> SnapshotConfig:
    return SnapshotConfig(
        data_dir=tmp_path,
        listen="127.0.0.1:0",
        health_listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        endpoints_file=tmp_path / "endpoints.json",
        **more,
    )


class Journal:
    """Parts that write down what happens to them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def part(
        self,
        service: Service,
        name: str,
        start: Callable[[], Awaitable[None]] | None = None,
        stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        async def begin() -> None:
            self.lines.append(f"start {name}")
            if start is not None:
                await start()

        async def end(_grace: float) -> None:
            self.lines.append(f"stop {name}")
            if stop is not None:
                await stop()

        service.add(name, begin, end)


def run(
    config: SnapshotConfig, assemble: Callable[[Service], Awaitable[None]], lock: Any = None
) -> int:
    return lifecycle.run_service("test", config, assemble, lock or contextlib.nullcontext)


async def check(service: Service, name: str) -> int | grpc.StatusCode:
    """Ask the service for a health name on its health port."""
    async with client.open_channel(service.endpoints["health"]) as channel:
        try:
            answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return int(answer.status)


def test_parts_start_in_order_stop_in_reverse_and_sigterm_exits_zero(tmp_path: Path) -> None:
    journal = Journal()

    async def assemble(service: Service) -> None:
        async def kill() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        journal.part(service, "log")
        journal.part(service, "links")
        journal.part(service, "last", start=kill)

    assert run(settings(tmp_path), assemble) == 0
    assert journal.lines == [
        "start log", "start links", "start last", "stop last", "stop links", "stop log",
    ]  # fmt: skip


def test_service_is_ready_after_its_parts_and_not_while_they_stop(tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    async def assemble(service: Service) -> None:
        async def recovering() -> None:
            seen["liveness at start"] = await check(service, "liveness")
            seen["readiness at start"] = await check(service, "readiness")
            await service.health.set_group("g", is_serving=True)
            service.spawn(work(), "work")

        async def work() -> None:
            while await check(service, "readiness") != SERVING:
                await asyncio.sleep(0.01)
            seen["group"] = await check(service, "groups/g")
            await service.health.forget_group("g")
            seen["deleted group"] = await check(service, "groups/g")
            seen["unknown"] = await check(service, "groups/never")
            service.request_end()
            await asyncio.Event().wait()  # a task that never ends by itself

        async def stopping() -> None:
            seen["readiness at stop"] = await check(service, "readiness")
            seen["liveness at stop"] = await check(service, "liveness")

        Journal().part(service, "groups", recovering, stopping)

    assert run(settings(tmp_path), assemble) == 0
    assert seen == {
        "liveness at start": SERVING,
        "readiness at start": NOT_SERVING,
        "group": SERVING,
        "deleted group": grpc.StatusCode.NOT_FOUND,
        "unknown": grpc.StatusCode.NOT_FOUND,
        "readiness at stop": NOT_SERVING,
        "liveness at stop": SERVING,
    }


def test_endpoints_file_has_every_bound_address(tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    async def assemble(service: Service) -> None:
        service.serve(lambda _server: None, [])

        async def nbd() -> None:
            service.endpoints["nbd"] = "127.0.0.1:10809"
            service.spawn(look(), "look")

        async def look() -> None:
            while not (tmp_path / "endpoints.json").exists():
                await asyncio.sleep(0.01)
            found.update(json.loads((tmp_path / "endpoints.json").read_text()))
            service.request_end()

        Journal().part(service, "nbd", nbd)

    assert run(settings(tmp_path), assemble) == 0
    assert set(found) == {"grpc", "health", "metrics", "nbd", "pid"}
    assert found["pid"] == os.getpid()
    assert not found["grpc"].endswith(":0")


def test_second_process_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal()

    def held() -> contextlib.AbstractContextManager[object]:
        raise FailedPrecondition("DIRECTORY_IN_USE", "another process has the directory")

    async def assemble(service: Service) -> None:
        journal.part(service, "log")

    assert run(settings(tmp_path), assemble, held) == 1
    assert journal.lines == []
    assert "DIRECTORY_IN_USE" in capsys.readouterr().err


def test_part_that_cannot_start_stops_the_others_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal()

    async def assemble(service: Service) -> None:
        async def fail() -> None:
            raise FailedPrecondition("NEWER_FORMAT", "the directory is of a newer format")

        journal.part(service, "log")
        journal.part(service, "broken", start=fail)
        journal.part(service, "never")

    assert run(settings(tmp_path), assemble) == 1
    assert journal.lines == ["start log", "start broken", "stop log"]
    assert "NEWER_FORMAT" in capsys.readouterr().err


def test_task_that_breaks_ends_the_service_with_its_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal()

    async def assemble(service: Service) -> None:
        async def start() -> None:
            async def bug() -> None:
                raise ZeroDivisionError("a bug")

            service.spawn(bug(), "bug")

        journal.part(service, "log", start=start)

    assert run(settings(tmp_path), assemble) == 1
    assert journal.lines == ["start log", "stop log"]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_part_that_does_not_stop_within_the_grace_fails_the_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal()

    async def assemble(service: Service) -> None:
        async def for_ever() -> None:
            await asyncio.Event().wait()

        async def end() -> None:
            service.request_end()

        journal.part(service, "stuck", stop=for_ever)
        journal.part(service, "last", start=end)

    assert run(settings(tmp_path, grace_seconds=0.05), assemble) == 1
    assert "stopping stuck" in capsys.readouterr().err


def test_malloc_can_be_tuned_more_than_once() -> None:
    lifecycle.tune_malloc()
    lifecycle.tune_malloc()
