"""The study's day on the manual clock: our figures over the study's, and how fast the loop is.

make bench-backtest
"""

from __future__ import annotations

from pathlib import Path

from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.simulate.backtest import backtest

#: The study, Table 1: kgCO2, hours, kWh.
STUDY = (1.379, 14.60, 37.72)


def main() -> None:
    """Print one line per policy."""
    result = backtest(loads(bundled("paper_day.toml"), "paper_day.toml", Path.cwd()))
    for row in result.rows:
        print(
            f"{row.policy:10} {row.preset:10} {row.kg_co2:7.3f} kg (ratio to the study {row.kg_co2 / STUDY[0]:.3f})  "
            f"{row.finish_h or float('nan'):6.2f} h ({(row.finish_h or float('nan')) / STUDY[1]:.3f})  "
            f"{row.energy_kwh:6.2f} kWh ({row.energy_kwh / STUDY[2]:.3f})"
        )
    print(f"elapsed {result.elapsed_s:.2f} s for {len(result.rows)} policies")


if __name__ == "__main__":
    main()
