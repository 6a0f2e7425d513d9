"""A backtest in the terminal: what it says, and that it fits."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from backtests import STUDY, result, row
from windfall.energy.always_on import AlwaysOn
from windfall.simulate.backtest import Backtest
from windfall.ui.backtest_rows import columns, explained, labels
from windfall.ui.terminal.tables import print_backtest


def shown(b: Backtest, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_backtest(b, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def titles(b: Backtest) -> list[str]:
    return [c.title for c in columns(b)]


#: Every column that there is.
FULL = result(
    row("paper", preset="prototype", publication_delay_s=0.0, deadline_h=24.0, money=12.5, money_by_currency={"USD": 1234.5}),
    row("budgeted", publication_delay_s=300.0, deadline_h=30.0, finish_h=23.9, money_by_currency={"USD": 2.0}),
    row("random_duty", deadline_h=None, finish_h=None, kg_co2=21234.5, kg_over_oracle=None, share_of_oracle=-89.6),
    references=[STUDY],
)


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_cut(width: int) -> None:
    text = shown(FULL, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for said in ("policy", "preset", "kg CO2", "USD", "the study", "not done", "21,234.500"):
        assert said in text, said


def test_a_narrow_terminal_is_told_what_it_does_not_see() -> None:
    assert "no room for idle h, starts" in shown(FULL, 80)
    assert "no room" not in shown(FULL, 120)


def test_a_figure_from_elsewhere_gets_its_shares_from_its_own_kilograms() -> None:
    text = shown(result(row(), references=[STUDY]))
    (line,) = [x for x in text.splitlines() if x.startswith("the study") and "measured" not in x]
    assert line.split()[2:] == ["12.1", "9.5", "11.2", "5.1"]
    assert "the study" not in shown(result(row()))


def test_columns_that_no_row_has_are_not_there() -> None:
    plain = titles(result(row()))
    assert "readings late by" not in plain
    assert "deadline h" not in plain
    assert not {"USD", "money"} & set(plain)
    bare = titles(result(row(share_of_oracle=None, kg_over_oracle=None)))
    assert not {"% of oracle", "kg / oracle"} & set(bare)
    assert titles(FULL)[:4] == ["policy", "preset", "readings late by", "deadline h"]


def test_several_currencies_are_named_in_each_cell() -> None:
    b = result(row(money_by_currency={"USD": 1.5, "AUD": 2.0}), row(kg_co2=None))
    money = next(c for c in columns(b) if c.title == "money")
    assert money.cells == ["1.50 USD + 2.00 AUD", "-"]


def test_rows_without_emissions_have_dashes_and_no_shares() -> None:
    text = shown(result(row(kg_co2=None, kg_by_method={}), baselines={"CAISO_NORTH": None}))
    assert "always on" not in text
    assert next(c for c in columns(result(row(kg_co2=None))) if c.title == "kg CO2").cells == ["-"]


def test_a_region_without_a_baseline_is_explained() -> None:
    text = shown(result(row(), baselines={"CAISO_NORTH": 11.4, "NEM_SA": None}))
    assert "-: the region's signal is no emission intensity" in text
    partly = {"NEM_SA": AlwaysOn(9.5, 3.25)}
    text = shown(result(row(), baselines={"CAISO_NORTH": 11.4, "NEM_SA": None}, partly=partly))
    assert "- NEM_SA: 3.2 of these 17.78 h have no reading (9.50 kg in the others)" in text
    assert "no emission intensity" not in text


def test_one_figure_answers_the_question_and_details_show_the_other() -> None:
    budget, free = result(row()), result(row(kg_over_oracle=None, deadline_h=None), target="none", site_hours=None)
    assert "kg / oracle" in titles(budget)
    assert "% of oracle" not in titles(budget)
    assert "% of oracle" in titles(free)
    assert {"kg / oracle", "% of oracle"} <= {c.title for c in columns(budget, details=True)}
    assert "it need not read 100" in explained(budget, columns(budget, details=True))
    assert "by 13.79 h" in explained(budget, columns(budget))


def test_energy_without_a_reading_has_a_column_where_there_is_any() -> None:
    b = result(row(), row("always", unknown_kwh=3.456))
    assert next(c for c in columns(b) if c.title == "kWh unknown").cells == ["0.00", "3.46"]
    assert "kWh unknown: used in hours without a reading" in " ".join(shown(b).split())


def test_without_a_budget_hours_are_the_span() -> None:
    b = result(row(finish_h=None, deadline_h=None, kg_over_oracle=None, span_h=8760.0), target="none", site_hours=None)
    text = shown(b)
    assert "without a budget" in text
    assert "8,760.00" in text
    assert "not done" not in text
    assert "span h" in titles(b)


def test_notes_are_footnotes_and_told_once() -> None:
    text = shown(result(row(notes=["same"]), row("oracle", notes=["same"]), row("always", notes=["all [on]"])))
    assert "breakeven (1)" in text
    assert "oracle (1)" in text
    assert "always (2)" in text
    assert text.count(") same") == 1
    assert "(2) all [on]" in text


def test_what_a_newcomer_cannot_know_is_said_in_one_line() -> None:
    lines = [x for x in shown(result(row())).splitlines() if "least possible" in x]
    assert len(lines) == 1
    free = shown(result(row(kg_over_oracle=None, deadline_h=None), target="none", site_hours=None))
    assert len([x for x in free.splitlines() if "hindsight" in x]) == 1


def test_warnings_are_shown_as_they_are() -> None:
    assert "warning: a trace has a [gap]" in shown(result(row(), warnings=["a trace has a [gap]"]))


def test_rows_are_told_apart_by_deadline_and_delay() -> None:
    rows = [
        row("budgeted", deadline_h=14.0, publication_delay_s=0.0), row("budgeted", deadline_h=24.0, publication_delay_s=0.0),
        row("paper", publication_delay_s=300.0), row("oracle", deadline_h=14.0, publication_delay_s=0.0),
    ]  # fmt: skip
    assert labels(rows) == ["budgeted, 14 h", "budgeted, 24 h", "paper, 5 min late", "oracle"]


def test_many_regions_are_printed_below_each_other() -> None:
    base = {f"REGION_NUMBER_{i}": 10.0 for i in range(12)}
    text = shown(result(row(), baselines=base), 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    for region in base:
        assert region in text
