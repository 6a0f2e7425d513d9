"""`windfall economics` as a user types it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from cli.test_cli import windfall
from simulate.days import config
from windfall.config.load import load, to_toml
from windfall.simulate.economics import economics_of
from windfall.ui.terminal.tables_economics import PARTS, bills_table, parts_of
from windfall.view.economics_frames import ECONOMICS_COLUMNS, SITING_COLUMNS

DOCS = Path(__file__).parents[2] / "docs" / "economics.md"
SUNNY = [40.0 if abs(i % 288 - 144) < 72 else 400.0 for i in range(288 * 3)]
ECONOMICS = """
[economics]
capex_per_gpu = 30_000
rented_per_gpu_h = 2.0
[[economics.tariff]]
price_per_mwh = 80
[economics.battery]
capex_per_kwh = 300
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = config(tmp_path, {"a": SUNNY, "b": SUNNY[40:] + SUNNY[:40]}, policy='name = "threshold"', more=ECONOMICS)
    path = tmp_path / "e.toml"
    path.write_text(to_toml(made), encoding="utf-8")
    return path


def test_one_table_and_what_follows_from_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "economics", file)
    assert code == 0
    for row in ("own, in windows", "own, always on", "rented, in windows", "rented, always on"):
        assert re.search(rf"^{row} +\d", out, flags=re.M), row
    for line in ("break-even", "waiting", "moves most", "fleet", "battery"):
        assert re.search(rf"^{line} ", out, flags=re.M), line
    assert "owning pays from" in out
    assert "{" not in out


def test_json_tables_and_figures_say_the_same(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables, figures = tmp_path / "t", tmp_path / "f"
    code, out, err = windfall(capsys, "economics", file, "--json", "--csv", tables, "--figures", figures)
    assert code == 0
    said = json.loads(out)
    with (tables / "bills.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [r["name"] for r in rows] == [b["name"] for b in said["bills"]]
    assert [float(r["total"]) for r in rows] == [b["total"] for b in said["bills"]]
    assert said["provenance"]["traces"]
    assert {p.name for p in figures.iterdir()} == {"cost.svg", "cost.pdf", "tornado.svg", "tornado.pdf"}
    assert "price of the hardware" in (figures / "tornado.svg").read_text(encoding="utf-8")
    assert f"to {tables}" in err
    with (tables / "columns.csv").open(encoding="utf-8") as f:
        told = {(r["table"], r["column"]) for r in csv.DictReader(f)}
    for name in ("bills", "sensitivity", "fleet", "battery"):
        with (tables / f"{name}.csv").open(encoding="utf-8") as f:
            assert {(name, c) for c in next(csv.reader(f))} == {x for x in told if x[0] == name}


def test_regions_are_ranked_and_written(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "economics", file, "--rank-regions", "--by", "years", "--json", "--csv", tmp_path / "t")
    assert code == 0
    said = json.loads(out)
    assert (said["by"], {r["region"] for r in said["regions"]}) == ("years", {"A", "B"})
    assert len((tmp_path / "t" / "regions.csv").read_text(encoding="utf-8").splitlines()) == 3
    code, out, _ = windfall(capsys, "economics", file, "--rank-regions")
    assert code == 0
    assert "years to finish" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "breakevn"), "--policy breakevn: no such policy"),
        (("--policy", "oracle"), "it knows the future"),
        (("--starts", "0"), "--starts 0: give 1 to"),
        (("--span-days", "-1"), "--span-days -1: give a number of days above 0"),
        (("--rank-regions", "--figures", "x"), "--figures are of one run"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = windfall(capsys, "economics", file, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_configuration_without_economics_is_told_what_to_add(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = config(tmp_path, {"a": SUNNY})
    file.write_text(to_toml(bare), encoding="utf-8")
    code, _, err = windfall(capsys, "economics", file)
    assert code == 2
    assert "the configuration has no [economics]" in err
    assert "capex_per_gpu = " in err


def test_parts_of_a_bill_have_one_name_in_table_json_csv_and_figure(file: Path) -> None:
    found = economics_of(load(file))
    titles, _ = bills_table(found)
    shown = [t.replace(" ", "_") for t in titles]
    parts = [p for p in PARTS if any(getattr(b, p) for b in found.bills)]
    assert [t for t in shown if t in PARTS] == [p for p in PARTS if p in {*parts, "people"}]
    assert set(PARTS) <= set(ECONOMICS_COLUMNS["bills"])
    for bill in found.bills:
        assert {name.replace(" ", "_") for name, _ in parts_of(bill)} <= set(bill.as_json()) & set(parts)
        assert bill.total == pytest.approx(sum(value for _, value in parts_of(bill)))


def test_the_page_explains_every_column() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for columns in (*ECONOMICS_COLUMNS.values(), SITING_COLUMNS):
        for name, (_, _, meaning) in columns.items():
            assert f"`{name}`" in page, name
            assert meaning in page, name
