"""Fixtures of the tests that run a coordinator's parts in this process."""

from federation.fixtures import data, runs
from ui_runs import undrawn

__all__ = ["data", "runs", "undrawn"]
