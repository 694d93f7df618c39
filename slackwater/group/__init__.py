"""A group on disk: its directory, its group.db, its volumes, and the Primary's engine over them."""
