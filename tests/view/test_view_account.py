"""The account of a run: it closes, by whatever it is divided, and an old run's is read as it is."""

from __future__ import annotations

import csv
import io
import math
import os
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui_runs import START, commit_all, energy, now_row
from windfall.cli.account import account
from windfall.errors import ConfigError
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.store.telemetry_schema import SCHEMA_VERSION
from windfall.view.account import BY, RunAccount, run_account
from windfall.view.codecarbon import COLUMNS, emissions_csv
from windfall.view.series import run_series
from windfall.view.state import run_state

H = 3600.0


def measured_run(run: RunDir) -> RunDir:
    """With an hour that was measured, one that was measured late, and one whose intensity nobody knows."""
    t = Telemetry.open(run.telemetry)
    row = EnergyRow("adelaide", "training", START + 2 * H, START + 3 * H, 1500.0, 50.0, 5.4e6, 75.0, 1, 30.0, 0.5, 5.4e6)
    t.book(row)
    t.book(row._replace(t0=START + 3 * H, t1=START + 4 * H, watts=2000.0, joules=7.2e6, grams=100.0, measured_joules=0.0))
    late = "measured late: its model had stood in"
    t.book(
        row._replace(
            t0=START + 3 * H, t1=START + 4 * H, watts=-400.0, joules=-1.44e6, grams=-20.0, measured_joules=5.76e6, cause=late
        )
    )
    t.book(row._replace(t0=START + 4 * H, t1=START + 5 * H, watts=1000.0, g_per_kwh=None, joules=3.6e6, grams=0.0, inside=-1))
    t.close()
    return run


def closes(a: RunAccount) -> None:
    for by in BY:
        lines = a.lines(by)
        for figure in ("seconds", "joules", "measured_joules", "corrected_joules", "grams", "average_grams", "unpriced_joules",
                       "inside_joules", "unjudged_joules"):  # fmt: skip
            parts, whole = math.fsum(getattr(x, figure) for x in lines), getattr(a.total, figure)
            size = math.fsum(abs(getattr(x, figure)) for x in lines)
            assert parts == pytest.approx(whole, rel=1e-12, abs=1e-12 * (1 + size)), (by, figure)
    t = a.tokens
    assert t.paid == t.committed + t.in_hand + t.lost + t.repeated


def test_what_sites_have_in_hand_while_a_run_goes_on_is_not_repeated_yet(empty: RunDir) -> None:
    ledger = Ledger.open(empty.ledger)
    commit_all(ledger, "california", 2, "local", START + H)
    lease = ledger.lease("california", 1, 4, START + H, START + 2 * H)
    ledger.close()
    assert lease is not None
    t = Telemetry.open(empty.telemetry)
    t.event(START, "started", version=0, fence=1, tokens_total=0, run_id="small-1", pid=os.getpid())
    now_row(t, START + H, {"california": ["training", 1, "x"]}, pid=os.getpid())
    t.close()
    trained = empty.sites / "california" / "trained"
    trained.mkdir(parents=True)
    for tokens, in_hand, repeated in ((3 * 1024, 1024, 0), (7 * 1024, 4 * 1024, 1024)):  # it holds four blocks
        (trained / "1").write_text(str(tokens))
        a = run_account(empty)
        closes(a)
        assert (a.tokens.committed, a.tokens.in_hand, a.tokens.repeated) == (2 * 1024, in_hand, repeated)
    t = Telemetry.open(empty.telemetry)
    t.event(START + H, "interrupted", version=1)
    now_row(t, START + H, {"california": ["off", 1, "x"]})
    t.close()
    assert (run_account(empty).tokens.in_hand, run_account(empty).tokens.repeated) == (0, 5 * 1024)


def test_it_closes_by_site_phase_version_and_hour_and_is_what_status_says(small: RunDir) -> None:
    a = run_account(measured_run(small))
    closes(a)
    state = run_state(small)
    assert state.measured_share == pytest.approx(a.measured_share)
    assert a.total.kwh == pytest.approx(state.energy_kwh)
    assert a.total.kg == pytest.approx(state.kg_co2)
    assert [x.name for x in a.lines("phase")] == ["idle", "training"]
    assert [x.name for x in a.lines("version")] == ["version 1", "version 2", "after version 2"]
    assert a.lines("version")[0].joules == pytest.approx(400.0 * 100 + 2000.0 * 3000)
    assert [x.name[11:16] for x in a.lines("hour")] == ["17:00", "18:00", "19:00", "20:00", "21:00"]
    assert a.measured_share == pytest.approx((5.4 + 5.76 + 5.4) / (a.total.joules / 1e6))
    assert a.total.corrected_joules == -1.44e6
    assert a.range is not None
    assert a.range.value == pytest.approx(a.total.grams)
    assert a.range.low < a.range.value < a.range.high
    assert a.range.moved_most_by
    assert a.sci.per["million tokens"] == pytest.approx(a.total.kwh * (a.sci.g_per_kwh or 0.0) / (8192 / 1e6))
    said = " ".join(a.notes)
    for word in ("time is replayed", "corrected -0.4 kWh", "1 kWh were used in hours without a reading", "[site.embodied] is not"):
        assert word in said, word


@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["training", "idle", "stall"]),
            st.floats(1.0, 20_000.0),
            st.floats(0.0, 5000.0),
            st.one_of(st.none(), st.floats(-200.0, 900.0)),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from(["", "late"]),
        ),
        max_size=30,
    ),
    commits=st.lists(st.floats(0.0, 2e5), max_size=6),
)
def test_whatever_is_booked_is_in_exactly_one_line(
    entries: list[tuple[str, str, float, float, float | None, float, str]], commits: list[float]
) -> None:
    from windfall.store.records import Version
    from windfall.view.account import Sci, _line
    from windfall.view.tokens_paid import TokensPaid

    rows, at = [], {"a": START, "b": START}
    for site, phase, seconds, watts, g, measured, cause in entries:
        joules = watts * seconds * (-1.0 if cause else 1.0)
        t0 = at[site] if not cause else max(START, at[site] - seconds)
        rows.append(
            EnergyRow(
                site,
                phase,
                t0,
                t0 + seconds,
                watts,
                g,
                joules,
                (g or 0.0) * joules / 3.6e6,
                1,
                None,
                None,
                measured * abs(joules),
                cause,
            )
        )
        at[site] = max(at[site], t0 + seconds)
    versions = tuple(
        Version(
            version=i,
            t_run=START + t,
            t_wall=0.0,
            file="",
            sha256="",
            mode="local",
            tokens=0,
            tokens_total=0,
            sites={},
            retained=True,
            outer_file=None,
        )
        for i, t in enumerate(sorted(commits))
    )
    a = RunAccount(
        "x", "done", False, START, None, "marginal", _line("all", rows, {}), tuple(rows), versions, {},
        TokensPaid(3, 2, 1, 6, ()), {}, Sci(0.0, None, None, {}, {}), None, (), {},
    )  # fmt: skip
    closes(a)


def test_what_is_printed_is_the_account(small: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    measured_run(small)
    account(small.root, None, False, False, False)
    text = capsys.readouterr().out
    for word in ("small-1: done", "% of all joules measured", "adelaide", "tokens     ", "-0.400", "note       time is replayed"):
        assert word in text, word
    account(small.root, "hour", False, True, False)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[-1]["hour"] == "all"
    assert sum(float(r["kwh"]) for r in rows[:-1]) == pytest.approx(float(rows[-1]["kwh"]))
    with pytest.raises(ConfigError, match="ask for one of them"):
        account(small.root, None, True, True, False)


def test_codecarbons_layout_has_a_line_for_each_site(small: RunDir) -> None:
    rows = list(csv.DictReader(io.StringIO(emissions_csv(run_account(measured_run(small))))))
    assert tuple(rows[0]) == COLUMNS
    assert [r["project_name"] for r in rows] == ["california", "adelaide"]
    a = run_account(small)
    assert sum(float(r["energy_consumed"]) for r in rows) == pytest.approx(a.total.kwh)
    assert sum(float(r["emissions"]) for r in rows) == pytest.approx(a.total.grams / 1000)


def test_embodied_emissions_are_told_by_both_conventions_and_are_in_no_entry(small: RunDir) -> None:
    text = small.config.read_text()
    small.config.write_text(text.replace("[site.signal]", "[site.embodied]\nkg_co2 = 656.0\nused_share = 0.2\n[site.signal]", 1))
    a = run_account(small)
    made = a.embodied["california"]
    assert made is not None
    hours = 6700 / 3600
    assert made.reserved_g == pytest.approx(18.7 * hours, rel=1e-2), "four cards over four years: 18.7 g per reserved hour"
    assert made.useful_g == pytest.approx(18.7 * 5 * 6600 / 3600, rel=1e-2)
    assert a.total.grams == pytest.approx(1000 * (run_state(small).kg_co2 or 0.0))
    assert a.sci.embodied_g == made.reserved_g
    assert any("not in it for adelaide" in n for n in a.notes)


def test_a_run_that_crashed_says_that_more_may_be_booked_and_an_empty_one_has_an_empty_account(
    small: RunDir, empty: RunDir
) -> None:
    t = Telemetry.open(small.telemetry)
    t.event(START + 2 * H, "resumed", version=2, pid=1)
    t.close()
    a = run_account(small)
    assert a.open
    assert "the run is stopped: more may be booked" in a.notes
    nothing = run_account(empty)
    assert (nothing.total.joules, nothing.range, nothing.lines("hour")) == (0.0, None, [])


def test_an_old_run_is_read_as_it_is_and_upgraded_when_it_is_resumed(small: RunDir) -> None:
    """Telemetry as schema 2 had it: an entry known by site and beginning, without numbers, measurements and causes."""
    before = run_account(small)
    db = sqlite3.connect(small.telemetry)
    db.executescript("""
        CREATE TABLE old (site TEXT NOT NULL, phase TEXT NOT NULL, t0 REAL NOT NULL, t1 REAL NOT NULL, t_wall REAL NOT NULL,
          watts REAL NOT NULL, g_per_kwh REAL, joules REAL NOT NULL, grams REAL NOT NULL, inside INTEGER NOT NULL,
          average_grams REAL, money REAL, PRIMARY KEY (site, t0));
        INSERT INTO old
          SELECT site, phase, t0, t1, t_wall, watts, g_per_kwh, joules, grams, inside, average_grams, money FROM energy;
        DROP TABLE energy; ALTER TABLE old RENAME TO energy;
        UPDATE meta SET value = '2' WHERE key = 'schema';
    """)
    db.close()
    old = run_account(small)
    assert (old.total, old.lines("site")) == (before.total, before.lines("site"))
    assert run_state(small).energy_kwh == pytest.approx(before.total.kwh)
    telemetry = Telemetry.open(small.telemetry)
    assert telemetry.rows("SELECT value FROM meta WHERE key = 'schema'") == [(str(SCHEMA_VERSION),)]
    assert telemetry.next_entry() == 4
    telemetry.close()
    assert run_account(small).total == before.total
    t = Telemetry.open(small.telemetry)
    energy(t, "california", "training", START + 2 * H, START + 3 * H, 2000.0, 65.4)
    t.close()
    assert run_account(small).total.joules == pytest.approx(before.total.joules + 7.2e6)


def test_a_sites_count_that_is_short_is_told_and_not_filled_up_in_silence(small: RunDir) -> None:
    run = measured_run(small)
    whole = run_account(run).tokens
    assert whole.uncounted == 0
    for site in ("california", "adelaide"):
        folder = run.sites / site / "trained"
        folder.mkdir(parents=True, exist_ok=True)
        for life in folder.iterdir():
            life.unlink()
        (folder / "1").write_text("7")
    a = run_account(run)
    closes(a)
    assert (a.tokens.uncounted, a.tokens.repeated) == (whole.committed + whole.lost - 14, 0)
    assert any("in no site's own count" in n for n in a.notes)


def test_work_of_a_site_whose_disk_is_gone_is_estimated_from_its_energy_and_named(small: RunDir) -> None:
    """At 2,000 W for 20 tokens/s: what was measured to take less has trained less."""
    folder = small.sites / "california" / "trained"
    folder.mkdir(parents=True)
    (folder / "1").write_text("5000")
    ledger = Ledger.open(small.ledger)
    ledger.asked(START, 0.0, "adelaide", 1, "ensure_up", "start")
    ledger.close()
    t = Telemetry.open(small.telemetry)
    t.event(START + H, "work_lost", site="california", generation=1, cut=3, tokens=500, kwh=0.1, reason="too late")
    at = (START + H, START + 2 * H)
    t.book(EnergyRow("adelaide", "training", *at, -400.0, 875.4, -1.44e6, -350.16, 0, None, None, 5.76e6, "late"))
    t.close()
    a = run_account(small)
    closes(a)
    trained = round((7.2e6 - 1.44e6) / 2000.0 * 20.0)
    assert trained == 57_600
    assert a.tokens.estimated == ("adelaide",)
    assert a.tokens.paid == 5000 + trained
    assert any("adelaide are estimated from their energy" in n for n in a.notes)
    whole = (13.2e6 + 7.2e6 - 1.44e6) / 3.6e6
    assert a.lost_kwh == pytest.approx(whole * 500 / a.tokens.paid)
    assert a.repeated_kwh == pytest.approx(whole * a.tokens.repeated / a.tokens.paid)
    assert a.lost_kwh + a.repeated_kwh < whole, "part of training's, and added nowhere"


def test_what_is_used_at_an_instant_is_in_one_line_also_on_the_border_of_an_hour(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    for at in (START + H, START + 1.5 * H):
        t.book(EnergyRow("adelaide", "network", at, at, 0.0, 50.0, 7200.0, 0.1, 1, None, None))
    t.close()
    a = run_account(small)
    closes(a)
    (network,) = (x for x in a.lines("phase") if x.name == "network")
    assert (network.joules, network.seconds) == (14_400.0, 0.0)
    assert any("energy of the network is assumed: 0.002 kWh a GB" in n for n in a.notes)
    assert a.range is not None
    assert "energy of the network" in {f.name for f in a.range.factors}
    assert run_series(small).emissions[-1][1] == pytest.approx(a.total.grams / 1000)


def test_for_how_long_a_metered_site_stayed_modelled_is_named(small: RunDir) -> None:
    text = small.config.read_text().replace('clock = "scaled"\nspeed = 600\nstart = "2026-01-11T17:00Z"', 'clock = "real"')
    meter = '[site.meter]\nsources = ["http"]\nurl = "http://127.0.0.1:9"\npower_path = "a"\n[site.signal]'
    small.config.write_text(text.replace("[site.signal]", meter, 1))
    t = Telemetry.open(small.telemetry)
    hour = EnergyRow("california", "training", START + 2 * H, START + 3 * H, 1500.0, 50.0, 5.4e6, 75.0, 1, None, None, 5.4e6)
    t.book(hour)
    t.book(hour._replace(t0=START + 600, t1=START + 1200, joules=-3e5, grams=-5.4, measured_joules=9e5, cause="late"))
    t.close()
    a = run_account(small)
    assert a.stayed_modelled_s == {"california": pytest.approx(100.0 + 6600.0 - 600.0)}
    assert any("stayed modelled: california 1 h 42" in n for n in a.notes), a.notes
