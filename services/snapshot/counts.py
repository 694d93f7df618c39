"""What became of runs since the service started, for metrics."""

import time

from slackwater.histogram import Histogram
from slackwater.v1 import snapshot_pb2

RESULTS = ("SUCCEEDED", "FAILED", "CANCELLED")
BOUNDS_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200)


class Counts:
    """Runs that were over, by task. Added to by the event loop, read by the metrics' thread."""

    def __init__(self) -> None:
        """Nothing was over yet."""
        self.ended: dict[tuple[str, str], int] = {}
        self.seconds: dict[str, Histogram] = {}
        self.last_success: dict[tuple[str, str], float] = {}

    def add(self, run: snapshot_pb2.Run) -> None:
        """Count a run that is over."""
        task, group = run.name.split("/")[1], run.group.removeprefix("groups/")
        state = snapshot_pb2.Run.State.Name(run.state).removeprefix("STATE_")
        self.ended[task, state] = self.ended.get((task, state), 0) + 1
        took = run.end_time.ToNanoseconds() - run.create_time.ToNanoseconds()
        self.seconds.setdefault(task, Histogram(BOUNDS_SECONDS)).observe(max(took, 0) / 1e9)
        if run.state == snapshot_pb2.Run.STATE_SUCCEEDED:
            self.last_success[task, group] = time.time()
