"""Agents over mutual TLS: the role that a session needs, for the group that it names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agents
from tests.support.commands import Pair
from tests.support.secured import Secured, flags

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("agent-tls")) as services:
        services.start()
        for words in (
            ("group", "create", "demo"),
            ("ibc", "register", "demo", "backup", "--side", "primary"),
        ):
            done = services.cli(*words)
            assert done.returncode == 0, done.stderr
        yield services


@pytest.mark.parametrize(
    ("name", "grant", "says"),
    [
        ("quiescer", "slackwater://role/quiesce?groups=demo", "event=session"),
        ("elsewhere", "slackwater://role/quiesce?groups=other", "PERMISSION_DENIED"),
        ("viewer", "slackwater://role/view", "PERMISSION_DENIED"),
    ],
)
def test_session_needs_the_role_quiesce_for_its_group(
    sites: Secured, tmp_path: Path, name: str, grant: str, says: str
) -> None:
    files = sites.authority.issue(name, grant)
    pair = Pair(tmp_path / "scripts")
    words = (*flags(files), *pair.words)
    with agents.running(sites.primary.endpoints.grpc, tmp_path, *words) as agent:
        agent.wait_says(says)
        assert agent.end() == 0
