"""The trainer process of a site: builds the long-lived trainer once and pumps the site worker until told to stop."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from windfall import clock
from windfall.errors import WindfallError
from windfall.federation.site import SiteWorker
from windfall.federation.transport import FileMailbox
from windfall.run.agent import load_site
from windfall.store.bus import FileSiteBus

_IDLE_S = 0.005


def main(argv: list[str] | None = None) -> int:
    """Serve the site in the folder named by the first argument."""
    folder = Path((argv or sys.argv[1:])[0]).resolve()
    site = load_site(folder)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    bus = FileSiteBus(folder, site["generation"])
    mailbox = FileMailbox(folder)
    try:
        # Here and not above: whatever fails in torch or in the data is told to the coordinator.
        import torch

        from windfall.train.spec import TrainerSpec
        from windfall.train.trainer import LocalTrainer

        torch.set_num_threads(int(site["threads"]))
        trainer = LocalTrainer(TrainerSpec(**site["trainer"]))
        worker = SiteWorker(
            site=site["site"], generation=site["generation"], trainer=trainer, mailbox=mailbox, bus=bus, folder=folder,
            snapshot_s=float(site["snapshot_s"]), dead_man_s=float(site["dead_man_s"]),
        )  # fmt: skip
        while not asked and not worker.parked:
            if not worker.pump():
                clock.pause(_IDLE_S)
        return 0
    except WindfallError as e:
        bus.emit({"kind": "fatal", "reason": str(e)})
        print(e, file=sys.stderr)
        return 1
    except (RuntimeError, OSError, MemoryError) as e:
        bus.emit({"kind": "fatal", "reason": f"{type(e).__name__}: {e}"})
        raise


if __name__ == "__main__":
    sys.exit(main())
