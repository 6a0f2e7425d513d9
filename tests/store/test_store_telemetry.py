"""Telemetry: nothing that must be true depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import StoreError
from windfall.store.telemetry import Telemetry


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
