"""`slackwater ibc`: messages in the stream, on both sides."""

import typer

from slackwater.cli.commands.ibc import applications, receive, regrecv, send, status

app = typer.Typer(
    help="Send a message with the writes; stand still at it on the other side; go on.",
    no_args_is_help=True,
)


def add_to(root: typer.Typer) -> None:
    """Add the noun with its verbs, in the order in which they are needed."""
    for part in (applications, send, receive, regrecv, status):
        part.add_to(app)
    root.add_typer(app, name="ibc")
