"""The report is one page that stands by itself and says what the account says."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser

import pytest

from ui_runs import NOBODY, START, finished_run
from windfall.config.load import load
from windfall.energy.always_on import always_on
from windfall.grid.build import build_grid
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.page.report import write_report
from windfall.view.account import run_account
from windfall.view.state import summarise


class Page(HTMLParser):
    """Attributes that would load something, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "srcset", "data") or (key in ("href", "xlink:href") and not (value or "").startswith("#")):
                self.loads.append(f"{tag} {key}={value}")
            if key == "id":
                self.ids.append(value or "")
        if tag in ("link", "script", "iframe", "object"):
            self.loads.append(tag)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run with its report, sampled text included: written once, as drawing takes its time."""
    run = finished_run(tmp_path_factory.mktemp("report") / "small")
    write_report(run)
    return run


def page_of(run: RunDir) -> str:
    return (run.report / "index.html").read_text(encoding="utf-8")


def test_stands_by_itself(written: RunDir) -> None:
    text = page_of(written)
    page = Page(text)
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    for reference in re.findall(r"url\(#([^)]+)\)", text):
        assert reference in page.ids


def test_says_what_it_must(written: RunDir) -> None:
    text = page_of(written)
    for said in ("Training is real", "Power is modelled", "2,000 W per site", "bundled:paper_day", "replayed time",
                 "california", "adelaide", "start: 65 g is under worth 100 g", "based on version 9"):  # fmt: skip
        assert said in text, said
    for name in (
        "lanes.svg",
        "loss.svg",
        "emissions.svg",
        "lanes.png",
        "summary.json",
        "lanes.pdf",
        "loss.pdf",
        "counterfactuals.svg",
        "counterfactuals.pdf",
    ):
        assert (written.report / name).stat().st_size > 200, name


def test_percentage_is_the_accounts(written: RunDir) -> None:
    s = summarise(written)
    grid = build_grid(load(written.config))
    # Each site has trained half of the tokens, so its pace makes all of them in twice its hours.
    hours = {s["sites"][n]["region"]: 2 * s["sites"][n]["training_hours"] for n in ("california", "adelaide")}
    kg = {r: always_on(grid.by_region[r], 2000.0, s["started_run"], h).whole_kg for r, h in hours.items()}
    cleanest = min(kg, key=lambda r: kg[r] or 0.0)
    text = page_of(written)
    assert f"<b>{s['kg_co2'] / (kg[cleanest] or 0.0) * 100:.1f} %</b>" in text
    stored = json.loads((written.report / "summary.json").read_text())
    assert stored["headline"]["region"] == cleanest
    assert stored["headline"]["run_share"] == s["kg_co2"] / (kg[cleanest] or 0.0)
    assert stored["energy_kwh"] == s["energy_kwh"]


def test_the_report_says_what_it_was_computed_with(written: RunDir) -> None:
    stored = json.loads((written.report / "summary.json").read_text())
    traces = stored["provenance"]["traces"]
    assert {t["source"] for t in traces} == {"bundled:paper_day"}
    assert len({t["sha256"] for t in traces}) == 1
    assert stored["provenance"]["config"]["run"]["budget_tokens"] == stored["tokens_budget"]
    assert stored["g_per_kwh_training"] > 0
    text = page_of(written)
    assert "What this report was computed with" in text
    assert traces[0]["sha256"][:16] in text


def test_the_headline_has_tokens_loss_energy_emissions_with_their_range_cost_and_the_baseline(written: RunDir) -> None:
    text = page_of(written)
    account = run_account(written)
    assert account.range is not None
    ranged = f"{account.range.low / 1000:.3f} to {account.range.high / 1000:.3f} kg"
    for said in ("8,192", "8.00 → 2.500", f"{account.total.kwh:,.2f} kWh", ranged,
                 "What moves this most: ", "cost of the energy", "times the cleanest baseline"):  # fmt: skip
        assert said in text, said


def test_every_alternative_is_in_the_page_and_in_the_summary(written: RunDir) -> None:
    text = page_of(written)
    stored = json.loads((written.report / "summary.json").read_text())["counterfactuals"]
    assert [r["kind"] for r in stored["rows"]] == ["region", "region", "region", "all_on", "random", "threshold", "paper", "oracle"]
    for r in stored["rows"]:
        assert escape(r["name"]) in text
        assert (r["kg_co2"] is None) == (r["why_not"] is not None)
        assert r["run_share"] is None or r["run_share"] == pytest.approx(run_account(written).total.grams / 1000 / r["kg_co2"])
    assert stored["tokens"] == 8192


def test_what_the_page_leaves_out_is_said(written: RunDir) -> None:
    text = page_of(written)
    for said in (
        "What it does not say",
        "Embodied emissions are not in it for california, adelaide",
        "Alternatives are computed, not run",
    ):
        assert said in text, said


def test_one_pair_of_words_is_used_for_the_modes(written: RunDir) -> None:
    text = page_of(written)
    assert "blue local, green federated" in text
    assert not re.search(r"training (alone|together)|trained (alone|together)", text)


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_crashed_says_so_and_is_compared_by_what_it_has_committed(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    t.event(START + 7200, "resumed", version=2, pid=NOBODY)
    t.close()
    text = write_report(small, ["windfall", "report", "RUN"]).read_text(encoding="utf-8")
    assert '<span class="badge stopped">stopped</span>' in text
    assert "The run is stopped: only what is committed by now is compared" in text
    assert "<pre>windfall report RUN</pre>" in text


@pytest.mark.usefixtures("undrawn")
def test_costs_in_several_currencies_stand_beside_each_other(small: RunDir) -> None:
    tariff = """
[[site.signals]]
type = "price"
currency = "{currency}"
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
until = "2026-01-12T11:00Z"
"""
    head, one, two, rest = re.split(r"(?=\n\[\[site\]\])|(?=\n\[\[counterfactual\]\])", small.config.read_text())
    small.config.write_text(head + one + tariff.format(currency="USD") + two + tariff.format(currency="AUD") + rest)
    t = Telemetry.open(small.telemetry)
    t.put("UPDATE energy SET money = joules / 3.6e6 * 0.5")
    t.close()
    a = run_account(small)
    assert set(a.total.money) == {"USD", "AUD"}
    text = write_report(small).read_text(encoding="utf-8")
    assert f"{a.total.money['AUD']:,.2f} AUD + {a.total.money['USD']:,.2f} USD" in text
    assert "Costs are in several currencies, which are not added" in text


def test_short_trace_is_said(written: RunDir) -> None:
    text = page_of(written)
    assert "not computable: its readings end at Jan 11 17:10" in text


def test_no_secrets(written: RunDir) -> None:
    text = page_of(written) + (written.report / "summary.json").read_text()
    assert "hunter2" not in text
    assert "verysecret" not in text


def test_text_of_a_run_is_escaped(written: RunDir) -> None:
    text = page_of(written)
    assert "Sample text" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_what_versions_wrote_stands_from_the_first_to_the_last(written: RunDir) -> None:
    text = page_of(written)
    found = [text.index(f"version {version}, {bpb} bits per byte</h3><pre>text of {version} ") for version, bpb in
             ((0, "8.000"), (1, "4.000"), (2, "2.500"))]  # fmt: skip
    assert found == sorted(found)
    assert "\x1b" not in text


def test_empty_run_gives_a_readable_page(empty: RunDir) -> None:
    text = write_report(empty).read_text(encoding="utf-8")
    assert "nothing has been trained yet" in text
    assert "california" in text
    assert "None yet." in text
