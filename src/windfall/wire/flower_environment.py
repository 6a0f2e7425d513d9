"""Environment of Flower processes. Apart from everything else, so that it can be had without importing Flower."""

from __future__ import annotations


def flower_environment(home: str) -> dict[str, str]:
    """No telemetry, no update check, state under ``home``."""
    return {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": home}
