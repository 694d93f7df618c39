"""What all commands have in common: the shared options, the session, the end of a failure."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from slackwater.cli import contexts, words
from slackwater.cli.failure import EXIT_FAILED, Failure, usage
from slackwater.cli.screen import Form, Screen, is_interactive
from slackwater.cli.session import Session

TIMEOUT = "30s"
_PANEL = "Shared options"
_PREFIX = "shared_"  # apart from the parameters of the commands themselves
P = ParamSpec("P")


def _shared(flag: str, help_text: str, *more: str, metavar: str) -> Any:
    return Annotated[
        str | None,
        typer.Option(flag, *more, help=help_text, metavar=metavar, rich_help_panel=_PANEL),
    ]


SHARED: dict[str, Any] = {
    "output": Annotated[
        Form | None,
        typer.Option(
            "--output",
            "-o",
            help="Print tables, or JSON for programs.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ],
    "context": _shared("--context", "Use this context; see 'slackwater context'.", metavar="NAME"),
    "primary": _shared("--primary", "Where the Primary is.", metavar="HOST:PORT"),
    "secondary": _shared("--secondary", "Where the Secondary is.", metavar="HOST:PORT"),
    "snapshot": _shared("--snapshot", "Where the snapshot service is.", metavar="HOST:PORT"),
    "tls_cert": _shared("--tls-cert", "Certificate to call with (PEM).", metavar="FILE"),
    "tls_key": _shared("--tls-key", "Key of the certificate (PEM).", metavar="FILE"),
    "tls_ca": _shared("--tls-ca", "Authorities to trust (PEM).", metavar="FILE"),
    "timeout": _shared(
        "--timeout", f"How long a service may take to answer. [{TIMEOUT}]", metavar="DURATION"
    ),
}
"""Options that every command takes, before or after its name."""


def shared_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a function the shared options; it gets those that were typed as its last argument."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[:-1]

    @functools.wraps(function)
    def wrapped(**given: Any) -> None:
        overrides = {
            name: str(given[_PREFIX + name]) for name in SHARED if given[_PREFIX + name] is not None
        }
        rest = {name: value for name, value in given.items() if not name.startswith(_PREFIX)}
        function(**rest, overrides=overrides)

    extra = [
        inspect.Parameter(
            _PREFIX + name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
        )
        for name, kind in SHARED.items()
    ]
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*keyword, *extra], return_annotation=None
    )
    wrapped.__annotations__ = {
        parameter.name: parameter.annotation for parameter in [*keyword, *extra]
    }
    return wrapped


def command(
    app: typer.Typer, name: str, example: str, *, hidden: bool = False
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Make a function whose first parameter is the session a command of `app`.

    Args:
        app: The noun it belongs to.
        name: The verb.
        example: A command line that works, for the help.
        hidden: True for a second name of another command.
    """

    def decorate(
        function: Callable[Concatenate[Session, P], None],
    ) -> Callable[Concatenate[Session, P], None]:
        signature = inspect.signature(function, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(signature.parameters.values())[1:]
        ]

        def run(ctx: typer.Context, overrides: dict[str, str], **given: Any) -> None:
            merged = {**(ctx.obj or {}), **overrides}
            with reported(merged) as screen:
                timeout = words.parse_duration(merged.get("timeout", TIMEOUT), "--timeout")
                if timeout <= 0:
                    raise usage("--timeout: must be more than 0", "", "--timeout")
                with Session(contexts.resolve(merged), screen, timeout, merged) as session:
                    function(session, **given)  # type: ignore[call-arg]

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        last = inspect.Parameter("overrides", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = inspect.Signature([context, *own, last])  # type: ignore[attr-defined]
        app.command(name, epilog=f"Example:  {example}", hidden=hidden)(shared_options(run))
        return function

    return decorate


@contextlib.contextmanager
def reported(overrides: dict[str, str]) -> Iterator[Screen]:
    """Print a Failure in the form asked for, and end the process with its code."""
    screen = Screen(Form(overrides.get("output", Form.TABLE)))
    try:
        yield screen
    except Failure as failure:
        screen.fail(failure)
        raise typer.Exit(failure.exit_code) from None
    except BrokenPipeError:
        raise  # whoever read us has seen enough
    except OSError as error:
        screen.fail(Failure(str(error), EXIT_FAILED, "FAILED", "OS_ERROR"))
        raise typer.Exit(EXIT_FAILED) from None


def confirm(session: Session, losses: list[str], what: str, yes: bool, dry_run: bool) -> bool:
    """Show what would be lost, and ask; True if it shall be done."""
    if not session.screen.is_json:
        for loss in losses:
            session.screen.note(f"lost: {loss}")
    if dry_run:
        if session.screen.is_json:
            session.screen.json({"losses": losses})
        else:
            session.screen.done(f"{what} would be removed; nothing was changed")
        return False
    if yes:
        return True
    if session.screen.is_json or not is_interactive():
        raise usage(f"{what} would be removed and nobody can be asked", "add --yes if you mean it")
    return typer.confirm(f"Remove {what}?")
