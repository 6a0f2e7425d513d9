"""How a coordinator's life begins: its signs of life while it is built, and the run time from which it goes on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from windfall import clock
from windfall.config.schema import Config
from windfall.revision import revision
from windfall.run.recorder import position
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import parse_utc

#: Between two signs of life.
BEAT_S = 2.0


@contextmanager
def signs_of_life(run: RunDir, most_s: float) -> Iterator[None]:
    """While a coordinator is built, which takes long where large files are hashed or made again: beats, for ``most_s``."""
    done, ends = threading.Event(), clock.monotonic() + most_s

    def beat() -> None:
        number = 0
        while not done.wait(BEAT_S) and clock.monotonic() < ends:
            number += 1
            with contextlib.suppress(OSError):  # a full disk is told where something is lost by it
                write_json(run.beat, {"pid": os.getpid(), "beat": -number, "serves": False})

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def begin(config: Config, ledger: Ledger, telemetry: Telemetry, fence: int) -> float:
    """The run time at which a coordinator with this fencing token begins. Records its start.

    Changes of the configuration since the last coordinator are told, and hold from then on.
    """
    stored = float(ledger.meta("t_run") or 0)
    latest = position(telemetry)
    head = ledger.head()
    resumed = latest is not None or head.version > 0
    if config.run.clock != "scaled":
        now = clock.wall()
    elif resumed:
        now = max(stored, latest or 0.0, head.t_run)
    else:
        now = parse_utc(config.run.start or "")
    telemetry.event(
        now, "resumed" if resumed else "started", version=head.version, fence=fence, tokens_total=head.tokens_total,
        run_id=ledger.meta("run_id") or "", pid=os.getpid(), windfall=str(revision()),
    )  # fmt: skip
    # What is done from here on is known to be of this life, also if this process is killed at once.
    telemetry.flush()
    for c in ledger.configurations():
        if c.t_run is None:
            for x in c.changes:
                telemetry.event(
                    now, "configuration_changed", site=x["site"], number=c.number, key=x["key"], old=x["old"], new=x["new"]
                )
            telemetry.flush()
            ledger.begun_under(c.number, now)
    return now
