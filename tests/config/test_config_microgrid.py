"""`[site.microgrid]`: every mistake is told with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.config.load import ConfigProblems, load, loads, to_toml
from windfall.config.schema import Config

_RUN = """[run]
name = "m"
budget_tokens = 1000
clock = "scaled"
start = "2026-01-01T00:00Z"
[[site]]
name = "farm"
region = "F"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 10
"""
_SIGNAL = '[site.signal]\nkind = "microgrid"\ntype = "surplus_power"\n'
_SOURCE = '[[site.microgrid.source]]\npath = "sun.csv"\ncolumn = "w"\n'
_BATTERY = "[site.microgrid.battery]\ncapacity_wh = 4000\n"


def config(
    folder: Path, *, site: str = "", signal: str = _SIGNAL, microgrid: str = "", source: str = _SOURCE, more: str = ""
) -> Config:  # fmt: skip
    rows = ("2026-01-01T00:00Z,1000", "2026-01-01T00:05Z,0", "2026-01-01T00:10Z,500")
    (folder / "sun.csv").write_text("\n".join(["time_utc,w", *rows, ""]))
    return loads(f"{_RUN}{site}{signal}[site.microgrid]\n{microgrid}{source}{more}", "m.toml", folder)


def problems(folder: Path, **parts: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigProblems) as caught:
        config(folder, **parts)
    assert all(p.line > 0 for p in caught.value.problems)
    return [(p.key, p.message) for p in caught.value.problems]


def test_the_least_that_a_microgrid_needs_is_enough_and_is_read_back(tmp_path: Path) -> None:
    c = config(tmp_path, more=_BATTERY)
    m = c.site[0].microgrid
    assert m is not None
    assert m.battery is not None
    assert (m.policy, m.step_s, m.max_import_w, m.battery.discharge_w) == ("battery_first", 60, None, 6000.0)
    (tmp_path / "again.toml").write_text(to_toml(c), encoding="utf-8")
    assert load(tmp_path / "again.toml") == c


@pytest.mark.parametrize(
    ("parts", "key", "words"),
    [
        ({"microgrid": "max_import_w = 500\n"}, "microgrid.max_import_w",
         "cannot balance: the site takes up to 2,000 W, and without sun and wind there are 500 W from the grid; raise max_import_w "
         "by 1,500"),
        ({"microgrid": "max_import_w = 0\n", "more": "[site.microgrid.battery]\ncapacity_wh = 1000\n"}, "microgrid.max_import_w",
         "1,500 W from the battery"),
        ({"microgrid": "max_export_w = -1\n"}, "microgrid.max_export_w", "got -1"),
        ({"microgrid": 'policy = "sun_first"\n'}, "microgrid.policy", "battery_first"),
        ({"microgrid": "step_s = 0.5\n"}, "microgrid.step_s", "got 0.5"),
        ({"microgrid": "max_imports_w = 1\n"}, "microgrid.max_imports_w", "did you mean `max_import_w`"),
        ({"source": ""}, "microgrid.source", "missing"),
        ({"source": _SOURCE + 'unit = "share"\n'}, "microgrid.source[0]", "peak_power_w"),
        ({"source": _SOURCE + 'unit = "g/kWh"\n'}, "microgrid.source[0]", "no unit of surplus_power"),
        ({"source": _SOURCE + 'kind = "synthetic"\n'}, "microgrid.source[0]", "use trace (a file) or http"),
        ({"source": _SOURCE.replace("sun.csv", "moon.csv")}, "microgrid.source[0].path", "no such file"),
        ({"source": _SOURCE + _SOURCE.replace('"w"', '"w"\nname = "x"') + 'kind = "http"\nurl = "http://h"\nvalue_path = "v"\n'},
         "microgrid", "only if all are traces"),
        ({"more": "[site.microgrid.battery]\n"}, "microgrid.battery.capacity_wh", "missing"),
        ({"more": _BATTERY + "initial_soc = 0.05\n"}, "microgrid.battery", "below min_soc"),
        ({"more": _BATTERY + "min_soc = 1.5\n"}, "microgrid.battery.min_soc", "got 1.5"),
        ({"signal": _SIGNAL.replace("surplus_power", "state_of_charge")}, "signal.type", "put it into [[site.signals]]"),
        ({"signal": '[site.signal]\nkind = "microgrid"\n'}, "signal", "delivers surplus_power or state_of_charge"),
        ({"signal": _SIGNAL + 'path = "sun.csv"\n'}, "signal", "has no path"),
        ({"site": "own_signal = true\n"}, "own_signal", "leave own_signal out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_where_it_stands(tmp_path: Path, parts: dict[str, str], key: str, words: str) -> None:
    found = problems(tmp_path, **parts)
    assert [k for k, m in found if words in m] == [f"site[0].{key}"], found


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, microgrid='max_import_w = 1\npolicy = "x"\n', source=_SOURCE + 'unit = "furlongs"\n', site="own_signal = true\n",
        more="[site.microgrid.battery]\ncapacity_wh = 400\ncharge_efficiency = 2\n",
    )  # fmt: skip
    assert sorted(k for k, _ in found) == [
        "site[0].microgrid.battery.charge_efficiency", "site[0].microgrid.max_import_w", "site[0].microgrid.policy",
        "site[0].microgrid.source[0]", "site[0].own_signal",
    ], found  # fmt: skip


def test_a_signal_of_a_microgrid_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match=r"needs a table \[site.microgrid\]"):
        loads(_RUN + _SIGNAL, "m.toml", tmp_path)
    with pytest.raises(ConfigProblems, match="a region without a site has no microgrid"):
        config(tmp_path, more=_BATTERY + '[[counterfactual]]\nregion = "X"\n' + _SIGNAL.replace("site.", "counterfactual."))


def test_an_inverter_that_is_asked_is_live_and_a_scaled_clock_has_none(tmp_path: Path) -> None:
    asked = '[[site.microgrid.source]]\nkind = "http"\nurl = "http://inverter/power"\nvalue_path = "w"\n'
    with pytest.raises(ConfigProblems, match="a live signal has none"):
        config(tmp_path, source=asked)
