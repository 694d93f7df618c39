"""The snapshot service: runs that drive the Primary and the Secondary over gRPC only."""
