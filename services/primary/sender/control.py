"""The control channel between the primary service and a sender: JSON messages over a socket pair.

SOCK_SEQPACKET keeps messages apart. A message with ``ask`` wants an answer with the same number in
``answer``. Bytes travel in hex: nothing here is on the data path.
"""

import json
import queue
import socket
import threading
import uuid
from typing import Any, Final

from slackwater.position import LogPoint, Position

MAX_BYTES: Final = 1 << 20
Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_BYTES)
    return ends


def encode(message: Message) -> bytes:
    """Return a message as it travels."""
    data = json.dumps(message, separators=(",", ":")).encode()
    assert len(data) <= MAX_BYTES, "control messages are small"
    return data


def decode(data: bytes) -> Message:
    """Return a message that travelled."""
    message = json.loads(data)
    assert isinstance(message, dict)
    return message


class Outbox:
    """The sending half of a channel in the main process; who sends never waits.

    A thread of its own waits for a sender that does not read: writers, which may have to say that
    a link is let go of, must not.
    """

    def __init__(self, end: socket.socket) -> None:
        """Send on a blocking socket, which stays the caller's."""
        self._end = end
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sender-outbox", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Send a message after all earlier ones; it is lost if the other side ends first."""
        self._queue.put(encode(message))

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._end.sendall(data)
            except OSError:
                return  # the other side is gone, as who reads this end learns

    def close(self) -> None:
        """End the thread; the socket has been shut down, so that nothing holds it up."""
        self._queue.put(None)
        self._thread.join()


def point_json(point: LogPoint) -> list[int]:
    """Return a log point as it travels."""
    position = point.position
    return [point.offset, position.epoch, position.lsn, position.chain]


def json_point(value: list[int]) -> LogPoint:
    """Return a log point that travelled."""
    return LogPoint(value[0], Position(value[1], value[2], value[3]))


def position_json(position: Position) -> list[int]:
    """Return a position as it travels."""
    return [position.epoch, position.lsn, position.chain]


def json_position(value: list[int]) -> Position:
    """Return a position that travelled."""
    return Position(value[0], value[1], value[2])


def start_json(start: Position | None) -> list[int] | None:
    """Return the newest `Start` as it travels; None: the group does not remember it."""
    return None if start is None else position_json(start)


def start_of(answer: Message) -> Position | None:
    """Return the `start` of an answer; None: the main process does not remember it."""
    value = answer["start"]
    return None if value is None else json_position(value)


def new_id() -> bytes:
    """Return 16 random bytes."""
    return uuid.uuid4().bytes
