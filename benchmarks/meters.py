"""What measuring costs a site's training: processor time of a reading, from the meter to the bus, as a share of a step.

python benchmarks/meters.py [--readings N]        (make bench-meters)

Each source is read as an agent reads it, written down, and passed on as the trainer passes it on. The ratio is processor seconds
a second at 1 Hz, of one core: a step that has one core to itself takes so much longer, one that has more cores or a GPU less.
Processor time is counted and not the wall's, so that other things on the machine change little. The mark is 0.2 %.
The exporter's page has eight GPUs with forty metrics each, as DCGM's has; RAPL's files are doubles of two packages; NVML is a
double where there is no GPU, so that what the driver itself takes is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process, Queue
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from windfall import clock
from windfall.energy.meters.base import PowerMeter, Uptime
from windfall.energy.meters.build import build_meter
from windfall.energy.meters.nvml import NvmlMeter
from windfall.energy.meters.rapl import RaplMeter
from windfall.errors import MeterError
from windfall.site.metering import Metering, MeterRelay
from windfall.store.bus import FileSiteBus

MARK = 0.002


class Gpus:
    """NVML of eight GPUs that are not there."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 8

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        return i

    def nvmlDeviceGetPowerUsage(self, i: int) -> float:
        return 500_000.0

    def nvmlDeviceGetTotalEnergyConsumption(self, i: int) -> float:
        return 500_000.0 * clock.monotonic()


def _serve(told: Queue[int]) -> None:
    """A plug and an exporter, in a process of their own: what they take is not the site's."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            joules = 4000.0 * clock.monotonic()
            if self.path == "/plug":
                body = json.dumps({"aenergy": {"total": joules / 3600.0}, "apower": 4000.0})
            else:
                labels = 'gpu="{i}",UUID="GPU-{i}",device="nvidia{i}",modelName="H100",Hostname="node"'
                names = [f"DCGM_FI_DEV_OTHER_{n}" for n in range(38)]
                rows = [f"{name}{{{labels.format(i=i)}}} {n}" for n, name in enumerate(names) for i in range(8)]
                for i in range(8):
                    rows.append(f"DCGM_FI_DEV_POWER_USAGE{{{labels.format(i=i)}}} 500")
                    rows.append(f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels.format(i=i)}}} {joules / 8 * 1000:.0f}")
                body = "\n".join(rows) + "\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.put(server.server_address[1])
        server.serve_forever()


def _rapl(root: Path) -> RaplMeter:
    for p in (0, 1):
        folder = root / f"intel-rapl:{p}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("name", f"package-{p}"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "1000")):
            (folder / name).write_text(f"{text}\n")
    return RaplMeter(clock.uptime, root)


def _cost_s(folder: Path, told: Mapping[str, Any], meter: PowerMeter | None, readings: int) -> float:
    """Processor seconds of a reading and of passing it on."""

    def make(told: Mapping[str, Any], uptime: Uptime) -> PowerMeter:
        return meter if meter is not None else build_meter(told, uptime)

    (folder / "site").mkdir(parents=True)
    metering = Metering(folder / "site", told, make=make)
    relay = MeterRelay(folder / "site", FileSiteBus(folder / "site", 1))
    for _ in range(5):  # the first opens files and connections
        assert metering.sample()
        relay.look()
    at = time.process_time()
    for _ in range(readings):
        assert metering.sample()
        relay.look()
    return (time.process_time() - at) / readings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=500, help="readings of each source (default: 500)")
    readings = parser.parse_args().readings
    told: Queue[int] = Queue()
    server = Process(target=_serve, args=(told,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{told.get()}"
    console = Console()
    table = Table(box=None, title="A reading at 1 Hz, of one core")
    for head in ("source", "processor time", "share of a step", "mark"):
        table.add_column(head, justify="left" if head == "source" else "right")
    shares = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            nvml: PowerMeter = NvmlMeter(clock.uptime, 1.0)
            gpus = "nvml"
        except MeterError:
            nvml, gpus = NvmlMeter(clock.uptime, 1.0, library=Gpus()), "nvml (a double)"
        for name, config, meter in (
            (gpus, {}, nvml),
            ("rapl", {}, _rapl(folder / "powercap")),
            ("http", {"sources": ["http"], "url": f"{url}/plug", "energy_path": "aenergy.total", "power_path": "apower"}, None),
            ("exporter", {"sources": ["exporter"], "url": f"{url}/metrics"}, None),
        ):
            shares[name] = _cost_s(folder / name.split()[0], {"interval_s": 1.0, **config}, meter, readings)
            table.add_row(name, f"{shares[name] * 1e3:.2f} ms", f"{shares[name]:.3%}", f"{MARK:.1%}")
    server.terminate()
    server.join()
    console.print(table)
    worst = max(shares, key=lambda n: shares[n])
    kept = "kept" if shares[worst] <= MARK else "missed"
    console.print(f"ratio: {shares[worst]:.5f} ({worst}); the mark is {MARK}, and it is {kept}")
    return 0 if shares[worst] <= MARK else 1


if __name__ == "__main__":
    sys.exit(main())
