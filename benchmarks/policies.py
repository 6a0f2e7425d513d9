"""Policies on the bundled year, and on prices where the three-region data are: nearness to the oracle.

make bench-policies
python benchmarks/policies.py [--every WEEKS] [--data DIR]

The rows of budgets with a date are those of `dates.py`; `--every` takes every so manieth week of their start dates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from backtest import study, timed, year
from dates import no_history, rows

from windfall.config.load import loads
from windfall.simulate.backtest import backtest

PRICES = "aligned_3site_caiso_ercot_sa_5min_2021-01_2021-08.csv"


def main() -> None:
    """Print every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth week of start dates")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where the three-region data are")
    asked = parser.parse_args()
    shares()
    study()
    prices(asked.data / PRICES)
    three, hundred = timed(3, "breakeven"), timed(100, "breakeven")
    print(
        f"a year, breakeven: 3 sites {three:.2f} s, 100 sites {hundred:.1f} s: {hundred / three:.1f} times for 33.3 times the sites"
    )
    three, learned = timed(3, "breakeven"), timed(3, "learned")
    print(f"a year, 3 sites: learned {learned:.2f} s, {learned / three:.1f} times breakeven's {three:.2f} s")
    rows(asked.every, (7, 14), (5, 10, 20), ("none", "bundled"))
    no_history()


def shares() -> None:
    """Share of the oracle's value over the year, readings on time, 5 and 15 min late."""
    for region, column in (("PG&E", "pge_moer_g"), ("SCE", "sce_moer_g")):
        for minutes in (5, 10, 20):
            found = backtest(
                year(1, minutes * 60.0, (column,), more="publication_delays_s = [0, 300, 900]"), ["breakeven", "learned"]
            )
            for row in [*found.rows, *found.late]:
                late = f"{(row.publication_delay_s or 0) / 60:.0f} min late"
                print(f"{region:4} start {minutes:2} min, {late:11} {row.policy:10} {row.share_of_oracle or 0:.3f} of the oracle")


def prices(file: Path) -> None:
    """The same on prices of South Australia and Texas, worth 0 and 20 a MWh."""
    if not file.exists():
        print(f"prices: {file} is not here")
        return
    for region, column, currency in (("SA", "nem_sa1_price_aud_mwh", "AUD"), ("Texas W", "ercot_hb_west_dam_usd_mwh", "USD"),
                                     ("Texas Pan", "ercot_hb_pan_dam_usd_mwh", "USD")):  # fmt: skip
        for worth in (0, 20):
            for minutes in (5, 10, 20):
                config = loads(
                    f"""
[run]
name = "prices"
budget_tokens = 1_000_000
clock = "scaled"
tick_s = 300
[policy]
worth_per_mwh = {worth}
[model]
sequence_length = 16
[backtest]
target = "none"
[[site]]
name = "s"
region = "R"
spin_up_s = {minutes * 60}
load_s = {minutes * 60}
train_power_w = 1000
idle_power_w = 1000
tokens_per_s = 1000
[site.signal]
type = "price"
currency = "{currency}"
path = '{file.resolve()}'
column = "{column}"
""", "prices.toml", Path.cwd(),
                )  # fmt: skip
                rows = backtest(config, ["threshold", "breakeven", "learned"]).rows
                told = ", ".join(f"{r.policy} {r.share_of_oracle or 0:.3f}" for r in rows)
                print(f"{region:9} worth {worth:2} {currency}, start {minutes:2} min: {told} of the oracle")


if __name__ == "__main__":
    main()
