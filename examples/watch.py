"""What replication does meanwhile: the link's state, the replica's freeze and its progress."""

import threading
import time
from dataclasses import dataclass

import grpc

from demo.sites import Sites
from slackwater.v1 import (
    common_pb2,
    primary_pb2,
    primary_pb2_grpc,
    secondary_pb2,
    secondary_pb2_grpc,
)

PERIOD_SECONDS = 0.02
CALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at both sides.

    Attributes:
        when: Seconds since 1970.
        link: The link's state, as its last word.
        message: The message at which the replica stands; empty: none.
        applied_lsn: What is in the replica's volumes.
    """

    when: float
    link: str
    message: str
    applied_lsn: int


class Watch(threading.Thread):
    """Looks at a link and its replica until stopped."""

    def __init__(self, sites: Sites, group: str, link: str) -> None:
        """Look at running services."""
        super().__init__(name="watch", daemon=True)
        self.problem: Exception | None = None
        self._seen: list[Seen] = []
        self._link = primary_pb2.GetLinkRequest(name=f"groups/{group}/links/{link}")
        self._replica = secondary_pb2.GetReplicaRequest(name=f"groups/{group}")
        self._channels = [
            grpc.insecure_channel(service.endpoints.grpc)
            for service in (sites.primary, sites.secondary)
        ]
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        primary = primary_pb2_grpc.PrimaryServiceStub(self._channels[0])
        secondary = secondary_pb2_grpc.SecondaryServiceStub(self._channels[1])
        try:
            while not self._stopping.wait(PERIOD_SECONDS):
                link = primary.GetLink(self._link, timeout=CALL_SECONDS).link
                replica = secondary.GetReplica(self._replica, timeout=CALL_SECONDS).replica
                state = common_pb2.LinkState.Name(link.state).removeprefix("LINK_STATE_")
                message = replica.freeze.message
                self._seen.append(Seen(time.time(), state, message, replica.applied.lsn))
        except grpc.RpcError as error:  # told by whoever asks what was seen
            self.problem = error

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self.join()
        for channel in self._channels:
            channel.close()

    def problems(self, began: float, ended: float) -> list[str]:
        """Why replication did not run on between two times, in words; empty: it did."""
        if self.problem is not None:
            return [f"it could not be looked at: {self.problem}"]
        seen = [one for one in self._seen if began <= one.when <= ended]
        if len(seen) < 2:
            return ["it was not looked at in that time"]
        states = {one.link for one in seen} - {"STREAMING"}
        found = [f"the link was {state}" for state in sorted(states)]
        found += [f"the replica stood at {one}" for one in {one.message for one in seen} if one]
        if seen[-1].applied_lsn <= seen[0].applied_lsn:
            found.append("nothing was applied")
        return found
