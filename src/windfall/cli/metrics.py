"""`windfall metrics`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from windfall.cli.output import say
from windfall.errors import WindfallError
from windfall.store.rundir import RunDir
from windfall.ui.web.metrics import Exposition, seen


def metrics(roots: Sequence[Path]) -> None:
    """Print the runs in ``roots`` as Prometheus reads them.

    One that cannot be read is told, and silences none of the others. Raises WindfallError if none can be read.
    """
    exposition, failed = Exposition(), []
    for root in roots:
        try:
            seen(RunDir(root).open_existing())
        except WindfallError as e:
            failed.append(e)
    if len(failed) == len(roots):
        raise failed[0]
    for error in failed:
        say(str(error))
    sys.stdout.write(exposition.render([RunDir(root) for root in roots]).decode())
