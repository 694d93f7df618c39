"""Retention: which of the snapshots that runs of tasks made are kept, and the end of the others."""
