"""Schedules: when tasks are run by themselves."""
