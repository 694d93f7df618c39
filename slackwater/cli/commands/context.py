"""`slackwater context`: where the services are, under a name."""

from dataclasses import asdict
from typing import Annotated

import typer

from slackwater.cli import words
from slackwater.cli.command import SHARED, command
from slackwater.cli.contexts import DEFAULT, KEYS, Context, Contexts
from slackwater.cli.failure import usage
from slackwater.cli.session import Session

app = typer.Typer(help="Say where the three services are, once.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the context.", metavar="NAME")]


def add_to(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="context")


@command(app, "list", "slackwater context list")
def list_contexts(session: Session) -> None:
    """List the contexts; the one in use has a star."""
    contexts = Contexts.load()
    rows = {DEFAULT: Context(), **contexts.rows}
    if session.screen.is_json:
        session.screen.json(
            {
                "current": contexts.current,
                "contexts": [{"name": name, **asdict(row)} for name, row in sorted(rows.items())],
            }
        )
        return
    session.screen.table(
        ("", "name", "primary", "secondary", "snapshot", "tls"),
        [
            (
                "*" if name == contexts.current else " ",
                name,
                row.primary,
                row.secondary,
                row.snapshot,
                words.or_none(row.tls_cert),
            )
            for name, row in sorted(rows.items())
        ],
    )


@command(app, "show", "slackwater context show")
def show(session: Session) -> None:
    """Show what a command would use right now: flags, environment, file, defaults."""
    row = asdict(session.context)
    if session.screen.is_json:
        session.screen.json({**row, "file": str(Contexts.load().path)})
        return
    session.screen.facts([*row.items(), ("file", str(Contexts.load().path))])


@command(app, "use", "slackwater context use site-a")
def use(session: Session, name: Name) -> None:
    """Use a context from now on."""
    contexts = Contexts.load()
    contexts.get(name)
    contexts.current = name
    contexts.save()
    session.screen.done(f"context {name} is in use", "slackwater status")


@command(app, "set", "slackwater context set site-a --primary 10.0.0.1:7460")
def set_context(session: Session, name: Name) -> None:
    """Make or change a context; what is not given stays as it is.

    The addresses and files are those of the shared options: --primary, --secondary, --snapshot,
    --tls-cert, --tls-key, --tls-ca.
    """
    contexts = Contexts.load()
    changes = {key: value for key, value in session.typed.items() if key in KEYS}
    if not changes:
        raise usage(
            "nothing to set", f"slackwater context set {name} --primary HOST:PORT", "primary"
        )
    row = contexts.set(name, changes)
    if not contexts.path.exists():
        contexts.current = name
    contexts.save()
    if session.screen.is_json:
        session.screen.json({"name": name, **asdict(row)})
    else:
        following = (
            f"slackwater context use {name}" if contexts.current != name else "slackwater status"
        )
        session.screen.done(f"context {name} is set", following)


@command(app, "delete", "slackwater context delete site-a")
def delete(session: Session, name: Name) -> None:
    """Forget a context."""
    contexts = Contexts.load()
    contexts.get(name)
    contexts.rows.pop(name, None)
    if contexts.current == name:
        contexts.current = DEFAULT
    contexts.save()
    session.screen.done(f"context {name} is forgotten; {contexts.current} is in use")


assert set(KEYS) <= set(SHARED), "every part of a context can be typed"
