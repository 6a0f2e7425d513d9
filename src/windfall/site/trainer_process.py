"""The trainer process of a site: builds the long-lived trainer once and pumps the site worker until told to stop."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock
from windfall.errors import ConfigError, RankError, WindfallError
from windfall.site.agent import ENDPOINT, LINK_NAME, load_site
from windfall.site.followers import Followers
from windfall.site.liveness import LOADING, Liveness
from windfall.site.metering import MeterRelay
from windfall.site.node_log import NodeNotes
from windfall.site.notice import Notice
from windfall.site.own_window import own_window
from windfall.site.power_cap import PowerCap
from windfall.site.worker import SiteWorker
from windfall.store.bus import SiteBus
from windfall.store.bus_factory import open_site_bus
from windfall.store.files import read_json
from windfall.wire.bulk import read_token
from windfall.wire.certificates import trusting
from windfall.wire.transport import FileMailbox, Mailbox

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from windfall.train.ranks import Group
    from windfall.train.trainer import LocalTrainer, Trainer
    from windfall.wire.bulk_mailbox import BulkMailbox

_IDLE_S = 0.005
#: So many times what a first step may take may any one collective take. It ends nothing early: a step that takes too long ends the
#: leader's signs of life, whichever rank it waits for.
_COLLECTIVES = 10

#: From ``site.json`` to a trainer.
MakeTrainer = Callable[[Mapping[str, Any]], "Trainer"]


def local_trainer(site: Mapping[str, Any]) -> Trainer:
    """A trainer on this machine's processors: this process, and with several ranks the others that it starts."""
    from windfall.train.manifest import Manifest
    from windfall.train.ranked import RankedTrainer

    # Before the site can say that it is ready: the shards are read without checking from here on.
    data_dir = str(site["trainer"]["data_dir"])
    Manifest.load(data_dir).verify(data_dir, Path(site["folder"]) / "data-checked.json")
    size = int(site.get("ranks", 1))
    require_devices(site)
    take_device(site, 0)
    if size == 1:
        return one_rank(site, 0, None)
    store = open_store(size)
    others = Followers(Path(site["folder"]), size, store)
    others.wait_for("up")
    try:
        group = join(site, 0, store)
        print(f"{site['site']}: {size} ranks, processes {', '.join(map(str, others.pids))}", flush=True)
        local = one_rank(site, 0, group)
    except RuntimeError as e:
        if why := others.ending():
            raise RankError(why) from e
        raise
    others.wait_for("built")
    return RankedTrainer(local, group, others)


def one_rank(site: Mapping[str, Any], rank: int, group: Group | None) -> LocalTrainer:
    """The trainer of one rank of a site."""
    import torch

    from windfall.train.spec import TrainerSpec
    from windfall.train.trainer import LocalTrainer

    torch.set_num_threads(int(site["threads"]))
    spec = TrainerSpec(**site["trainer"])
    if spec.device == "cuda":
        spec = replace(spec, device=f"cuda:{rank}")
    return LocalTrainer(spec, group)


def require_devices(site: Mapping[str, Any]) -> None:
    """Raise ConfigError unless there is a device for each rank; nothing has been started yet."""
    import torch

    size = int(site.get("ranks", 1))
    if site["trainer"]["device"] == "cuda" and torch.cuda.device_count() < size:
        raise ConfigError(f"{site['site']}: has {torch.cuda.device_count()} CUDA devices and {size} ranks; lower site.ranks")


def open_store(size: int) -> TCPStore:
    """Where the ranks find each other, on a free port of this machine."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore("127.0.0.1", 0, size, is_master=True, timeout=timedelta(minutes=5), wait_for_workers=False)


def join(site: Mapping[str, Any], rank: int, store: TCPStore) -> Group:
    """The group of a site's ranks. Raises RuntimeError if they do not come together."""
    if sys.platform == "linux":
        # They are on one machine, whatever its name resolves to and whichever networks it is in.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    from windfall.train.ranks import Group

    device = torch.device(str(site["trainer"]["device"]))
    return Group(store, rank, int(site["ranks"]), device=device, timeout_s=_COLLECTIVES * float(site["step_timeout_s"]))


def take_device(site: Mapping[str, Any], rank: int) -> None:
    """Make a rank's GPU its own. Raises RuntimeError where it cannot be."""
    if str(site["trainer"]["device"]) == "cuda":
        import torch

        torch.cuda.set_device(rank)
        torch.zeros(1, device=f"cuda:{rank}")  # now, and not in the middle of something that others wait for


def main(argv: list[str] | None = None, *, make: MakeTrainer = local_trainer) -> int:
    """Serve the site in the folder named by the first argument."""
    clock.leave_out_stops()
    folder = Path((argv or sys.argv[1:])[0]).resolve()
    site = load_site(folder)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    try:
        token = read_token(folder) if site.get("bulk") or site.get("bus_login") or site["bus"] == ENDPOINT else ""
        bus = own_bus(site, folder, token)
    except WindfallError as e:
        print(e, file=sys.stderr)
        return 1
    mailbox: Mailbox = FileMailbox(folder)
    files: BulkMailbox | None = None
    liveness = Liveness(
        bus, folder, first_s=float(site.get("step_timeout_s", math.inf)), least_s=float(site.get("silent_after_s", math.inf))
    )
    liveness.start()
    relay = MeterRelay(folder, bus) if site.get("meter") else None
    if relay is not None:
        relay.start()
    try:
        if site.get("bulk"):
            mailbox = files = with_files(mailbox, folder, site["bulk"], token)
            liveness.beside = files.words
        # Here and not above: whatever fails in torch or in the data is told to the coordinator.
        with liveness.doing(LOADING):
            trainer = make({**site, "folder": str(folder)})
        worker = SiteWorker(
            site=site["site"], generation=site["generation"], trainer=trainer, mailbox=mailbox, bus=bus, folder=folder,
            snapshot_s=float(site["snapshot_s"]), dead_man_s=float(site["dead_man_s"]), calendar=calendar(site),
            link=Link(folder).reached, own_window=own_window(site["own_signal"]) if site.get("own_signal") else None,
            executor=ThreadPoolExecutor(1, "snapshot"), liveness=liveness,
            power=PowerCap(folder, site["power"]["gpus"]) if site.get("power") else None,
        )  # fmt: skip
        notes = NodeNotes(folder)
        look = files.telling(lambda under_way: bus.set("transfers", under_way)) if files else lambda: None
        notice = Notice(site, bus)
        while not worker.parked:
            if asked and notice.over(clock.monotonic(), len(asked), worker, busy=files is not None and files.busy()):
                break
            look()
            if said := notes.new():
                bus.emit({"kind": "note", "note": said})
            if not worker.pump():
                clock.pause(_IDLE_S)
        if not worker.parked:
            worker.park("told to end")
        if files is not None:
            hand_out(files, look, asked, since=worker.contact.last, patience_s=float(site["dead_man_s"]))
        trainer.close()
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
        liveness.stop()
        if relay is not None:
            relay.stop()
        if files:
            files.close()
        bus.close()


def hand_out(files: BulkMailbox, look: Callable[[], None], asked: list[int], *, since: float, patience_s: float) -> None:
    """Let the last answer get out, for as long as it moves.

    A site holds its machine meanwhile. One that has moved nothing for ``patience_s``, counted from when its coordinator was last
    heard (``since``), stops, and its work is in its outbox (invariant 4). So does one that is told to end (``asked``).
    """
    there = files.sent_bytes()
    while files.busy() and not asked and clock.monotonic() - since <= patience_s:
        files.take()
        look()
        now_there = files.sent_bytes()
        if now_there > there:
            since = clock.monotonic()
        there = now_there
        clock.pause(_IDLE_S)


def own_bus(site: Mapping[str, Any], folder: Path, token: str) -> SiteBus:
    """The site's end of the bus. Raises ConfigError, TransferError."""

    def over_the_endpoint() -> SiteBus:
        from windfall.wire.http_bus import HttpSiteBus  # httpx takes a moment to import, and most runs need it for nothing here

        return HttpSiteBus(str(site["endpoint"]), token, verify=trusting(site.get("ca_file")))

    if site["bus"] == ENDPOINT:
        return over_the_endpoint()
    gated, login = bool(site["gated"]), None
    if site.get("bus_login"):
        from windfall.store.redis_access import Login, password_of, user_of

        login = Login(user_of(str(site["run_id"]), site["site"]), password_of(token), str(site.get("bus_ca") or ""))
    pace = over_the_endpoint() if gated and site.get("endpoint") else None
    return open_site_bus(
        site["bus"], folder, str(site["run_id"]), site["site"], site["generation"], gated=gated, login=login, pace=pace
    )


def calendar(site: Mapping[str, Any]) -> Callable[[], float]:
    """The run's clock, as this machine has it: its own may be off."""
    offset_s = float(site.get("clock_offset_s", 0.0))
    return (lambda: clock.wall() + offset_s) if offset_s else clock.wall


def with_files(mailbox: Mailbox, folder: Path, bulk: Mapping[str, Any], token: str) -> BulkMailbox:
    """A mailbox whose large blobs travel as files (``bulk``: of ``site.json``). Raises ConfigError, TransferError."""
    from windfall.wire.bulk_client import BulkClient  # httpx takes a moment to import, and most runs need it for nothing here
    from windfall.wire.bulk_mailbox import BulkMailbox

    verify = trusting(bulk.get("ca_file"))
    client = BulkClient(str(bulk["url"]), token, bandwidth_mbit_s=bulk.get("bandwidth_mbit_s"), verify=verify)
    return BulkMailbox(mailbox, client, folder / "bulk", inline_limit_bytes=int(bulk["inline_limit_bytes"]))


class Link:
    """When the agent last reached the SuperLink, on this process's own clock: it is told by a file that has changed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LINK_NAME
        self._seen: object = None
        self._at = -math.inf

    def reached(self) -> float:
        """Monotonic wall time; minus infinity: not yet."""
        said = read_json(self._file)
        if said is not None and said != self._seen:
            self._seen, self._at = said, clock.monotonic()
        return self._at


if __name__ == "__main__":
    sys.exit(main())
