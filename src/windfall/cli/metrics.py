"""`windfall metrics`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from windfall.store.rundir import RunDir
from windfall.ui.web.metrics import Exposition, seen


def metrics(roots: Sequence[Path]) -> None:
    """Print the runs in ``roots`` as Prometheus reads them. Raises WindfallError if one cannot be read."""
    sys.stdout.write(Exposition().text([seen(RunDir(root).open_existing()) for root in roots]).decode())
