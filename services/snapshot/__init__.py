"""The snapshot service: runs that drive the Primary and the Secondary over gRPC only."""

import os

# Before gRPC is imported: at each fork it would stop what it does, for children that go on using
# it. Ours exec at once.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
