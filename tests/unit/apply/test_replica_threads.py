"""A replica with its threads: nothing waits for a step that nobody makes."""

import threading

from slackwater import record
from slackwater.apply.replica import Replica
from slackwater.clock import SystemClock
from slackwater.position import Position
from slackwater.storage.simulated import SimulatedStorage
from tests.unit.apply.stream import APPLICATION, CHUNK, Stream, live, make_replica, shown

SECONDS = 20.0


class Watched:
    """Waits for what a replica says has changed."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.changed = threading.Condition()
        replica.on_change = self._notify

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def until_applied(self, position: Position) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.replica.applied == position, SECONDS)


def send(replica: Replica, stream: Stream) -> threading.Event:
    previous = replica.receiver.received
    run = stream.run_after(previous.lsn)
    views, _, why = record.scan(run, 0, len(run), previous)
    assert why == "end"
    durable = threading.Event()

    def on_durable(position: Position) -> None:
        assert position == stream.position
        durable.set()

    replica.append_run(run, views, on_durable)
    return durable


def test_replica_applies_freezes_and_goes_on_by_itself() -> None:
    replica = make_replica(SimulatedStorage(), SystemClock())  # type: ignore[arg-type]
    watched = Watched(replica)
    replica.start()
    try:
        replica.register_application(APPLICATION)
        stream = Stream()
        stream.start()
        stream.add_volume(1, "data", 4 * CHUNK)
        stream.write(1, 0, b"before" * 100)
        message = stream.message("m1")
        stream.write(1, 0, b"after" * 1000)
        assert send(replica, stream).wait(SECONDS)
        delivered = replica.receive_message(APPLICATION, wait_seconds=SECONDS, holder="me")
        assert delivered is not None and delivered.message.message_id == "m1"
        replica.create_snapshot("at", at_message="m1", chunk_bytes=CHUNK)
        assert live(replica) == stream.states[message.lsn]
        replica.unfreeze("m1", "me")
        watched.until_applied(stream.position)
        assert live(replica) == stream.states[stream.position.lsn]
        assert shown(replica, "at") == stream.states[message.lsn]
    finally:
        replica.close()


def test_thread_that_meets_the_unexpected_stops_the_replica() -> None:
    replica = make_replica(SimulatedStorage(), SystemClock())  # type: ignore[arg-type]
    watched = Watched(replica)

    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    replica.controls.reach = broken  # type: ignore[method-assign, assignment]
    hook, threading.excepthook = threading.excepthook, lambda _: None
    replica.start()
    try:
        stream = Stream()
        stream.start()
        send(replica, stream)
        with watched.changed:
            assert watched.changed.wait_for(lambda: replica.failure is not None, SECONDS)
    finally:
        replica.close()
        threading.excepthook = hook
