"""Who may call what: one table of rpc to role, and what a caller's certificate grants.

A certificate grants roles by URIs among its subject alternative names:

    slackwater://role/<role>?groups=<pattern,...>&quota=<bytes>

`groups` are shell patterns over group names; without it the grant is for every group. `quota`
bounds the bytes of volumes of those groups together: what the holder creates on a Primary, and
what it replicates to a Secondary. Over plaintext, which is refused outside
loopback unless asked for by --insecure, the caller holds every role.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import parse_qs, urlsplit

from google.protobuf.message import Message

from slackwater.errors import InvalidRequest, PermissionDenied, QuotaExceeded

SCHEME = "slackwater"


class Role(enum.Enum):
    """What a caller is trusted with."""

    REPLICATE = "replicate"
    OPERATE = "operate"
    VIEW = "view"
    MESSAGE = "message"
    QUIESCE = "quiesce"


IMPLIED: Mapping[Role, frozenset[Role]] = {
    Role.REPLICATE: frozenset(),
    Role.OPERATE: frozenset({Role.VIEW, Role.MESSAGE, Role.QUIESCE}),
    Role.VIEW: frozenset(),
    Role.MESSAGE: frozenset({Role.VIEW}),
    Role.QUIESCE: frozenset(),
}
"""Roles that come with a role."""

NBD_ROLE = Role.OPERATE
"""Role that an NBD client needs for an export: it reads, and on a Primary writes, all data."""

_TABLE: Mapping[str, Mapping[Role, str]] = {
    "ReplicationService": {Role.REPLICATE: "Replicate"},
    "PrimaryService": {
        Role.VIEW: """
            GetGroup ListGroups GetVolume ListVolumes GetLink ListLinks ListApplications
            ListMessages WatchMessage GetRestore ListRestores GetStatus WatchEvents""",
        # A body may hold what only sender and receivers should see; lists and watches leave it out.
        Role.MESSAGE: "RegisterApplication UnregisterApplication SendMessage GetMessage",
        Role.QUIESCE: "HoldQuiesce",
        Role.OPERATE: """
            CreateGroup DeleteGroup CreateVolume DeleteVolume GrowVolume ReadVolume WriteVolume
            CreateLink UpdateLink DeleteLink ReadLog CreateRestore CancelRestore""",
    },
    "SecondaryService": {
        Role.VIEW: """
            GetReplica ListReplicas ListApplications ListMessages GetSnapshot ListSnapshots
            GetClone ListClones ListExpiredSnapshots GetStatus WatchEvents""",
        Role.MESSAGE: """
            RegisterApplication UnregisterApplication ReceiveMessage HoldMessage Unfreeze
            StopReceive""",
        Role.OPERATE: """
            DeleteReplica CreateSnapshot DeleteSnapshot HoldSnapshot ReleaseSnapshot ExportSnapshot
            RefreshSnapshot UnexportSnapshot ReadSnapshot DiffSnapshots Promote ReadLog
            CreateClone DeleteClone ExportClone UnexportClone SetSnapshotBudget
            RecordCheck""",
        Role.REPLICATE: "MirrorReplica",
    },
    "SnapshotService": {
        Role.VIEW: """
            GetRun ListRuns WatchRun ListSnapshots GetTask ListTasks GetSchedule ListSchedules
            GetCheck ListChecks GetMirror ListMirrors GetClone ListClones
            GetStatus WatchEvents""",
        Role.OPERATE: """
            StartSnapshot StartTask CancelRun DeleteSnapshot RefreshSnapshot ExportSnapshot
            UnexportSnapshot DiffSnapshots CreateClone DeleteClone ExportClone UnexportClone
            CreateTask UpdateTask DeleteTask CreateSchedule UpdateSchedule DeleteSchedule
            CreateCheck UpdateCheck DeleteCheck RunCheck CreateMirror BreakOffMirror RejoinMirror
            DeleteMirror""",
    },
}

ROLE_OF: Mapping[str, Role] = {
    f"/slackwater.v1.{service}/{rpc}": role
    for service, rows in _TABLE.items()
    for role, rpcs in rows.items()
    for rpc in rpcs.split()
}
"""The role each rpc needs, by its full method path."""

ANY_CALLER = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Calls open to whoever got through TLS: they tell nothing about a group."""

_GROUP_NAME = re.compile(r"groups/([^/]+)(?:/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Grant:
    """One role, for the groups whose names match a pattern, up to a number of bytes."""

    role: Role
    groups: tuple[str, ...] = ("*",)
    quota_bytes: int | None = None

    def gives(self, role: Role) -> bool:
        """Whether this grant allows `role` on some group."""
        return role is self.role or role in IMPLIED[self.role]

    def covers(self, role: Role, group: str | None) -> bool:
        """Whether this grant allows `role` on `group`; None asks about all groups at once."""
        if not self.gives(role):
            return False
        return "*" in self.groups if group is None else self.names(group)

    def names(self, group: str) -> bool:
        """Whether a group is one of those this grant is for."""
        return any(fnmatchcase(group, pattern) for pattern in self.groups)


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller and what it was granted."""

    name: str
    grants: tuple[Grant, ...]

    def allows(self, role: Role, group: str | None = None) -> bool:
        """Whether the caller may act in `role` on `group`; None: on all groups at once."""
        return any(grant.covers(role, group) for grant in self.grants)

    def check(self, role: Role, group: str | None = None) -> None:
        """Raise PermissionDenied unless the caller may act in `role` on `group`."""
        if not self.allows(role, group):
            whom = "every group" if group is None else f"group {group!r}"
            raise PermissionDenied(f"{self.name} does not hold role {role.value} for {whom}")

    def check_held(self, role: Role) -> None:
        """Raise PermissionDenied unless the caller holds `role` for some group."""
        if not any(grant.gives(role) for grant in self.grants):
            raise PermissionDenied(f"{self.name} does not hold role {role.value}")

    def check_quota(
        self, role: Role, group: str, size: int, held: Mapping[str, int], field: str
    ) -> None:
        """Raise QuotaExceeded unless a grant for `role` on `group` has room for its volumes.

        Args:
            role: what the volumes are made with.
            group: the group they are in.
            size: bytes of all volumes that the group shall have.
            held: bytes of the volumes of the other groups; a grant's quota is for all its groups.
            field: the field of the request that asks for them.
        """
        refused: tuple[int, int, int] | None = None
        for grant in self.grants:
            if not grant.covers(role, group):
                continue
            if grant.quota_bytes is None:
                return
            used = sum(amount for name, amount in held.items() if grant.names(name))
            room = grant.quota_bytes - used
            if size <= room:
                return
            if refused is None or room > refused[0]:
                refused = (room, grant.quota_bytes, used)
        if refused is not None:
            raise QuotaExceeded(field, self.name, refused[1], refused[2], size)


EVERYTHING = Identity("plaintext caller", tuple(Grant(role) for role in Role))
"""Who calls over plaintext."""

_caller: ContextVar[Identity] = ContextVar("slackwater_caller", default=EVERYTHING)


def caller() -> Identity:
    """The identity behind the rpc being served.

    Streams whose group comes in a message check it themselves: `caller().check(role, group)`.
    """
    return _caller.get()


def set_caller(identity: Identity) -> None:
    """Remember who is behind this rpc; for the server's interceptor and for tests."""
    _caller.set(identity)


def parse_grant(uri: str) -> Grant:
    """Read one role URI of a certificate.

    Raises:
        InvalidRequest: It is no role URI, or says what we do not know. A grant that cannot be
            read in full is refused, since what it limits may be in the part not understood.
    """
    parts = urlsplit(uri)
    name = parts.path.removeprefix("/")
    if parts.scheme != SCHEME or parts.netloc != "role":
        raise InvalidRequest("certificate", f"{uri!r} is not slackwater://role/<role>")
    known = {role.value: role for role in Role}
    if name not in known:
        raise InvalidRequest("certificate", f"{uri!r} names no role; roles: {', '.join(known)}")
    try:
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise InvalidRequest("certificate", f"{uri!r} has a malformed query") from None
    groups, quota = query.pop("groups", ["*"]), query.pop("quota", None)
    patterns = tuple(pattern for text in groups for pattern in text.split(","))
    if query or not all(patterns):
        raise InvalidRequest("certificate", f"{uri!r} has a parameter that is not understood")
    if quota is not None and (len(quota) != 1 or not re.fullmatch(r"[0-9]{1,18}", quota[0])):
        raise InvalidRequest("certificate", f"{uri!r} has a quota that is no number of bytes")
    return Grant(known[name], patterns, None if quota is None else int(quota[0]))


def identify(names: Iterable[str], subject: str) -> Identity:
    """The identity of a certificate with these subject alternative names.

    Names of other schemes are other people's and pass by; ours must be readable.
    """
    ours = [name for name in names if name.startswith(f"{SCHEME}:")]
    return Identity(subject, tuple(parse_grant(name) for name in ours))


def groups_named(request: Message) -> set[str]:
    """Names of the groups that a request is about, by its resource names."""
    found = set()
    for descriptor, value in request.ListFields():
        if descriptor.name == "group_id":
            found.add(value)
        elif descriptor.type == descriptor.TYPE_STRING and not descriptor.is_repeated:
            if match := _GROUP_NAME.fullmatch(value):
                found.add(match[1])
        elif descriptor.type == descriptor.TYPE_MESSAGE and not descriptor.is_repeated:
            found |= groups_named(value)
    return found


def check_request(method: str, request: Message, identity: Identity) -> None:
    """Raise PermissionDenied unless `identity` may make this unary or server-streaming call.

    A request that names no group asks about all of them, so it needs a grant for all of them.
    """
    role = ROLE_OF[method]
    named = groups_named(request)
    if not named:
        identity.check(role)
    for group in named:
        identity.check(role, group)
