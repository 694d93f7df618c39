"""The steps that a run shows, and calls that are made until somebody answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc

from services.snapshot.peers import GONE, Peer, sentence
from slackwater.errors import SlackwaterError
from slackwater.v1 import snapshot_pb2

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.2, 5.0


class Steps:
    """The list of steps of one run."""

    def __init__(self, run: snapshot_pb2.Run, save: Callable[[], None]) -> None:
        """Add to the list of `run`; `save` makes it durable and shows it."""
        self._run = run
        self._save = save

    @asynccontextmanager
    async def step(
        self, name: str, peer: Peer | None = None, link: str = ""
    ) -> AsyncIterator[snapshot_pb2.RunStep]:
        """A step, with its times and its error; done by `peer`, or by this service."""
        where = "manager" if peer is None else peer.role
        step = self._run.steps.add(step=name, link=link, where=where)
        step.start_time.GetCurrentTime()
        self._save()
        try:
            yield step
        except (grpc.aio.AioRpcError, SlackwaterError) as error:
            step.error = describe(error, peer)
            raise
        except asyncio.CancelledError:
            step.error = "CANCELLED"
            raise
        finally:
            step.end_time.GetCurrentTime()
            self._save()

    def note(self, step: snapshot_pb2.RunStep, problem: str) -> None:
        """Show a problem that is being waited out."""
        if step.error != problem:
            step.error = problem
            self._save()

    async def insist(
        self, step: snapshot_pb2.RunStep, peer: Peer, call: Callable[[], Awaitable[None]]
    ) -> None:
        """Make a call until the peer has answered; what it refuses is noted, not repeated."""
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                self.note(step, sentence(error, peer))
                if error.code() not in GONE:
                    return
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_RETRY_SECONDS)
                continue
            step.error = ""
            return


def describe(error: BaseException, peer: Peer | None) -> str:
    """Say what an error means, for people, beginning with its reason."""
    if isinstance(error, grpc.aio.AioRpcError):
        assert peer is not None, "a step that calls somebody names them"
        return sentence(error, peer)
    return f"{getattr(error, 'reason', 'FAILED')}: {error}"
