"""Real services for end-to-end tests: two sites and the snapshot service, with typed clients."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import grpc

from demo.sites import Sites
from slackwater.errors import SlackwaterError
from slackwater.nbd.client import Client
from slackwater.nbd.wire import ProtocolError
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    resources_pb2,
    secondary_pb2,
    secondary_pb2_grpc,
    snapshot_pb2_grpc,
)

GROUP = "groups/demo"
LINK = f"{GROUP}/links/site-b"
APPLICATION = "backup"
DATA, WAL = 1, 2  # how the oracle calls the volumes
NAMES = {DATA: "data", WAL: "wal"}
WAIT_SECONDS = 60.0
CALL_SECONDS = 20.0
MIB = 1 << 20


class Cluster(Sites):
    """Three services, and what tests do with them."""

    def __init__(
        self, directory: Path, *, arguments: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Plan the services under one directory."""
        super().__init__(directory, arguments=arguments)
        self._channels: dict[str, grpc.Channel] = {}

    def __exit__(self, *about: object) -> None:
        """Close the clients, kill what is left."""
        for channel in self._channels.values():
            channel.close()
        super().__exit__(*about)

    @property
    def primary_api(self) -> primary_pb2_grpc.PrimaryServiceStub:
        """The Primary's administration."""
        return primary_pb2_grpc.PrimaryServiceStub(self._channel(self.primary.endpoints.grpc))

    @property
    def secondary_api(self) -> secondary_pb2_grpc.SecondaryServiceStub:
        """The Secondary's administration."""
        return secondary_pb2_grpc.SecondaryServiceStub(self._channel(self.secondary.endpoints.grpc))

    @property
    def snapshot_api(self) -> snapshot_pb2_grpc.SnapshotServiceStub:
        """The snapshot service."""
        return snapshot_pb2_grpc.SnapshotServiceStub(self._channel(self.snapshot.endpoints.grpc))

    # Making things.

    def create_group(self, *, log_bytes: int = 0, **volume_bytes: int) -> None:
        """Make the group with these volumes."""
        self.primary_api.CreateGroup(
            primary_pb2.CreateGroupRequest(group_id="demo", log_bytes=log_bytes),
            timeout=CALL_SECONDS,
        )
        for volume, size in volume_bytes.items():
            self.primary_api.CreateVolume(
                primary_pb2.CreateVolumeRequest(group=GROUP, volume_id=volume, size_bytes=size),
                timeout=CALL_SECONDS,
            )

    def create_link(self) -> None:
        """Attach the Secondary."""
        self.primary_api.CreateLink(
            primary_pb2.CreateLinkRequest(
                group=GROUP, link_id="site-b", endpoint=self.secondary.endpoints.grpc
            ),
            timeout=CALL_SECONDS,
        )

    def register(self, application: str = APPLICATION) -> None:
        """Register an application on both sides; the replica has to exist."""
        self.primary_api.RegisterApplication(
            primary_pb2.PrimaryServiceRegisterApplicationRequest(
                group=GROUP, application=application
            ),
            timeout=CALL_SECONDS,
        )
        self.secondary_api.RegisterApplication(
            secondary_pb2.SecondaryServiceRegisterApplicationRequest(
                group=GROUP, application=application
            ),
            timeout=CALL_SECONDS,
        )

    def replicate(self, *, log_bytes: int = 0, **volume_bytes: int) -> Self:
        """Start all three, make group, link and registrations, wait for the stream."""
        self.start()
        self.create_group(log_bytes=log_bytes, **volume_bytes)
        self.create_link()
        self.wait_streaming()
        self.register()
        return self

    # The cycle.

    def send(
        self, *, fence: bool = True, application: str = APPLICATION, request_id: str = ""
    ) -> resources_pb2.Message:
        """Send a FREEZE message."""
        answer = self.primary_api.SendMessage(
            primary_pb2.SendMessageRequest(
                group=GROUP,
                application=application,
                text="at this point",
                fence=fence,
                request_id=request_id,
            ),
            timeout=CALL_SECONDS,
        )
        return answer.message

    def receive(
        self, wait_seconds: int = 30, application: str = APPLICATION
    ) -> secondary_pb2.DeliveredMessage | None:
        """Take the next message; None if there was none in time."""
        request = secondary_pb2.ReceiveMessageRequest(
            group=GROUP, application=application, holder="test"
        )
        request.wait_timeout.FromSeconds(wait_seconds)
        answer = self.secondary_api.ReceiveMessage(request, timeout=wait_seconds + CALL_SECONDS)
        return answer.message if answer.HasField("message") else None

    def unfreeze(self, message: str) -> secondary_pb2.UnfreezeResponse:
        """End the freeze at a message."""
        return self.secondary_api.Unfreeze(
            secondary_pb2.UnfreezeRequest(message=message, by="test"), timeout=CALL_SECONDS
        )

    def take_snapshot(self, name: str, at_message: str = "") -> resources_pb2.Snapshot:
        """Take a snapshot on the Secondary itself, and export it."""
        self.secondary_api.CreateSnapshot(
            secondary_pb2.CreateSnapshotRequest(
                group=GROUP, snapshot_id=name, at_message=at_message
            ),
            timeout=CALL_SECONDS,
        )
        answer = self.secondary_api.ExportSnapshot(
            secondary_pb2.SecondaryServiceExportSnapshotRequest(name=f"{GROUP}/snapshots/{name}"),
            timeout=CALL_SECONDS,
        )
        return answer.snapshot

    # Looking.

    def link(self) -> resources_pb2.Link:
        """The link as the Primary sees it."""
        request = primary_pb2.GetLinkRequest(name=LINK)
        return self.primary_api.GetLink(request, timeout=CALL_SECONDS).link

    def replica(self) -> resources_pb2.Replica:
        """The replica as the Secondary sees it."""
        request = secondary_pb2.GetReplicaRequest(name=GROUP)
        return self.secondary_api.GetReplica(request, timeout=CALL_SECONDS).replica

    def group_status(self) -> primary_pb2.GroupStatus:
        """Everything the Primary says of the group."""
        request = primary_pb2.PrimaryServiceGetStatusRequest(group=GROUP)
        return self.primary_api.GetStatus(request, timeout=CALL_SECONDS).groups[0]

    # Volumes.

    def device(self, volume: int) -> Client:
        """A connection to a volume on the Primary, by the oracle's number."""
        return connect(self, "primary", f"{GROUP}/volumes/{NAMES[volume]}")

    def read_volume(self, volume: str, role: str = "primary") -> bytes:
        """The whole of a volume, as one side serves it."""
        return read_all(connect(self, role, f"{GROUP}/volumes/{volume}"))

    def read_snapshot(self, snapshot: str, volume: str) -> bytes:
        """The whole of a volume of an exported snapshot."""
        name = f"{GROUP}/snapshots/{snapshot}/volumes/{volume}"
        return read_all(connect(self, "secondary", name))

    # Waiting.

    def wait_streaming(self) -> None:
        """Wait until the link streams to a consistent replica that lacks nothing."""
        wait_until(
            "the link streams",
            lambda: (
                self.link().state == common_pb2.LINK_STATE_STREAMING
                and self.replica().state == common_pb2.REPLICA_STATE_CONSISTENT
            ),
        )
        self.wait_no_lag()

    def wait_no_lag(self, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Wait until all the Primary holds is durable and applied on the Secondary."""
        wait_until("lag is 0", self.has_no_lag, timeout_seconds)

    def has_no_lag(self) -> bool:
        """True if the replica stands at the Primary's durable end."""
        end = self.group_status().group.durable
        replica = self.replica()
        return replica.applied == end and not self.link().lag_bytes

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            # A killed service comes back at once: dial again without the usual patience.
            options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0)]
            self._channels[address] = grpc.insecure_channel(address, options=options)
        return self._channels[address]


def connect(cluster: Sites, role: str, export: str) -> Client:
    """A connection to an export of the primary or the secondary; `OSError` if there is none."""
    service = cluster.primary if role == "primary" else cluster.secondary
    endpoints = service.endpoints
    try:
        if endpoints.nbd_socket:
            return PatientClient(Path(endpoints.nbd_socket), export)
        host, _, port = endpoints.nbd.rpartition(":")
        return PatientClient((host, int(port)), export)
    except (SlackwaterError, ProtocolError) as error:
        raise ConnectionError(f"{role} refused {export}: {error}") from error


class PatientClient(Client):
    """A client whose broken connections are all `OSError`s."""

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:  # type: ignore[override]
        """Write and wait for the reply."""
        try:
            super().write(offset, data, fua=fua)
        except ProtocolError as error:
            raise ConnectionError(str(error)) from error


def read_all(client: Client, step_bytes: int = 4 * MIB) -> bytes:
    """The whole of an export; closes the connection."""
    with client:
        return b"".join(
            client.read(offset, min(step_bytes, client.size - offset))
            for offset in range(0, client.size, step_bytes)
        )


def flood(
    cluster: Cluster, volume: int, total: int, depth: int = 8, piece_bytes: int = MIB
) -> None:
    """Write that many bytes through one connection, round and round the volume."""
    piece = bytes(range(256)) * (piece_bytes // 256)
    failures: list[int] = []

    def on_done(_tag: int, errno: int) -> None:
        if errno:
            failures.append(errno)

    with cluster.device(volume) as device:
        slots = device.size // piece_bytes
        with device.pipeline(depth, on_done) as pipeline:
            for number in range(total // piece_bytes):
                pipeline.write(number, number % slots * piece_bytes, piece)
    assert not failures


def pause(cluster: Cluster, *, paused: bool) -> None:
    """Hold the link, or let it go on."""
    cluster.primary_api.UpdateLink(
        primary_pb2.UpdateLinkRequest(name=LINK, paused=paused), timeout=CALL_SECONDS
    )


def wait_until(
    what: str, condition: Callable[[], bool], timeout_seconds: float = WAIT_SECONDS
) -> None:
    """Wait for a condition that calls services, which may be starting just now."""
    deadline = time.monotonic() + timeout_seconds
    last = ""
    while True:
        try:
            if condition():
                return
        except grpc.RpcError as error:
            last = f"; last answer: {error.code().name} {error.details()}"
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds:.0f} s: {what}{last}")
        time.sleep(0.05)
