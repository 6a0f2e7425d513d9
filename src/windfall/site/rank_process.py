"""One of a site's ranks besides the first: the same model and data, and whatever the first one says.

``python -m windfall.site.rank_process SITE_DIR RANK PORT``. It ends with its leader.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from datetime import timedelta
from pathlib import Path

from windfall.errors import WindfallError
from windfall.site.agent import load_site
from windfall.site.followers import key
from windfall.site.trainer_process import join, one_rank, take_device


def main(argv: list[str] | None = None) -> int:
    """Follow until the leader says that it is over; 1 if it, or another rank, is gone."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from windfall.train.ranked import follow

    # Whoever ends a site tells its leader, which may still have work to hand in with the others' help.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    folder, rank, port = (argv or sys.argv[1:])[:3]
    site = load_site(Path(folder))
    store = TCPStore("127.0.0.1", int(port), int(site["ranks"]), is_master=False, timeout=timedelta(minutes=5))
    try:
        take_device(site, int(rank))
        store.set(key("up", int(rank)), "")
        group = join(site, int(rank), store)
        local = one_rank(site, int(rank), group)
        store.set(key("built", int(rank)), "")
        follow(local, group)
    except (WindfallError, RuntimeError, OSError, MemoryError) as e:
        print(f"{site['site']} rank {rank}: {e}", file=sys.stderr)
        why = str(e) if isinstance(e, WindfallError) else f"{type(e).__name__}: {e}"
        with contextlib.suppress(RuntimeError):  # the store went with the leader
            store.set(key("failed", int(rank)), why[:2000])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
