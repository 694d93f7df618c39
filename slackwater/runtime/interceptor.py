"""What happens around every rpc of a server: who calls and may they, errors, metrics, logs."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from slackwater.errors import InvalidRequest, PermissionDenied, SlackwaterError
from slackwater.runtime import logs, roles, status, tls
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
    """Wraps the handler of every rpc once; a servicer raises SlackwaterError and is done."""

    def __init__(self, metrics: Metrics) -> None:
        """Count into `metrics`."""
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Return the handler of this call, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        return self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        kind = (bool(handler.request_streaming), bool(handler.response_streaming))
        behaviour, make = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
            (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        }[kind]
        labels = (_TYPES[kind], *method.removeprefix("/").split("/", 1))
        assert behaviour is not None, "the handler has the behaviour of its kind"
        if inspect.isasyncgenfunction(behaviour):
            wrapped = self._around_generator(behaviour, method, labels)
        else:
            wrapped = self._around_coroutine(behaviour, method, labels)
        wrapped_handler: _Handler = make(
            wrapped, handler.request_deserializer, handler.response_serializer
        )
        return wrapped_handler

    def _around_coroutine(
        self, behaviour: Callable[..., Any], method: str, labels: tuple[str, ...]
    ) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            async with self._around(method, labels, request, context):
                return await behaviour(request, context)

        return call

    def _around_generator(
        self, behaviour: Callable[..., Any], method: str, labels: tuple[str, ...]
    ) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._around(method, labels, request, context):
                async for response in behaviour(request, context):
                    yield response

        return call

    @asynccontextmanager
    async def _around(
        self, method: str, labels: tuple[str, ...], request: Any, context: Any
    ) -> AsyncIterator[None]:
        """Authorise, then count, time and log what the body does, and put errors on the wire."""
        self._metrics.calls_started.labels(*labels).inc()
        began = time.monotonic()
        code = grpc.StatusCode.UNKNOWN  # what gRPC answers if a servicer breaks
        try:
            _authorise(method, request, context)
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


def _authorise(method: str, request: Any, context: Any) -> None:
    """Remember who calls, and refuse what the caller may not do."""
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
    if isinstance(request, Message):
        roles.check_request(method, request, identity)
    else:
        # The group of a stream comes in its first message: the servicer checks that with caller().
        identity.check_held(roles.ROLE_OF[method])


def _code_set(context: Any) -> grpc.StatusCode | None:
    """The status code that the servicer or gRPC has put on this call."""
    code = context.code()
    if code in (None, 0):
        return None
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), None)
