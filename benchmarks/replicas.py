"""A Primary and a Secondary with snapshots, as services, under loads over NBD."""

import time
from typing import Final

import grpc

from benchmarks import fio
from benchmarks.copy_on_write import CHANGES
from demo.sites import Sites
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    secondary_pb2,
    secondary_pb2_grpc,
)

_LOG_BYTES: Final = 2 << 30
_CALL_SECONDS: Final = 20.0
_DRAIN_SECONDS: Final = 120.0


class Replica:
    """One group with one volume, replicated."""

    def __init__(
        self,
        sites: Sites,
        primary: grpc.Channel,
        secondary: grpc.Channel,
        name: str,
        size_bytes: int,
    ) -> None:
        """Make the group, write all of its volume and wait until the Secondary has it."""
        self._primary = primary_pb2_grpc.PrimaryServiceStub(primary)
        self._secondary = secondary_pb2_grpc.SecondaryServiceStub(secondary)
        self._sites = sites
        self._name = name
        self._group = f"groups/{name}"
        self._volume = f"{self._group}/volumes/data"
        self._size_bytes = size_bytes
        self._names: list[str] = []
        self._made = 0
        self._create()
        fio.fill(self._uri, size_bytes)
        self._drain()

    @property
    def _uri(self) -> str:
        return self._sites.primary.endpoints.nbd_uri(self._volume)

    def _create(self) -> None:
        endpoint = self._sites.secondary.endpoints.grpc
        self._primary.CreateGroup(
            primary_pb2.CreateGroupRequest(group_id=self._name, log_bytes=_LOG_BYTES),
            timeout=_CALL_SECONDS,
        )
        self._primary.CreateVolume(
            primary_pb2.CreateVolumeRequest(
                group=self._group, volume_id="data", size_bytes=self._size_bytes
            ),
            timeout=_CALL_SECONDS,
        )
        self._primary.CreateLink(
            primary_pb2.CreateLinkRequest(group=self._group, link_id="site-b", endpoint=endpoint),
            timeout=_CALL_SECONDS,
        )
        self._drain()

    @property
    def held(self) -> int:
        """How many snapshots there are."""
        return len(self._names)

    def take(self) -> None:
        """Take one more snapshot of what has arrived."""
        name = f"s-{self._made}"
        self._made += 1
        request = secondary_pb2.CreateSnapshotRequest(group=self._group, snapshot_id=name)
        self._secondary.CreateSnapshot(request, timeout=_CALL_SECONDS)
        self._names.append(name)

    def change(self) -> None:
        """Change some chunks and wait until the Secondary has applied it."""
        fio.writes(self._uri, self._size_bytes, CHANGES)
        self._drain()

    def drop_oldest(self) -> None:
        """Let the oldest snapshot go."""
        name = f"{self._group}/snapshots/{self._names.pop(0)}"
        request = secondary_pb2.SecondaryServiceDeleteSnapshotRequest(name=name)
        self._secondary.DeleteSnapshot(request, timeout=_CALL_SECONDS)

    def write(self, count: int) -> float:
        """Return the seconds of so many 4 KiB writes, until the Secondary has applied all."""
        spent = fio.writes(self._uri, self._size_bytes, count)
        began = time.monotonic()
        self._drain()
        return spent + time.monotonic() - began

    def export_oldest(self) -> tuple[str, str]:
        """Export the oldest snapshot; return the URIs of the replica's volume and of it."""
        name = f"{self._group}/snapshots/{self._names[0]}"
        request = secondary_pb2.SecondaryServiceExportSnapshotRequest(name=name)
        self._secondary.ExportSnapshot(request, timeout=_CALL_SECONDS)
        uri = self._sites.secondary.endpoints.nbd_uri
        return uri(self._volume), uri(f"{name}/volumes/data")

    def _drain(self) -> None:
        """Wait until everything written is in the replica's volume."""
        request = primary_pb2.GetLinkRequest(name=f"{self._group}/links/site-b")
        deadline = time.monotonic() + _DRAIN_SECONDS
        while True:
            link = self._primary.GetLink(request, timeout=_CALL_SECONDS).link
            streams = link.state == common_pb2.LINK_STATE_STREAMING
            if streams and not link.lag_bytes and link.applied_lsn >= link.acked.lsn:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._group} does not settle: {link}")
            time.sleep(0.01)
