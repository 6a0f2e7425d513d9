"""How long a test waits for what must happen: long enough for the slowest machine, as a test that passes never waits it out."""

from __future__ import annotations

PATIENCE_S = 900.0
