"""The dashboards: in step with their source, and every query answered by a real Prometheus."""

import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import yaml

from slackwater.v1 import common_pb2, primary_pb2, snapshot_pb2
from tests.support.processes import GROUP, MIB, Cluster, flood, wait_until
from tests.support.scripted_agent import ScriptedAgent
from tests.support.tools import require
from tools import boards, dashboards, prometheusrule
from tools.panels import Board

pytestmark = pytest.mark.timeout(180)

VARIABLES = {"$group": ".*", "$__rate_interval": "30s"}


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.uid)
def test_committed_dashboard_is_what_its_source_renders(board: Board) -> None:
    committed = (dashboards.DIRECTORY / f"{board.uid}.json").read_text()
    assert committed == dashboards.render(board), "run: make monitoring"


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.uid)
def test_dashboard_has_a_stable_uid_and_its_source_as_a_variable(board: Board) -> None:
    made = json.loads(dashboards.render(board))
    assert made["uid"] == board.uid and made["title"] == board.title
    assert [one["name"] for one in made["templating"]["list"]] == ["datasource", "group"]
    for panel in made["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]


def test_every_metric_of_a_dashboard_is_on_the_list() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    known = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    for board in boards.BOARDS:
        for expression in boards.expressions(board):
            for name in re.findall(r"\bslackwater_\w+", expression):
                assert name in known or name.removesuffix("_bucket") in known, name


def test_rules_for_kubernetes_are_those_that_are_tested() -> None:
    assert prometheusrule.MADE.read_text() == prometheusrule.render(), "run: make monitoring"


class Prometheus:
    """A Prometheus that scrapes three services each second."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        targets = [service.endpoints.metrics for service in cluster.services]
        job = {"job_name": "slackwater", "static_configs": [{"targets": targets}]}
        settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(settings))
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                require("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={directory}/tsdb",
                f"--web.listen-address={self.address}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ask(self, expression: str) -> list[object]:
        """The result of a query now."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{query}") as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        result = body["data"]["result"]
        assert isinstance(result, list)
        return result

    def is_up(self) -> bool:
        try:
            return len(self.ask("up == 1")) == 3
        except OSError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[Prometheus]:
    """Scrapes a pair that replicates."""
    cluster.replicate(data=8 * MIB, wal=8 * MIB)
    server = Prometheus(tmp_path, cluster)
    try:
        wait_until("all three are scraped", server.is_up)
        yield server
    finally:
        server.close()


def live(cluster: Cluster, stopping: threading.Event) -> None:
    """A bit of everything, over and over: writes, a freeze, a snapshot, a refused call."""
    number = 0
    make_task(cluster)
    with ScriptedAgent(cluster.primary_api, GROUP, "db", "fsfreeze") as agent:
        while not stopping.is_set():
            number += 1
            act(cluster, number)
            quiesce(cluster, agent)
            stopping.wait(1.0)


def act(cluster: Cluster, number: int) -> None:
    flood(cluster, 1, 4 * MIB)
    message = cluster.send()
    assert cluster.receive() is not None
    cluster.take_snapshot(f"s-{number}", message.name)
    cluster.unfreeze(message.name)
    cluster.snapshot_api.StartSnapshot(snapshot_pb2.StartSnapshotRequest(group=GROUP))
    cluster.snapshot_api.StartTask(snapshot_pb2.StartTaskRequest(name="tasks/nightly"))
    with pytest.raises(grpc.RpcError):
        cluster.primary_api.GetGroup(primary_pb2.GetGroupRequest(name="groups/none"))


def make_task(cluster: Cluster) -> None:
    """A task whose snapshots are kept once, and a schedule of it; an application with an agent."""
    register = primary_pb2.PrimaryServiceRegisterApplicationRequest(group=GROUP, application="db")
    cluster.primary_api.RegisterApplication(register)
    task = snapshot_pb2.Task(name="tasks/nightly", group=GROUP)
    task.retention.keep_last = 1
    cluster.snapshot_api.CreateTask(snapshot_pb2.CreateTaskRequest(task=task))
    schedule = snapshot_pb2.Schedule(
        name="schedules/nightly", task="tasks/nightly", cron="* * * * *"
    )
    cluster.snapshot_api.CreateSchedule(snapshot_pb2.CreateScheduleRequest(schedule=schedule))


def quiesce(cluster: Cluster, agent: ScriptedAgent) -> None:
    """One message around which the application is held."""
    request = primary_pb2.SendMessageRequest(
        group=GROUP, application="db", behaviour=common_pb2.MESSAGE_BEHAVIOUR_NOTIFY
    )
    request.quiesce.applications.append("db")
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(cluster.primary_api.SendMessage, request)
        agent.hold()
        agent.resume()
        sending.result()


def test_every_query_has_an_answer_while_the_services_work(
    cluster: Cluster, prometheus: Prometheus
) -> None:
    stopping = threading.Event()
    load = threading.Thread(target=live, args=(cluster, stopping))
    load.start()
    left = {expression for board in boards.BOARDS for expression in boards.expressions(board)}
    deadline = time.monotonic() + 60
    try:
        while left and time.monotonic() < deadline:
            left -= {one for one in left if prometheus.ask(substituted(one))}
            time.sleep(1.0)
    finally:
        stopping.set()
        load.join()
    assert not left


def substituted(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
