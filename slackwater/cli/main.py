"""`slackwater`: the nouns, and the options before them."""

import sys
from typing import Annotated

import typer

import slackwater
from slackwater.cli.command import shared_options
from slackwater.cli.commands import (
    agent,
    attach,
    check,
    context,
    group,
    ibc,
    link,
    log,
    replica,
    restore,
    snapshot,
    status,
    tasks,
    volume,
)

app = typer.Typer(
    name="slackwater",
    help="""Replicate groups of volumes, and stop the copy exactly at a message.

    A group on the Primary has volumes that share one write order; a link carries it to a replica
    on a Secondary. A message in the stream freezes the replica where it stands, so that a snapshot
    there is exactly that point.

    Begin with: slackwater status""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for noun in (
    status,
    group,
    volume,
    link,
    replica,
    ibc,
    agent,
    attach,
    snapshot,
    check,
    restore,
    tasks,
    log,
    context,
):
    noun.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"slackwater {slackwater.__version__}")
        raise typer.Exit


@app.callback()
@shared_options
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
    overrides: dict[str, str] | None = None,
) -> None:
    del version
    ctx.obj = overrides


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()  # the reader went: nothing is left to say, nor to flush
        sys.exit(0)


if __name__ == "__main__":
    main()
