"""Telemetry: nothing that must be true depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import StoreError
from windfall.store import telemetry_file
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.view.moment import open_telemetry


def test_damaged_telemetry_is_set_aside_and_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    first, said = Telemetry.open_or_begin(path)
    assert said == ""
    first.event(1.0, "started")
    first.close()
    path.write_bytes(b"this is no database" * 500)
    second, said = Telemetry.open_or_begin(path)
    assert "set aside as damaged-" in said
    second.event(2.0, "resumed")
    second.flush()
    assert [e.kind for _, e in second.events()] == ["resumed"]
    second.close()
    (aside,) = tmp_path.glob("damaged-*-telemetry.db")
    assert aside.read_bytes().startswith(b"this is no database")


def test_pages_that_do_not_fit_are_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    first = Telemetry.open(path)
    for n in range(2000):
        first.event(float(n), "started", text="x" * 100)
    first.close()
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(bytes(data))
    second, said = Telemetry.open_or_begin(path)
    assert "begins anew" in said
    assert list(second.events()) == []
    second.close()


def test_who_looks_while_it_is_made_finds_no_table_or_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    with monkeypatch.context() as half_way:
        half_way.setattr(telemetry_file, "SCHEMA", f"{telemetry_file.SCHEMA} CREATE TABLE meta (again);")
        with pytest.raises(StoreError, match="already exists"):
            Telemetry.open(run.telemetry)
    assert open_telemetry(run) is None, "as one that nobody has begun"
    Telemetry.open(run.telemetry).close()
    found = open_telemetry(run)
    assert found is not None
    assert list(found.events()) == []
    found.close()


def test_a_newer_schema_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    first = Telemetry.open(path)
    first.put("UPDATE meta SET value = '99' WHERE key = 'schema'")
    first.close()
    with pytest.raises(StoreError, match="newer Windfall"):
        Telemetry.open_or_begin(path)
    assert not list(tmp_path.glob("damaged-*"))


def test_a_row_that_cannot_be_written_is_counted_and_the_next_one_is(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    telemetry.event(1.0, "state", site="\udcff")
    telemetry.flush()
    telemetry.event(2.0, "done")
    telemetry.flush()
    assert telemetry.dropped == 1
    assert [e.kind for _, e in telemetry.events()] == ["done"]
    telemetry.close()


@pytest.mark.parametrize(
    "bad",
    [
        ("INSERT INTO states VALUES (?,?,?,?,?)", "a", 1.0, 1.0, None, "a column without its value"),
        ("INSERT INTO states VALUES (?,?,?,?,?)", "a", float("nan"), 1.0, "off", "NaN is stored as NULL"),
        ("INSERT INTO states VALUES (?,?,?,?,?)", "a", 10**30, 1.0, "off", "larger than any integer there"),
        ("INSERT INTO states VALUES (?,?,?,?,?)", "\udcff", 1.0, 1.0, "off", "half a character"),
        ("INSERT INTO states VALUES (?,?,?,?,?)", {}, 1.0, 1.0, "off", "no type of SQLite's"),
        ("INSERT INTO nowhere VALUES (?)", "a"),
    ],
    ids=lambda bad: str(bad[-1]),
)
def test_one_bad_row_costs_itself_and_not_its_batch(tmp_path: Path, bad: tuple[object, ...]) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    telemetry.event(1.0, "before")
    telemetry.put(str(bad[0]), *bad[1:])
    telemetry.event(2.0, "after")
    telemetry.flush()
    assert [e.kind for _, e in telemetry.events()] == ["before", "after"]
    assert telemetry.dropped == 1
    telemetry.close()


def test_what_the_disk_refuses_is_counted_whole_and_the_next_batch_is_written(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    telemetry.rows("PRAGMA max_page_count = 30")
    for n in range(100):
        telemetry.event(float(n), "large", text="x" * 4000)
    telemetry.flush()
    assert telemetry.dropped == 100
    assert list(telemetry.events()) == []
    telemetry.rows("PRAGMA max_page_count = 10000")
    telemetry.event(1.0, "room")
    telemetry.flush()
    assert [e.kind for _, e in telemetry.events()] == ["room"]
    telemetry.close()


def test_what_is_no_number_is_null_in_what_others_read(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    telemetry.event(1.0, "contribution", loss=float("nan"), inside={"rate": [float("inf"), 1.0]})
    telemetry.metric(1.0, "a", "loss", 2.0, detail={"tokens_per_s_wall": float("-inf")})
    telemetry.flush()
    # SQLite's own reader of JSON takes no NaN.
    assert telemetry.rows("SELECT detail -> '$.loss', detail ->> '$.inside.rate[1]' FROM events") == [("null", 1.0)]
    assert telemetry.rows("SELECT detail FROM metrics") == [('{"tokens_per_s_wall": null}',)]
    telemetry.close()
