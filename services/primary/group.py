"""One group in the primary service: the engine, its links, its maintenance thread."""

import threading
import uuid
from dataclasses import dataclass

import structlog

from services.primary.links import PrimaryLink
from services.primary.messages import PENDING, MessageDesk
from services.primary.quiesce import INTERRUPTED, QuiesceDesk
from services.primary.restores.desk import RestoreDesk
from services.primary.senders import SenderPool
from services.primary.uses import VolumeUses
from slackwater import names
from slackwater.errors import (
    AlreadyExists,
    FailedPrecondition,
    GroupFailed,
    NotFound,
    SlackwaterError,
)
from slackwater.group.changes import VolumeSet
from slackwater.group.history import History
from slackwater.group.opening import OpenGroup
from slackwater.group.rows import LinkRow
from slackwater.group.volume import Volume
from slackwater.link.actions import LinkState
from slackwater.log.marks import GroupMarks, LinkMarks, SharedMarks
from slackwater.runtime.events import EventHub
from slackwater.runtime.tls import CertificateStore
from slackwater.storage.seam import Storage

MAINTENANCE_SECONDS = 0.05
WRITEBACK_SECONDS = 0.01


@dataclass(frozen=True)
class Shared:
    """What all groups of the service use."""

    storage: Storage
    marks: SharedMarks
    senders: SenderPool
    events: EventHub
    window_bytes: int
    log: structlog.BoundLogger
    messages_kept: int
    messages_kept_seconds: float
    agent_grace_seconds: float
    certificates: CertificateStore | None


class PrimaryGroup:
    """An open group, its links and its volumes; administrative calls take `admin` one by one."""

    def __init__(self, group: OpenGroup, marks: GroupMarks, shared: Shared) -> None:
        """Take an open group and start its links."""
        self.open = group
        self.name = group.identity.name
        self.writer = group.writer
        self.database = group.writer.database
        self.admin = threading.Lock()
        self.volumes = VolumeSet(shared.storage, group.directory, group.writer)
        self.links: dict[str, PrimaryLink] = {}
        self.marks = marks
        self.uses = VolumeUses()
        self._users = 1
        self._users_lock = threading.Lock()
        self._shared = shared
        self._stop = threading.Event()
        self._failure_told = False
        self._problem_told = ""
        self.writer.links_floor = self._floor
        self.writer.log_pressure = self._let_go
        self.messages_kept = shared.messages_kept
        self.database.keep_messages(self.messages_kept, PENDING)
        self._history = History(self.database, self.writer.clock, shared.messages_kept_seconds)
        self.messages = MessageDesk(self, shared.events)
        self.quiesce = QuiesceDesk(self, shared.events, shared.log, shared.agent_grace_seconds)
        self.quiesce.rounds_total[INTERRUPTED] = group.revoked_messages
        self.restores = RestoreDesk(self, shared.certificates, shared.events, shared.log)
        for row in self.database.links():
            self._start_link(row, self._new_slot())
        self._thread = threading.Thread(
            target=self._maintain, name=f"maintain-{self.name}", daemon=True
        )
        self._thread.start()
        self.restores.resume()

    @property
    def failure(self) -> GroupFailed | None:
        """Why the group stopped, if it did."""
        return self.writer.failure

    @property
    def trouble(self) -> str:
        """What keeps the group from taking or keeping writes, as one sentence; empty if nothing."""
        stalled, shortage = self.writer.committer.stalled, self.writer.shortage
        if self.failure is not None:
            return str(self.failure)
        if stalled is not None:
            return (
                f"a volume takes no writes ({stalled.strerror}); free space, it goes on by itself"
            )
        return "" if shortage is None else f"{shortage}; writes go on by themselves"

    # -- log space ----------------------------------------------------------------------------

    def _floor(self) -> int | None:
        """The log is kept from here for the links; None: no link needs it."""
        floors = [floor for link in list(self.links.values()) if (floor := link.floor) is not None]
        return min(floors, default=None)

    def _let_go(self, checkpoint: int) -> None:
        """The log is full: the link that is furthest behind becomes DIRTY (D26)."""
        behind = [
            (floor, link)
            for link in list(self.links.values())
            if (floor := link.floor) is not None and floor < checkpoint
        ]
        if behind:
            _, link = min(behind, key=lambda one: one[0])
            link.let_go("the log is full and the Secondary is behind; a full sync follows")

    def _maintain(self) -> None:
        pause = WRITEBACK_SECONDS if self.writer.committer.writeback else MAINTENANCE_SECONDS
        while not self._stop.wait(pause):
            try:
                self.writer.maintain()
                for link in list(self.links.values()):
                    link.store_acked()
                self.messages.settle_outcomes()
                self._history.tick()
            except GroupFailed as failed:
                self._tell_failure(failed)
            except (SlackwaterError, OSError) as error:  # a full disk may not end this thread
                self._put_off(str(error))
            if self.failure is not None:
                self._tell_failure(self.failure)

    def _put_off(self, problem: str) -> None:
        if problem != self._problem_told:
            self._problem_told = problem
            self._shared.log.warning("maintenance put off", group=self.name, error=problem)

    def _tell_failure(self, failed: GroupFailed) -> None:
        if not self._failure_told:
            self._failure_told = True
            self._shared.log.error("group failed", group=self.name, error=str(failed))
            self._shared.events.publish(f"groups/{self.name}", "GROUP_FAILED", str(failed))

    # -- volumes ------------------------------------------------------------------------------

    def add_volume(self, name: str, size: int) -> Volume:
        """Add a volume and tell the senders; see `VolumeSet.add`."""
        volume = self.volumes.add(name, size)
        self._volumes_changed()
        return volume

    def remove_volume(self, name: str) -> None:
        """Remove a volume and tell the senders; see `VolumeSet.remove`.

        Raises:
            FailedPrecondition: a link is being synchronised, whose regions name the volume; or
                somebody writes to the volume.
        """
        for link in self.links.values():
            if link.status.state == LinkState.SYNCING.value:
                raise FailedPrecondition(
                    "LINK_SYNCING",
                    f"link {link.name!r} is being synchronised, which reads every volume",
                    f"Wait until it is done: slackwater link get {self.name}/{link.name}",
                )
        volume = self.volumes.by_name(name)
        with self.uses.removal(volume, lambda: self._is_kept(volume)):
            self.volumes.remove(name)
        self._volumes_changed()

    def _is_kept(self, volume: Volume) -> bool:
        """Tell whether a removal that failed left no record of it; if in doubt, it did."""
        try:
            self.writer.settle_rows()
        except SlackwaterError:
            return False
        return volume.id in self.writer.volumes

    def _volumes_changed(self) -> None:
        for link in self.links.values():
            link.volumes_changed()

    # -- links --------------------------------------------------------------------------------

    def link(self, name: str) -> PrimaryLink:
        """Return a link.

        Raises:
            NotFound: there is none of that name.
        """
        if name not in self.links:
            raise NotFound(
                "link",
                f"{self.name}/{name}",
                f"List the links with: slackwater link list {self.name}",
            )
        return self.links[name]

    def check_link(self, name: str, endpoint: str) -> None:
        """Refuse a link that cannot be made.

        Raises:
            InvalidRequest: the name is no name.
            AlreadyExists: the name is taken.
            FailedPrecondition: another link of the group leads to the endpoint.
        """
        names.check_label("link_id", name)
        if name in self.links:
            raise AlreadyExists("link", f"{self.name}/{name}")
        self.check_endpoint_free(name, endpoint)

    def check_endpoint_free(self, name: str, endpoint: str) -> None:
        """Raise FailedPrecondition if another link than `name` leads to the endpoint."""
        for other in self.links.values():
            if other.name != name and other.endpoint == endpoint:
                raise FailedPrecondition(
                    "ENDPOINT_TAKEN",
                    f"link {other.name!r} of group {self.name!r} leads to {endpoint} already",
                    "A Secondary has one replica of a group; give the endpoint of another one",
                )

    def add_link(self, name: str, endpoint: str, now_ns: int) -> PrimaryLink:
        """Attach a Secondary; replication starts by itself."""
        self.check_link(name, endpoint)
        row = LinkRow(
            name=name,
            uid=uuid.uuid4(),
            endpoint=endpoint,
            state=LinkState.CONNECTING.value,
            reason="",
            paused=False,
            acked=None,
            sync_id="",
            created_ns=now_ns,
        )
        marks = self._new_slot()
        try:
            self.database.add_link(row)
        except BaseException:
            self._shared.marks.release(marks)
            raise
        return self._start_link(row, marks)

    def _new_slot(self) -> LinkMarks:
        marks = self._shared.marks.new_link()
        if marks is None:
            raise FailedPrecondition(
                "TOO_MANY_LINKS",
                "this service carries as many links as it can",
                "Delete a link that is not needed",
            )
        return marks

    def _start_link(self, row: LinkRow, marks: LinkMarks) -> PrimaryLink:
        link = PrimaryLink(
            self.open,
            row,
            self.marks,
            marks,
            self._shared.senders.choose(),
            self._shared.window_bytes,
            self._link_event,
        )
        link.admin = self.admin
        link.on_verdict(self.messages.verdict_came)
        link.on_jump(self.messages.sync_jumped)
        self.links[row.name] = link
        with self._users_lock:
            self._users += 1
        link.sender.carry(link)
        return link

    def _link_event(self, link: str, kind: str, text: str) -> None:
        self._shared.log.info("link", group=self.name, link=link, kind=kind, text=text)
        self._shared.events.publish(f"groups/{self.name}/links/{link}", kind, text)

    def update_link(
        self, name: str, *, endpoint: str | None, paused: bool | None, retry: bool, discard: bool
    ) -> PrimaryLink:
        """Do what an operator asks of a link."""
        link = self.link(name)
        if endpoint is not None:
            self.check_endpoint_free(name, endpoint)
        link.update(endpoint=endpoint, paused=paused, retry=retry, discard=discard)
        return link

    def remove_link(self, name: str) -> None:
        """Detach a Secondary; what is pending on the link ends as LINK_DETACHED (C16)."""
        link = self.link(name)
        self.restores.check_link(name)
        with link.ending():
            self.messages.link_detached(name)
            self.database.remove_link(name)
        del self.links[name]

        def stopped() -> None:
            self._shared.marks.release(link.marks)
            self._leave()

        link.sender.drop(link.key, stopped)

    # -- end ----------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Give the group's slot back when nobody looks at it any more, here or in a sender."""
        with self._users_lock:
            self._users -= 1
            if not self._users:
                self._shared.marks.release(self.marks)

    def close(self) -> None:
        """Stop, and close the group in order."""
        self._stop.set()
        self.restores.stop()
        self._thread.join()
        try:
            self.open.close(clean=self.failure is None)
        finally:
            self._leave()
