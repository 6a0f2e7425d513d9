"""A run's account in the layout of CodeCarbon's ``emissions.csv`` (version 3), so that what reads that file reads a run.

A line is a site. Windfall measures or models whole sites: what it does not know by itself (processors and GPUs apart, water,
places) is left empty, and nothing is made up.
"""

from __future__ import annotations

import csv
import io

from windfall import __version__
from windfall.units import iso_utc
from windfall.view.account import RunAccount

COLUMNS = (
    "timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate", "cpu_power", "gpu_power",
    "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed", "water_consumed", "country_name", "country_iso_code",
    "region", "cloud_provider", "cloud_region", "os", "python_version", "codecarbon_version", "cpu_count", "cpu_model", "gpu_count",
    "gpu_model", "longitude", "latitude", "ram_total_size", "tracking_mode", "cpu_utilization_percent", "gpu_utilization_percent",
    "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue",
)  # fmt: skip


def emissions_csv(a: RunAccount) -> str:
    """The file's text: a line for each site. Emissions are kg, energy kWh, durations seconds, the rate kg/s."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in a.lines("site"):
        kg = line.kg
        writer.writerow(
            {
                "timestamp": iso_utc(a.end).removesuffix("Z") if a.end is not None else "", "project_name": line.name,
                "run_id": a.run_id, "duration": line.seconds, "emissions": "" if kg is None else kg,
                "emissions_rate": kg / line.seconds if kg is not None and line.seconds > 0 else "", "energy_consumed": line.kwh,
                "codecarbon_version": f"windfall {__version__}", "tracking_mode": "machine", "on_cloud": "N", "pue": 1.0,
            }
        )  # fmt: skip
    return out.getvalue()
