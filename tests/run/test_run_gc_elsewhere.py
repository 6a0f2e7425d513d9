"""`windfall gc` asks the platforms of sites on other machines too, and ends what is left there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from windfall.run.gc_elsewhere import collect_elsewhere
from windfall.store.rundir import RunDir

SITE = """
[[site]]
name = "{name}"
region = "x"
driver = "{driver}"
spin_up_s = 60
train_power_w = 700
idle_power_w = 90
tokens_per_s = 100
{table}
[site.signal]
kind = "trace"
path = "t.csv"
column = "g"
"""
#: A cloud in three files: what there is, what it does when it is told to stop, and what it was asked.
CLOUD = """#!/bin/sh
cd "$(dirname "$0")"
echo "$1" >> calls
case $1 in
down) [ -e stubborn ] || echo '{"state": "absent"}' > there ;;
observe) cat there ;;
esac
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A dead run with a site that its user's commands have brought up."""
    made = RunDir(tmp_path / "run")
    made.make()
    (tmp_path / "cloud").write_text(CLOUD)
    (tmp_path / "cloud").chmod(0o755)
    table = "[site.command]\n" + "".join(f'{verb} = ["{tmp_path}/cloud", "{verb}"]\n' for verb in ("up", "down", "observe"))
    text = "[run]\nbudget_tokens = 1000\n" + SITE.format(name="here", driver="local", table="")
    made.config.write_text(text + SITE.format(name="lab", driver="command", table=table))
    (tmp_path / "there").write_text(json.dumps({"state": "up", "generation": 3}))
    return made


def calls(run: RunDir) -> set[str]:
    return set((run.root.parent / "calls").read_text().split())


def collect(run: RunDir, *, dry_run: bool = False) -> tuple[list[str], list[str], list[str]]:
    found = collect_elsewhere(run, "r", dry_run=dry_run, grace_s=0.0, look_s=0.01)
    return found.ended, found.stuck, found.notes


def test_what_is_left_there_is_ended_once(run: RunDir) -> None:
    ended, stuck, notes = collect(run, dry_run=True)
    assert (len(ended), stuck, notes) == (1, [], [])
    assert ended[0].startswith("lab: ")
    assert calls(run) == {"observe"}, "a dry run ends nothing"
    assert collect(run) == (ended, [], [])
    assert calls(run) == {"observe", "down"}
    assert collect(run) == ([], [], [])


def test_what_does_not_go_is_told(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windfall.run.gc_elsewhere._GONE_S", 0.0)
    (run.root.parent / "stubborn").touch()
    assert collect(run)[1] == ["lab: its platform has not said that it is gone; run this again"]


def test_what_cannot_be_seen_is_told_and_hinders_nothing(run: RunDir) -> None:
    (run.root.parent / "there").write_text("no JSON")
    ended, stuck, (note,) = collect(run)
    assert (ended, stuck) == ([], [])
    assert note.startswith("lab: what there is of it cannot be seen, or ended: ")
    run.config.write_text("[run")
    assert "nobody was asked" in collect(run)[2][0]
