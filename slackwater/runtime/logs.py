"""Logs: one event per line on standard error, JSON or key=value, never a secret.

Positions are written `epoch/lsn`. Libraries' records (gRPC's, asyncio's) take the same way.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from slackwater.position import Position

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")

SECRET_KEYS = frozenset({"authorization", "body", "data", "key", "password", "secret", "token"})
"""Values of these keys are never written: credentials, and what applications put in messages."""


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process; a sender's process calls it as well.

    Args:
        level: One of LEVELS; events below it are dropped.
        form: One of FORMATS.
        stream: Where to write; standard error unless given.
    """
    assert level in LEVELS, "the configuration checked it"
    assert form in FORMATS, "the configuration checked it"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        withhold_secrets,
        write_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in ("asyncio", "grpc"):
        # Their debug events speak of their insides, some at every call.
        logging.getLogger(library).setLevel("ERROR" if level == "error" else "WARNING")


def withhold_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the values of secret keys, and of bytes under any key by their number."""
    for name, value in event.items():
        if name in SECRET_KEYS:
            event[name] = "(withheld)"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"({len(value)} bytes)"
    return event


def write_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write positions and other objects as their text, so that both forms show the same."""
    for name, value in event.items():
        if name.startswith("_"):
            continue  # structlog's own, taken out before it is written
        event[name] = _written(value)
    return event


def _written(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Position):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_written(item) for item in value]
    if isinstance(value, MutableMapping):
        return {str(name): _written(item) for name, item in value.items()}
    return str(value)


def get(name: str) -> Any:
    """A logger that speaks for `name`: `log.info("link_up", group="g", position=position)`."""
    # Lazy: it takes the configuration at its first event, not when a module is imported.
    return structlog.get_logger(component=name)
