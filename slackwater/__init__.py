"""Slackwater: write-order block replication with in-band control."""
