"""The trainer process of a site: builds the long-lived trainer once and pumps the site worker until told to stop."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock
from windfall.errors import WindfallError
from windfall.federation.site import SiteWorker
from windfall.federation.transport import FileMailbox
from windfall.run.agent import load_site
from windfall.run.sites import own_window
from windfall.store.bus import open_site_bus
from windfall.store.files import read_json

if TYPE_CHECKING:
    from windfall.train.trainer import Trainer

_IDLE_S = 0.005


#: From ``site.json`` to a trainer.
MakeTrainer = Callable[[Mapping[str, Any]], "Trainer"]


def local_trainer(site: Mapping[str, Any]) -> Trainer:
    """A trainer on this machine's processors."""
    import torch

    from windfall.train.spec import TrainerSpec
    from windfall.train.trainer import LocalTrainer

    torch.set_num_threads(int(site["threads"]))
    return LocalTrainer(TrainerSpec(**site["trainer"]))


def main(argv: list[str] | None = None, *, make: MakeTrainer = local_trainer) -> int:
    """Serve the site in the folder named by the first argument."""
    folder = Path((argv or sys.argv[1:])[0]).resolve()
    site = load_site(folder)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    bus = open_site_bus(
        site["bus"], folder, str(site["run_id"]), site["site"], site["generation"], gated=bool(site["gated"])
    )  # fmt: skip
    mailbox = FileMailbox(folder)
    try:
        # Here and not above: whatever fails in torch or in the data is told to the coordinator.
        trainer = make(site)
        worker = SiteWorker(
            site=site["site"], generation=site["generation"], trainer=trainer, mailbox=mailbox, bus=bus, folder=folder,
            snapshot_s=float(site["snapshot_s"]), dead_man_s=float(site["dead_man_s"]),
            link=lambda: link(folder), own_window=own_window(site["own_signal"]) if site.get("own_signal") else None,
        )  # fmt: skip
        while not asked and not worker.parked:
            if not worker.pump():
                clock.pause(_IDLE_S)
        if not worker.parked:
            worker.park("told to end")
        print(f"{site['site']}: {worker.parked}; its work is in its outbox", flush=True)
        return 0
    except WindfallError as e:
        bus.emit({"kind": "fatal", "reason": str(e)})
        print(e, file=sys.stderr)
        return 1
    except (RuntimeError, OSError, MemoryError) as e:
        bus.emit({"kind": "fatal", "reason": f"{type(e).__name__}: {e}"})
        raise
    finally:
        bus.close()


def link(folder: Path) -> float:
    """When (monotonic) the agent last reached the SuperLink."""
    said = read_json(folder / "link.json")
    try:
        return float(said["monotonic"]) if said else -math.inf
    except (KeyError, TypeError, ValueError):
        return -math.inf


if __name__ == "__main__":
    sys.exit(main())
