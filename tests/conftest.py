"""What every test gets: no stray threads, a missing part is a failure where CI asks for that."""

from __future__ import annotations

import os

import pytest


def missing(what: str) -> None:
    """Skip for a part that is not here, or fail where ``CI_REQUIRE_ALL=1``."""
    if os.environ.get("CI_REQUIRE_ALL") == "1":
        pytest.fail(f"CI_REQUIRE_ALL=1, and {what} is missing")
    pytest.skip(f"{what} is missing")
