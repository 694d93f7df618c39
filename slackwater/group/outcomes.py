"""Outcomes: the records that say what the quiesce of an earlier message was worth (C17).

A message that was quiesced owes exactly one. Its row in group.db says so from the moment the
message has a row, and replay writes both; whoever opens the group after a stop finds what is owed
and revokes it, since nobody saw the applications go on.
"""

from contextlib import suppress

from slackwater import record
from slackwater.errors import NoSpace
from slackwater.group.writer import GroupWriter
from slackwater.position import LogPoint
from slackwater.v1 import common_pb2, record_pb2

STOPPED = "the Primary stopped before it knew that the applications went on"


def append_outcome(writer: GroupWriter, outcome: record_pb2.Outcome) -> LogPoint:
    """Append an Outcome, from the room kept for control (D9); it is durable when this returns.

    Raises:
        NoSpace: nothing was appended; try again.
        GroupFailed: the group has stopped.
    """
    with writer.hold() as hold:
        point = writer.append_control(record.KIND_OUTCOME, outcome.SerializeToString())
        with suppress(NoSpace):  # the record stands and its row is owed
            hold.write(lambda: writer.database.put_outcome_record(outcome, point.position.lsn))
    return point


def revoke_unjudged(writer: GroupWriter) -> int:
    """Revoke what a stop left without an Outcome; returns how many messages that were."""
    unjudged = writer.database.unjudged()
    for row in unjudged:
        message = record_pb2.IbcMessage.FromString(row.record)
        reports = [
            record_pb2.QuiesceReport(application=name, problem=STOPPED) for name in message.quiesced
        ]
        append_outcome(
            writer,
            record_pb2.Outcome(
                message_id=row.id,
                state=record_pb2.Outcome.STATE_REVOKED,
                grade=common_pb2.SNAPSHOT_GRADE_CRASH,
                evidence=STOPPED,
                reports=reports,
            ),
        )
    return len(unjudged)
