"""The seam to files, directories and databases: one real side, one simulated."""
