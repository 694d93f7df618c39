"""The sender process: `python -m services.primary.sender --control FD --marks FD --wake FD`."""

import argparse
import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from services.primary.sender import control
from services.primary.sender.link_task import LinkTask
from slackwater.link.actions import LinkState
from slackwater.log.marks import SharedMarks
from slackwater.runtime.client import open_channel
from slackwater.runtime.tls import CertificateStore, TlsFiles
from slackwater.storage.real import RealStorage


class Sender:
    """Carries the links that the main process names, until the control channel closes (D15)."""

    def __init__(self, end: socket.socket, marks: SharedMarks, wake: int) -> None:
        """Use the control channel, the page of marks, and the eventfd that wakes us."""
        self._end = end
        self._marks = marks
        self._wake = wake
        self._storage = RealStorage()
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._links: dict[str, tuple[LinkTask, asyncio.Task[None]]] = {}
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._asks = 0
        self._certificates: CertificateStore | None = None

    async def run(self) -> None:
        """Serve the control channel."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._wake, self._woken)
        self._end.setblocking(False)
        sending = loop.create_task(self._send())
        while data := await loop.sock_recv(self._end, control.MAX_BYTES):
            self._handle(control.decode(data))
        sending.cancel()
        os._exit(0)  # the main process is gone or wants us gone; there is nothing to save

    async def _send(self) -> None:
        """Send what is queued; no link waits for a main process that is busy."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # it is gone: the receiving half ends us
            while True:
                await loop.sock_sendall(self._end, await self._outbox.get())

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        for link, _ in self._links.values():
            link.wake()

    def _handle(self, message: control.Message) -> None:
        if "answer" in message:
            future = self._asked.get(message["answer"])
            if future is not None and not future.done():
                future.set_result(message)
            return
        operation = message["do"]
        if operation == "tls":
            files = {name: Path(path) for name, path in message["files"].items()}
            self._certificates = CertificateStore(TlsFiles(**files))
            return
        if operation == "link":
            self._start(message)
            return
        if operation == "stop":
            self._stop(message["key"])
            return
        known = self._links.get(message["key"])
        if known is None:
            return
        link, _ = known
        if operation == "volumes":
            link.set_volumes(message["volumes"])
        elif operation == "overflow":
            link.post(lambda: self._overflow(link, message))
        elif operation == "verdict_stored":
            link.post(lambda: link.core.verdict_stored(message["sequence"]))
        else:
            self._operate(link, message)

    def _operate(self, link: LinkTask, message: control.Message) -> None:
        """What an operator asked for."""
        operation = message["do"]
        if operation == "endpoint":
            link.post(lambda: link.move(message["endpoint"]))
        elif operation == "pause":
            link.post(link.core.pause)
        elif operation == "retry":
            link.post(link.core.retry)
        elif operation == "discard":
            link.post(link.core.allow_discard)
        else:
            raise AssertionError(f"unknown operation {operation}")

    def _overflow(self, link: LinkTask, message: control.Message) -> None:
        link.generation = message["generation"]
        if link.core.state is not LinkState.DETACHED:
            link.core.overflow(message["reason"])

    def _stop(self, key: str) -> None:
        """Let go of a link; nothing of it is touched any more when that is said."""
        known = self._links.pop(key, None)
        if known is None:
            self._say_stopped(key)
            return
        _, task = known
        task.add_done_callback(lambda _: self._say_stopped(key))
        task.cancel()

    def _say_stopped(self, key: str) -> None:
        self._tell({"event": "stopped", "key": key})

    def _start(self, message: control.Message) -> None:
        key = message["key"]

        async def ask(what: str, arguments: dict[str, Any]) -> dict[str, Any]:
            return await self._ask(key, what, arguments)

        link = LinkTask(
            message,
            self._storage,
            self._marks.group(message["group_slot"]),
            self._marks.link(message["link_slot"]),
            ask,
            self._tell,
            lambda endpoint: open_channel(endpoint, self._certificates),
        )
        task = asyncio.get_running_loop().create_task(link.run(), name=f"link {key}")
        task.add_done_callback(self._link_ended)
        self._links[key] = (link, task)

    def _link_ended(self, task: "asyncio.Task[None]") -> None:
        """A link's task ends by `_stop` only; anything else is a defect, and ends the process."""
        if not task.cancelled() and task.exception() is not None:
            task.print_stack()
            os._exit(70)

    def _tell(self, message: control.Message) -> None:
        self._outbox.put_nowait(control.encode(message))

    async def _ask(self, key: str, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._asks += 1
        number = self._asks
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._tell({"ask": number, "key": key, "what": what, **arguments})
        try:
            return await future
        finally:
            self._asked.pop(number, None)


def main() -> None:
    """Run until the control channel closes."""
    parser = argparse.ArgumentParser(description="Carries links; started by the primary service.")
    for name in ("control", "marks", "wake"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    end = socket.socket(fileno=arguments.control)
    marks = SharedMarks.attach(arguments.marks)
    uvloop.run(Sender(end, marks, arguments.wake).run())


if __name__ == "__main__":
    main()
