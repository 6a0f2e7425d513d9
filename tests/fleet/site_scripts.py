"""A small script in place of `windfall site start`, which a test makes fail, stay or end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from windfall.errors import Permanent, Transient, Unauthorized
from windfall.fleet.drivers.start import Start, Starts

#: What a broken site says last.
SAID = "no such thing as a GPU here"
_SITE = f"""#!/bin/bash
cd "$(dirname "$0")"
printf '%s\\n' "$@" > arguments
echo $$ >> pids
[ -e broken ] && {{ echo '{SAID}' >&2; exit 3; }}
if [ -e stubborn ]; then trap '' TERM; else trap 'echo told to end; exit 0' TERM; fi
echo begun
while :; do sleep 0.05; done
"""


class Site:
    """The script, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.program = folder / "site"
        self.program.write_text(_SITE)
        self.program.chmod(0o755)

    def break_starts(self) -> None:
        (self.folder / "broken").touch()

    def mend_starts(self) -> None:
        (self.folder / "broken").unlink()

    def be_stubborn(self) -> None:
        (self.folder / "stubborn").touch()

    def arguments(self) -> list[str]:
        """What it was started with last."""
        return (self.folder / "arguments").read_text().splitlines()

    def pids(self) -> list[int]:
        """Its processes that live."""
        pids = self.folder / "pids"
        return [p for line in (pids.read_text().split() if pids.exists() else []) if self._lives(p := int(line))]

    def living(self) -> int:
        return len(self.pids())

    def die(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _lives(self, pid: int) -> bool:
        try:
            return str(self.program).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


def prepared(make: Callable[[str, int], Start]) -> Starts:
    """Starts, each prepared when it is first asked for."""

    class Prepared(Starts):
        def of(self, site: str, generation: int) -> Start:
            self.make(site, generation)
            return super().of(site, generation)

    return Prepared(make)


def start(run_id: str, ca: str = "-----BEGIN CERTIFICATE-----\n") -> Callable[[str, int], Start]:
    """A start whose token a test can look for."""
    return lambda site, generation: Start(
        run_id, site, generation, "https://coordinator.example:8443", f"secret-of-{site}-{generation}", ca
    )


KINDS = (Transient, Permanent, Unauthorized)
