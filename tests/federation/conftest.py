"""See federation/fixtures.py."""

from __future__ import annotations

from federation.fixtures import data, no_waiting_for_the_disk, runs

__all__ = ["data", "no_waiting_for_the_disk", "runs"]
