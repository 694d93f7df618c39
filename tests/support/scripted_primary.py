"""A Primary that only holds sessions of agents, and asks them what the test says."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from grpc_status import rpc_status

from slackwater.errors import AlreadyExists, SlackwaterError
from slackwater.runtime import status
from slackwater.v1 import primary_pb2

WAIT_SECONDS = 30.0
HEARTBEAT_SECONDS = 0.2

Asked = primary_pb2.HoldQuiesceRequest
Told = primary_pb2.HoldQuiesceResponse


class Conversation:
    """One session, from the Primary's side."""

    def __init__(self, opening: Asked.Open) -> None:
        """Begin with nothing said."""
        self.opening = opening
        self.heartbeats = 0
        self.is_silent = threading.Event()
        self.is_over = threading.Event()
        self._answers: queue.Queue[Asked] = queue.Queue()
        self._outbox: queue.Queue[Told | None] = queue.Queue()

    def hold(
        self,
        hold_id: str = "h1",
        *,
        timeout: float = 30.0,
        max_hold: float = 30.0,
        task: str = "",
        links: tuple[str, ...] = (),
    ) -> None:
        """Ask for a hold."""
        hold = Told.Hold(hold_id=hold_id, application="backup", task=task, links=links)
        hold.timeout.FromNanoseconds(int(timeout * 1e9))
        hold.max_hold.FromNanoseconds(int(max_hold * 1e9))
        self._outbox.put(Told(hold=hold))

    def resume(self, hold_id: str = "h1", message: str = "groups/demo/messages/m1") -> None:
        """Ask for the resume."""
        self._outbox.put(Told(resume=Told.Resume(hold_id=hold_id, message=message)))

    def end(self) -> None:
        """End the stream."""
        self._outbox.put(None)

    def answer(self) -> Any:
        """The next answer that is no heartbeat: a Quiesced, a Resumed or a Failed."""
        answer = self._answers.get(timeout=WAIT_SECONDS)
        return getattr(answer, str(answer.WhichOneof("message")))

    def has_answer(self) -> bool:
        """Whether something was said that nobody has looked at."""
        return not self._answers.empty()

    def listen(self, requests: Iterator[Asked]) -> None:
        """Take in what the agent says until it ends."""
        try:
            for request in requests:
                if request.WhichOneof("message") == "heartbeat":
                    self.heartbeats += 1
                else:
                    self._answers.put(request)
        except grpc.RpcError:
            pass
        finally:
            self.is_over.set()
            self._outbox.put(None)

    def speak(self, grace: float) -> Iterator[Told]:
        """What the agent is told."""
        opened = Told.Opened()
        opened.grace.FromNanoseconds(int(grace * 1e9))
        yield Told(opened=opened)
        while True:
            try:
                told = self._outbox.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                if not self.is_silent.is_set():
                    yield Told(heartbeat=Told.Heartbeat())
                continue
            if told is None:
                return
            yield told


class ScriptedPrimary:
    """Serves HoldQuiesce; one session per application, as the real one."""

    def __init__(self, grace: float = 5.0) -> None:
        """Serve on a port of its own."""
        self.grace = grace
        self.refusal: SlackwaterError | None = None
        self.refused = 0
        self._standing: set[str] = set()
        self._sessions: queue.Queue[Conversation] = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16))
        handler = grpc.stream_stream_rpc_method_handler(
            self._hold_quiesce,
            request_deserializer=Asked.FromString,
            response_serializer=Told.SerializeToString,
        )
        service = primary_pb2.DESCRIPTOR.services_by_name["PrimaryService"].full_name
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"HoldQuiesce": handler}),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *about: object) -> None:
        """Hang up on everybody."""
        self._server.stop(None).wait()

    def session(self) -> Conversation:
        """The next session that an agent opens."""
        return self._sessions.get(timeout=WAIT_SECONDS)

    def _hold_quiesce(self, request_iterator: Iterator[Asked], context: Any) -> Iterator[Told]:
        """Hold a session."""
        opening = next(request_iterator).open
        refusal = self.refusal
        if opening.application in self._standing:
            refusal = AlreadyExists("agent of application", opening.application)
        if refusal is not None:
            self.refused += 1
            context.abort_with_status(rpc_status.to_status(status.to_status(refusal)))
        self._standing.add(opening.application)
        conversation = Conversation(opening)
        listening = threading.Thread(target=conversation.listen, args=(request_iterator,))
        listening.start()
        self._sessions.put(conversation)
        try:
            yield from conversation.speak(self.grace)
        finally:
            self._standing.discard(opening.application)


def eventually(what: str, condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")
