"""Configuration of the services: flags over environment over file over defaults.

Each setting is a field of the model; its flag is `--log-bytes`, its environment variable
`SLACKWATER_LOG_BYTES`, its key in the TOML file `log_bytes`. What is wrong is refused before
anything starts, with every name under which the setting can be given.
"""

import argparse
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, ByteSize, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from slackwater.log.segment import MAX_LOG_BYTES, MIN_LOG_BYTES
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.tls import TlsFiles

ENVIRONMENT_PREFIX = "SLACKWATER_"
UNIX_PATH_BYTES = 107
"""Longest path of a unix socket on Linux (unix(7), `sun_path` without its end)."""

_MIB = 1 << 20


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`; an IPv6 host stands in brackets.

    Raises:
        ValueError: It does not have that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port, for example 127.0.0.1:7460")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{address!r}: write an IPv6 host in brackets, for example [::1]:7460")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `address`."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(address: str) -> str:
    split_address(address)
    return address


def split_link_addresses(text: str) -> dict[str, str]:
    """Return the address of each link of `link=host:port,...`.

    Raises:
        ValueError: It does not have that form.
    """
    found: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        link, equals, address = entry.partition("=")
        if not equals or not link:
            raise ValueError(f"{entry!r} is not link=host:port, for example site-b=10.0.0.2:7461")
        found[link] = _check_address(address)
    return found


def _check_link_addresses(text: str) -> str:
    split_link_addresses(text)
    return text


def _check_socket_path(path: Path | None) -> Path | None:
    if path is not None and len(os.fsencode(path)) > UNIX_PATH_BYTES:
        raise ValueError(
            f"{path} is longer than the {UNIX_PATH_BYTES} bytes that a socket may have"
        )
    return path


Address = Annotated[str, AfterValidator(_check_address)]
SocketPath = Annotated[Path | None, AfterValidator(_check_socket_path)]
LinkAddresses = Annotated[str, AfterValidator(_check_link_addresses)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
LogBytes = Annotated[ByteSize, Field(ge=MIN_LOG_BYTES, le=MAX_LOG_BYTES)]
Percent = Annotated[int, Field(ge=1, le=99)]


class BaseServiceConfig(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    data_dir: Path = Field(description="directory of this service's state")
    listen: Address = Field("127.0.0.1:0", description="host:port of the gRPC service")
    health_listen: Address = Field("127.0.0.1:0", description="host:port of plaintext gRPC health")
    metrics_listen: Address = Field("127.0.0.1:0", description="host:port of /metrics")
    endpoints_file: Path | None = Field(
        None, description="file that gets the bound addresses as JSON"
    )
    config: Path | None = Field(None, description="TOML file with settings")
    insecure: bool = Field(False, description="allow plaintext beyond loopback")
    tls_cert: Path | None = Field(None, description="PEM certificate chain of this service")
    tls_key: Path | None = Field(None, description="PEM key of the certificate")
    tls_ca: Path | None = Field(None, description="PEM authorities whose peers are trusted")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severity that is logged"
    )
    log_format: Literal["json", "text"] = Field("json", description="form of the log")
    grace_seconds: Seconds = Field(20.0, description="time that draining may take after SIGTERM")
    max_calls: int = Field(256, ge=1, description="gRPC calls served at the same time")
    max_connections: int = Field(256, ge=1, description="gRPC connections at the same time")
    calls_per_connection: int = Field(
        100, ge=1, description="gRPC calls of one connection at the same time"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that either of them names."""
        del dotenv_settings, file_secret_settings
        named = init_settings().get("config") or env_settings().get("config")
        if named is None:
            return init_settings, env_settings
        if not Path(named).is_file():
            raise FileNotFoundError("there is no such file")  # pydantic would pass it over
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(named))

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS files, or None for plaintext."""
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @property
    def limits(self) -> ServerLimits:
        """What gRPC peers may hold of the service."""
        return ServerLimits(self.max_calls, self.calls_per_connection, self.max_connections)

    def guarded_addresses(self) -> dict[str, str]:
        """Addresses, by setting, that must not be plaintext beyond loopback."""
        return {"listen": self.listen}

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        given = [self.tls_cert, self.tls_key, self.tls_ca]
        if any(given) and not all(given):
            raise ValueError("--tls-cert, --tls-key and --tls-ca belong together; give all three")
        return self

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        if self.tls is not None or self.insecure:
            return self
        for name, address in self.guarded_addresses().items():
            if not is_loopback(address):
                raise ValueError(
                    f"{_flag(name)} {address} is open to other machines without TLS; give"
                    " --tls-cert, --tls-key and --tls-ca, or --insecure if the network is trusted"
                )
        return self


class _StorageServiceConfig(BaseServiceConfig):
    """What the two services that hold groups are told."""

    nbd_listen: Address = Field("127.0.0.1:0", description="host:port of NBD")
    nbd_socket: SocketPath = Field(None, description="unix socket of NBD")
    nbd_connections: int = Field(64, ge=1, description="NBD clients at the same time")
    nbd_connections_per_host: int = Field(
        48, ge=1, description="NBD clients of one host over TCP at the same time"
    )
    log_bytes: LogBytes = Field(
        ByteSize(1024 * _MIB), description="log of a new group, if its creator names no size"
    )
    segment_bytes: ByteSize = Field(
        ByteSize(64 * _MIB), ge=4 * _MIB + 4096, le=256 * _MIB, description="one file of a new log"
    )
    messages_kept: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        description="messages kept, a group, with what became of them; a Primary on which so many"
        " are not final takes no other, a Secondary keeps what is not read beyond it",
    )
    messages_kept_days: float = Field(
        30.0,
        gt=0,
        le=36_500,
        description="days that messages are kept; longer what is not final or not read",
    )

    def guarded_addresses(self) -> dict[str, str]:
        """NBD carries the data itself."""
        return {**super().guarded_addresses(), "nbd_listen": self.nbd_listen}

    @model_validator(mode="after")
    def _check_segments(self) -> Self:
        if self.segment_bytes * 8 > self.log_bytes:
            raise ValueError(
                f"segment_bytes {self.segment_bytes} is more than an eighth of log_bytes"
                f" {self.log_bytes}; give a smaller --segment-bytes or a larger --log-bytes"
            )
        return self


class PrimaryConfig(_StorageServiceConfig):
    """Settings of `slackwater-primary`."""

    listen: Address = Field("127.0.0.1:7460", description="host:port of the gRPC service")
    health_listen: Address = Field(
        "127.0.0.1:7480", description="host:port of plaintext gRPC health"
    )
    metrics_listen: Address = Field("127.0.0.1:9460", description="host:port of /metrics")
    nbd_listen: Address = Field("127.0.0.1:10809", description="host:port of NBD")
    nbd_writeback_tcp: bool = Field(
        False, description="serve groups of durability WRITEBACK over TCP too (D7)"
    )
    sender_processes: int = Field(1, ge=1, le=16, description="processes that carry the links")
    window_bytes: ByteSize = Field(
        ByteSize(16 * _MIB), ge=4 * _MIB, le=64 * _MIB, description="sent and not yet acked, a link"
    )
    fence_seconds: Seconds = Field(10.0, description="longest a fenced message may hold writers")
    agent_grace_seconds: Seconds = Field(
        5.0, description="silence after which an agent's session is dead"
    )


class SecondaryConfig(_StorageServiceConfig):
    """Settings of `slackwater-secondary`."""

    listen: Address = Field("127.0.0.1:7461", description="host:port of the gRPC service")
    health_listen: Address = Field(
        "127.0.0.1:7481", description="host:port of plaintext gRPC health"
    )
    metrics_listen: Address = Field("127.0.0.1:9461", description="host:port of /metrics")
    nbd_listen: Address = Field("127.0.0.1:10810", description="host:port of NBD")
    freeze_log_limit: Percent = Field(
        80, description="percent of the log in use at which a freeze ends by itself"
    )
    chunk_bytes: ByteSize = Field(
        ByteSize(64 << 10), ge=4096, le=4 * _MIB, description="unit of a snapshot's copies"
    )
    copy_bytes_per_second: ByteSize = Field(
        ByteSize(64 * _MIB),
        ge=64 << 10,
        description="how fast the copies of snapshots of kind full are made, at most, a group",
    )
    lease_grace: float = Field(
        5.0, ge=2, le=3600, description="seconds of a holder's silence that end its freeze"
    )


class SnapshotConfig(BaseServiceConfig):
    """Settings of `slackwater-snapshot`."""

    listen: Address = Field("127.0.0.1:7462", description="host:port of the gRPC service")
    health_listen: Address = Field(
        "127.0.0.1:7482", description="host:port of plaintext gRPC health"
    )
    metrics_listen: Address = Field("127.0.0.1:9462", description="host:port of /metrics")
    primary: Address = Field("127.0.0.1:7460", description="host:port of the Primary")
    secondary: Address = Field("127.0.0.1:7461", description="host:port of the Secondary")
    tasks_dir: Path | None = Field(
        None, description="directory of tasks, one below it each; unset: tasks in data_dir"
    )
    command_user: str | None = Field(
        None, description="user that commands of tasks run as; unset: this service's, not root"
    )
    link_addresses: LinkAddresses = Field(
        "", description="link=host:port,...: Secondaries not reached by their link's endpoint"
    )


Config = TypeVar("Config", bound=BaseServiceConfig)


def parse_arguments(
    model: type[Config], argv: Sequence[str], program: str = "slackwater"
) -> Config:
    """Read flags, environment and file into `model`.

    Raises:
        SystemExit: with status 2 and a sentence on standard error that names the setting, or 0
            after --help.
    """
    parser = _parser(model, program)
    flags = vars(parser.parse_args(argv))
    try:
        return model(**flags)
    except ValidationError as error:
        parser.error("; ".join(_problem(model, row) for row in error.errors()))
    except (OSError, ValueError) as error:  # the file: not there, or no TOML
        named = flags.get("config") or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
        parser.error(f"--config {named}: {error}")


def _parser(model: type[Config], program: str) -> argparse.ArgumentParser:
    """A flag for each field; what is not given is absent, so that it does not hide the others."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s --data-dir DIR [flags]    (--help lists them)",
        description=model.__doc__,
        epilog=f"Each flag may also be given as {ENVIRONMENT_PREFIX}<FLAG> or in the --config file;"
        " flags win over the environment, that over the file.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in model.model_fields.items():
        default = "" if field.is_required() or field.default is None else f" [{field.default}]"
        text = f"{field.description}{default}".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                _flag(name), action=argparse.BooleanOptionalAction, dest=name, help=text
            )
        else:
            parser.add_argument(_flag(name), dest=name, metavar="VALUE", help=text)
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _problem(model: type[BaseServiceConfig], row: Any) -> str:
    """One sentence about a setting that is wrong."""
    problem = str(row["msg"]).removeprefix("Value error, ")
    if not row["loc"]:
        return problem
    name = str(row["loc"][0])
    if name not in model.model_fields:
        return f"{name}: there is no such setting; see --help"
    sources = f"{_flag(name)} ({ENVIRONMENT_PREFIX}{name.upper()}, or {name} in the --config file)"
    if row["type"] == "missing":
        return f"{sources} is required"
    return f"{sources}: {problem}"
