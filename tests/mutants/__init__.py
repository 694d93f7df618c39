"""Mutants: ways to break a promise, each with the test that must go red."""
