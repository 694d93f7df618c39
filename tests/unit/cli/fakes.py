"""A service in this process: every rpc of its API answers what the test says."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from slackwater.errors import NotFound, SlackwaterError
from slackwater.runtime import status
from slackwater.v1 import primary_pb2, secondary_pb2, snapshot_pb2

Answer = Message | SlackwaterError | Callable[[Any], Any]

DESCRIPTORS = {
    "primary": primary_pb2.DESCRIPTOR.services_by_name["PrimaryService"],
    "secondary": secondary_pb2.DESCRIPTOR.services_by_name["SecondaryService"],
    "snapshot": snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
}


class FakeService:
    """One service on a port of its own."""

    def __init__(self, descriptor: ServiceDescriptor, address: str = "127.0.0.1:0") -> None:
        """Serve the API; every rpc answers with its empty response until told otherwise."""
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Any]] = []
        self.stopping = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)]
        )
        handlers = {method.name: self._handler(method) for method in descriptor.methods}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(descriptor.full_name, handlers),)
        )
        host = address.rpartition(":")[0]
        self.address = f"{host}:{self._server.add_insecure_port(address)}"
        self._server.start()

    def asked(self, method: str) -> list[Any]:
        """The requests of an rpc so far."""
        return [request for name, request in self.requests if name == method]

    def stop(self) -> None:
        """Hang up on everybody."""
        self.stopping.set()
        self._server.stop(None).wait()

    def _handler(self, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        response_class = GetMessageClass(method.output_type)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            self.requests.append((method.name, request))
            answer = self.answers.get(method.name, response_class())
            try:
                found = answer(request) if callable(answer) else answer
            except SlackwaterError as error:
                found = error
            if isinstance(found, grpc.StatusCode):  # as gRPC itself says it: without our details
                context.abort(found, "")
            if isinstance(found, SlackwaterError):
                context.abort_with_status(rpc_status.to_status(status.to_status(found)))
            return found

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            found = unary(request, context)
            yield from found if isinstance(found, Iterable) else [found]

        make: Any = grpc.unary_unary_rpc_method_handler
        behaviour: Any = unary
        if method.server_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, stream
        if method.client_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, stream
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            behaviour,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=response_class.SerializeToString,
        )
        return handler


@contextmanager
def serving(*roles: str) -> Iterator[dict[str, FakeService]]:
    """Fakes by role, for as long as the body runs."""
    services = {role: FakeService(DESCRIPTORS[role]) for role in roles}
    try:
        yield services
    finally:
        for service in services.values():
            service.stop()


def not_there(kind: str) -> Callable[[Any], Any]:
    """An answer: the named thing is not there."""

    def answer(request: Any) -> Any:
        raise NotFound(kind, getattr(request, "name", "") or getattr(request, "group", ""))

    return answer
