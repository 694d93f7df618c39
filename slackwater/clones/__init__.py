"""Writable clones of snapshots: what differs from the snapshot is the clone's own."""
