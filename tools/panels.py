"""What dashboards are made of: panels, and the forms that many queries have."""

from collections.abc import Sequence
from dataclasses import dataclass

HALF, THIRD, WHOLE = 12, 8, 24
GROUP = 'group=~"$group"'


@dataclass(frozen=True)
class Panel:
    """One panel: what it is called, what it asks, in which unit, drawn how, how wide."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "lines"
    span: int = HALF
    about: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    about: str
    panels: Sequence[Panel]
    annotations: Sequence[tuple[str, str]] = ()


def query(expression: str, legend: str = "{{group}}") -> tuple[str, str]:
    """A query and how its lines are called."""
    return expression, legend


def rate(name: str, by: str = "group") -> str:
    """What a counter grows by, a second."""
    return f"sum by ({by}) (rate({name}{{{GROUP}}}[$__rate_interval]))"


def most(name: str, by: str = "group") -> str:
    """A gauge, whoever shows it."""
    return f"max by ({by}) ({name}{{{GROUP}}})"


def quantiles(name: str, selector: str) -> list[tuple[str, str]]:
    """The median and the 99th percentile of a histogram, by group."""
    growth = f"sum by (group, le) (rate({name}_bucket{{{selector}}}[$__rate_interval]))"
    return [
        (f"histogram_quantile({share}, {growth})", f"{{{{group}}}} {word}")
        for share, word in ((0.5, "p50"), (0.99, "p99"))
    ]
