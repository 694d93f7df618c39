"""What happens around every rpc of a server: who calls and may they, errors, metrics, logs."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from slackwater.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LimitReached,
    PermissionDenied,
    SlackwaterError,
)
from slackwater.runtime import logs, roles, status, tls
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics

# Only the stubs know that handlers have type arguments.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_log = logs.get("rpc")

# grpc-go's words for the four kinds of rpc, which dashboards know.
_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every rpc once; a servicer raises SlackwaterError and is done.

    A request is read here, not by the library, which would wait for it for ever and before anybody
    knew who calls: every handler becomes one of streams underneath.
    """

    def __init__(self, metrics: Metrics, limits: ServerLimits) -> None:
        """Count into `metrics`, serve within `limits`."""
        self._metrics = metrics
        self._limits = limits
        self._running = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return the handler of this call, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        return self._wrap(handler, handler_call_details.method, self._has_room())

    def _has_room(self) -> bool:
        """Count this call until it ends, however it ends; False: there are enough already."""
        if self._running >= self._limits.calls:
            return False
        task = asyncio.current_task()
        assert task is not None, "each rpc has a task of its own"
        self._running += 1
        task.add_done_callback(self._forget)
        return True

    def _forget(self, _task: object) -> None:
        self._running -= 1

    def _wrap(self, handler: _Handler, method: str, has_room: bool) -> _Handler:
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        behaviour: Callable[..., Any] | None = {
            (False, False): handler.unary_unary,
            (True, False): handler.stream_unary,
            (False, True): handler.unary_stream,
            (True, True): handler.stream_stream,
        }[kind]
        assert behaviour is not None, "the handler has the behaviour of its kind"
        labels = (_TYPES[kind], *method.removeprefix("/").split("/", 1))
        around = partial(self._around, method, labels, has_room)
        receive = partial(self._receive, method, handler)
        if inspect.isasyncgenfunction(behaviour):

            async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
                async with around(context):
                    async for response in behaviour(await receive(requests, context), context):
                        yield response

            wrapped: Callable[..., Any] = stream
        else:

            async def call(requests: Any, context: Any) -> None:
                async with around(context):
                    response = await behaviour(await receive(requests, context), context)
                    if not handler.response_streaming and _code_set(context) is None:
                        await context.write(response)

            wrapped = call
        wrapped_handler: _Handler = grpc.stream_stream_rpc_method_handler(
            wrapped,
            handler.request_deserializer if handler.request_streaming else None,
            handler.response_serializer,
        )
        return wrapped_handler

    async def _receive(self, method: str, handler: _Handler, requests: Any, context: Any) -> Any:
        """The request of a call, which its caller may make; a stream's servicer reads its own."""
        if handler.request_streaming:
            return requests
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                "waiting for the request", self._limits.request_seconds
            ) from None
        if data is grpc.aio.EOF:
            raise InvalidRequest("request", "is missing", "Send one message, then end the stream")
        assert handler.request_deserializer is not None, "the generated code gives one"
        try:
            request = handler.request_deserializer(data)
        except DecodeError:
            raise InvalidRequest(
                "request", f"is no message of {method}", "Generate the client from our protos"
            ) from None
        if method not in roles.ANY_CALLER:
            roles.check_request(method, request, roles.caller())
        return request

    @asynccontextmanager
    async def _around(
        self, method: str, labels: tuple[str, ...], has_room: bool, context: Any
    ) -> AsyncIterator[None]:
        """Admit, then count, time and log what the body does, and put errors on the wire."""
        self._metrics.calls_started.labels(*labels).inc()
        began = time.monotonic()
        code = grpc.StatusCode.UNKNOWN  # what gRPC answers if a servicer breaks
        try:
            _admit(method, context)
            if not has_room:
                raise LimitReached(
                    "calls of this service",
                    self._limits.calls,
                    "Try again when other calls have ended, or start it with a larger --max-calls",
                )
            yield
            # A servicer may also have set a code of its own.
            code = _code_set(context) or grpc.StatusCode.OK
        except SlackwaterError as error:
            code = status.code_of(error)
            _log.info("rpc_failed", method=method, code=code.name, error=str(error))
            await status.abort(context, error)
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = _code_set(context) or code
            raise
        except NotImplementedError:
            # The generated servicer, for an rpc of the API that a later release carries.
            code = grpc.StatusCode.UNIMPLEMENTED
            await context.abort(code, f"{method} is not carried by this release")
        finally:
            seconds = time.monotonic() - began
            self._metrics.calls_handled.labels(*labels, code.name).inc()
            self._metrics.call_seconds.labels(*labels).observe(seconds)
            _log.debug("rpc", method=method, code=code.name, seconds=round(seconds, 6))


def _admit(method: str, context: Any) -> None:
    """Remember who calls, and refuse who holds no role for this rpc, before anything is read."""
    try:
        identity = tls.identity_of_call(context.auth_context())
    except InvalidRequest as error:
        # A certificate that we cannot read in full grants nothing.
        raise PermissionDenied(str(error)) from error
    roles.set_caller(identity)
    if method in roles.ANY_CALLER:
        return
    if method not in roles.ROLE_OF:
        raise PermissionDenied(f"{method} has no role")
    # For which groups comes with the request, or in a stream's first message: the servicer of a
    # stream checks that with caller().
    identity.check_held(roles.ROLE_OF[method])


def _code_set(context: Any) -> grpc.StatusCode | None:
    """The status code that the servicer or gRPC has put on this call."""
    code = context.code()
    if code in (None, 0):
        return None
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), None)
