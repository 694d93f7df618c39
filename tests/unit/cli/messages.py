"""Resources as the services would show them."""

import time

from slackwater.v1 import common_pb2, primary_pb2, resources_pb2, secondary_pb2, snapshot_pb2

MIB = 1 << 20
MESSAGE = "groups/demo/messages/m1"
RUN = "tasks/snapshot/runs/r1"

POSITION = common_pb2.Position(epoch=1, lsn=42, chain_crc32c=7)

GROUP = resources_pb2.Group(
    name="groups/demo",
    uid="u-1",
    epoch=1,
    state=resources_pb2.GROUP_STATE_READY,
    log_bytes=64 * MIB,
    durability=resources_pb2.DURABILITY_WRITETHROUGH,
    durable=POSITION,
)
VOLUME = resources_pb2.Volume(name="groups/demo/volumes/data", size_bytes=256 * MIB)
LINK = resources_pb2.Link(
    name="groups/demo/links/site-b",
    endpoint="10.0.0.2:7461",
    mode=resources_pb2.LINK_MODE_ASYNCHRONOUS,
    state=common_pb2.LINK_STATE_STREAMING,
    replica_state=common_pb2.REPLICA_STATE_FROZEN,
    acked=POSITION,
    lag_bytes=3 * MIB,
    secondary_log=resources_pb2.LogUse(used_bytes=16 * MIB, capacity_bytes=64 * MIB),
)
LINK.lag.FromMilliseconds(1500)
APPLICATION = resources_pb2.Application(group="groups/demo", application="backup")
SENT = resources_pb2.Message(
    name=MESSAGE,
    application="backup",
    behaviour=common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
    position=POSITION,
    fenced=True,
    final=True,
    verdicts=[
        resources_pb2.Verdict(
            link="site-b",
            state=common_pb2.VERDICT_STATE_UNFROZEN,
            detail=common_pb2.VerdictDetail(by="me@there"),
            final=True,
        )
    ],
)
SENT.fence_held.FromMicroseconds(2500)
DELIVERED = secondary_pb2.DeliveredMessage(
    name=MESSAGE,
    application="backup",
    behaviour=common_pb2.MESSAGE_BEHAVIOUR_FREEZE,
    position=POSITION,
    text="nightly",
    fenced=True,
)
DELIVERED.remaining.FromSeconds(600)
FREEZE = resources_pb2.Freeze(
    message=MESSAGE,
    application="backup",
    phase=resources_pb2.Freeze.PHASE_FROZEN,
    holder="me@there",
    backlog_bytes=32 * MIB,
    next_command=f"slackwater ibc unfreeze {MESSAGE}",
    position=POSITION,
)
FREEZE.since.FromSeconds(int(time.time()) - 12)
FREEZE.deadline.FromSeconds(int(time.time()) + 588)
FREEZE.remaining.FromSeconds(588)
REPLICA = resources_pb2.Replica(
    name="groups/demo",
    state=common_pb2.REPLICA_STATE_FROZEN,
    durable=common_pb2.Position(epoch=1, lsn=90),
    applied=POSITION,
    backlog_bytes=32 * MIB,
    freeze=FREEZE,
    log=resources_pb2.LogUse(used_bytes=32 * MIB, capacity_bytes=64 * MIB),
    volumes=[VOLUME],
    connected=True,
)
REPLICA.heard_time.FromSeconds(int(time.time()) - 3600)
SNAPSHOT = resources_pb2.Snapshot(
    name="groups/demo/snapshots/s1",
    position=POSITION,
    grade=common_pb2.SNAPSHOT_GRADE_CRASH,
    grade_reason="unconfirmed",
    message=MESSAGE,
    state=resources_pb2.SNAPSHOT_STATE_READY,
    volumes=[resources_pb2.SnapshotVolume(volume="data", size_bytes=256 * MIB)],
)
CLONE = resources_pb2.Clone(
    name="groups/demo/clones/c1",
    snapshot=SNAPSHOT.name,
    state=resources_pb2.CLONE_STATE_READY,
    volumes=[resources_pb2.CloneVolume(volume="data", size_bytes=256 * MIB)],
)
CHECK = snapshot_pb2.Check(name="checks/fsck", kind=snapshot_pb2.CHECK_KIND_E2FSCK, source="api")
CLONE_OF_CLONE = resources_pb2.Clone(
    name="groups/demo/clones/c2",
    snapshot="groups/demo/snapshots/s1",
    parent="groups/demo/clones/c1",
    state=resources_pb2.CLONE_STATE_READY,
    volumes=[resources_pb2.CloneVolume(volume="data", size_bytes=256 * MIB, shared_bytes=4 * MIB)],
)
DONE = snapshot_pb2.Run(
    name=RUN,
    group="groups/demo",
    state=snapshot_pb2.Run.STATE_SUCCEEDED,
    snapshot=SNAPSHOT.name,
    message=MESSAGE,
    position=POSITION,
    grade=common_pb2.SNAPSHOT_GRADE_CRASH,
)
DONE.snapshot_duration.FromMilliseconds(4)
BROKEN = snapshot_pb2.Run(
    name=RUN,
    group="groups/demo",
    state=snapshot_pb2.Run.STATE_FAILED,
    error="NO_SPACE: no space in the overlay",
)

PRIMARY_STATUS = primary_pb2.PrimaryServiceGetStatusResponse(
    groups=[
        primary_pb2.GroupStatus(
            group=GROUP,
            volumes=[VOLUME],
            links=[LINK],
            log=resources_pb2.LogUse(used_bytes=8 * MIB, capacity_bytes=64 * MIB),
            pending_messages=1,
            applications=["backup"],
            nbd_connections=2,
        )
    ],
    version="0.1.0",
    site="here",
)
SECONDARY_STATUS = secondary_pb2.SecondaryServiceGetStatusResponse(
    replicas=[REPLICA], version="0.1.0", site="there"
)
SNAPSHOT_STATUS = snapshot_pb2.SnapshotServiceGetStatusResponse(
    primary=snapshot_pb2.PeerStatus(endpoint="p", reachable=True),
    secondary=snapshot_pb2.PeerStatus(endpoint="s", reachable=False, problem="gone"),
    version="0.1.0",
)
SNAPSHOT_STATUS.secondary.age.FromSeconds(75)
