"""Slackwater: write-order block replication with in-band control messages and snapshots."""

__version__ = "0.1.0"
