"""What a test needs of the machine: a missing part is a skip, and a failure where CI asks for that."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip for a part that is not here, or fail where ``CI_REQUIRE_ALL=1``."""
    if os.environ.get("CI_REQUIRE_ALL") == "1":
        pytest.fail(f"CI_REQUIRE_ALL=1, and {what} is missing")
    pytest.skip(f"{what} is missing")
