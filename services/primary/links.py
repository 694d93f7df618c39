"""A link, as the primary service's main process keeps it: its rows, and what the log owes it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from services.primary import places
from services.primary.reports import LinkStatus, verdict_row
from services.primary.sender import control
from services.primary.senders import SenderProcess
from slackwater.errors import NoSpace, NotFound
from slackwater.group.holds import FULL
from slackwater.group.opening import OpenGroup
from slackwater.group.rows import LinkRow
from slackwater.link.actions import LinkState
from slackwater.link.settings import STANDING_STILL
from slackwater.log.marks import GroupMarks, LinkMarks
from slackwater.position import LogPoint
from slackwater.v1 import replication_pb2

ACKED_STORE_SECONDS = 1.0
"""The acked position in group.db may be this old: it is a floor, and only grows (D16)."""

_STANDING_STILL = frozenset(state.value for state in STANDING_STILL)


class PrimaryLink:
    """One link of an open group."""

    def __init__(
        self,
        group: OpenGroup,
        row: LinkRow,
        group_marks: GroupMarks,
        marks: LinkMarks,
        sender: SenderProcess,
        window_bytes: int,
        event: Callable[[str, str, str], None],
    ) -> None:
        """Keep a link whose row is in group.db.

        Args:
            group: the open group.
            row: the link's row.
            group_marks: the group's slot in the shared page.
            marks: the link's slot.
            sender: the process that carries it.
            window_bytes: bytes of log in flight, at most.
            event: told (link, kind, text) of what operators want to know.
        """
        self.name = row.name
        # Unlike the name, no later link has the same: what is still on its way finds nobody.
        self.key = f"{group.identity.name}/{row.name}/{row.uid}"
        self.endpoint = row.endpoint
        self.paused = row.paused
        self.status = LinkStatus(row.state, row.reason)
        self.marks = marks
        self.sender = sender
        self._group = group
        self._group_marks = group_marks
        self._window_bytes = window_bytes
        self._event = event
        self._lock = threading.Lock()
        self._dirty = row.dirty
        self._generation = 0
        # Without an acked position nothing is known of the Secondary: all that is held may be
        # needed.
        self._hold = row.acked.offset if row.acked is not None else group.writer.log.oldest
        self.acked = row.acked
        self._acked_stored = row.acked
        self._acked_at = 0.0
        self._sync_lsn = int(row.settings.get("sync_lsn", 0))
        self._jumped: Callable[[str, int], None] = lambda _link, _lsn: None
        self.admin: AbstractContextManager[object] = nullcontext()
        """Held while the group's volumes change; the group puts its lock here."""
        self._is_over = False
        self._verdicts: Callable[[str], None] = lambda _message_id: None
        marks.acked_offset = self._hold
        marks.acked_lsn = row.acked.position.lsn if row.acked is not None else 0

    def on_verdict(self, told: Callable[[str], None]) -> None:
        """Have `told` called with the message's id after each verdict."""
        self._verdicts = told

    def on_jump(self, told: Callable[[str, int], None]) -> None:
        """Have `told` called with the lsn up to which a finished sync stood in for the records."""
        self._jumped = told

    # -- what the log owes the link -----------------------------------------------------------

    @property
    def floor(self) -> int | None:
        """The log is kept from here for the link; None: it is not (DIRTY)."""
        with self._lock:
            if self._dirty:
                return None
            return max(self._hold, self.marks.acked_offset)

    def lag_seconds(self) -> float:
        """Age of the oldest record that the Secondary does not hold; 0 if it holds all.

        A sender that hangs, or is away, lets it grow.
        """
        if self.marks.acked_lsn >= self._group.writer.log.durable.position.lsn:
            return 0.0
        heard = max(self.status.heard_at, self.marks.last_ack_time_ns / 1e9)
        return self.status.lag_seconds + max(time.time() - heard, 0.0)

    @property
    def is_dirty(self) -> bool:
        """Tell whether the log has let go of the link."""
        return self._dirty

    def let_go(self, reason: str) -> None:
        """Make the link DIRTY, durably, so that the log may be trimmed past it (D26).

        Raises:
            NoSpace: group.db is full; nothing was let go.
            GroupFailed: group.db failed (D3).
        """
        with self._lock:
            if self._dirty:
                return
            row = self._row()
            self._store_row(
                row,
                state=row.state if row.state in _STANDING_STILL else LinkState.DIRTY.value,
                reason=reason,
                dirty=True,
            )
            self._dirty = True
            self._generation += 1
            generation = self._generation
        self.sender.tell(
            {"do": "overflow", "key": self.key, "reason": reason, "generation": generation}
        )
        self._event(self.name, "LINK_DIRTY", reason)

    def _row(self) -> LinkRow:
        if self._is_over:
            raise NotFound("link", self.name, "It was deleted")
        return self._group.writer.database.link(self.name)

    def _store_row(
        self, row: LinkRow, *, state: str, reason: str, dirty: bool, discard: bool = False
    ) -> None:
        """Note a transition that is made on this side, under the lock."""
        with self._durably():
            self._group.writer.database.store_link(
                self.name,
                state=state,
                reason=reason,
                dirty=dirty,
                sync_id=row.sync_id,
                discard=discard or row.discard,
                forget_acked=False,
            )

    @contextmanager
    def _durably(self) -> Iterator[None]:
        """Write to group.db in the body: full is said, anything worse fails the group (D3)."""
        try:
            yield
        except OSError as error:
            name = self._group.identity.name
            if error.errno in FULL:
                raise NoSpace(
                    f"group.db of group {name!r}", "Free space; it goes on by itself"
                ) from error
            raise self._group.writer.committer.fail(str(error)) from error

    # -- what the sender needs ----------------------------------------------------------------

    def specification(self) -> control.Message:
        """Return what the sender must know to carry the link."""
        with self._lock:
            row, generation = self._row(), self._generation
        state, reason = row.state, row.reason
        if self.paused:
            state, reason = LinkState.PAUSED.value, "paused by the operator"
        elif state == LinkState.PAUSED.value:
            state, reason = LinkState.CONNECTING.value, ""
        settings = self._group.settings
        identity = self._group.identity
        return {
            "key": self.key,
            "generation": generation,
            "endpoint": self.endpoint,
            "group_slot": self._group_marks.index,
            "link_slot": self.marks.index,
            "window_bytes": self._window_bytes,
            "identity": {
                "uid": identity.uid.bytes.hex(),
                "group": identity.name,
                "link": self.name,
                "epoch": identity.epoch,
                "log_bytes": settings.log.log_bytes,
            },
            "row": {
                "state": state,
                "reason": reason,
                "dirty": row.dirty,
                "sync_id": row.sync_id,
                "acked": None if row.acked is None else control.position_json(row.acked.position),
                "discard": row.discard,
            },
            "log": {"directory": str(self._group.directory.log), **settings.as_json()},
            "volumes": self.volumes(),
        }

    def volumes(self) -> list[dict[str, Any]]:
        """Return the group's active volumes as the sender knows them."""
        return [
            {
                "id": row.id,
                "name": row.name,
                "size": row.size,
                "path": str(self._group.directory.volume(row.path)),
                "lsn": row.lsn,
            }
            for row in self._group.writer.database.volumes()
            if row.state == "ACTIVE"
        ]

    def volumes_changed(self) -> None:
        """Tell the sender the volumes as they are now."""
        self.sender.tell({"do": "volumes", "key": self.key, "volumes": self.volumes()})

    def handle(self, message: control.Message) -> control.Message | None:
        """Take an event of the sender, or answer its question; see `senders.CarriedLink`."""
        if "ask" in message:
            return self._answer(message)
        if message["event"] == "status":
            self._note_status(message)
            return None
        return self._take_verdict(message)

    def _answer(self, message: control.Message) -> control.Message:
        writer = self._group.writer
        what = message["what"]
        if what == "durable":
            return {"point": control.point_json(writer.log.durable), "volumes": self.volumes()}
        if what == "find":
            return places.find(writer, control.json_position(message["position"]))
        if what == "sync_point":
            return self._sync_point()
        return self._store(message)

    def _sync_point(self) -> control.Message:
        """Name the place where a sync's stream begins, and the volumes there are at that place."""
        writer = self._group.writer
        with self.admin:
            # A volume whose record lies before the point must be among the volumes, or gone.
            writer.settle_rows()
            with self._lock:
                point = writer.committer.in_volumes
                # Held from now on, before the sender is told, so that it is not trimmed meanwhile.
                self._hold = point.offset
                self.marks.acked_offset = point.offset
                self._dirty = False
            # At once, not with the sender's next news: from now on every volume is needed.
            self.status = replace(self.status, state=LinkState.SYNCING.value)
            start = control.start_json(writer.database.newest_start(point.position.lsn))
            return {"point": control.point_json(point), "volumes": self.volumes(), "start": start}

    def _store(self, message: control.Message) -> control.Message:
        with self._lock:
            # The log may have let go of the link while this was on its way: that stands.
            stale = message["generation"] < self._generation
            dirty = message["dirty"] or (stale and self._dirty)
            self._row()  # not of a link that was deleted meanwhile
            with self._durably():
                self._group.writer.database.store_link(
                    self.name,
                    state=message["state"],
                    reason=message["reason"],
                    dirty=dirty,
                    sync_id=message["sync_id"],
                    discard=message["discard"],
                    forget_acked=message["forget_acked"],
                )
            self._dirty = dirty
            if message["forget_acked"]:
                self.acked = self._acked_stored = None
            if message["sync_point"] is not None:
                point = control.json_point(message["sync_point"])
                self._hold = point.offset
                self._note_sync(point.position.lsn)
            jumped = self._sync_lsn
            is_synced = bool(jumped) and not (dirty or message["sync_id"])
            if is_synced:
                self._note_sync(0)
        if is_synced:
            # The Secondary never sees the records that the sync stood in for (C18).
            self._jumped(self.name, jumped)
        if message["state"] != self.status.state:
            self._event(self.name, "LINK_STATE_CHANGED", f"{message['state']} {message['reason']}")
        return {}

    def _note_sync(self, lsn: int) -> None:
        """Remember durably where the running sync's stream begins; 0: none runs."""
        self._sync_lsn = lsn
        row = self._row()
        self._set_settings(row, settings={**row.settings, "sync_lsn": lsn})

    def _set_settings(
        self,
        row: LinkRow,
        *,
        endpoint: str | None = None,
        paused: bool | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        with self._durably():
            self._group.writer.database.set_link_settings(
                self.name,
                endpoint=row.endpoint if endpoint is None else endpoint,
                paused=row.paused if paused is None else paused,
                settings=row.settings if settings is None else settings,
            )

    def _note_status(self, message: control.Message) -> None:
        before, self.status = self.status.state, LinkStatus.of(message)
        if self.status.state != before:
            self._event(
                self.name, "LINK_STATE_CHANGED", f"{self.status.state} {self.status.reason}"
            )
        if message["acked"] is not None and not self._dirty:
            position = control.json_position(message["acked"])
            self.acked = LogPoint(message["acked_offset"], position)

    def store_acked(self) -> None:
        """Make what was acked durable now and then; called by the group's maintenance."""
        now = time.monotonic()
        with self._lock:
            acked = self.acked
            is_due = now - self._acked_at >= ACKED_STORE_SECONDS
            if self._dirty or acked is None or acked == self._acked_stored or not is_due:
                return
            self._acked_at = now  # also if it fails: group.db may be full for long
            with self._durably():
                self._group.writer.database.set_link_acked(self.name, acked)
            self._acked_stored = acked

    def _take_verdict(self, message: control.Message) -> control.Message:
        report = replication_pb2.VerdictReport.FromString(bytes.fromhex(message["report"]))
        verdict = verdict_row(self.name, report)
        with self._lock:
            self._row()  # what was pending on a link that was deleted has its last verdict
            with self._durably():
                self._group.writer.database.add_verdict(verdict)
        self._verdicts(verdict.message_id)
        return {"do": "verdict_stored", "key": self.key, "sequence": report.sequence}

    # -- the operator -------------------------------------------------------------------------

    def operate(self, operation: str, **arguments: Any) -> None:
        """Pass an operator's wish on: pause, retry, discard or endpoint."""
        self.sender.tell({"do": operation, "key": self.key, **arguments})

    def update(
        self, *, endpoint: str | None, paused: bool | None, retry: bool, discard: bool
    ) -> None:
        """Do what an operator asks: durably first, so that a sender being restarted learns it."""
        with self._lock:
            row = self._row()
            resumed = paused is False and self.paused
            self._set_settings(row, endpoint=endpoint, paused=paused)
            leaves = retry or discard or resumed
            if leaves and row.state in _STANDING_STILL and row.state != LinkState.DETACHED.value:
                state = LinkState.DIRTY if row.dirty else LinkState.CONNECTING
                self._store_row(row, state=state.value, reason="", dirty=row.dirty, discard=discard)
            self.endpoint = row.endpoint if endpoint is None else endpoint
            self.paused = row.paused if paused is None else paused
        if endpoint is not None:
            self.operate("endpoint", endpoint=endpoint)
        if paused:
            self.operate("pause")
        elif discard:
            self.operate("discard")
        elif retry or resumed:
            self.operate("retry")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Let the body remove the link's row; nothing its sender still says comes after it."""
        with self._lock:
            self._is_over = True
        try:
            yield
        except BaseException:
            self._is_over = False
            raise
