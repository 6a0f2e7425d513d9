"""A path on which the programs of a guide are those of this installation."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from run.real import DEAD_PROXY


def environment(folder: Path, **programs: str) -> dict[str, str]:
    """With `windfall` and others, by their commands, on the path; temporary files and a home apart; and a proxy that is dead."""
    bin_, temporary, home = folder / "bin", folder / "tmp", folder / "home"
    for path in (bin_, temporary, home):
        path.mkdir(exist_ok=True)
    for name, command in {"windfall": f"{shlex.quote(sys.executable)} -m windfall.cli.main", **programs}.items():
        if not (bin_ / name).exists():
            (bin_ / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (bin_ / name).chmod(0o755)
    own = {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    return {**os.environ, **DEAD_PROXY, **own}
