"""A message held by a lease: the holder's end of HoldMessage, for a program without an event loop.

A thread reads the stream; gRPC's own thread asks for requests, and gets a heartbeat every second.
Whatever happens is put into one queue, so that whoever holds waits in one place: for the message,
for the end of the freeze, for its own signals and children. A stream that breaks is opened again,
naming the message, for as long as the holder wants it: the lease's grace is the Secondary's matter.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from slackwater.v1 import common_pb2, secondary_pb2

BEAT_SECONDS = 1.0
AGAIN_SECONDS = 0.5
SILENCE_SECONDS = 5.0
"""Without a sign of life for so long the connection is taken for dead and made anew."""

Request = secondary_pb2.HoldMessageRequest


@dataclass(frozen=True)
class Delivered:
    """The message is here."""

    message: secondary_pb2.DeliveredMessage


@dataclass(frozen=True)
class Thawed:
    """The freeze is over."""

    state: common_pb2.VerdictState.ValueType
    frozen_seconds: float


@dataclass(frozen=True)
class Broken:
    """The stream broke; it is tried again."""

    error: grpc.RpcError | None


@dataclass(frozen=True)
class Refused:
    """The stream ended for good, without the end of a freeze."""

    error: grpc.RpcError | None


class Hold:
    """A lease on the next message of an application."""

    def __init__(
        self, rpc: Callable[..., Any], opening: Request.Open, events: "queue.SimpleQueue[Any]"
    ) -> None:
        """Plan it; `events` gets what happens."""
        self._rpc = rpc
        self._opening = opening
        self._events = events
        self._outbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._call: Any = None
        self._heard = time.monotonic()
        self._answered = False
        self._releasing = self._has_message = self._hung_up = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="hold", daemon=True)

    def start(self) -> None:
        """Open the stream."""
        self._thread.start()

    def release(self) -> None:
        """The work is done: let the replica go on. Thawed follows, after a broken stream too."""
        self._releasing = True
        if self._has_message:  # else it is said once this stream has it: see _take
            self._outbox.put(Request(unfreeze=Request.Unfreeze()))

    def check(self) -> None:
        """Give a connection up that has been silent; called about every second."""
        if self._call is not None and time.monotonic() - self._heard > SILENCE_SECONDS:
            self._heard = time.monotonic()
            self._hung_up = True
            self._call.cancel()

    def close(self) -> None:
        """Hang up. A freeze that was not released ends with the lease."""
        self._closed.set()
        self._outbox.put(None)
        if self._call is not None:
            self._call.cancel()
        if self._thread.is_alive():
            self._thread.join(SILENCE_SECONDS)

    def _keep(self) -> None:
        while not self._closed.is_set():
            error: grpc.RpcError | None = None
            try:
                if self._read_once():
                    return
            except grpc.RpcError as broken:
                error = broken
            if self._closed.is_set():
                return
            if not self._passes(error):
                self._events.put(Refused(error))
                return
            self._events.put(Broken(error))
            self._closed.wait(AGAIN_SECONDS)

    def _passes(self, error: grpc.RpcError | None) -> bool:
        """Whether it is worth to try again: a Secondary that was there once may come back."""
        if error is None:
            return self._answered
        if error.code() is grpc.StatusCode.CANCELLED:
            return self._hung_up  # else it is StopReceive that says so
        return self._answered and error.code() is grpc.StatusCode.UNAVAILABLE

    def _read_once(self) -> bool:
        """Follow one stream; True if there is nothing left to hold."""
        self._outbox = queue.SimpleQueue()
        self._has_message = self._hung_up = False
        self._heard = time.monotonic()
        self._call = self._rpc(self._requests(self._outbox))
        for response in self._call:
            self._heard = time.monotonic()
            self._answered = True
            if self._take(response):
                return True
        return False

    def _take(self, response: secondary_pb2.HoldMessageResponse) -> bool:
        kind = response.WhichOneof("message")
        if kind == "thawed":
            frozen = response.thawed.frozen_for.ToNanoseconds() / 1e9
            self._events.put(Thawed(response.thawed.state, frozen))
            return True
        if kind != "delivered":
            return False
        message = response.delivered
        self._has_message = True
        if self._releasing:  # while the stream was broken
            self._outbox.put(Request(unfreeze=Request.Unfreeze()))
        if not self._opening.message:
            self._opening.message = message.name
            self._events.put(Delivered(message))
        return message.behaviour != common_pb2.MESSAGE_BEHAVIOUR_FREEZE

    def _requests(self, outbox: "queue.SimpleQueue[Request | None]") -> Iterator[Request]:
        yield Request(open=self._opening)
        while not self._closed.is_set():
            try:
                request = outbox.get(timeout=BEAT_SECONDS)
            except queue.Empty:
                request = Request(heartbeat=Request.Heartbeat())
            if request is None:
                return
            yield request
            if request.HasField("unfreeze"):
                return
