"""Where a sender finds the Secondary's place in the log."""

from services.primary.sender import control
from slackwater.group.writer import GroupWriter
from slackwater.position import Position


def find(writer: GroupWriter, position: Position) -> control.Message:
    """Say where a position lies in what the log keeps for links, as `position_found` asks."""
    oldest_lsn = writer.log.oldest_lsn
    found = writer.log.find(position)
    if found is not None and found.offset < writer.marks.trim_offset:
        # Its segment is still there, and may be recycled at any time: a sender that began here
        # would find that the log moved on, come back, and be sent here again.
        found, oldest_lsn = None, position.lsn + 1
    return {
        "point": None if found is None else control.point_json(found),
        "oldest_lsn": oldest_lsn,
        "start": control.start_json(writer.database.newest_start(position.lsn)),
    }
