"""The restores of one group: at most one under way, carried on over restarts.

The volumes of a restore that is under way are closed to everybody else from before the first look
at them, and from the start on after a restart. What goes wrong on the way is shown and tried again,
until it is done or an operator ends it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from services.primary.restores.planning import Plan, choose_link, plan
from services.primary.restores.source import SnapshotSource
from slackwater.errors import FailedPrecondition, GroupFailed, NotFound, SlackwaterError
from slackwater.group.restoring import (
    ABANDONED,
    ACTIVE,
    CANCELLED,
    DONE,
    WAITING,
    Restoring,
    Stopped,
)
from slackwater.group.rows import RestoreRow
from slackwater.group.volume import Volume
from slackwater.runtime.events import EventHub
from slackwater.runtime.tls import CertificateStore

if TYPE_CHECKING:
    from services.primary.group import PrimaryGroup

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
END_SECONDS = 60.0
LET_GO_SECONDS = 5.0


class RestoreDesk:
    """Plans, begins, carries on and ends restores; `begin` and `cancel` under the group's admin."""

    def __init__(
        self,
        group: "PrimaryGroup",
        certificates: CertificateStore | None,
        events: EventHub,
        log: structlog.BoundLogger,
    ) -> None:
        """Close what an unfinished restore keeps closed; `resume` goes on with it."""
        self._group = group
        self._certificates = certificates
        self._events = events
        self._log = log
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._source: SnapshotSource | None = None
        self._restoring: Restoring | None = None
        self.problem = ""
        """What the restore under way waits for, or what went wrong."""
        self.ended_total: dict[str, int] = dict.fromkeys((DONE, CANCELLED, ABANDONED), 0)
        rows = group.database.restores()
        self._last = rows[-1] if rows else None
        active = self.active
        if active is not None:
            group.uses.close(self._volumes(active.volumes), self._short(active))

    # -- looking ------------------------------------------------------------------------------

    @property
    def active(self) -> RestoreRow | None:
        """The restore that is under way, as it is now."""
        restoring, last = self._restoring, self._last
        if restoring is not None and last is not None and restoring.row.id == last.id:
            last = restoring.row if last.state in ACTIVE else last
        return last if last is not None and last.state in ACTIVE else None

    def sentence(self) -> str:
        """Say what is under way; empty if nothing."""
        row = self.active
        if row is None:
            return ""
        what = f"volumes {', '.join(row.volumes)} are being restored from {row.snapshot}"
        how_far = f"{row.state}, {row.done_bytes} of {row.total_bytes} bytes compared"
        return f"{what}: {self.problem or how_far}"

    def rows(self) -> list[RestoreRow]:
        """Return the restores that are kept, oldest first."""
        active = self.active
        return [
            active if active is not None and row.id == active.id else row
            for row in self._group.database.restores()
        ]

    def get(self, name: str) -> RestoreRow:
        """Return one by its id as text.

        Raises:
            NotFound: there is none.
        """
        for row in self.rows():
            if restore_id(row) == name:
                return row
        raise NotFound(
            "restore",
            f"{self._group.name}/{name}",
            f"List them with: slackwater restore list {self._group.name}",
        )

    def _short(self, row: RestoreRow) -> str:
        return f"{self._group.name}/{restore_id(row)}"

    def _volumes(self, names: Sequence[str]) -> list[Volume]:
        return [self._group.volumes.by_name(name) for name in names]

    # -- beginning ----------------------------------------------------------------------------

    def plan(self, snapshot: str, link: str, volumes: Sequence[str]) -> Plan:
        """Look at both sides; nothing changes. Raises as `planning.plan`."""
        self.check_none()
        name = choose_link(self._group, link)
        with self._opened(snapshot, "", name) as source:
            return plan(self._group, source, snapshot, name, volumes)

    def check_none(self) -> None:
        """Raise FailedPrecondition while a restore of the group is under way."""
        active = self.active
        if active is not None:
            raise FailedPrecondition(
                "RESTORING",
                f"restore {restore_id(active)} of group {self._group.name!r} is under way",
                f"Wait for it: slackwater restore get {self._short(active)}",
            )

    @contextmanager
    def _opened(self, snapshot: str, uid: str, link: str) -> Iterator[SnapshotSource]:
        source = SnapshotSource(
            snapshot,
            uid,
            self._group.link(link),
            self._certificates,
            self._stop.is_set,
            self._waits,
        )
        try:
            yield source
        finally:
            source.close()

    def begin(self, plan: Plan, check_unused: Callable[[str], None]) -> RestoreRow:
        """Close the volumes, make the restore durable, and begin.

        Args:
            plan: what was found out before.
            check_unused: raises if an NBD client uses the volume of a resource name.

        Raises:
            FailedPrecondition: another restore is under way, or somebody uses a volume.
        """
        self.check_none()
        volumes = self._volumes(plan.volumes)
        now = self._group.writer.clock.time_ns()
        row = RestoreRow(
            0,
            plan.snapshot,
            plan.link,
            plan.volumes,
            WAITING,
            now,
            snapshot_uid=plan.snapshot_uid,
            left=plan.left,
        )
        # Closed first: a client that comes now is refused, one that came before is seen.
        self._group.uses.close(volumes, f"{self._group.name}/{self._next_id()}")
        try:
            for volume in volumes:
                check_unused(f"groups/{self._group.name}/volumes/{volume.name}")
            row = replace(row, id=self._group.database.add_restore(row))
        except BaseException:
            self._group.uses.reopen(volumes)
            raise
        self._finish_thread()
        self._last = row
        self._tell(row)
        self.resume()
        return row

    def _next_id(self) -> str:
        return f"{(self._last.id if self._last is not None else 0) + 1:06d}"

    def check_link(self, name: str) -> None:
        """Raise FailedPrecondition if the restore that is under way reads along a link."""
        active = self.active
        if active is not None and active.link == name:
            self.check_none()

    # -- the thread ---------------------------------------------------------------------------

    def resume(self) -> None:
        """Carry on with what is not finished, in a thread."""
        self._stop.clear()
        if self._next_work() is not None:
            self._thread = threading.Thread(
                target=self._carry_on, name=f"restore-{self._group.name}", daemon=True
            )
            self._thread.start()

    def _next_work(self) -> RestoreRow | None:
        """Return the restore under way, else one whose snapshot is not let go of yet."""
        if self._last is not None and self._last.state in ACTIVE:
            return self._last
        return next((row for row in self._group.database.restores() if row.holding), None)

    def _carry_on(self) -> None:
        tries = 0
        while not self._stop.is_set():
            row = self._next_work()
            if row is None:
                return
            try:
                with self._opened(row.snapshot, row.snapshot_uid, row.link) as source:
                    self._source = source
                    self._attempt(row, source)
                tries = 0
                continue
            except Stopped:
                return
            except GroupFailed as failed:
                self.problem = str(failed)
                return
            except (SlackwaterError, OSError) as error:
                if self._stop.is_set():
                    return  # a call was ended for it
                self._trouble(row, str(error))
            finally:
                self._source = None
            self._stop.wait(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)])
            tries += 1

    def _attempt(self, row: RestoreRow, source: SnapshotSource) -> None:
        if row.state in ACTIVE:
            row = self.active or row
            self._restoring = Restoring(
                self._group.writer, row, source, self._stop.is_set, self._changed
            )
            self._restoring.run()
            self._end(self._restoring.row)
        else:
            source.release()
            self._store(replace(row, holding=False))

    def _changed(self, row: RestoreRow) -> None:
        self.problem = ""
        self._tell(row)

    def _waits(self, reason: str) -> None:
        self.problem = reason

    def _trouble(self, row: RestoreRow, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            name = self._short(row)
            self._log.warning("restore", group=self._group.name, restore=name, problem=problem)
            self._events.publish(self._resource(row), "RESTORE_PROBLEM", problem)

    def _end(self, row: RestoreRow) -> None:
        """Take note that a restore is over, and let its volumes be written to."""
        self._last = row
        self.problem = ""
        self.ended_total[row.state] += 1
        self._group.uses.reopen(self._volumes(row.volumes))

    def _store(self, row: RestoreRow) -> None:
        self._group.database.update_restore(row)
        if self._last is not None and self._last.id == row.id:
            self._last = row

    def _tell(self, row: RestoreRow) -> None:
        name, text = self._short(row), f"{row.state}: {', '.join(row.volumes)} from {row.snapshot}"
        self._log.info("restore", group=self._group.name, restore=name, state=row.state)
        self._events.publish(self._resource(row), f"RESTORE_{row.state}", text)

    def _resource(self, row: RestoreRow) -> str:
        return f"groups/{self._group.name}/restores/{restore_id(row)}"

    # -- ending -------------------------------------------------------------------------------

    def cancel_losses(self, row: RestoreRow, *, force: bool) -> list[str]:
        """Say in which state the volumes would be left.

        Raises:
            FailedPrecondition: it is over, or something was written and `force` is not set.
        """
        if row.state not in ACTIVE:
            raise FailedPrecondition(
                "RESTORE_OVER",
                f"restore {restore_id(row)} is {row.state}",
                "There is nothing to do",
            )
        if row.state == WAITING:
            return []
        if not force:
            raise FailedPrecondition(
                "RESTORE_UNDER_WAY",
                f"restore {restore_id(row)} has begun to write: it would leave a mixture",
                f"Let it come to its end, or: slackwater restore cancel {self._short(row)} --force",
            )
        return [
            f"volume {name!r} is left a mixture of what it was and of {row.snapshot}"
            for name in row.volumes
        ]

    def cancel(self, name: str, *, force: bool) -> tuple[RestoreRow, list[str]]:
        """End a restore that is under way; raises as `cancel_losses`."""
        self.cancel_losses(self.get(name), force=force)
        self.stop()
        row = self.get(name)  # it may have come further, or to its end, meanwhile
        try:
            losses = self.cancel_losses(row, force=force)
        except FailedPrecondition:
            self.resume()
            raise
        now = self._group.writer.clock.time_ns()
        state = CANCELLED if row.state == WAITING else ABANDONED
        row = replace(row, state=state, ended_ns=now)
        self._store(row)
        self._end(row)
        self._tell(row)
        self.resume()  # to let the snapshot go
        return row, losses

    def _finish_thread(self) -> None:
        """Let a thread that lets snapshots go come to its end, if it does so soon."""
        if self._thread is not None:
            self._thread.join(LET_GO_SECONDS)
        self.stop()

    def stop(self) -> None:
        """End the thread; what it did stays as it is."""
        self._stop.set()
        source, thread = self._source, self._thread
        if source is not None:
            source.interrupt()
        if thread is not None:
            thread.join(END_SECONDS)


def restore_id(row: RestoreRow) -> str:
    """The last part of its resource name; in the order of time."""
    return f"{row.id:06d}"
