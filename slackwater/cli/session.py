"""One command's calls: channels opened when needed, a deadline on each call, clear failures."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import grpc

from slackwater.cli import contexts
from slackwater.cli.failure import EXIT_FAILED, Failure, from_remote
from slackwater.cli.screen import Screen
from slackwater.errors import FailedPrecondition
from slackwater.runtime import client, status
from slackwater.runtime.tls import CertificateStore
from slackwater.v1 import primary_pb2_grpc, secondary_pb2_grpc, snapshot_pb2_grpc

PAGE = 200
_Response = TypeVar("_Response")

_HINTS = {
    grpc.StatusCode.NOT_FOUND: "see what there is: slackwater status",
    grpc.StatusCode.FAILED_PRECONDITION: "see the states: slackwater status",
    grpc.StatusCode.ALREADY_EXISTS: "see what there is: slackwater status",
    grpc.StatusCode.PERMISSION_DENIED: "use a certificate that has the role:"
    " slackwater context set NAME --tls-cert FILE --tls-key FILE --tls-ca FILE",
}


class Session:
    """What a command works with: the screen, and the three services."""

    def __init__(
        self,
        context: contexts.Context,
        screen: Screen,
        timeout_seconds: float,
        typed: Mapping[str, str],
    ) -> None:
        """Open nothing yet; `typed` are the shared options as given."""
        self.typed = typed
        self.context = context
        self.screen = screen
        self.timeout_seconds = timeout_seconds
        self._channels: dict[str, grpc.Channel] = {}
        self._certificates: CertificateStore | None = None

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *about: object) -> None:
        """Close what was opened."""
        for channel in self._channels.values():
            channel.close()

    @property
    def primary(self) -> primary_pb2_grpc.PrimaryServiceStub:
        """The Primary."""
        return primary_pb2_grpc.PrimaryServiceStub(self.channel("primary"))

    @property
    def secondary(self) -> secondary_pb2_grpc.SecondaryServiceStub:
        """The Secondary."""
        return secondary_pb2_grpc.SecondaryServiceStub(self.channel("secondary"))

    @property
    def snapshot(self) -> snapshot_pb2_grpc.SnapshotServiceStub:
        """The snapshot service."""
        return snapshot_pb2_grpc.SnapshotServiceStub(self.channel("snapshot"))

    def call(
        self,
        role: str,
        rpc: Callable[..., _Response],
        request: Any,
        *,
        extra_seconds: float = 0.0,
        hint: str = "",
    ) -> _Response:
        """Make a unary call with a deadline.

        Args:
            role: The service called, for the failure.
            rpc: The stub's method.
            request: What it is given.
            extra_seconds: How long the service itself was asked to wait.
            hint: What to type if it fails and the service names nothing.
        """
        with self.explained(role, hint, extra_seconds):
            return rpc(request, timeout=self.timeout_seconds + extra_seconds)

    def stream(
        self, role: str, rpc: Callable[..., Any], request: Any, seconds: float
    ) -> Iterator[Any]:
        """Follow a stream of answers, for at most so long."""
        with self.explained(role, extra_seconds=seconds):
            yield from rpc(request, timeout=self.timeout_seconds + seconds)

    def pages(
        self, role: str, rpc: Callable[..., Any], request: Any, field: str, limit: int = 0
    ) -> list[Any]:
        """Follow a list to its end, or to `limit` entries."""
        found: list[Any] = []
        while True:
            request.page_size = min(PAGE, limit - len(found)) if limit else PAGE
            answer = self.call(role, rpc, request, hint="slackwater group list")
            found.extend(getattr(answer, field))
            if not answer.next_page_token or (limit and len(found) >= limit):
                return found
            request.page_token = answer.next_page_token

    @contextlib.contextmanager
    def explained(self, role: str, hint: str = "", extra_seconds: float = 0.0) -> Iterator[None]:
        """Turn a failed call into a Failure."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.failure(error, role, hint, extra_seconds) from error

    def failure(
        self, error: grpc.RpcError, role: str, hint: str = "", extra_seconds: float = 0.0
    ) -> Failure:
        """What a failed call means for people."""
        remote = status.decode(error)
        if remote.code is grpc.StatusCode.UNIMPLEMENTED:
            hint = f"the {role} service does not have it in this release"
        elif remote.code not in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.ALREADY_EXISTS,
        ):
            hint = ""
        address = self.context.address(role)
        limit = self.timeout_seconds + extra_seconds
        return from_remote(remote, role, address, limit, hint or _HINTS.get(remote.code, ""))

    def channel(self, role: str) -> grpc.Channel:
        """The channel to a service."""
        if role not in self._channels:
            address = self.context.address(role)
            self._channels[role] = client.open_blocking_channel(address, self.certificates())
        return self._channels[role]

    def certificates(self) -> CertificateStore | None:
        """The TLS files of the context, loaded; None for plaintext."""
        files = self.context.tls()
        if files is not None and self._certificates is None:
            try:
                self._certificates = CertificateStore(files)
            except FailedPrecondition as error:
                raise Failure(
                    error.problem,
                    EXIT_FAILED,
                    "FAILED_PRECONDITION",
                    error.reason,
                    "tls_cert",
                    "check the files: slackwater context show",
                ) from error
        return self._certificates
