"""How messages and what became of them are shown, and what counts as a good end."""

from slackwater.cli import words
from slackwater.cli.failure import EXIT_NOT_AS_ASKED, Failure
from slackwater.v1 import common_pb2, record_pb2, resources_pb2, secondary_pb2

_GOOD = {
    common_pb2.VERDICT_STATE_UNFROZEN,
    common_pb2.VERDICT_STATE_NOTIFIED,
    common_pb2.VERDICT_STATE_SNAPSHOTTED,
}


def state(value: common_pb2.VerdictState.ValueType) -> str:
    """A verdict's word."""
    return words.word(common_pb2.VerdictState.Name(value), "VERDICT_STATE_")


def behaviour(value: common_pb2.MessageBehaviour.ValueType) -> str:
    """A behaviour's word, as the options spell it."""
    return words.word(common_pb2.MessageBehaviour.Name(value), "MESSAGE_BEHAVIOUR_").lower()


def outcome(message: resources_pb2.Message) -> str:
    """What the quiesce was worth; a dash if there was none or it is not known."""
    word = words.word(record_pb2.Outcome.State.Name(message.outcome), "STATE_")
    return "not known yet" if word == "-" and message.quiesced else word


def verdict(row: resources_pb2.Verdict) -> str:
    """What became of a message on one link, with all that is known beside it."""
    detail = row.detail
    more = [
        f"by {detail.by}" if detail.by else "",
        f"frozen {words.duration(detail.frozen_for)}" if detail.HasField("frozen_for") else "",
        f"snapshot {detail.snapshot_id}" if detail.snapshot_id else "",
        detail.text,
    ]
    shown = ", ".join(part for part in more if part)
    return f"{state(row.state)}{' ' if shown else ''}{shown}"


def body(message: resources_pb2.Message | secondary_pb2.DeliveredMessage) -> str:
    """The body, if it is text; else what it begins with."""
    if message.WhichOneof("body") == "data":
        try:
            return message.data.decode()
        except UnicodeDecodeError:
            return f"{len(message.data)} bytes: {message.data[:32].hex()}..."
    return message.text


def body_bytes(message: secondary_pb2.DeliveredMessage) -> bytes:
    """The body as it was sent."""
    return message.data if message.WhichOneof("body") == "data" else message.text.encode()


def message_rows(message: resources_pb2.Message) -> list[tuple[str, str]]:
    """All there is to know about a message."""
    rows = [
        ("message", message.name),
        ("application", message.application),
        ("behaviour", behaviour(message.behaviour)),
        ("position", words.position(message.position)),
        ("sent", words.moment(message.send_time)),
        ("task", words.last(message.task)),
        ("fence", fence(message)),
        ("body", body(message)),
        *judgement_rows(message),
    ]
    rows += [(f"at {row.link}", verdict(row)) for row in message.verdicts]
    return rows


def fence(message: resources_pb2.Message) -> str:
    """How long writes were held back for a message."""
    if not message.fenced:
        return "none"
    return f"writes held back for {words.milliseconds(message.fence_held)}"


def judgement_rows(message: resources_pb2.Message) -> list[tuple[str, str]]:
    """What the quiesce around a message was worth, and what that rests on."""
    judged = message.judgement
    rows = [
        ("quiesced", words.listed(message.quiesced)),
        ("outcome", outcome(message)),
    ]
    if message.HasField("judgement"):
        grade = words.word(common_pb2.SnapshotGrade.Name(judged.grade), "SNAPSHOT_GRADE_").lower()
        rows += [("grade", grade), ("evidence", judged.evidence)]
    for report in judged.reports:
        said = [
            f"held {words.seconds(report.held_seconds)}",
            "unbroken" if report.unbroken else "broken",
            report.problem or report.answer,
        ]
        rows.append((f"agent {report.application}", ", ".join(part for part in said if part)))
    return rows


def refuse_bad_end(message: resources_pb2.Message, *, only_outcome: bool = False) -> None:
    """Fail if a message did not become what its sender asked for; verdicts count if waited for."""
    verdicts = [] if only_outcome else message.verdicts
    bad = [row for row in verdicts if row.final and row.state not in _GOOD]
    revoked = message.outcome == record_pb2.Outcome.STATE_REVOKED
    if not bad and not revoked:
        return
    if bad:
        said = "; ".join(f"{verdict(row)} at {row.link}" for row in bad)
        reason = state(bad[0].state)
    else:
        said = f"the quiesce is REVOKED: {message.judgement.evidence or 'no evidence'}"
        reason = "REVOKED"
    group = words.last(words.split_child(message.name)[0])
    raise Failure(
        f"message {words.last(message.name)} is in the log, but {said}",
        EXIT_NOT_AS_ASKED,
        "NOT_AS_ASKED",
        reason,
        next_step=f"slackwater ibc status {group}/{words.last(message.name)}",
    )
