"""Fixtures of the tests that run a coordinator's parts in this process."""

from federation.fixtures import data, runs

__all__ = ["data", "runs"]
