"""Restores: volumes of a group get the content of a snapshot on a Secondary (`group.restoring`)."""
