"""`slackwater task`, `run` and `schedule`: the cycle around a message, once or by the clock."""

import typer

from slackwater.cli.commands.tasks import run, schedule, task


def add_to(root: typer.Typer) -> None:
    """Add the nouns."""
    for noun in (task, run, schedule):
        noun.add_to(root)
