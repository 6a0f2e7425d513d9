"""What is changed while a run goes on: from the tick on at which it is taken up, durably, and a replay knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from federation.fake import counting
from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import BATCH, BLOCK, T0, Run
from windfall.config.load import load, loads, stored
from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError
from windfall.policy.base import Decision
from windfall.run.asking import ask
from windfall.run.changes import RunSoFar
from windfall.run.operator import Operator
from windfall.run.requests import Request, outcome
from windfall.run.settings import LiveSettings, changed, in_force
from windfall.simulate.replay import replay
from windfall.store.files import write_atomic

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}


class Desked(Run):
    """A run with an operator's desk, whose coordinator can make changes."""

    def __init__(self, root: Path, data: Path, **options: Any) -> None:
        self.desk: Operator | None = None
        super().__init__(root, data, PAIR, holds=self, trainer=counting(BLOCKS), steps=STEPS, **options)
        settings = LiveSettings(self.config, self.dir, self.ledger, self.recorder)
        settings.of(self.loop)
        self.desk = Operator(self.dir, self.ledger, self.telemetry, sites=set(PAIR), settings=settings)
        self.at: dict[float, Callable[[], object]] = {}

    def begin(self, t: float) -> None:
        assert self.desk
        if then := self.at.pop((t - T0) / 60, None):
            then()
        self.desk.begin(t)

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        assert self.desk
        return self.desk.keeps_off(t, decisions)

    def set(self, key: str, value: Any, id: str = "x") -> str:
        return ask(self.dir, Request("set", None, "ann@desk", "a fuse", key=key, value=value, id=id))


@pytest.fixture
def run(tmp_path: Path, data: Path, runs: list[Run]) -> Desked:
    made = Desked(tmp_path / "r", data)
    runs.append(made)
    return made


def test_a_limit_holds_from_the_tick_at_which_it_is_taken_up_and_a_replay_decides_by_it(run: Desked) -> None:
    run.at = {8.0: lambda: run.set("limits.max_sites", 1, "one"), 20.0: lambda: run.set("limits.max_sites", None, "two")}
    assert run.serve() == "done"
    wanted = [((d.t_run - T0) / 60, d.site) for d in run.telemetry.decisions() if d.wanted]
    together = {t for t, site in wanted if site == "b"} & {t for t, site in wanted if site == "a"}
    assert not [t for t in together if 8 <= t < 20]
    assert {7.0, 20.0} <= together
    kept = run.ledger.configurations()
    assert [(c.number, c.t_run, stored(c.text).limits.max_sites) for c in kept] == [
        (1, T0, None), (2, T0 + 480, 1), (3, T0 + 1200, None),
    ]  # fmt: skip
    assert load(run.dir.config).limits.max_sites is None
    told = [(t, d["key"], d["old"], d["new"], d["who"], d["request"]) for t, _, _, d in run.events("configuration_changed")]
    assert told == [
        (8.0, "limits.max_sites", None, 1, "ann@desk", "one"), (20.0, "limits.max_sites", 1, None, "ann@desk", "two")
    ]  # fmt: skip
    found = replay(run.dir)
    assert (found.differences, found.policy) == ([], "threshold")
    assert found.decisions > 50


def test_without_the_change_in_the_ledger_the_replay_differs(run: Desked) -> None:
    """The check of the check: a replay that decides all by the first configuration does not come to the same."""
    run.at = {8.0: lambda: run.set("limits.max_sites", 1)}
    assert run.serve() == "done"
    first = run.ledger.configurations()[0].text
    run.ledger._db.execute("UPDATE configurations SET text = ?", (first,))
    assert replay(run.dir).differences


def test_a_hold_that_was_not_kept_to_is_a_difference(run: Desked) -> None:
    run.at = {5.0: lambda: ask(run.dir, Request("hold", "b", "ann@desk", for_s=600.0))}
    assert run.serve() == "done"
    found = replay(run.dir)
    assert (found.holds, found.differences) == (1, [])
    run.telemetry.state(T0 + 600, "b", "provisioning", "by itself")
    run.telemetry.flush()
    (d,) = replay(run.dir).differences
    assert (d.t, d.site, d.recorded, d.now) == (T0 + 600, "b", "provisioning (by itself)", "off (held by ann@desk)")


def test_what_became_impossible_between_asking_and_the_tick_is_refused_with_the_reason(run: Desked) -> None:
    def both() -> None:
        run.set("limits.max_sites", 1, "one")
        run.set("limits.max_sites", 1, "two")

    run.at = {8.0: both}
    assert run.serve() == "done"
    (one, two) = outcome(run.dir, "one"), outcome(run.dir, "two")
    assert one is not None
    assert two is not None
    assert (one.state, two.state, two.reason) == ("applied", "refused", "limits.max_sites is 1 already")


def test_killed_after_the_ledger_and_before_the_file_the_next_start_goes_by_the_ledger(run: Desked) -> None:
    before = run.dir.config.read_bytes()
    run.set("limits.max_sites", 1)
    run.serve(until_min=2)
    write_atomic(run.dir.config, [before])
    found = in_force(load(run.dir.config), run.dir)
    assert found.limits.max_sites == 1
    assert load(run.dir.config).limits.max_sites == 1
    assert in_force(found, run.dir) is found


def test_a_file_that_cannot_be_written_is_a_warning_and_the_change_holds(run: Desked) -> None:
    run.dir.config.unlink()
    run.dir.config.mkdir()  # nobody can write a file there
    assert run.desk
    settings = run.desk._settings
    assert settings
    warning = settings.apply(T0, Request("set", key="limits.max_sites", value=1), taken(run))
    assert "the ledger has the change" in warning
    assert run.ledger.configurations()[-1].number == 2


def taken(run: Desked) -> Any:
    from windfall.store.records import TakenRequest

    return TakenRequest("x", T0, 0.0, {"kind": "set"}, True)


def test_a_larger_budget_lets_every_site_hand_in_first_and_then_adds_free_blocks(run: Desked) -> None:
    budget = run.config.run.budget_tokens
    run.serve(until_min=6)
    run.set("run.budget_tokens", budget + 10 * run.config.tokens_per_step)
    assert run.desk
    run.serve(until_min=7)
    assert run.desk.pausing.startswith("ann@desk has asked for run.budget_tokens = ")
    waits = outcome(run.dir, "x")
    assert waits is not None
    assert waits.state == "waiting"
    run.stop = run.desk.pausing  # as a coordinator's `stop_asked`
    assert run.serve() == "interrupted"
    before = run.ledger.counts()
    assert before.leased == before.received == 0
    assert before.committed > 0
    assert run.desk.go_on_with_budget(run.clock.now()).endswith("as ann@desk has asked")
    after = run.ledger.counts()
    assert (after.free - before.free, after.committed) == (10 * BATCH // BLOCK, before.committed)
    done = outcome(run.dir, "x")
    assert done is not None
    assert done.state == "applied"
    assert list(run.dir.operator.iterdir()) == []
    assert load(run.dir.config).run.budget_tokens == budget + 10 * run.config.tokens_per_step


def test_a_deadline_is_changed_for_who_has_one_and_not_to_the_past(tmp_path: Path, data: Path, run: Desked) -> None:
    from windfall.errors import ConfigError
    from windfall.run.changes import RunSoFar
    from windfall.run.settings import changed

    raw = run.config.model_dump(mode="json", exclude_none=True)
    raw["policy"] = {"name": "budgeted", "deadline_h": 5.0}
    config = type(run.config).model_validate(raw)
    stage = RunSoFar(0, "m", [], own_data=False)
    new, changes = changed(config, Request("set", key="policy.deadline", value="1970-01-13T00:00Z"), T0, stage)
    assert (new.policy.deadline_h, new.policy.deadline) == (None, "1970-01-13T00:00Z")
    assert sorted(c.key for c in changes) == ["policy.deadline", "policy.deadline_h"]
    with pytest.raises(ConfigError, match="has passed"):
        changed(config, Request("set", key="policy.deadline", value="1970-01-12T00:00Z"), T0, stage)
    with pytest.raises(ConfigError, match="needs a deadline"):
        changed(config, Request("set", key="policy.deadline_h"), T0, stage)
    with pytest.raises(ConfigError, match=r"policy\.deadline"):
        changed(config, Request("set", key="policy.deadline", value="soon"), T0, stage)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("limits.max_sites", "abc", "limits.max_sites = abc: it takes a whole number, at least 1"),
        ("limits.max_sites", 0, "limits.max_sites = 0: it takes a whole number, at least 1"),
        ("run.budget_tokens", "1e30", "run.budget_tokens = 1e30: it takes tokens, whole, above 0 and at most 1e+16"),
        ("limits.max_power_w", 1, "limits.max_power_w = 1 is less than any site's train_power_w"),
    ],
)
def test_a_wrong_value_is_told_in_the_words_of_the_configuration(key: str, value: object, said: str, tmp_path: Path) -> None:
    config = loads(TEMPLATE, "x.toml", tmp_path)
    with pytest.raises(ConfigError) as told:
        changed(config, Request("set", key=key, value=value, id="x"), 0.0, RunSoFar(0, "m", [], own_data=True))
    assert str(told.value).startswith(said)
