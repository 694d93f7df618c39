"""What becomes of the run's message, as its Primary learns it."""

import asyncio
import time

import grpc

from services.snapshot import steps
from services.snapshot.peers import Peers
from slackwater.v1 import common_pb2, primary_pb2, record_pb2, resources_pb2

CALL_SECONDS = 15.0
Verdict = resources_pb2.Verdict


class Verdicts:
    """The newest state of one message, kept up by a watch that is opened again when it breaks."""

    def __init__(self, peers: Peers, message: resources_pb2.Message) -> None:
        """Begin with the message as it was sent."""
        self._peers = peers
        self.message = message
        self._changed = asyncio.Event()

    def of(self, link: str) -> Verdict:
        """Return the verdict of a link, as last learned."""
        for row in self.message.verdicts:
            if row.link == link:
                return row
        return Verdict(link=link)

    @property
    def judgement(self) -> record_pb2.Outcome | None:
        """What the quiesce was worth, once known."""
        return self.message.judgement if self.message.HasField("judgement") else None

    @property
    def is_complete(self) -> bool:
        """True if nothing more will become of it."""
        return self.message.final and (not self.message.quiesced or self.judgement is not None)

    async def follow(self) -> None:
        """Keep up until nothing more will come; run it beside whoever waits."""
        while not self.is_complete:
            request = primary_pb2.WatchMessageRequest(name=self.message.name)
            try:
                async for answer in self._peers.primary_api.WatchMessage(request):
                    self._take(answer.message)
                if not self.is_complete:
                    wanted = primary_pb2.GetMessageRequest(name=self.message.name)
                    api = self._peers.primary_api
                    self._take((await api.GetMessage(wanted, timeout=CALL_SECONDS)).message)
            except grpc.aio.AioRpcError:
                pass  # the Primary is away; those who wait have their own deadlines
            if not self.is_complete:
                await asyncio.sleep(steps.FIRST_RETRY_SECONDS)

    async def final(self, link: str, seconds: float) -> Verdict | None:
        """Wait until the verdict of a link is final; None if that takes too long."""
        deadline = time.monotonic() + seconds
        while not (found := self.of(link)).final:
            if not await self._change(deadline):
                return None
        return found

    async def judged(self, seconds: float) -> record_pb2.Outcome | None:
        """Wait until it is known what the quiesce was worth; None if that takes too long."""
        deadline = time.monotonic() + seconds
        while self.judgement is None:
            if not await self._change(deadline):
                return None
        return self.judgement

    async def _change(self, deadline: float) -> bool:
        changed = self._changed
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def _take(self, message: resources_pb2.Message) -> None:
        self.message = message
        self._changed.set()
        self._changed = asyncio.Event()


def word(state: common_pb2.VerdictState.ValueType) -> str:
    """Return a verdict's state as one word."""
    return common_pb2.VerdictState.Name(state).removeprefix("VERDICT_STATE_")
