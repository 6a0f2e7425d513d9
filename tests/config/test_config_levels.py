"""`power_levels`: every mistake is told with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.config.load import ConfigProblems, load, loads, to_toml
from windfall.config.schema import Config

_LEVELS = "{ power_w = 800, tokens_per_s = 5 }, { power_w = 1400, tokens_per_s = 8 }, { power_w = 2000 }"


def config(
    folder: Path, levels: str = _LEVELS, *, site: str = "", signal: str = 'type = "surplus_power"', more: str = ""
) -> Config:
    (folder / "sun.csv").write_text("time_utc,w,g\n2026-01-01T00:00Z,1000,300\n")
    return loads(
        f"""[run]
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
{site}
power_levels = [{levels}]
[site.signal]
path = "sun.csv"
column = "w"
{signal}
{more}""", "m.toml", folder,
    )  # fmt: skip


def test_levels_are_read_back_and_the_lowest_is_the_demand(tmp_path: Path) -> None:
    c = config(tmp_path)
    assert [(x.power_w, x.tokens_per_s) for x in c.site[0].power_levels] == [(800, 5), (1400, 8), (2000, None)]
    assert c.site[0].demand_w == 800
    assert config(tmp_path, "").site[0].demand_w == 2000
    (tmp_path / "again.toml").write_text(to_toml(c), encoding="utf-8")
    assert load(tmp_path / "again.toml") == c
    by_charge = 'trigger = "surplus_power >= 800 or charge >= 0.5"'
    charge = '[[site.signals]]\nname = "charge"\ntype = "state_of_charge"\npath = "sun.csv"\ncolumn = "g"'
    assert config(tmp_path, site=by_charge, more=charge).site[0].power_levels


@pytest.mark.parametrize(
    ("levels", "key", "words"),
    [
        ("{ power_w = 1400 }, { power_w = 800 }, { power_w = 2000 }", "[1].power_w", "800 W comes after 1400 W"),
        ("{ power_w = 800 }, { power_w = 800 }, { power_w = 2000 }", "[1].power_w", "800 W comes after 800 W"),
        ("{ power_w = 800 }, { power_w = 1900 }", "[1].power_w", "is the site at full power, train_power_w = 2000, not 1900"),
        ("{ power_w = 800 }, { power_w = 2100 }", "[1].power_w", "train_power_w = 2000, not 2100"),
        ("{ power_w = 400 }, { power_w = 2000 }", "[0].power_w", "idles at 400 W (idle_power_w) cannot train at 400 W; raise it"),
        ("{ power_w = 0 }, { power_w = 2000 }", "[0].power_w", "got 0; accepted: watts, above 0"),
        ('{ power_w = "1 kW" }, { power_w = 2000 }', "[0].power_w", "got '1 kW'; accepted: watts"),
        ("{ tokens_per_s = 3 }, { power_w = 2000 }", "[0].power_w", "missing"),
        ("{ power_w = 800, tokens_per_s = 9 }, { power_w = 1400, tokens_per_s = 8 }, { power_w = 2000 }", "[1].tokens_per_s",
         "8 is slower than the level below, 9"),
        ("{ power_w = 800, tokens_per_s = 11 }, { power_w = 2000 }", "[0].tokens_per_s", "11 is faster than the site at full"),
        ("{ power_w = 800 }, { power_w = 2000, tokens_per_s = 9 }", "[1].tokens_per_s", "tokens_per_s = 10, not 9; leave it out"),
        ("{ power_w = 800, tokens_per_s = 0 }, { power_w = 2000 }", "[0].tokens_per_s", "got 0; accepted: tokens/s, above 0"),
        ("{ power_w = 800, gpu_power_w = 200 }, { power_w = 900, gpu_power_w = 200 }, { power_w = 2000 }", "[1].gpu_power_w",
         "200 W is not above that of the level below"),
        ("{ power_w = 2000, gpu_power_w = 200 }", "[0].gpu_power_w", "the highest level holds GPUs to nothing"),
        ("{ power_w = 800, watts = 2 }, { power_w = 2000 }", "[0].watts", "unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_among_levels_is_told_where_it_stands(tmp_path: Path, levels: str, key: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, levels)
    (found,) = caught.value.problems
    assert (found.key, found.line) == (f"site[0].power_levels{key}", 13)
    assert words in found.message


@pytest.mark.parametrize(
    ("parts", "key", "words"),
    [
        ({"signal": 'type = "curtailed_power"'}, "power_levels", "first signal is curtailed_power; put surplus_power"),
        ({"signal": ""}, "power_levels", "first signal is marginal_co2"),
        ({"site": 'trigger = "moer < 100"', "more": '[[site.signals]]\npath = "sun.csv"\ncolumn = "g"\n'}, "trigger",
         "does not name surplus_power, which the levels follow"),
    ],
)  # fmt: skip
def test_levels_are_for_sites_that_are_judged_by_their_surplus(tmp_path: Path, parts: dict[str, str], key: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, **parts)
    (found,) = caught.value.problems
    assert found.key == f"site[0].{key}"
    assert words in found.message


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems) as caught:
        config(tmp_path, "{ power_w = 300, tokens_per_s = 12 }, { power_w = 200 }")
    assert len(caught.value.problems) == 4
