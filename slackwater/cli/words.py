"""Words that people type and read: sizes, durations, times, positions, states, names."""

import re
import time
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from slackwater.cli.failure import usage
from slackwater.v1 import common_pb2

_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"([-+]?\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_NONE = "-"


def parse_size(text: str, option: str) -> int:
    """Read `256MiB`, `1.5GiB`, `10GB` or a plain number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise usage(
            f"{option}: {text!r} is not a size",
            "write a number with KiB, MiB, GiB or TiB, for example 256MiB; alone it means bytes",
            option,
        )
    exact = float(match[1]) * unit
    value = int(match[1]) * unit if "." not in match[1] else int(exact)
    if value != exact:
        raise usage(f"{option}: {text!r} is no whole number of bytes", "", option)
    if not -(1 << 63) <= value < 1 << 63:
        raise usage(
            f"{option}: {text!r} is out of any range", "the largest volume is 64TiB", option
        )
    return value


def parse_duration(text: str, option: str) -> float:
    """Read `5s`, `10m`, `500ms`, `1h30m` or a plain number of seconds."""
    text = text.strip()
    try:
        value = float(text)
        if 0 <= value <= 315_576_000_000:
            return value
    except ValueError:
        parts = _PART.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise usage(
        f"{option}: {text!r} is not a duration",
        "write for example 500ms, 5s, 10m or 1h30m; 0 means for ever where the help says so",
        option,
    )


def as_duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def size(value: int) -> str:
    """Bytes for people: 256MiB, 1.5GiB, 0B."""
    number, unit = float(value), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f}".removesuffix(".0") + unit


def seconds(value: float) -> str:
    """A duration for people: 12ms, 3.4s, 2m05s, 1h02m, 3d04h."""
    if value < 0.0995:
        return f"{value * 1000:.1f}".removesuffix(".0") + "ms" if value > 0 else "0s"
    if value < 60:
        return f"{value:.1f}".removesuffix(".0") + "s"
    whole = int(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def duration(value: Duration) -> str:
    """A protobuf Duration for people."""
    return seconds(value.ToNanoseconds() / 1e9)


def milliseconds(value: Duration) -> str:
    """A protobuf Duration in milliseconds, whatever its size."""
    return f"{value.ToNanoseconds() / 1e6:.1f} ms"


def moment(value: Timestamp) -> str:
    """A time, local, to the second."""
    if not value.ToNanoseconds():
        return _NONE
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value.ToSeconds()))


def clock(value: Timestamp) -> str:
    """A time of today, or of the last day: hours, minutes, seconds."""
    return time.strftime("%H:%M:%S", time.localtime(value.ToSeconds()))


def age_seconds(value: Timestamp, now: float) -> float:
    """How long ago it was; clocks that disagree do not make it negative."""
    return max(0.0, now - value.ToNanoseconds() / 1e9)


def age(value: Timestamp, now: float) -> str:
    """How long ago it was, or `never`."""
    if not value.ToNanoseconds():
        return "never"
    return f"{seconds(age_seconds(value, now))} ago"


def position(value: common_pb2.Position) -> str:
    """A position as everywhere: epoch/lsn."""
    return f"{value.epoch}/{value.lsn}" if value.epoch else _NONE


def percent(used: int, capacity: int) -> str:
    """A part of a whole."""
    return f"{100 * used / capacity:.0f}%" if capacity else _NONE


def word(name: str, prefix: str) -> str:
    """An enum value's name without its prefix: LINK_STATE_STREAMING is STREAMING."""
    short = name.removeprefix(prefix)
    return _NONE if short == "UNSPECIFIED" else short


def last(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2] or _NONE


def or_none(text: str) -> str:
    """The text, or a dash."""
    return text or _NONE


def listed(words: Iterable[str]) -> str:
    """Words with commas, or a dash."""
    return ", ".join(words) or _NONE


def group_name(text: str) -> str:
    """`demo` or `groups/demo` as a resource name."""
    name = text.removeprefix("groups/")
    if not name or "/" in name:
        raise usage(f"{text!r} is not a group", "name one, for example demo; slackwater group list")
    return f"groups/{name}"


def child_name(first: str, second: str | None, collection: str) -> str:
    """`demo/data`, `demo data` or the resource name itself, as a resource name."""
    kind = collection.removesuffix("s")
    text = f"{first}/{second}" if second else first
    parts = text.split("/")
    if len(parts) == 2 and all(parts) and parts[0] != "groups":
        return f"groups/{parts[0]}/{collection}/{parts[1]}"
    if len(parts) == 4 and all(parts) and (parts[0], parts[2]) == ("groups", collection):
        return text
    raise usage(
        f"{text!r} does not name a {kind}",
        f"write GROUP/{kind.upper()}, for example demo/{_EXAMPLES[collection]}",
    )


_EXAMPLES = {"volumes": "data", "links": "site-b", "messages": "0193f2a7", "snapshots": "s1"}


def split_child(name: str) -> tuple[str, str]:
    """`groups/g` and `x` of `groups/g/<collection>/x`."""
    parts = name.split("/")
    return f"groups/{parts[1]}", parts[3]
