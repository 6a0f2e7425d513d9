"""`[site.signal]`: keys belong to kinds, and what is wrong is told with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.config.load import ConfigProblems, loads, signals, to_toml
from windfall.config.schema import Config
from windfall.config.signals import LIVE, SignalTable

HERE = Path()
RUN = '[run]\nbudget_tokens = 1000\nstart = "2026-01-01T00:00Z"\n'
SITE = """
[[site]]
name = "a"
region = "R"
spin_up_s = 300
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 10
"""
#: The least that each kind needs.
LEAST = {
    "trace": 'kind = "trace"\npath = "bundled:paper_day"\ncolumn = "moer_g_per_kwh"',
    "synthetic": 'kind = "synthetic"',
    "watttime": 'kind = "watttime"',
    "electricity_maps": 'kind = "electricity_maps"\ntype = "average_co2"',
    "openelectricity": 'kind = "openelectricity"\ntype = "price"',
    "gridstatus": 'kind = "gridstatus"\ntype = "price"\niso = "CAISO"\nlocation = "TH_NP15"',
    "http": 'kind = "http"\nurl = "https://h/x"\nvalue_path = "data.0.value"',
    "vessim": 'kind = "vessim"\ntype = "surplus_power"\nurl = "http://h:8700"\nmicrogrid = "m"',
}


def config(signal: str, *, site: str = "", more: str = "", run: str = RUN) -> Config:
    return loads(f"{run}{SITE}{site}\n[site.signal]\n{signal}\n{more}", "x.toml", HERE)


def problem(signal: str, *, site: str = "", more: str = "", run: str = RUN) -> tuple[int, str, str]:
    with pytest.raises(ConfigProblems) as caught:
        config(signal, site=site, more=more, run=run)
    # That there is no such file is told beside what is wrong with the table.
    (p,) = (p for p in caught.value.problems if "no such file" not in p.message)
    return p.line, p.key, p.message


@pytest.mark.parametrize("kind", LEAST)
def test_the_least_that_a_kind_needs_is_enough_and_only_networks_are_live(kind: str) -> None:
    table = config(LEAST[kind]).site[0].signal
    assert table.kind == kind
    assert table.live == (kind not in ("trace", "synthetic"))
    assert (kind in LIVE) == table.live


@pytest.mark.parametrize(
    ("kind", "line", "belongs"),
    [
        ("synthetic", 'path = "x.csv"', "trace"),
        ("synthetic", 'zone = "CAISO_NORTH"', "watttime"),
        ("trace", "seed = 3", "synthetic"),
        ("trace", "poll_s = 60", "watttime"),
        ("watttime", 'iso = "CAISO"', "gridstatus"),
        ("watttime", 'network = "WEM"', "openelectricity"),
        ("gridstatus", 'credentials_file = "keys"', "watttime"),
        ("openelectricity", "latitude = 1\nlongitude = 2", "watttime"),
        ("http", 'microgrid = "m"', "vessim"),
        ("vessim", 'value_path = "v"', "http"),
    ],
)
def test_a_key_of_another_kind_is_refused_and_says_whose_it_is(kind: str, line: str, belongs: str) -> None:
    at, key, said = problem(f"{LEAST[kind]}\n{line}")
    assert (at, key) == (14 + LEAST[kind].count("\n") + 1, "site[0].signal")
    assert line.split(" ")[0] in said
    assert f"(it belongs to {belongs}); remove it" in said


def test_a_key_of_another_kind_at_its_default_is_no_stranger() -> None:
    assert config(f'{LEAST["synthetic"]}\nfield = "p_delta"\ntimeout_s = 10').site[0].signal.kind == "synthetic"


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ('kind = "trace"\ncolumn = "g"', "a trace needs path and column"),
        (
            'kind = "trace"\npath = "bundled:caiso"',
            "a trace needs path and column, or path and layout (watttime, electricity_maps, entsoe, caiso_oasis, aemo, gridstatus)",
        ),
        ('kind = "trace"\nlayout = "aemo"', "a trace needs path"),
        ('kind = "http"', 'kind = "http" needs url and value_path'),
        ('kind = "http"\nurl = "https://h/x?token=hunter2"', 'kind = "http" needs value_path'),
        ('kind = "vessim"\nurl = "http://h"', 'kind = "vessim" needs microgrid'),
        ('kind = "gridstatus"\ntype = "price"', 'kind = "gridstatus" needs iso and location'),
        ('kind = "watttime"\ntype = "price"', 'kind = "watttime" delivers marginal_co2; set type'),
        ('kind = "electricity_maps"', 'kind = "electricity_maps" delivers average_co2; set type'),
        ('kind = "openelectricity"', 'kind = "openelectricity" delivers price or curtailed_power; set type'),
        (
            f'{LEAST["trace"]}\nunit = "EUR/MWh"',
            'unit = "EUR/MWh" is no unit of marginal_co2; accepted are g/kWh, kg/kWh, kg/MWh, '
            "t/MWh, lb/MWh, lb/kWh, g/MJ, or multiply with `scale`",
        ),
        (
            f'{LEAST["trace"]}\ntype = "price"\ncurrency = "USD"\nunit = "EUR/MWh"',
            'unit = "EUR/MWh" and currency = "USD" differ; correct one',
        ),
        (
            f'{LEAST["trace"]}\ntimezone = "Berlin"',
            'timezone = "Berlin" is none that is known here; give a name as Europe/Berlin, '
            "America/Chicago, Australia/Brisbane (where a machine has no list of zones: pip install tzdata), "
            "or an offset that holds all year as +10:00",
        ),
        (
            f'{LEAST["trace"]}\ntime_format = "dd.mm.yyyy"',
            'time_format = "dd.mm.yyyy" has no %; write as for strptime, %d.%m.%Y %H:%M',
        ),
        (
            f'{LEAST["trace"]}\ntime_format = "%d/%m/%Y %H:%M %p"',
            'time_format = "%d/%m/%Y %H:%M %p" has %p (AM or PM) with %H, which disregards it; write %I for the hour',
        ),
        (
            f'{LEAST["trace"]}\nstamp = "end"\nperiod_s = 0',
            'stamp = "end" needs a period_s: a row that holds until the next has no end of its own',
        ),
        (
            f'{LEAST["trace"]}\nquarter_column = "q"',
            "hour_column is needed for quarter_column and hours_from; name the column of hours",
        ),
        (f'{LEAST["trace"]}\nregion_value = "q"', "region_value needs region_column; name the column that it is in"),
        (f'{LEAST["trace"]}\nregion_column = "q"\nwhere = {{ q = "x" }}', "region_column and where name one column; keep one"),
        (f"{LEAST['trace']}\nscale = 0", "scale = 0 makes every value 0; give another"),
        ('kind = "watttime"\nlatitude = 1', "latitude and longitude go together; give both or neither"),
    ],
)
def test_what_a_kind_lacks_is_told_once_and_without_repeating_the_table(signal: str, said: str) -> None:
    # At the key that it names first, if it stands there; what is lacking has its table's line.
    keys = [line.partition(" =")[0] for line in signal.split("\n")]
    first = said.split()[0]
    at = 14 + keys.index(first) if first in keys and first not in ("kind", "latitude") else 13
    assert problem(signal) == (at, "site[0].signal", said)


def test_a_unit_says_the_currency_where_no_key_does_and_numbers_choose_rows_as_texts() -> None:
    table = config(f'{LEAST["trace"]}\ntype = "price"\nunit = "EUR/kWh"').site[0].signal
    assert table.currency == "EUR"
    assert config(f'{LEAST["trace"]}\nwhere = {{ node = 12, kind = "LMP" }}').site[0].signal.where == {"node": "12", "kind": "LMP"}


@pytest.mark.parametrize("kind", LIVE)
def test_nobody_has_a_perfect_forecast_of_a_live_signal(kind: str) -> None:
    _, key, said = problem(f'{LEAST[kind]}\nforecast = "perfect"')
    assert key == "site[0].signal"
    assert said == 'forecast = "perfect" is for traces: nobody knows a live signal\'s future'


@pytest.mark.parametrize("kind", ["trace", "synthetic"])
def test_a_recorded_signal_may_have_a_perfect_forecast(kind: str) -> None:
    assert config(f'{LEAST[kind]}\nforecast = "perfect"').site[0].signal.forecast == "perfect"


@pytest.mark.parametrize("kind", LIVE)
@pytest.mark.parametrize("second", [False, True])
def test_replayed_time_has_no_live_signals_first_or_second(kind: str, second: bool) -> None:
    scaled = RUN + 'clock = "scaled"\n'
    extra = f"[[site.signals]]\n{LEAST[kind]}\nname = 'extra'" if second else ""
    _, key, said = problem(LEAST["synthetic"] if second else LEAST[kind], more=extra, run=scaled)
    assert key == "(file)"
    assert said == 'run.clock = "scaled" replays the past, and a live signal has none; use clock = "real", or traces'


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ("prce < 5", "trigger names prce, and the site's signals are price, wind; use one of these"),
        ("price < 5 and moer < 100", "trigger names moer, and the site's signals are price, wind; use one of these"),
        ("price <", "trigger 'price <': a number is missing before the end"),
        ("curtailed_power > 1", "trigger names curtailed_power, and the site's signals are price, wind"),
    ],
)
def test_a_trigger_names_the_sites_own_signals(trigger: str, said: str) -> None:
    signal = f'{LEAST["synthetic"]}\ntype = "price"'
    more = f'[[site.signals]]\n{LEAST["synthetic"]}\ntype = "curtailed_power"\nname = "wind"'
    at, key, told = problem(signal, site=f'trigger = "{trigger}"', more=more)
    assert (at, key) == (12, "site[0].trigger")
    assert told.startswith(said)
    assert config(signal, site='trigger = "price <= 0 or wind >= 2"', more=more).site[0].trigger == "price <= 0 or wind >= 2"


def test_moer_is_another_name_of_the_marginal_intensity_and_of_nothing_else() -> None:
    more = f'[[site.signals]]\n{LEAST["synthetic"]}\ntype = "price"'
    assert config(LEAST["synthetic"], site='trigger = "moer < 100 or price < 0"', more=more).site[0].trigger
    average = f'{LEAST["synthetic"]}\ntype = "average_co2"'
    assert "trigger names moer" in problem(average, site='trigger = "moer < 100"')[2]


def test_two_signals_of_one_label_are_refused_and_a_name_tells_them_apart() -> None:
    more = f"[[site.signals]]\n{LEAST['synthetic']}"
    assert problem(LEAST["synthetic"], more=more)[1:] == (
        "site[0]", "two of its signals are called marginal_co2; give each a name",
    )  # fmt: skip
    found = config(LEAST["synthetic"], more=f'{more}\nname = "north"')
    assert [s.label for s in found.site[0].all_signals] == ["marginal_co2", "north"]
    # A name may not take another's type either.
    assert "two of its signals are called marginal_co2" in problem(LEAST["synthetic"], more=f'{more}\nname = "marginal_co2"')[2]


def test_a_missing_credentials_file_is_told_with_the_line_of_its_key(tmp_path: Path) -> None:
    text = f'{RUN}{SITE}\n[site.signal]\n{LEAST["watttime"]}\ncredentials_file = "keys"'
    with pytest.raises(ConfigProblems, match=r"x\.toml:15: site\[0\]\.signal\.credentials_file \(site a\): no such file"):
        loads(text, "x.toml", tmp_path)
    (tmp_path / "keys").write_text("WATTTIME_USER=me\n")
    assert loads(text, "x.toml", tmp_path).site[0].signal.credentials_file == str(tmp_path / "keys")


def test_every_signal_of_a_file_is_found_with_its_place() -> None:
    more = (
        f'[[site.signals]]\n{LEAST["synthetic"]}\nname = "b"\n[[counterfactual]]\nregion = "Q"\n'
        f"[counterfactual.signal]\n{LEAST['synthetic']}"
    )
    assert [where for where, _ in signals(config(LEAST["synthetic"], more=more))] == [
        ("site", 0, "signal"), ("site", 0, "signals", 0), ("counterfactual", 0, "signal"),
    ]  # fmt: skip


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12)
KEYS = st.from_regex(r"[A-Za-z_-]{1,8}", fullmatch=True)
FREE = {
    "period_s": st.floats(0, 1e6),
    "publication_delay_s": st.floats(0, 1e6),
    "stale_periods": st.floats(0.1, 100),
    "name": st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,9}", fullmatch=True),
    "forecast": st.sampled_from(["provider", "none"]),
}
OWN = {
    "trace": {
        "until": st.just("2026-02-01T00:00Z"), "time_column": TEXT.filter(bool),
        "forecast_columns": st.dictionaries(KEYS, st.floats(1, 1e5), min_size=1, max_size=3),
        "where": st.dictionaries(TEXT.filter(bool), TEXT, min_size=1, max_size=3),
        "unit": st.sampled_from(["lb/MWh", "t/MWh", "gCO₂/kWh"]), "scale": st.floats(0.001, 1e4),
        "timezone": st.sampled_from(["Europe/Berlin", "+10:00", "UTC"]), "time_format": TEXT.map(lambda t: "%Y" + t),
        "repeated": st.sampled_from(["refuse", "last"]), "decimal": st.sampled_from([".", ","]), "hour_column": TEXT.filter(bool),
    },
    "synthetic": {"seed": st.integers(0, 10**9), "days": st.floats(0.1, 400)},
    "watttime": {"zone": TEXT, "horizon_h": st.floats(0.1, 72), "poll_s": st.floats(1, 1e4)},
    "http": {
        "scale": st.floats(allow_nan=False, allow_infinity=False), "time_path": TEXT,
        "headers_from_env": st.dictionaries(KEYS, KEYS, min_size=1, max_size=2),
    },
}  # fmt: skip


@given(st.data(), st.sampled_from(sorted(OWN)))
def test_whatever_a_signal_says_comes_back_from_the_resolved_file(data: st.DataObject, kind: str) -> None:
    plain = config(LEAST[kind])
    keys = data.draw(st.fixed_dictionaries({}, optional=FREE | OWN[kind]))
    table = SignalTable.model_validate({**plain.site[0].signal.model_dump(exclude_unset=True), **keys})
    second = table.model_copy(update={"name": "second" if table.label != "second" else "other"})
    site = plain.site[0].model_copy(update={"signal": table, "signals": [second]})
    written = plain.model_copy(update={"site": [site]})
    back = loads(to_toml(written), "y.toml", HERE)
    assert back == written
    assert back.site[0].signal.label == (keys.get("name") or table.type)
