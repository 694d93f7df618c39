"""Every command that an error tells to type is one, with all its arguments."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from slackwater.cli.main import app

REPOSITORY = Path(__file__).parents[3]
HINT = re.compile(r"(?:: |; |^)slackwater ((?:[a-z]+ )?[a-z]+(?: [^;]*)?)$")


def hints() -> Iterator[tuple[str, str]]:
    """Where a text of the code ends in a command, and the command."""
    for tree in ("slackwater", "services"):
        for path in sorted((REPOSITORY / tree).rglob("*.py")):
            if {"v1", "agent"} & set(path.parts):
                continue  # generated; and the agent names itself, but no command
            tree_of_file = ast.walk(ast.parse(path.read_text()))
            nodes = [node for node in tree_of_file if isinstance(node, ast.expr)]
            parts = {
                id(one) for node in nodes if isinstance(node, ast.JoinedStr) for one in node.values
            }
            for node in nodes:
                text = "" if id(node) in parts else _text(node)
                found = HINT.search(text) if "\n" not in text else None
                if found and not found[1].startswith("x"):
                    yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", found[1]


def _text(node: ast.expr) -> str:
    """A text as its reader sees it, with a word for each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
        )
    return ""


HINTS = dict(hints())


def test_there_are_hints() -> None:
    assert len(HINTS) > 30


@pytest.mark.parametrize("where", HINTS)
def test_hint_names_a_command_with_its_arguments(where: str) -> None:
    words = shlex.split(HINTS[where].rstrip(".").partition(" (")[0])
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, "it stops at a group of commands"
        name = words.pop(0)
        assert name in command.commands, f"there is no {name}"
        command = command.commands[name]
    flags = {flag: one for one in command.params for flag in one.opts}
    given = []
    while words and words[0] != "--":  # what follows is another program's
        word = words.pop(0)
        if word.startswith("--"):
            option = flags[word.partition("=")[0]]
            if not getattr(option, "is_flag", False) and "=" not in word:
                words.pop(0)
        else:
            given.append(word)
    given += words
    needed = [one for one in command.params if one.param_type_name == "argument" and one.required]
    assert len(given) >= len(needed), f"it needs {[one.name for one in needed]}"
