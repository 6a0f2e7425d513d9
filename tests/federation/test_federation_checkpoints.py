"""Contributions on the coordinator's disk: large ones are files that have got a second name, and are copied by nobody."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from windfall.errors import DataError
from windfall.federation import checkpoints as module
from windfall.federation.checkpoints import Checkpoints
from windfall.store.blobs import FileBlob
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.records import Received
from windfall.store.rundir import RunDir
from windfall.store.streams import Made

LARGE = bytes(range(256)) * 8


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    monkeypatch.setattr(module, "_INLINE", 1024)
    run = RunDir(tmp_path / "run")
    run.make()
    ledger = Ledger.create(run.ledger, run_id="r", fingerprint="f", budget_blocks=4, tokens_per_block=8)
    ledger.commit(t_run=0.0, t_wall=0.0, file="v", sha256="0", mode="initial", contributions=[])
    return Checkpoints(run, ledger, keep=2, keep_every=10)


def received(name: str) -> Received:
    found = {f.name: None for f in dataclasses.fields(Received)}
    return Received(**{**found, "file": name})  # type: ignore[arg-type]


def names(kept: Checkpoints) -> set[str]:
    return {p.name for p in (kept._run.spool).iterdir()}


def test_a_large_file_of_a_contribution_gets_a_second_name_and_small_blobs_are_in_its_envelope(
    kept: Checkpoints, tmp_path: Path
) -> None:
    (tmp_path / "sent").write_bytes(LARGE)
    (tmp_path / "small").write_bytes(b"small")
    blobs = {"delta": FileBlob.of(tmp_path / "sent"), "inner": FileBlob.of(tmp_path / "small"), "more": b"bytes"}
    name = kept.spool(Envelope.of({"kind": "contribution"}, blobs), "a", 1, 2)
    assert names(kept) == {"a-1-2.env", "a-1-2.0.blob"}
    (tmp_path / "sent").unlink()  # what carried it here is removed
    found = kept.spooled(received(name))
    assert found.header == {"kind": "contribution"}
    assert {n: found.blob(n).read() for n in found.blobs} == {"delta": LARGE, "inner": b"small", "more": b"bytes"}
    kept.unspool([name])
    assert names(kept) == set()


def test_a_difference_within_a_file_that_a_site_offers_is_not_copied_either(kept: Checkpoints, tmp_path: Path) -> None:
    Envelope({"kind": "contribution"}, {"delta": LARGE}).save(tmp_path / "000001-000002.env")
    offered = Envelope.within(FileBlob.of(tmp_path / "000001-000002.env"), "it", in_memory_up_to=100, check=False)
    name = kept.spool(offered, "a", 1, 2)
    delta = kept.spooled(received(name)).blob("delta")
    assert isinstance(delta, FileBlob)
    assert delta.offset > 0
    assert os.path.samefile(delta.path, tmp_path / "000001-000002.env")
    assert delta.read() == LARGE


def test_a_contribution_whose_file_is_gone_or_shorter_is_one_that_cannot_be_read(kept: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(LARGE)
    name = kept.spool(Envelope.of({}, {"delta": FileBlob.of(tmp_path / "sent")}), "a", 1, 2)
    os.truncate(tmp_path / "sent", 100)
    with pytest.raises(DataError, match="cut short"):
        kept.spooled(received(name))
    (kept._run.spool / "a-1-2.0.blob").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        kept.spooled(received(name))


def test_what_lies_beside_no_contribution_is_left_over(kept: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(LARGE)
    kept.spool(Envelope.of({}, {"delta": FileBlob.of(tmp_path / "sent")}), "a", 1, 2)  # the ledger never hears of it
    assert kept.tidy() == ["a-1-2.0.blob", "a-1-2.env"]


def test_a_difference_that_was_hashed_as_it_was_written_is_read_by_nobody_for_that_and_a_changed_file_is(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.folder / "d000001.diff"
    path.write_bytes(LARGE)
    true = FileBlob.of(path).sha256
    version = dataclasses.replace(kept._ledger.head(), version=1)
    kept.made_difference(Made(path.name, len(LARGE), true))
    with monkeypatch.context() as nobody:
        nobody.setattr(module, "sha256", lambda path: pytest.fail("it is read"))
        found = kept.difference(version)
    assert isinstance(found, FileBlob)
    assert found.sha256 == true
    path.write_bytes(LARGE + b"changed")
    found = kept.difference(version)
    assert found is not None
    assert found.sha256 == FileBlob.of(path).sha256 != true
