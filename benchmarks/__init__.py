"""Measurements that `make bench-quick` and friends run."""
