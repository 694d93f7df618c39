"""One group in the primary service: the engine, its links, its maintenance thread."""

import threading
import uuid
from dataclasses import dataclass

import structlog

from services.primary.links import PrimaryLink
from services.primary.messages import MessageDesk
from services.primary.senders import SenderPool
from slackwater import names
from slackwater.errors import AlreadyExists, FailedPrecondition, GroupFailed, NotFound
from slackwater.group.changes import VolumeSet
from slackwater.group.opening import OpenGroup
from slackwater.group.rows import LinkRow
from slackwater.group.volume import Volume
from slackwater.link.actions import LinkState
from slackwater.log.marks import GroupMarks, SharedMarks
from slackwater.runtime.events import EventHub
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
        self._shared = shared
        self._stop = threading.Event()
        self._failure_told = False
        self.writer.links_floor = self._floor
        self.writer.log_pressure = self._let_go
        self.messages = MessageDesk(self, shared.events)
        for row in self.database.links():
            self._start_link(row)
        self._thread = threading.Thread(
            target=self._maintain, name=f"maintain-{self.name}", daemon=True
        )
        self._thread.start()

    @property
    def failure(self) -> GroupFailed | None:
        """Why the group stopped, if it did."""
        return self.writer.failure

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
            except GroupFailed as failed:
                self._tell_failure(failed)
            except OSError as error:
                self._shared.log.warning("maintenance put off", group=self.name, error=str(error))
            if self.failure is not None:
                self._tell_failure(self.failure)

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
            FailedPrecondition: a link is being synchronised; its regions name the volume.
        """
        for link in self.links.values():
            if link.status.state == LinkState.SYNCING.value:
                raise FailedPrecondition(
                    "LINK_SYNCING",
                    f"link {link.name!r} is being synchronised, which reads every volume",
                    f"Wait until it is done: slackwater link get {self.name}/{link.name}",
                )
        self.volumes.remove(name)
        self._volumes_changed()

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

    def check_link(self, name: str) -> None:
        """Raise AlreadyExists if the name is taken, InvalidRequest if it is no name."""
        names.check_label("link_id", name)
        if name in self.links:
            raise AlreadyExists("link", f"{self.name}/{name}")

    def add_link(self, name: str, endpoint: str, now_ns: int) -> PrimaryLink:
        """Attach a Secondary; replication starts by itself."""
        self.check_link(name)
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
        self.database.add_link(row)
        return self._start_link(row)

    def _start_link(self, row: LinkRow) -> PrimaryLink:
        marks = self._shared.marks.new_link()
        if marks is None:
            raise FailedPrecondition(
                "TOO_MANY_LINKS",
                "this service carries as many links as it can",
                "Delete a link that is not needed",
            )
        link = PrimaryLink(
            self.open,
            row,
            self.marks,
            marks,
            self._shared.senders.choose(),
            self._shared.window_bytes,
            self._link_event,
        )
        link.on_verdict(self.messages.verdict_came)
        link.on_jump(self.messages.sync_jumped)
        self.links[row.name] = link
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
            link.endpoint = endpoint
            link.operate("endpoint", endpoint=endpoint)
        if paused is not None:
            link.paused = paused
            link.operate("pause" if paused else "retry")
        row = self.database.link(name)
        self.database.set_link_settings(
            name, endpoint=link.endpoint, paused=link.paused, settings=row.settings
        )
        if discard:
            link.operate("discard")
        elif retry:
            link.operate("retry")
        return link

    def remove_link(self, name: str) -> None:
        """Detach a Secondary; what is pending on the link ends as LINK_DETACHED (C16)."""
        link = self.link(name)
        self.messages.link_detached(name)
        self.database.remove_link(name)
        del self.links[name]
        link.sender.drop(link.key, lambda: self._shared.marks.release(link.marks))
        self.writer.trim()

    # -- end ----------------------------------------------------------------------------------

    def stop_links(self) -> None:
        """Let the senders stop carrying this group's links; nothing is forgotten."""
        for link in self.links.values():
            link.sender.drop(link.key, lambda: None)

    def close(self) -> None:
        """Stop, and close the group in order."""
        self._stop.set()
        self._thread.join()
        self.open.close(clean=self.failure is None)
