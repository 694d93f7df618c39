"""The secondary service: replicas of groups, kept in step over gRPC."""
