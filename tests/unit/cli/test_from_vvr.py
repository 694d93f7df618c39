"""docs/from-vvr.md, docs/ibc.md and docs/cli.md name only commands and options that exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from slackwater.cli.main import app

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("from-vvr.md", "cli.md", "attach.md", "operations.md")
_COMMAND = re.compile(r"`(slackwater [^`]+)`")
_LINE = re.compile(r"^(?:\$ )?(slackwater [^|#\n]+)", re.MULTILINE)
ROOT: Any = typer.main.get_command(app)
"""A tree of click's; typer may carry a click of its own, so no classes are named here."""


def commands(page: str) -> list[str]:
    """Every command line of a page, from its text and from its blocks."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    found = _COMMAND.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return found + [line for block in blocks for line in _LINE.findall(block)]


def resolve(line: str) -> tuple[Any, list[str]]:
    """The command that a line names, and the rest of the line; fails if there is none."""
    command = ROOT
    rest = shlex.split(line)[1:]
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{line!r}: there is no {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_exists_with_its_options(page: str) -> None:
    lines = commands(page)
    assert lines
    for line in lines:
        command, rest = resolve(line)
        assert not hasattr(command, "commands") or "--" in line or not rest, line
        known = {name for row in command.params for name in (*row.opts, *row.secondary_opts)}
        known |= {"--help", "--install-completion"}
        for word in rest:
            if word == "--":
                break
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, f"{line!r}: no option {word}"


def test_every_verb_of_ibc_is_on_the_pages() -> None:
    noun, _ = resolve("slackwater ibc")
    verbs = {name for name, verb in noun.commands.items() if not verb.hidden}
    for page in PAGES[:2]:
        text = (DOCS / page).read_text()
        named = {name for name in verbs if f"ibc {name}" in text}
        assert named >= verbs - {"applications"}, page


def test_every_option_of_the_ibc_verbs_is_in_the_manual() -> None:
    text = (DOCS / "cli.md").read_text()
    noun, _ = resolve("slackwater ibc")
    for verb in noun.commands.values():
        for option in verb.params:
            if option.param_type_name == "option" and not option.hidden:
                is_there = any(f"`{name}" in text or f" {name}`" in text for name in option.opts)
                assert is_there or option.opts == ["--help"], (verb.name, option.opts)


@pytest.mark.parametrize(
    "name",
    [
        *"register send regsend receive regrecv stoprecv unfreeze unregister status".split(),
        *(f"RV_IBC_{call}" for call in "REGISTER UNREGISTER SEND RECEIVE UNFREEZE STATUS".split()),
        *"prefreeze quiesce unquiesce onfreeze postfreeze".split(),
        *(f"`{verb}" for verb in ("send -m", "send -F", "send -N", "receive -n", "receive -l")),
        *"startrep stoprep addsec delsec pauserep resumerep resync syncrvg verifydata".split(),
        *"repstatus migrate takeover fbsync addvol delvol resizevol srlprot snapback".split(),
    ],
)
def test_every_command_of_vvr_has_its_row(name: str) -> None:
    assert name in (DOCS / "from-vvr.md").read_text()
