"""The secondary service's replicas: opened at the start, made by a Primary's first Hello."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from services.secondary import exports
from services.secondary.group import SecondaryGroup
from services.secondary.limits import Limits
from slackwater import errors
from slackwater.apply.database import ReplicaDatabase
from slackwater.apply.opening import ReplicaSpec
from slackwater.apply.replica import Replica
from slackwater.apply.status import ReplicaState
from slackwater.clock import Clock
from slackwater.group.directory import DataDirectory, GroupDirectory
from slackwater.group.rows import SECONDARY
from slackwater.link.receiver_actions import HelloInfo, Opened
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Export, Listing, Peer
from slackwater.nbd.server import Server
from slackwater.runtime import nbd, roles
from slackwater.runtime.calls import in_thread
from slackwater.runtime.events import EventHub
from slackwater.runtime.quotas import Quotas
from slackwater.storage.seam import Storage

if TYPE_CHECKING:
    from services.secondary.replication import ReplicateStream

GROUPS_LIMIT = 256
REPLAY_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class BrokenReplica:
    """A replica that could not be opened: it is shown, and may be deleted if it is known as one."""

    name: str
    error: errors.SlackwaterError
    is_secondary: bool


class SecondaryNode:
    """All replicas of this service. The event loop's, unless a method says otherwise."""

    def __init__(
        self,
        storage: Storage,
        data: DataDirectory,
        clock: Clock,
        limits: Limits,
        log: structlog.BoundLogger,
    ) -> None:
        """Hold no replica yet; `open_all` opens what the data directory has."""
        self.events = EventHub()
        self.groups: dict[str, SecondaryGroup] = {}
        self.broken: dict[str, BrokenReplica] = {}
        self.streams: set[ReplicateStream] = set()
        self.server: Server | None = None
        self.limits = limits
        self.quotas = Quotas(roles.Role.REPLICATE, self._volume_bytes)
        self.ending = threading.Event()
        self._storage = storage
        self._data = data
        self._clock = clock
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._admin = threading.Lock()
        self._closed_bytes: dict[str, int] = {}
        self._arrivals: dict[str, asyncio.Lock] = {}
        self._wakes: list[Callable[[], None]] = []

    # -- opening ------------------------------------------------------------------------------

    def open_all(self) -> None:
        """Open every replica; one that cannot be is set aside, and only it. In a thread."""
        mine = [directory for directory in self._data.groups() if self._is_mine(directory)]
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="recover") as pool:
            list(pool.map(self._open, mine))

    def _is_mine(self, directory: GroupDirectory) -> bool:
        try:
            database = ReplicaDatabase.open(self._storage, directory.database)
        except (errors.SlackwaterError, OSError) as error:
            self._set_aside(directory.name, error, is_secondary=False)
            return False
        try:
            self._closed_bytes[directory.name] = sum(row.size for row in database.volumes())
            return database.identity().role == SECONDARY
        finally:
            database.close()

    def _open(self, directory: GroupDirectory) -> None:
        try:
            replica = Replica.open(self._storage, directory, self._clock, **self.limits.of_freezes)
        except (errors.SlackwaterError, OSError) as error:
            self._set_aside(directory.name, error, is_secondary=True)
            return
        replica.listen(False)
        self._adopt(replica)

    def _set_aside(
        self, name: str, error: errors.SlackwaterError | OSError, *, is_secondary: bool
    ) -> None:
        known = (
            error
            if isinstance(error, errors.SlackwaterError)
            else errors.GroupFailed(name, str(error))
        )
        self._log.error("replica not opened", group=name, reason=known.reason, error=str(known))
        self.broken[name] = BrokenReplica(name, known, is_secondary)

    def _adopt(self, replica: Replica) -> SecondaryGroup:
        replica.keep_messages(self.limits.messages_kept, self.limits.messages_kept_seconds)
        replica.copy_bytes_per_second = self.limits.copy_bytes_per_second
        group = SecondaryGroup(replica, self._loop, self.events, self._log)
        self._log.info(
            "replica opened",
            group=replica.name,
            state=replica.state.value,
            durable=replica.durable,
            applied=replica.applied,
        )
        self.groups[replica.name] = group
        group.start()
        return group

    def wait_recovered(self) -> None:
        """Wait until no replica replays its log, unless it cannot go on. In a thread."""

        def is_replaying(group: SecondaryGroup) -> bool:
            engine = group.replica
            return engine.state is ReplicaState.RECOVERING and engine.applier.stall is None

        while any(is_replaying(group) for group in list(self.groups.values())):
            if self.ending.is_set():
                return
            time.sleep(REPLAY_LOOK_SECONDS)

    def listen(self) -> None:
        """Say that holders can reach this service now: from here on their silence counts (C13)."""
        for group in self.groups.values():
            group.replica.listen(True)

    # -- streams ------------------------------------------------------------------------------

    async def admit(
        self, stream: "ReplicateStream", hello: HelloInfo
    ) -> tuple[SecondaryGroup, Opened]:
        """Give a stream its replica, made new if there is none; the older stream is over (D15).

        Raises:
            PermissionDenied: the caller may not replicate this group.
            QuotaExceeded: not volumes of this size; a replica that is here stays as it is.
            Unavailable: the service is ending, or another link of the group feeds the replica.
            FailedPrecondition: the name or the uid belongs to something else here.
            Fenced: a higher epoch is known.
            GroupFailed: the replica has failed.
            NoSpace, StorageFailed: a new replica could not be made; nothing is left behind.
        """
        identity = roles.caller()
        identity.check(roles.Role.REPLICATE, hello.group)
        self.check_going_on()
        async with self._arrivals.setdefault(hello.group, asyncio.Lock()):
            group = await in_thread(self._group_for, hello, identity)
            older = group.stream
            if older is not None:
                if older.is_open and older.link != hello.link:
                    raise errors.Unavailable(
                        f"replica {hello.group!r}, which link {older.link!r} feeds already,",
                        f"Delete one of the links {older.link!r} and {hello.link!r}, or give it"
                        " another endpoint",
                    )
                older.supersede()
                await older.finished.wait()
            group.stream = stream
            stream.adopt(group, hello.link)
            await group.settle()
            return group, await group.alone(group.welcome, hello)

    @contextmanager
    def until_ending(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` when the service begins to end while the body runs."""
        self._wakes.append(wake)
        if self.ending.is_set():
            wake()
        try:
            yield
        finally:
            self._wakes.remove(wake)

    def check_going_on(self) -> None:
        """Refuse new work when the service is ending."""
        if self.ending.is_set():
            raise errors.Unavailable("this Secondary", "It is ending; dial again in a moment")

    def _group_for(self, hello: HelloInfo, identity: roles.Identity) -> SecondaryGroup:
        size = sum(volume.size_bytes for volume in hello.volumes)
        with self._admin:
            self._check_uid(hello)
            group = self.groups.get(hello.group)
            if group is None:
                self._check_makeable(hello)
            else:
                group.check_hello(hello.group_uid, hello.epoch)
            self.quotas.plan(identity, hello.group, size, "hello.volumes")
            return group or self._create(hello)

    def _volume_bytes(self) -> dict[str, int]:
        """Return how large the volumes of each replica are together."""
        held = {name: self._closed_bytes.get(name, 0) for name in list(self.broken)}
        for name, group in list(self.groups.items()):
            held[name] = sum(volume.size for volume in group.replica.volumes.active())
        return held

    def _check_uid(self, hello: HelloInfo) -> None:
        for other in self.groups.values():
            if other.replica.uid == hello.group_uid and other.name != hello.group:
                raise errors.FailedPrecondition(
                    "GROUP_MISMATCH",
                    f"group {hello.group_uid} is kept here as {other.name!r}, the caller names it"
                    f" {hello.group!r}; nothing was changed",
                    "Give the group its old name back, or let the old replica go:"
                    f" slackwater replica delete {other.name}",
                )

    def _check_makeable(self, hello: HelloInfo) -> None:
        name = hello.group
        if name in self.broken:
            raise errors.GroupFailed(name, str(self.broken[name].error))
        self._check_no_primary(name, hello.group_uid)
        if len(self.groups) >= GROUPS_LIMIT:
            raise errors.FailedPrecondition(
                "TOO_MANY_GROUPS",
                f"this service holds {GROUPS_LIMIT} replicas",
                "Attach the link to another site",
            )

    def _create(self, hello: HelloInfo) -> SecondaryGroup:
        spec = ReplicaSpec(
            group_uid=hello.group_uid,
            group=hello.group,
            link=hello.link,
            epoch=hello.epoch,
            log=self.limits.log_settings(hello.log_bytes),
        )
        try:
            replica = Replica.create(
                self._storage, self._data, spec, self._clock, **self.limits.of_freezes
            )
        except BaseException:
            self.quotas.forget(hello.group)
            raise
        resource = f"groups/{hello.group}"
        self.events.publish(resource, "REPLICA_CREATED", f"of group {hello.group_uid}")
        return self._adopt(replica)

    def _check_no_primary(self, name: str, uid: uuid.UUID) -> None:
        directory = self._data.group(name)
        if not self._storage.exists(directory.path):
            return
        database = ReplicaDatabase.open(self._storage, directory.database)
        try:
            identity = database.identity()
        finally:
            database.close()
        raise errors.FailedPrecondition(
            "WRONG_ROLE",
            f"group {name!r} here is {identity.uid} and a {identity.role}, the caller's is {uid};"
            " nothing was changed",
            "Attach the link to another site, or give the group another name",
        )

    # -- replicas -----------------------------------------------------------------------------

    def group(self, name: str) -> SecondaryGroup:
        """Return an open replica. From any thread.

        Raises:
            NotFound: there is none of that name.
            GroupFailed: it could not be opened.
        """
        group = self.groups.get(name)
        if group is not None:
            return group
        if name in self.broken:
            raise errors.GroupFailed(name, str(self.broken[name].error))
        raise errors.NotFound("replica", name, "List the replicas with: slackwater replica list")

    def check_delete(self, name: str) -> list[str]:
        """Say what deleting a replica would lose. In a thread.

        Raises:
            NotFound, GroupFailed: there is none, or it is not known to be one.
            FailedPrecondition: its Primary is connected, or it is exported, held or in use.
        """
        broken = self.broken.get(name)
        if broken is not None and broken.is_secondary:
            return [f"replica {name!r} as it is, which could not be opened: {broken.error}"]
        group = self.group(name)
        if group.stream is not None:
            raise errors.FailedPrecondition(
                "PRIMARY_CONNECTED",
                f"the Primary of replica {name!r} is connected",
                "On the Primary let the link go first:"
                f" slackwater link delete {name}/{group.stream.link}",
            )
        snapshots = group.replica.snapshots()
        for row in snapshots:
            group.replica.check_free(row)
        self.check_unused(f"groups/{name}/")
        losses = [
            f"volume {one.name!r} with {one.size} bytes" for one in group.replica.volumes.active()
        ]
        losses += [f"snapshot {row.name!r} at {row.point.position}" for row in snapshots]
        return [*losses, f"the log, up to {group.replica.durable}"]

    def delete(self, name: str) -> list[str]:
        """Remove a replica with all it holds. In a thread; see `check_delete`."""
        with self._admin:
            losses = self.check_delete(name)
            group = self.groups.pop(name, None)
            if group is not None:
                group.close()
            self.broken.pop(name, None)
            self._data.remove_group(name)
            self.quotas.forget(name)
        self.events.publish(f"groups/{name}", "REPLICA_DELETED", "")
        self._log.info("replica deleted", group=name)
        return losses

    # -- NBD ----------------------------------------------------------------------------------

    @property
    def access(self) -> Access:
        """What the NBD server exports."""
        return Access(self._listing, self._export, nbd.authorise)

    def _listing(self) -> Iterator[Listing]:
        for name in sorted(self.groups):
            group = self.groups.get(name)
            if group is not None:
                yield from exports.listing(group)

    def _export(self, name: str, peer: Peer) -> Export:
        del peer  # `authorise` looked at it
        owner = nbd.group_of(name)
        if not owner:
            raise errors.NotFound("export", name, exports.FORMS)
        return exports.open_export(self.group(owner), name)

    def disconnect(self, prefix: str) -> int:
        """End the NBD clients of exports whose name begins so; return how many. From any thread."""
        if self.server is None:
            return 0
        return self.server.disconnect(lambda name, _peer: (name or "").startswith(prefix))

    def check_unused(self, prefix: str) -> None:
        """Refuse while an NBD client uses an export whose name begins so. From any thread."""
        open_names = [] if self.server is None else self.server.export_names()
        used = sum(1 for name in open_names if name.startswith(prefix))
        if used:
            raise errors.FailedPrecondition(
                "EXPORT_IN_USE",
                f"{used} NBD client(s) use {prefix.rstrip('/')}",
                "Disconnect them first",
            )

    # -- end ----------------------------------------------------------------------------------

    async def drain(self) -> None:
        """End the streams and every waiting call; nothing new is taken."""
        self.ending.set()
        for wake in list(self._wakes):
            wake()
        streams = list(self.streams)
        for stream in streams:
            stream.fail(errors.Unavailable("this Secondary", "It is ending; dial again"))
        for stream in streams:
            await stream.finished.wait()
        for group in self.groups.values():
            await group.settle()

    def close(self) -> None:
        """Close every replica in order, beside each other. In a thread."""
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="close") as pool:
            list(pool.map(SecondaryGroup.close, self.groups.values()))
        self.groups.clear()
