"""What a quiesce is asked for, and what it was worth (C17, C20)."""

from collections.abc import Sequence
from dataclasses import dataclass

from slackwater import errors
from slackwater.ibc.names import MAX_APPLICATIONS, Applications
from slackwater.names import check_label

TIMEOUT_SECONDS = 30.0
MAX_HOLD_SECONDS = 10.0
LIMIT_SECONDS = 3600.0
KINDS = ("command", "sync", "fsfreeze", "postgres", "checkpoint")
APPLICATION_KINDS = frozenset({"command", "postgres"})
"""Kinds that quiesce the application itself and not only its file system (C20)."""

FILESYSTEM_KINDS = frozenset({"sync", "fsfreeze"})
"""`checkpoint` is in neither: it makes recovery short, and holds nothing."""

CRASH, FILESYSTEM, APPLICATION = "crash", "filesystem", "application"
EVIDENCE_BYTES = 48 << 10
"""What all quiescers together may say: their Outcome takes room reserved for control (D9)."""

ANSWER_BYTES = 16 << 10
PROBLEM_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """A quiesce as a sender asks for it, checked by `check_asked`."""

    applications: tuple[str, ...]
    timeout_seconds: float = TIMEOUT_SECONDS
    max_hold_seconds: float = MAX_HOLD_SECONDS
    application: str = ""
    task: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one quiescer said about its hold."""

    application: str
    kind: str
    answer: str = ""
    resume_answer: str = ""
    is_unbroken: bool = False
    problem: str = ""
    held_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the quiesce around a message was worth."""

    is_confirmed: bool
    grade: str
    evidence: str
    window_seconds: float
    reports: tuple[Report, ...]


def check_asked(asked: Asked, registered: Applications) -> None:
    """Say why a quiesce is not begun.

    Raises:
        InvalidRequest: no name, too many, one twice, one that is no DNS label, or a time that is
            none.
        FailedPrecondition: a name is not registered on the Primary, so no agent holds it.
    """
    field = "quiesce.applications"
    if not 1 <= len(asked.applications) <= MAX_APPLICATIONS:
        raise errors.InvalidRequest(
            field,
            f"has {len(asked.applications)} names, not 1 to {MAX_APPLICATIONS}",
            "Name the applications to hold, or leave quiesce out",
        )
    for number, name in enumerate(asked.applications):
        if name in asked.applications[:number]:
            raise errors.InvalidRequest(field, f"{name[:80]!r} is there twice", "Name each once")
        check_label(f"{field}[{number}]", name)
    for field, seconds in (
        ("quiesce.timeout", asked.timeout_seconds),
        ("quiesce.max_hold", asked.max_hold_seconds),
    ):
        if not 0 < seconds <= LIMIT_SECONDS:
            raise errors.InvalidRequest(
                field, f"{seconds:g} s is not more than 0 s and at most {LIMIT_SECONDS:g} s"
            )
    for name in asked.applications:
        if name not in registered:
            raise errors.FailedPrecondition(
                "NO_AGENT",
                f"application {name!r} is not registered on the Primary, so it has no agent;"
                " nothing was placed",
                f"Register it: {registered.how_to(name)}, then start its agent:"
                f" slackwater agent run --group {registered.group} --application {name} KIND",
            )


def cut(text: str, limit_bytes: int) -> str:
    """Return a text of at most so many bytes; what is left out is said at its end."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    note = f" ... ({len(data)} bytes in all)"
    return data[: max(limit_bytes - len(note), 0)].decode(errors="ignore") + note


def answer_limit(applications: int) -> int:
    """Return how many bytes each answer may have when so many quiescers say two each."""
    return min(ANSWER_BYTES, EVIDENCE_BYTES // (2 * applications))


def judge(reports: Sequence[Report], window_seconds: float, *, is_fenced: bool) -> Judgement:
    """Judge from what the quiescers said: CONFIRMED only if every hold was unbroken (C17)."""
    broken = [one for one in reports if not one.is_unbroken]
    if broken:
        said = "; ".join(f"{one.application}: {one.problem}" for one in broken[:4])
        more = f"; and {len(broken) - 4} more" if len(broken) > 4 else ""
        return Judgement(False, CRASH, f"{said}{more}", window_seconds, tuple(reports))
    names = ", ".join(f"{one.application} ({one.kind})" for one in reports)
    evidence = f"held unbroken over the message: {names}"
    if not is_fenced:
        evidence += "; placed without a fence, so the grade stays crash (C20)"
        return Judgement(True, CRASH, evidence, window_seconds, tuple(reports))
    kinds = {one.kind for one in reports}
    if kinds & APPLICATION_KINDS:
        grade = APPLICATION
    else:
        grade = FILESYSTEM if kinds & FILESYSTEM_KINDS else CRASH
    return Judgement(True, grade, evidence, window_seconds, tuple(reports))
