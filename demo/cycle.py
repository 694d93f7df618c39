"""The cycle itself: seven points, each checked, driven through the command line."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from demo.commands import Answer, CommandLine, pick, seconds
from demo.comparison import Comparison
from demo.ground import DATA, WAL, Ground, connect
from demo.screen import MIB, Screen, mebibytes, milliseconds
from demo.sites import Sites

APPLICATION = "backup"
SNAPSHOT = "at-the-message"
WANTED_BYTES = 32 * MIB
WAIT_SECONDS = 40.0


class CheckFailed(Exception):
    """Something that had to be so is not."""


@dataclass
class Results:
    """What goes into the last table."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: str) -> None:
        """Add a row."""
        self.rows.append((name, value))


class Cycle:
    """One run, from three fresh services to the last check."""

    def __init__(
        self, sites: Sites, ground: Ground, screen: Screen, stack: contextlib.ExitStack
    ) -> None:
        """Plan the run; what it opens goes with `stack`."""
        self._sites = sites
        self._ground = ground
        self._screen = screen
        self._stack = stack
        self.results = Results()

    def run(self) -> Results:
        """Do all seven points; the problems are in what it returns."""
        self._start()
        self._create()
        self._fill()
        self._send_and_freeze()
        self._snapshot_and_go_on()
        self._check_copies()
        return self.results

    def _start(self) -> None:
        self._screen.step("Three services, each a process of its own, ready by gRPC health")
        self._sites.start()
        for service in self._sites.services:
            self._screen.command(["python", "-m", f"services.{service.role}"])
            where = service.endpoints
            nbd = f", NBD {where.nbd}" if where.nbd else ""
            self._screen.good(
                f"{service.role}: process {service.pid}, gRPC {where.grpc}{nbd}, "
                f"health {where.health} says {service.health('readiness')}"
            )
        self._cli = CommandLine(self._sites, self._screen)

    def _create(self) -> None:
        self._screen.step("A group with two volumes, and a link; the Secondary makes its replica")
        endpoint = self._sites.secondary.endpoints.grpc
        self._cli("group", "create", "demo")
        self._cli("volume", "create", "demo/data", "--size", "256MiB")
        self._cli("volume", "create", "demo/wal", "--size", "64MiB")
        self._cli("link", "create", "demo/site-b", "--endpoint", endpoint)
        self._wait("the link streams and the replica has both volumes", self._is_streaming)
        self._cli("ibc", "register", "demo", APPLICATION)
        self._screen.good("the link is STREAMING, the replica CONSISTENT with both volumes")

    def _fill(self) -> None:
        self._screen.step(
            "A real file system through NBD; files copied in while a second writer appends to both"
        )
        self._screen.good(self._ground.fill())

    def _send_and_freeze(self) -> None:
        self._screen.step("Synced, frozen, a fenced message sent, thawed; writing goes on")
        waiting = self._cli.start(
            "ibc", "receive", "demo", APPLICATION, "--wait", "60s", "--holder", "demo"
        )
        self._stack.callback(waiting.cancel)
        sent: list[Answer] = []
        self._window = self._ground.stand_still(
            lambda: sent.append(
                self._cli("ibc", "send", "demo", APPLICATION, "--fence", "--text", "go")
            )
        )
        message = pick(sent[0], "message") or sent[0]
        self._message = str(pick(message, "name"))
        fence = seconds(pick(sent[0], "fence_held") or pick(message, "fence_held"))
        position = pick(message, "position") or {}
        self.results.add("position", f"{pick(position, 'epoch')}/{pick(position, 'lsn')}")
        self.results.add("fence", milliseconds(fence))
        self.results.add("quiesce window", milliseconds(self._window.quiesce_seconds))
        self._screen.good(
            f"{self._message} at {self.results.rows[0][1]}, fence {milliseconds(fence)}, file "
            f"system frozen {milliseconds(self._window.quiesce_seconds)}"
        )
        delivered = waiting.answer()
        got = str(pick(delivered, "message", "name") or pick(delivered, "name"))
        self._require(got == self._message, f"the receiver got {got} in place of {self._message}")
        self._screen.good("a receiver on the Secondary has it: applying is frozen there")
        self._wait("32 MiB more were written and received", self._has_backlog)
        written, held = self._ground.bytes_written_after(), self._backlog()
        self._screen.good(
            f"meanwhile the copier alone wrote {mebibytes(written)} more, and the Secondary's log "
            f"holds {mebibytes(held)} past the message, not applied"
        )

    def _snapshot_and_go_on(self) -> None:
        self._screen.step("An instant snapshot of both volumes at the message; then unfreeze")
        made = self._cli("snapshot", "create", "demo", SNAPSHOT, "--wait")
        spent = seconds(pick(made, "snapshot_duration") or pick(made, "create_duration"))
        frozen_at = str(pick(made, "message"))
        self._require(
            frozen_at == self._message, f"the snapshot is at {frozen_at}, not at {self._message}"
        )
        self._screen.good(f"{SNAPSHOT}, taken at the message in {milliseconds(spent)}")
        held = self._backlog()
        thawed = self._cli("ibc", "unfreeze", self._message)
        frozen = seconds(pick(thawed, "frozen_for"))
        received = int(pick(thawed, "backlog_bytes") or held)
        self._require(received >= WANTED_BYTES, f"only {mebibytes(received)} received while frozen")
        self._screen.good(
            f"frozen for {milliseconds(frozen)}; {mebibytes(received)} received meanwhile"
        )
        self.results.add("freeze", milliseconds(frozen))
        self.results.add("snapshot", milliseconds(spent))
        self.results.add("received while frozen", mebibytes(received))
        # Seen one after the other: the writers go on, so neither stays 0 for long.
        self._wait("all received after the thaw", lambda: self._lag() == 0)
        self._wait("all applied after the thaw", lambda: self._unapplied() == 0)
        self._screen.good("the replica has caught up: lag 0, while both writers still write")

    def _check_copies(self) -> None:
        self._screen.step("The snapshot, opened read-only over NBD: exactly the message, or not?")
        self._cli("snapshot", "export", "demo", SNAPSHOT)
        self._ground.check()
        prefix = f"groups/demo/snapshots/{SNAPSHOT}/volumes"
        found, fsck = self._inspect(f"{prefix}/data", f"{prefix}/wal", "snapshot-copy")
        self._report(found.summary(), good=found.equal)
        self._screen.good(
            f"e2fsck -fn: {fsck}; {found.files} files and {found.blocks} blocks of wal, "
            f"{mebibytes(found.bytes)}, compared byte by byte"
        )
        self._require(fsck == "clean", f"e2fsck of the snapshot: {fsck}")
        self._screen.fact("The same comparison against the live replica, which has to fail:")
        self._ground.check()
        self._ground.finish()
        self._wait("lag 0 at the end", self._has_no_lag)
        lag = self._lag() + self._unapplied()
        live, _ = self._inspect(DATA, WAL, "live-copy")
        if live.equal:
            self.results.problems.append(
                "the live replica passed the comparison: it proves nothing"
            )
        else:
            self._screen.good(
                f"it fails in {len(live.differences)} places, as it must: {live.summary(2)}"
            )
        self.results.add("lag at the end", f"{lag} bytes")
        self.results.add("files compared", str(found.files))
        self.results.add("fsck", fsck)

    def _inspect(self, data: str, wal: str, name: str) -> tuple[Comparison, str]:
        endpoints = self._sites.secondary.endpoints
        with contextlib.closing(connect(endpoints, wal)) as disk:
            return self._ground.inspect(endpoints.nbd_uri(data), disk, self._window.mark, name)

    def _report(self, summary: str, *, good: bool) -> None:
        if good:
            self._screen.good("nothing is missing, nothing is newer, no byte differs")
        else:
            self.results.problems.append(f"the snapshot is not the message: {summary}")

    def _require(self, condition: bool, problem: str) -> None:
        if not condition:
            raise CheckFailed(problem)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise CheckFailed(f"{what}: not within {WAIT_SECONDS:.0f} s")
            time.sleep(0.05)

    def _link(self) -> Answer:
        answer = self._cli.quietly("link", "get", "demo/site-b")
        return pick(answer, "link") or answer

    def _replica(self) -> Answer:
        answer = self._cli.quietly("replica", "get", "demo")
        return pick(answer, "replica") or answer

    def _is_streaming(self) -> bool:
        if not str(pick(self._link(), "state")).endswith("STREAMING"):
            return False
        replica = self._replica()
        return len(pick(replica, "volumes") or []) == 2 and self._has_no_lag()

    def _backlog(self) -> int:
        return int(pick(self._replica(), "freeze", "backlog_bytes") or 0)

    def _has_backlog(self) -> bool:
        self._ground.check()
        return self._ground.bytes_written_after() >= WANTED_BYTES and (
            self._backlog() >= WANTED_BYTES
        )

    def _lag(self) -> int:
        return int(pick(self._link(), "lag_bytes") or 0)

    def _unapplied(self) -> int:
        return int(pick(self._replica(), "backlog_bytes") or 0)

    def _has_no_lag(self) -> bool:
        return self._lag() == 0 and self._unapplied() == 0
