"""Snapshots of a replica: copy-on-write overlays and the catalogue that keeps them."""
