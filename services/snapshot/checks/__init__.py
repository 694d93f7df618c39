"""Named checks of snapshots: what they are, and running one on a temporary clone."""
