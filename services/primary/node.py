"""The primary service's groups: opened at the start, made and removed by operators."""

import asyncio
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from services.primary.exports import VolumeExport
from services.primary.group import PrimaryGroup, Shared
from services.primary.senders import SenderPool
from slackwater.clock import Clock
from slackwater.errors import (
    AlreadyExists,
    FailedPrecondition,
    GroupFailed,
    NotFound,
    SlackwaterError,
)
from slackwater.group.database import GroupDatabase
from slackwater.group.directory import DataDirectory, GroupDirectory
from slackwater.group.opening import GroupSettings, OpenGroup, create_group, open_group
from slackwater.group.rows import PRIMARY
from slackwater.ibc.messages import MESSAGES_KEPT, MESSAGES_KEPT_SECONDS
from slackwater.ibc.quiesce import GRACE_SECONDS
from slackwater.log.marks import GroupMarks, SharedMarks
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Listing, Peer
from slackwater.nbd.server import Server
from slackwater.runtime import nbd, roles
from slackwater.runtime.events import EventHub
from slackwater.runtime.quotas import Quotas
from slackwater.runtime.tls import CertificateStore
from slackwater.storage.seam import Storage

GROUPS_LIMIT = 256
LINKS_LIMIT = 1024


@dataclass(frozen=True)
class BrokenGroup:
    """A group that could not be opened: it is shown, and nothing else is done with it."""

    name: str
    error: SlackwaterError


class PrimaryNode:
    """All groups of this service."""

    def __init__(
        self,
        storage: Storage,
        data: DataDirectory,
        senders: SenderPool,
        marks: SharedMarks,
        clock: Clock,
        window_bytes: int,
        log: structlog.BoundLogger,
        *,
        writeback_tcp: bool = False,
        messages_kept: int = MESSAGES_KEPT,
        messages_kept_seconds: float = MESSAGES_KEPT_SECONDS,
        agent_grace_seconds: float = GRACE_SECONDS,
        certificates: CertificateStore | None = None,
    ) -> None:
        """Hold no group yet; `open_all` opens what the data directory has."""
        self.events = EventHub()
        self.groups: dict[str, PrimaryGroup] = {}
        self.broken: dict[str, BrokenGroup] = {}
        self.opening: set[str] = set()
        self.server: Server | None = None
        self.quotas = Quotas(roles.Role.OPERATE, self._volume_bytes)
        self._closed_bytes: dict[str, int] = {}
        self._storage = storage
        self._data = data
        self._clock = clock
        self._marks = marks
        self._log = log
        self._writeback_tcp = writeback_tcp
        self._admin = threading.Lock()
        self._shared = Shared(
            storage,
            marks,
            senders,
            self.events,
            window_bytes,
            log,
            messages_kept,
            messages_kept_seconds,
            agent_grace_seconds,
            certificates,
        )

    # -- opening ------------------------------------------------------------------------------

    def open_all(self) -> None:
        """Open every group of which this side is the Primary; one that cannot be is set aside."""
        mine = [directory for directory in self._data.groups() if self._is_mine(directory)]
        self.opening = {directory.name for directory in mine}
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="recover") as pool:
            list(pool.map(self._open, mine))

    def _is_mine(self, directory: GroupDirectory) -> bool:
        try:
            database = GroupDatabase.open(self._storage, directory.database)
        except (SlackwaterError, OSError) as error:
            self._set_aside(directory.name, error)
            return False
        try:
            self._closed_bytes[directory.name] = sum(row.size for row in database.volumes())
            return database.identity().role == PRIMARY
        finally:
            database.close()

    def _open(self, directory: GroupDirectory) -> None:
        try:
            self._start(directory, self._new_slot())
        except (SlackwaterError, OSError) as error:
            self._set_aside(directory.name, error)
        finally:
            self.opening.discard(directory.name)

    def _set_aside(self, name: str, error: SlackwaterError | OSError) -> None:
        known = error if isinstance(error, SlackwaterError) else GroupFailed(name, str(error))
        self._log.error("group not opened", group=name, reason=known.reason, error=str(known))
        self.broken[name] = BrokenGroup(name, known)

    def _new_slot(self) -> GroupMarks:
        marks = self._marks.new_group()
        if marks is None:
            raise FailedPrecondition(
                "TOO_MANY_GROUPS",
                f"this service holds {GROUPS_LIMIT} groups",
                "Make the group on another site",
            )
        return marks

    def _start(self, directory: GroupDirectory, marks: GroupMarks) -> PrimaryGroup:
        try:
            group, opened = self._recover(directory, marks)
        except BaseException:
            self._marks.release(marks)
            raise
        self.groups[directory.name] = group
        self._log.info(
            "group opened",
            group=directory.name,
            replayed_records=opened.replayed_records,
            revoked_messages=opened.revoked_messages,
        )
        return group

    def _recover(
        self, directory: GroupDirectory, marks: GroupMarks
    ) -> tuple[PrimaryGroup, OpenGroup]:
        opened = open_group(
            self._storage, directory, self._clock, marks=marks, wake=lambda: self._wake(marks)
        )
        try:
            return PrimaryGroup(opened, marks, self._shared), opened
        except BaseException:
            opened.close(clean=False)
            raise

    def _wake(self, marks: GroupMarks) -> None:
        if marks.sleepers:
            marks.sleepers = 0
            self._shared.senders.wake()

    # -- groups -------------------------------------------------------------------------------

    def _volume_bytes(self) -> dict[str, int]:
        """Return how large the volumes of each group are together."""
        held = {name: self._closed_bytes.get(name, 0) for name in list(self.broken)}
        for name, group in list(self.groups.items()):
            held[name] = sum(volume.size for volume in list(group.writer.volumes.values()))
        return held

    def group(self, name: str) -> PrimaryGroup:
        """Return an open group.

        Raises:
            NotFound: there is none of that name.
            GroupFailed: it could not be opened.
        """
        if name in self.groups:
            return self.groups[name]
        if name in self.broken:
            raise GroupFailed(name, str(self.broken[name].error))
        if name in self.opening:
            raise FailedPrecondition(
                "GROUP_RECOVERING", f"group {name!r} is recovering", "Try again in a moment"
            )
        raise NotFound("group", name, "List the groups with: slackwater group list")

    def check_new(self, name: str) -> None:
        """Raise AlreadyExists if the name is taken, by a group or a replica."""
        if self._storage.exists(self._data.group(name).path):
            raise AlreadyExists("group", name)

    def create(self, name: str, settings: GroupSettings) -> PrimaryGroup:
        """Make a group and open it.

        Raises:
            AlreadyExists: the name is taken, by a group or a replica.
        """
        with self._admin:
            marks = self._new_slot()
            try:
                directory = create_group(
                    self._storage, self._data, name, uuid.uuid4(), settings, self._clock
                )
            except BaseException:
                self._marks.release(marks)
                raise
            return self._start(directory, marks)

    def check_delete(self, group: PrimaryGroup) -> list[str]:
        """Say what deleting a group would lose.

        Raises:
            FailedPrecondition: it has links or connected clients.
        """
        if group.links:
            first = next(iter(group.links))
            raise FailedPrecondition(
                "GROUP_HAS_LINKS",
                f"group {group.name!r} has the link {first!r}",
                f"Detach it first: slackwater link delete {group.name}/{first}",
            )
        self.check_unused(group=f"groups/{group.name}")
        losses = [
            f"volume {volume.name!r} with {volume.size} bytes"
            for volume in group.writer.volumes.values()
        ]
        return [*losses, f"the log, up to {group.writer.log.durable.position}"]

    def delete(self, group: PrimaryGroup) -> list[str]:
        """Remove a group with all it holds."""
        with self._admin:
            losses = self.check_delete(group)
            del self.groups[group.name]  # from now on nobody opens an export of it
            try:
                self.check_delete(group)
            except BaseException:
                self.groups[group.name] = group
                raise
            group.close()
            self._data.remove_group(group.name)
            return losses

    # -- NBD ----------------------------------------------------------------------------------

    @property
    def access(self) -> Access:
        """What the NBD server exports."""
        return Access(self._listing, self._export, nbd.authorise)

    def _listing(self) -> Iterable[Listing]:
        for group in list(self.groups.values()):
            for volume in list(group.writer.volumes.values()):
                export = VolumeExport(group.name, group.writer, volume, group.uses)
                yield Listing(export.name, export.description)

    def _export(self, name: str, peer: Peer) -> VolumeExport:
        parts = name.split("/")
        if len(parts) != 4 or parts[0] != "groups" or parts[2] != "volumes":
            raise NotFound("export", name, "Names have the form groups/<group>/volumes/<volume>")
        group = self.group(parts[1])
        if group.writer.committer.writeback and not (peer.is_local or self._writeback_tcp):
            raise FailedPrecondition(
                "WRITEBACK_OVER_TCP",
                f"group {group.name!r} answers before its log is synced, and a client on another"
                " machine would not learn of what a crash of this one loses (D7)",
                "Use the unix socket, or start the service with --nbd-writeback-tcp",
            )
        volume = group.volumes.by_name(parts[3])
        group.uses.check_open(volume)
        return VolumeExport(group.name, group.writer, volume, group.uses)

    def connections(self, *, group: str = "", volume: str = "") -> int:
        """Return how many NBD clients use a volume, or any volume of a group, by resource name."""
        if self.server is None:
            return 0
        names = self.server.export_names()
        return sum(
            1 for name in names if name == volume or (group and name.startswith(f"{group}/"))
        )

    def check_unused(self, *, group: str = "", volume: str = "") -> None:
        """Refuse while an NBD client uses a volume, or any volume of a group."""
        used = self.connections(group=group, volume=volume)
        if used:
            raise FailedPrecondition(
                "EXPORT_IN_USE",
                f"{used} NBD client(s) use {volume or group}",
                "Disconnect them first",
            )

    # -- end ----------------------------------------------------------------------------------

    async def end_agents(self, grace_seconds: float) -> None:
        """End the sessions of agents, after the quiesce rounds that run."""
        stops = [
            group.quiesce.stop("the Primary is stopping", grace_seconds)
            for group in list(self.groups.values())
        ]
        await asyncio.gather(*stops)

    def close(self) -> None:
        """Close every group in order; one that cannot be closed cleanly is recovered next time."""
        for group in list(self.groups.values()):
            try:
                group.close()
            except (SlackwaterError, OSError) as error:
                self._log.error("group not closed cleanly", group=group.name, error=str(error))
        self.groups.clear()
