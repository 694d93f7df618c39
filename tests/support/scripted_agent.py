"""An agent over a real stream that lives, and answers when a test tells it to."""

import queue
import threading
from collections.abc import Iterator
from typing import Self

import grpc

from slackwater.v1 import primary_pb2, primary_pb2_grpc

Request = primary_pb2.HoldQuiesceRequest
Response = primary_pb2.HoldQuiesceResponse
PATIENCE_SECONDS = 30.0


class ScriptedAgent:
    """One session; it gives signs of life by itself."""

    def __init__(
        self,
        api: primary_pb2_grpc.PrimaryServiceStub,
        group: str,
        application: str,
        kind: str = "command",
    ) -> None:
        """Plan a session.

        Args:
            api: the Primary.
            group: the group's resource name.
            application: the application it stands beside.
            kind: how it says that it quiesces.
        """
        self._api = api
        self._open = Request.Open(group=group, application=application, kind=kind, host="test")
        self._said: queue.Queue[Request | None] = queue.Queue()
        self._heard: queue.Queue[Response] = queue.Queue()
        self._over = threading.Event()
        self.code: grpc.StatusCode | None = None

    def __enter__(self) -> Self:
        """Open the session."""
        self._said.put(Request(open=self._open))
        self._call = self._api.HoldQuiesce(self._requests())
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self.next().HasField("opened")
        return self

    def __exit__(self, *about: object) -> None:
        """End it."""
        self._said.put(None)
        self._call.cancel()
        self._thread.join(PATIENCE_SECONDS)

    def _requests(self) -> Iterator[Request]:
        while not self._over.is_set():
            try:
                said = self._said.get(timeout=0.5)
            except queue.Empty:
                said = Request(heartbeat=Request.Heartbeat())
            if said is None:
                return
            yield said

    def _listen(self) -> None:
        try:
            for response in self._call:
                if not response.HasField("heartbeat"):
                    self._heard.put(response)
        except grpc.RpcError:
            self.code = self._call.code()
        finally:
            self._over.set()

    def next(self) -> Response:
        """Return what the Primary asks next."""
        return self._heard.get(timeout=PATIENCE_SECONDS)

    def hold(self) -> str:
        """Hold when asked to; return the hold's id."""
        asked = self.next()
        self.say_held(asked)
        return asked.hold.hold_id

    def say_held(self, asked: Response) -> None:
        """Answer a question to hold."""
        assert asked.HasField("hold"), asked
        self._said.put(Request(quiesced=Request.Quiesced(hold_id=asked.hold.hold_id, answer="q")))

    def resume(self) -> str:
        """Go on when asked to; return the message that was placed."""
        asked = self.next()
        assert asked.HasField("resume"), asked
        on = Request.Resumed(hold_id=asked.resume.hold_id, unbroken=True, answer="r")
        self._said.put(Request(resumed=on))
        return asked.resume.message

    def wait_over(self) -> grpc.StatusCode | None:
        """Wait until the stream has ended; return how."""
        assert self._over.wait(PATIENCE_SECONDS)
        self._thread.join(PATIENCE_SECONDS)
        return self.code
