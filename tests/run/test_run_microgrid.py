"""A run one of whose sites is a microgrid: its signals, its account, a coordinator that is replaced, and what is shown."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from federation.fake import counting
from federation.fixtures import data as data
from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import BATCH, BLOCK, T0, Run
from windfall.cli.account import account
from windfall.energy.account import Account
from windfall.energy.microgrid import Microgrid
from windfall.run.present import Present, microgrids_of
from windfall.run.watch import MicrogridWatch
from windfall.simulate.replay import replay
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.page.report import write_report
from windfall.units import iso_utc
from windfall.view.account import run_account

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
ALWAYS = [(0.0, 1e5)]


def farm(folder: Path, watts: list[float], *, more: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Site `a` as a microgrid whose plants deliver ``watts``, five minutes each; it trains on sun, or while its battery lasts."""
    rows = "".join(f"{iso_utc(T0 - 300.0 + i * 300.0)},{w},300\n" for i, w in enumerate([watts[0], *watts]))
    (folder / "sun.csv").write_text(f"time_utc,w,g\n{rows}", encoding="utf-8")
    path = str(folder / "sun.csv")
    return {
        "a": {
            "trigger": "surplus_power >= 2000 or state_of_charge >= 0.4",
            "signal": {"kind": "microgrid", "type": "surplus_power"},
            "signals": [{"kind": "microgrid", "type": "state_of_charge"}, {"path": path, "column": "g"}],
            "microgrid": {
                "source": [{"path": path, "column": "w"}], "battery": {"capacity_wh": 1500.0, "initial_soc": 0.5}, **(more or {}),
            },
        }
    }  # fmt: skip


def lived(
    root: Path, data: Path, watts: list[float], *, earlier: Run | None = None, calendar: bool = False, **keys: Any
) -> Run:  # fmt: skip
    root.parent.mkdir(parents=True, exist_ok=True)
    sites = {"a": ALWAYS, "b": [(20.0, 1e5)]}
    return Run(
        root, data, sites, steps=STEPS, trainer=counting(BLOCKS), earlier=earlier, calendar=calendar,
        more=farm(root.parent, watts, more=keys or None),
    )  # fmt: skip


def noted(run: Run) -> None:
    """As the coordinator does from time to time."""
    Present(run.telemetry, run.bus, run.loop, run.federation, files=False).write(run.clock.now())
    run.telemetry.flush()


@pytest.mark.usefixtures("undrawn")
def test_a_run_trains_on_its_own_surplus_and_closes_over_two_coordinators(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sun = [2500.0] * 4 + [900.0] * 60
    first = lived(tmp_path / "r", data, sun)
    first.serve(until_min=15)
    noted(first)
    before = microgrids_of(first.loop)["a"]
    first.crash()
    second = lived(tmp_path / "r", data, sun, earlier=first)
    m = microgrids_of(second.loop)["a"]
    assert (m.soc, m.sums, m.t) == (before.soc, before.sums, before.t), "it goes on where the last coordinator came to"
    assert second.serve() == "done"
    noted(second)
    kept = second.loop.account
    assert isinstance(kept, Account)
    total = kept.total("a")
    assert total.own_joules > 0
    assert total.stored_joules > 0
    assert (total.own_joules, total.stored_joules) == pytest.approx((m.sums.own, m.sums.discharged))
    readings = [d.given["readings"] for d in second.telemetry.decisions() if d.site == "a"]
    assert len({r["state_of_charge"][0] for r in readings}) > 10
    run, folder = second.dir, second.dir.root
    second.crash()

    found = replay(run)
    assert found.decisions > 20
    assert found.differences == []

    a = run_account(run)
    lines = {x.name: x for x in a.lines("site")}
    assert lines["a"].own_joules == pytest.approx(total.own_joules)
    assert lines["a"].own_joules + lines["a"].stored_joules + lines["a"].grid_joules == pytest.approx(lines["a"].joules, rel=1e-14)
    assert lines["a"].grams == pytest.approx(lines["a"].grid_joules / 3.6e6 * 300.0)
    assert lines["b"].own_joules == 0.0
    behind = a.microgrids["a"]
    assert behind.generated == pytest.approx(behind.own + behind.charged + behind.exported + behind.curtailed)
    assert behind.charged == pytest.approx(behind.discharged + behind.lost + behind.stored_after - behind.stored_before, rel=1e-9)
    assert behind.lost > 0
    for by in ("hour", "version"):
        assert sum(x.own_joules for x in a.lines(by)) == pytest.approx(total.own_joules)

    account(folder, None, False, False, False)
    told = capsys.readouterr().out
    assert "own" in told.splitlines()[2]
    assert "kWh generated = " in told
    assert "lost in it" in told
    assert "of them own" in write_report(RunDir(folder)).read_text(encoding="utf-8")


def test_on_the_calendar_it_is_told_of_time_as_that_passes(tmp_path: Path, data: Path) -> None:
    run = lived(tmp_path / "r", data, [2500.0] * 3 + [0.0] * 60, calendar=True)
    try:
        run.serve(until_min=25)
        m, kept = microgrids_of(run.loop)["a"], run.loop.account
        assert isinstance(kept, Account)
        assert m.t == run.clock.now()
        assert kept.total("a").own_joules == pytest.approx(m.sums.own)
        assert m.sums.own > 0
        assert m.sums.discharged > 0, "after a quarter of an hour the sun is gone"
        assert m.sums.generated == pytest.approx(2500.0 * 900.0)
        assert kept.total("a").joules == pytest.approx(m.sums.own + m.sums.discharged + m.sums.imported)
    finally:
        run.crash()


def test_a_microgrid_in_trouble_is_told_of_once_and_so_is_its_end(tmp_path: Path, data: Path) -> None:
    run = lived(tmp_path / "r", data, [100.0] + [0.0] * 80, max_import_w=1000.0)
    try:
        run.serve(until_min=1)
        grids = microgrids_of(run.loop)
        watch = MicrogridWatch(grids, run.telemetry)
        watch.look(run.clock.now())
        assert isinstance(grids["a"], Microgrid)
        grids["a"].advance(5000.0, grids["a"].t, grids["a"].t + 120.0)
        watch.look(run.clock.now())
        grids["a"].advance(5100.0, grids["a"].t, grids["a"].t + 120.0)
        watch.look(run.clock.now())
        grids["a"].advance(0.0, grids["a"].t, grids["a"].t + 120.0)
        watch.look(run.clock.now())
        watch.look(run.clock.now())
        run.telemetry.flush()
        told = run.events("microgrid_trouble", "microgrid_back")
        assert [(kind, site) for _, kind, site, _ in told] == [("microgrid_trouble", "a"), ("microgrid_back", "a")]
        assert "cannot be balanced" in told[0][3]["reason"]
        assert "stale" in told[0][3]["reason"]
    finally:
        run.crash()


def test_the_account_of_a_run_from_before_microgrids_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    with closing(Telemetry.open(path)) as t:
        t.put("ALTER TABLE energy DROP COLUMN own_joules")
        t.put("ALTER TABLE energy DROP COLUMN stored_joules")
        t.put("UPDATE meta SET value = '3' WHERE key = 'schema'")
        columns = "site, phase, t0, t1, t_wall, watts, joules, grams, inside"
        t.put(f"INSERT INTO energy ({columns}) VALUES ('a', 'idle', 0, 9, 0, 1, 9, 0, 1)")
    with closing(Telemetry.open(path, read_only=True)) as t:
        assert [(s.joules, s.own_joules) for s in t.energy_sums()] == [(9.0, 0.0)]
        assert t.energy()[0].stored_joules == 0.0
    with closing(Telemetry.open(path)) as t:
        t.book(t.energy()[0]._replace(t0=9.0, t1=10.0, joules=5.0, own_joules=2.0, stored_joules=1.0), t.next_entry())
        t.flush()
        (sums,) = t.energy_sums()
        assert (sums.joules, sums.own_joules, sums.stored_joules, sums.unpriced_joules) == (14.0, 2.0, 1.0, 11.0)
