"""Kind `postgres` with a real server: what it starts, stops, and says of a connection that went."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slackwater.agent.keeper import Request
from slackwater.agent.kinds.kind import KindFailed, Patience
from slackwater.agent.kinds.postgres import Postgres
from tests.support import agents, postgres
from tests.support.scripted_primary import ScriptedPrimary, eventually

ASKED = Request("h1", 30.0, 10.0, "backup")
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'slackwater agent'"
END = f"SELECT count(pg_terminate_backend(pid)) {BACKENDS[15:]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    with postgres.server(tmp_path_factory.mktemp("pg")) as running:
        yield running


def test_backup_is_started_and_stopped_in_one_connection(server: postgres.Server) -> None:
    kind = Postgres(server.dsn)
    kind.check()
    started = json.loads(kind.hold(ASKED, Patience(30)))
    assert started["label"] == "slackwater backup h1"
    assert server.ask(BACKENDS) == 1
    server.do("CREATE TABLE meanwhile (number integer)")
    resumption = kind.resume(ASKED, "groups/g/messages/m", Patience(30))
    assert resumption.unbroken
    stopped = json.loads(resumption.answer)
    assert f"START WAL LOCATION: {started['startLsn']}" in stopped["backupLabel"]
    assert "LABEL: slackwater backup h1" in stopped["backupLabel"]
    assert stopped["tablespaceMap"] == ""
    later = f"SELECT '{stopped['stopLsn']}'::pg_lsn > '{started['startLsn']}'::pg_lsn"
    assert server.ask(later) is True
    eventually("the connection is closed", lambda: server.ask(BACKENDS) == 0)


def test_tablespace_map_is_evidence(server: postgres.Server, tmp_path: Path) -> None:
    where = server.directory / "space"
    where.mkdir()
    stat = server.data.stat()
    os.chown(where, stat.st_uid, stat.st_gid)
    server.do(f"CREATE TABLESPACE elsewhere LOCATION '{where}'")
    try:
        kind = Postgres(server.dsn)
        kind.hold(ASKED, Patience(30))
        stopped = json.loads(kind.resume(ASKED, "", Patience(30)).answer)
        assert str(where) in stopped["tablespaceMap"]
    finally:
        server.do("DROP TABLESPACE elsewhere")


def test_lost_connection_is_a_broken_hold(server: postgres.Server) -> None:
    kind = Postgres(server.dsn)
    kind.hold(ASKED, Patience(30))
    server.ask(END)
    resumption = kind.resume(ASKED, "", Patience(30))
    assert not resumption.unbroken
    assert "the backup was not stopped" in resumption.answer
    assert json.loads(kind.hold(ASKED, Patience(30)))["startLsn"], "the next one is new"
    assert kind.resume(ASKED, "", Patience(30)).unbroken


def test_server_that_is_not_there_is_a_clear_failure(tmp_path: Path) -> None:
    kind = Postgres(f"host={tmp_path} dbname=postgres password=hunter2")
    with pytest.raises(KindFailed, match="cannot start the backup") as failure:
        kind.hold(ASKED, Patience(5))
    assert "hunter2" not in str(failure.value)
    assert kind.resume(ASKED, "", Patience(5)).unbroken, "there is nothing to undo"


def test_user_without_the_right_is_told(server: postgres.Server) -> None:
    server.do("CREATE ROLE weak LOGIN")
    kind = Postgres(server.dsn.replace("user=postgres", "user=weak"))
    with pytest.raises(KindFailed, match="permission denied for function pg_backup_start"):
        kind.hold(ASKED, Patience(30))
    kind.forget()


def test_backup_that_does_not_start_in_time_is_cancelled(server: postgres.Server) -> None:
    """The checkpoint that it waits for does not come."""
    query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    checkpointer = server.ask(query)
    assert isinstance(checkpointer, int)
    kind = Postgres(server.dsn)
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        with pytest.raises(KindFailed, match="cancel"):
            kind.hold(ASKED, Patience(1.0))
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    assert not kind.resume(ASKED, "", Patience(30)).unbroken
    eventually("nothing of it is left", lambda: server.ask(BACKENDS) == 0)


def test_light_mode_checkpoints(server: postgres.Server) -> None:
    before = server.ask("SELECT checkpoint_lsn::text FROM pg_control_checkpoint()")
    server.do("CREATE TABLE light (number integer)")
    kind = Postgres(server.dsn, light=True)
    assert kind.name == "checkpoint", "it holds nothing, so no grade rests on it"
    answer = json.loads(kind.hold(ASKED, Patience(30)))
    assert answer["checkpoint"]
    assert server.ask("SELECT checkpoint_lsn::text FROM pg_control_checkpoint()") != before
    assert kind.resume(ASKED, "", Patience(30)).unbroken
    eventually("the connection is closed", lambda: server.ask(BACKENDS) == 0)


def test_connection_string_that_cannot_be_read_is_refused_without_showing_it() -> None:
    with pytest.raises(KindFailed, match="cannot be read") as failure:
        Postgres("host=x passwort=hunter2 oops").check()
    assert "hunter2" not in str(failure.value)


def test_killed_agent_leaves_no_backup_behind(server: postgres.Server, tmp_path: Path) -> None:
    """The server ends the backup with the connection: there is nothing for a guard to do."""
    with (
        ScriptedPrimary() as primary,
        agents.running(primary.address, tmp_path, "postgres", server.dsn) as agent,
    ):
        session = primary.session()
        session.hold()
        assert json.loads(session.answer().answer)["startLsn"]
        assert server.ask(BACKENDS) == 1
        assert not agent.guards and not agent.record.exists()
        agent.kill()
        eventually("the backup is over", lambda: server.ask(BACKENDS) == 0)
