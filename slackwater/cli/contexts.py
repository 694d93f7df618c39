"""Contexts: where the three services are, under a name.

The file is TOML, `$SLACKWATER_CONTEXTS` or `$XDG_CONFIG_HOME/slackwater/config.toml`::

    current = "site-a"

    [contexts.site-a]
    primary = "127.0.0.1:7460"
    secondary = "127.0.0.1:7461"
    snapshot = "127.0.0.1:7462"
    tls_cert = "/etc/slackwater/operator.pem"
    tls_key = "/etc/slackwater/operator.key"
    tls_ca = "/etc/slackwater/ca.pem"

Flags win over the environment, that over the file, that over the defaults.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from slackwater import names
from slackwater.cli.failure import EXIT_FAILED, Failure, not_found, usage
from slackwater.errors import InvalidRequest
from slackwater.runtime.tls import TlsFiles

DEFAULT = "default"
# Not the services' own check: that would build their whole configuration at every command.
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):(\d{1,5})")
ROLES = ("primary", "secondary", "snapshot")


@dataclass(frozen=True, slots=True)
class Context:
    """Addresses of the three services, and the TLS files to call them with."""

    primary: str = "127.0.0.1:7460"
    secondary: str = "127.0.0.1:7461"
    snapshot: str = "127.0.0.1:7462"
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""

    def address(self, role: str) -> str:
        """Where a service is."""
        return str(getattr(self, role))

    def tls(self) -> TlsFiles | None:
        """The TLS files, or None for plaintext."""
        given = [self.tls_cert, self.tls_key, self.tls_ca]
        if not any(given):
            return None
        if not all(given):
            raise usage(
                "the certificate, its key and the authorities belong together",
                "give all of --tls-cert, --tls-key and --tls-ca, or none",
                "tls_cert",
            )
        cert, key, authority = (Path(name).expanduser() for name in given)
        return TlsFiles(cert, key, authority)


KEYS = tuple(asdict(Context()))


@dataclass(slots=True)
class Contexts:
    """What the file holds."""

    path: Path
    current: str = DEFAULT
    rows: dict[str, Context] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> "Contexts":
        """Read the file; none is the same as an empty one."""
        path = path or default_path()
        try:
            with path.open("rb") as file:
                content = tomllib.load(file)
        except FileNotFoundError:
            return cls(path)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise _unreadable(path, str(error)) from error
        tables = content.get("contexts", {})
        if not isinstance(tables, Mapping):
            raise _unreadable(path, "`contexts` is no table")
        return cls(
            path,
            str(content.get("current", DEFAULT)),
            {name: _context(path, name, table) for name, table in tables.items()},
        )

    def get(self, name: str) -> Context:
        """A context by name; `default` is always there."""
        if name in self.rows:
            return self.rows[name]
        if name == DEFAULT:
            return Context()
        raise not_found("context", name, "slackwater context list")

    def set(self, name: str, changes: Mapping[str, str]) -> Context:
        """Make or change a context."""
        try:
            names.check_label("NAME", name)
        except InvalidRequest as error:
            raise usage(f"{error.field}: {error.problem}", error.next_step) from error
        for key in ROLES:
            if key in changes:
                check_address(changes[key], f"--{key}")
        self.rows[name] = replace(self.rows.get(name, Context()), **changes)
        return self.rows[name]

    def save(self) -> None:
        """Write the file in one step."""
        lines = [f"current = {json.dumps(self.current)}"]
        for name, context in sorted(self.rows.items()):
            lines += ["", f"[contexts.{name}]"]
            lines += [
                f"{key} = {json.dumps(value)}" for key, value in asdict(context).items() if value
            ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            draft.write_text("\n".join(lines) + "\n")
            draft.replace(self.path)
        except OSError as error:
            raise Failure(f"cannot write {self.path}: {error.strerror}", EXIT_FAILED) from error


def default_path() -> Path:
    """Where the file is, whether it exists or not."""
    if named := os.environ.get("SLACKWATER_CONTEXTS"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "slackwater" / "config.toml"


def resolve(overrides: Mapping[str, str]) -> Context:
    """The context that a command uses: flags, environment, file, defaults."""
    contexts = Contexts.load()
    name = overrides.get("context") or os.environ.get("SLACKWATER_CONTEXT") or contexts.current
    found = contexts.get(name)
    for key in KEYS:
        value = overrides.get(key) or os.environ.get(f"SLACKWATER_{key.upper()}")
        if value:
            found = replace(found, **{key: value})
    for role in ROLES:
        check_address(found.address(role), f"--{role}")
    return found


def check_address(address: str, option: str) -> None:
    """Refuse what is not host:port."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[1]) > 65535:
        raise usage(
            f"{option}: {address!r} is not host:port",
            f"for example {option} 127.0.0.1:7460",
            option,
        )


def _context(path: Path, name: str, table: object) -> Context:
    if not isinstance(table, Mapping):
        raise _unreadable(path, f"context {name!r} is no table")
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise _unreadable(path, f"context {name!r} has {unknown[0]!r}; known: {', '.join(KEYS)}")
    return Context(**{key: str(value) for key, value in table.items()})


def _unreadable(path: Path, problem: str) -> Failure:
    return usage(f"cannot use {path}: {problem}", "correct the file, or set SLACKWATER_CONTEXTS")
