"""Samples of tasks, each with a scene that runs it on real applications: `make samples`."""
