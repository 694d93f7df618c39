"""Contexts: flags over environment over file over defaults."""

from pathlib import Path

import pytest

from slackwater.cli.failure import Failure
from tests.unit.cli.conftest import CommandLine


@pytest.fixture
def bare(cli: CommandLine) -> CommandLine:
    """No addresses in the environment."""
    config = cli.environment["SLACKWATER_CONTEXTS"]
    cli.environment = {"SLACKWATER_CONTEXTS": config, "COLUMNS": "200"}
    return cli


def test_defaults_need_no_file(bare: CommandLine) -> None:
    shown = bare.json("context", "show")
    assert [shown[role] for role in ("primary", "secondary", "snapshot")] == [
        "127.0.0.1:7460",
        "127.0.0.1:7461",
        "127.0.0.1:7462",
    ]


def test_flag_wins_over_environment_over_file_over_default(bare: CommandLine) -> None:
    bare("context", "set", "site-a", "--primary", "10.0.0.1:1", "--secondary", "10.0.0.1:2")
    bare.environment["SLACKWATER_SECONDARY"] = "10.0.0.2:2"
    shown = bare.json("--primary", "10.0.0.3:1", "context", "show", "--context", "site-a")
    assert shown["primary"] == "10.0.0.3:1"
    assert shown["secondary"] == "10.0.0.2:2"
    assert shown["snapshot"] == "127.0.0.1:7462"


def test_shared_option_after_the_verb_wins(bare: CommandLine) -> None:
    shown = bare.json("--primary", "10.0.0.3:1", "context", "show", "--primary", "10.0.0.4:1")
    assert shown["primary"] == "10.0.0.4:1"


def test_context_in_use_is_kept_and_starred(bare: CommandLine) -> None:
    bare("context", "set", "site-a", "--primary", "10.0.0.1:1", "--tls-ca", "ca.pem")
    bare("context", "set", "site-b", "--primary", "10.0.0.2:1")
    bare("context", "use", "site-b")
    listed = bare("context", "list")
    assert "*  site-b" in listed
    assert bare.json("context", "list")["current"] == "site-b"
    assert bare.json("context", "show")["primary"] == "10.0.0.2:1"
    bare("context", "delete", "site-b")
    assert bare.json("context", "list")["current"] == "default"


def test_unknown_context_is_not_found(bare: CommandLine) -> None:
    bare("context", "use", "nowhere", code=4)
    assert "there is no context 'nowhere'" in bare.error
    bare("group", "list", "--context", "nowhere", code=4)


@pytest.mark.parametrize(
    "words",
    [
        ("context", "set", "site-a"),
        ("context", "set", "Site_A", "--primary", "10.0.0.1:1"),
        ("context", "set", "site-a", "--primary", "nowhere"),
        ("group", "list", "--primary", "nowhere"),
        ("group", "list", "--primary", "host:99999"),
        ("group", "list", "--primary", "::1:7460"),
        ("group", "list", "--timeout", "soon"),
        ("group", "list", "--timeout", "0"),
        ("group", "list", "--tls-cert", "only.pem"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(bare: CommandLine, words: tuple[str, ...]) -> None:
    bare(*words, code=2)
    assert bare.error.startswith("error: ")


@pytest.mark.parametrize(
    "content", ["current = ", "contexts = 3", "[contexts.a]\nport = 1", "[contexts]\na = 1"]
)
def test_damaged_file_is_named(bare: CommandLine, content: str) -> None:
    path = Path(bare.environment["SLACKWATER_CONTEXTS"])
    path.parent.mkdir(parents=True)
    path.write_text(content)
    bare("group", "list", code=2)
    assert str(path) in bare.error.replace("\n", "")


def test_tls_files_that_are_missing_are_named(bare: CommandLine) -> None:
    files = ("--tls-cert", "no.pem", "--tls-key", "no.key", "--tls-ca", "no.ca")
    bare("group", "list", *files, code=1)
    assert "no.pem" in bare.error


def test_failure_is_an_exception_that_can_be_raised_through_contexts() -> None:
    # A frozen dataclass could not take a traceback here.
    with pytest.raises(Failure):
        raise Failure("x") from ValueError("y")
