"""What a resumed run may change, what it may not, and how a change is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from windfall import clock
from windfall.config.load import load, loads, stored, to_toml
from windfall.config.schema import Config
from windfall.errors import ConfigError, StoreError
from windfall.fleet.drivers.local import LocalDriver
from windfall.processes import marked
from windfall.run.changes import RULES, RunSoFar, compare, decides_alike, rule_of
from windfall.run.compose import carries_of
from windfall.run.prepare import prepare_run
from windfall.run.recorder import Carried
from windfall.run.sites import describe_site
from windfall.run.supervisor import NoView, Supervisor
from windfall.store.ledger import Ledger
from windfall.store.records import Consumed
from windfall.store.rundir import RunDir, RunLock
from windfall.train.schedule import Extent

BUDGET = 128 * 100
STAGE = RunSoFar(tokens=0, manifest="m", extents=[Extent(0, BUDGET)], own_data=True)

SITE = """
[[site]]
name = "{name}"
region = "{region}"
spin_up_s = 300
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 10
[site.signal]
kind = "synthetic"
"""


def text(more: str = "", sites: tuple[str, ...] = ("a", "b"), run: str = "", budget: int = BUDGET, **site: object) -> str:
    found = f'[run]\nbudget_tokens = {budget}\nclock = "scaled"\nstart = "2026-01-01T00:00Z"\n{run}\n'
    found += "[model]\ndepth = 1\nwidth = 64\nsequence_length = 32\n[train]\nbatch_sequences = 4\nblock_sequences = 2\n"
    found += "warmdown_fraction = 0.4\n" + more
    for name in sites:
        found += SITE.format(name=name, region=f"R{name}")
    for key, value in site.items():
        found = found.replace(f"{key} = ", f"{key} = {value} #", 1)
    return found


def config(*args: Any, **options: Any) -> Config:
    return loads(text(*args, **options), "x.toml", Path("/nowhere"))


def told(old: Config, new: Config, stage: RunSoFar = STAGE) -> tuple[list[str], list[str]]:
    found = compare(old, new, stage)
    return [c.text() for c in found.changes], [f"{c.text()} ({why})" for c, why in found.refused]


# -- the table -------------------------------------------------------------------------------------------------------


def schema_keys(cls: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    for key, field in cls.model_fields.items():
        inner = next((a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)
                      and issubclass(a, BaseModel)), None)  # fmt: skip
        if inner is None or inner is not field.annotation:
            yield prefix + key
        if inner is not None:
            yield from schema_keys(inner, f"{prefix}{key}.")


def test_every_key_of_the_schema_is_free_guarded_or_fixed_and_the_table_names_no_other() -> None:
    keys = list(schema_keys())
    assert {"run.seed", "site", "site.signal.path", "site.signals", "site.signals.url", "backtest.trainer.load_s"} <= set(keys)
    used = set()
    for key in keys:
        verdict, why = rule_of(key)
        assert verdict in ("free", "guarded", "fixed")
        assert why
        tables = [f"{key[:i]}.*" for i, letter in enumerate(key) if letter == "."]
        used.add(key if key in RULES else max(t for t in tables if t in RULES))
    assert used == set(RULES), set(RULES) - used


def test_a_key_that_nobody_classified_is_found_out() -> None:
    with pytest.raises(KeyError, match=r"train\.invented"):
        rule_of("train.invented")


# -- what differs ----------------------------------------------------------------------------------------------------


def test_what_is_written_otherwise_and_means_the_same_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("time_utc,g\n2026-01-01T00:00Z,5\n")
    plain = text().replace('kind = "synthetic"', 'path = "g.csv"\ncolumn = "g"')
    old = loads(plain, "x", tmp_path)
    far = plain.replace('"g.csv"', f'"{tmp_path}/g.csv"').replace("2026-01-01T00:00Z", "2026-01-01T00:00:00+00:00")
    swapped = loads(far.replace("width = 64", "head_dim = 32"), "x", Path("/"))
    assert told(old, swapped) == ([], [])
    written_out = loads(to_toml(swapped), "x", Path("/"))
    assert told(old, written_out) == ([], [])
    reordered = old.model_copy(update={"site": list(reversed(old.site))})
    assert told(old, reordered) == ([], [])
    assert told(config(), config('precision = "fp32"\n')) == ([], [])  # what auto means on CPUs
    assert told(config(budget=BUDGET), config(budget=BUDGET - 1)) == ([], [])  # as many whole steps


def test_what_decides_pays_and_shows_is_free() -> None:
    new = config(
        '[policy]\nname = "threshold"\nstart_g_per_kwh = 80\n[limits]\nmax_sites = 1\n[fleet]\ndead_man_s = 9\n'
        "[federation]\nround_s = 60\n[data]\nsample_tokens = 5\n",
        run="threshold_g_per_kwh = 90\nspeed = 7\nname = \"other\"", tokens_per_s=20, train_power_w=1500,
    )  # fmt: skip
    changes, refused = told(config(), new)
    assert refused == []
    assert changes == [
        'run.name: "windfall" -> "other"',
        "run.threshold_g_per_kwh: 100.0 -> 90.0",
        "run.speed: 1.0 -> 7.0",
        'policy.name: "learned" -> "threshold"',
        "policy.start_g_per_kwh: 100.0 -> 80.0",
        "data.sample_tokens: 64 -> 5",
        "federation.round_s: 600.0 -> 60.0",
        "fleet.dead_man_s: 120.0 -> 9.0",
        "limits.max_sites: none -> 1",
        "site.a.train_power_w: 2000.0 -> 1500.0",
        "site.a.tokens_per_s: 10.0 -> 20.0",
    ]


def test_sites_more_and_fewer_are_told_by_name_and_another_name_is_both() -> None:
    assert told(config(), config(sites=("a", "c"))) == (["site.b: removed", "site.c: added"], [])
    price = '[[site.signals]]\nkind = "http"\ntype = "price"\nurl = "http://h/?api_key=s3cret"\nvalue_path = "v"\n'
    real = text().replace('"scaled"', '"real"')
    old, new = loads(real, "x", Path("/")), loads(real + price, "x", Path("/"))
    assert told(old, new) == (["site.b.signals.price: added"], [])
    changed = loads(real + price.replace("s3cret", "other"), "x", Path("/"))
    assert told(new, changed) == (['site.b.signals.price.url: "http://h/?api_key=***" -> "http://h/?api_key=***"'], [])


def test_everything_that_is_fixed_is_refused_at_once_with_both_values_and_why() -> None:
    changed = text(run="seed = 7").replace("depth = 1", "depth = 2").replace("block_sequences = 2", "block_sequences = 4")
    changed = changed.replace("warmdown_fraction = 0.4", 'optimizer = "adamw"').replace('"scaled"', '"real"')
    changed = changed.replace("[model]", '[data]\nsource = "/x/y"\n[federation]\nouter = "nesterov"\n[model]')
    changes, refused = told(config(), loads(changed, "x", Path("/")))
    assert changes == []
    assert refused == [
        "run.seed: 0 -> 7 (the initial model and the order of the data were drawn by it)",
        'run.clock: "scaled" -> "real" (run time went on by this clock and cannot go on by another)',
        "model.depth: 1 -> 2 (the model's shape)",
        'data.source: "stdlib" -> "/x/y" (the run goes on with the data that it was begun with)',
        "train.block_sequences: 2 -> 4 (blocks are lent and counted in it)",
        'train.optimizer: "normuon" -> "adamw" (the recipe)',
        'federation.outer: "average" -> "nesterov" (what makes versions of contributions)',
    ]


def test_replayed_time_that_has_begun_does_not_begin_elsewhere() -> None:
    moved = loads(text().replace("2026-01-01", "2026-02-01"), "x", Path("/"))
    assert told(config(), moved)[1] == ['run.start: "2026-01-01T00:00Z" -> "2026-02-01T00:00Z" (run time has begun there)']


@pytest.mark.parametrize(
    ("done", "budget", "extend", "said"),
    [
        (0, 2 * BUDGET, None, ""),
        (0.59, BUDGET + 128, None, ""),
        (0.61, 2 * BUDGET, None, "the warm-down has begun: add --extend warmdown"),
        (0.61, 2 * BUDGET, "warmdown", ""),
        (0.61, 2 * BUDGET, "hold", ""),
        (1.0, 2 * BUDGET, None, "the warm-down has begun"),
        (1.0, 2 * BUDGET, "warmdown", ""),
        (1.0, 2 * BUDGET, "hold", "held, the learning rate would be 0 of the recipe's"),
        (0.1, BUDGET - 128, None, "it may grow, not shrink"),
        (0.1, BUDGET - 128, "hold", "it may grow, not shrink"),
    ],
)
def test_a_budget_may_grow_until_the_warm_down_and_then_by_word_only(
    done: float, budget: int, extend: str | None, said: str
) -> None:
    found = compare(config(), config(budget=budget), replace(STAGE, tokens=int(done * BUDGET), extend=extend))
    if said:
        assert [(c.key, c.old, c.new) for c, _ in found.refused] == [("run.budget_tokens", BUDGET, budget)]
        assert found.refused[0][1].startswith(said)
    else:
        assert [c.text() for c in found.changes] == [f"run.budget_tokens: {BUDGET} -> {budget}"]
        assert not found.refused


def test_a_rate_that_was_held_once_is_never_let_fall_by_itself() -> None:
    held = replace(STAGE, tokens=BUDGET, extents=[Extent(0, BUDGET), Extent(int(0.7 * BUDGET), 9 * BUDGET, "hold")])
    assert "warm-down has begun" in told(config(budget=9 * BUDGET), config(budget=10 * BUDGET), held)[1][0]


def test_data_that_were_moved_are_the_same_data(tmp_path: Path) -> None:
    new = tmp_path / "new" / "corpus.txt"
    new.parent.mkdir()
    new.write_text("x")
    old = config(f'[data]\nsource = "{tmp_path}/old/corpus.txt"\n')
    there = config(f'[data]\nsource = "{new}"\n')
    assert told(old, there) == ([f'data.source: "{tmp_path}/old/corpus.txt" -> "{new}"'], [])
    assert told(old, there, replace(STAGE, own_data=False))[1]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "corpus.txt").write_text("x")
    assert told(old, there)[1], "the old one is there still: these are two"


def test_what_a_policy_remembers_counts_on_while_it_sees_the_same() -> None:
    assert decides_alike(config(), config(run="speed = 9", more="[fleet]\ndead_man_s = 5\n"))
    assert not decides_alike(config(), config("[policy]\na_on = 0.1\n"))
    assert not decides_alike(config(), config(sites=("a",)))


def test_what_was_decided_under_an_earlier_configuration_counts_as_far_as_it_means_the_same(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "ledger.db", run_id="r", fingerprint="f", budget_blocks=200, tokens_per_block=64)
    ledger.commit(t_run=0, t_wall=0, file="v", sha256="s", mode="initial", contributions=[])
    assert carries_of(config(), ledger)(1, "a") == Carried(), "none was kept: it is the same"
    had = [config(), config(sites=("a",)), config(spin_up_s=600), config(run="speed = 5", spin_up_s=600)]
    for c in had:
        ledger.configure(to_toml(c), "f", budget_blocks=200, t_wall=0)
    carries = carries_of(had[-1], ledger)
    assert carries(4, "a") == carries(3, "a") == Carried(), "a speed is nothing that a policy sees"
    assert carries(1, "a") == Carried(on=True, memory=False, spin_up=False)
    assert carries(1, "b") == Carried(on=False, memory=False, spin_up=True), "it has been away"
    ledger.close()


# -- a run directory -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "corpus.txt").write_text("\n".join(f"the wind turned {i} times" for i in range(2000)))

    def write(more: str = "", **options: Any) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(text('[data]\nsource = "corpus.txt"\n' + more, **options))
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, file: Callable[..., Path]) -> RunDir:
    found = RunDir(tmp_path / "run")
    prepare_run(load(file()), found, lambda _: None)
    return found


def take_up(path: Path, run: RunDir, extend: str | None = None) -> list[str]:
    said: list[str] = []
    prepare_run(load(path), run, said.append, extend)
    return said


def kept(run: RunDir) -> tuple[list[list[str]], int, list[tuple[int, int, str]], str]:
    """Changes by configuration, blocks, spans, and the policy in config.toml."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        changes = [[x["key"] for x in c.changes] for c in ledger.configurations()]
        return changes, ledger.budget_blocks, ledger.spans(), stored(run.config.read_text()).policy.name
    finally:
        ledger.close()


def train(run: RunDir, blocks: int) -> None:
    """As if a site had trained so many blocks."""
    ledger = Ledger.open(run.ledger)
    lease = ledger.lease("a", 1, blocks, 0, 9)
    assert lease
    used = [Consumed(lease.epoch, lease.start, lease.end)]
    header = {"consumed": [{"epoch": lease.epoch, "start": lease.start, "end": lease.end, "skipped": False}], "codec": "fp32"}
    tokens = blocks * ledger.tokens_per_block
    head = ledger.head()
    c = ledger.receive("a", 1, lease.epoch, head.version, tokens, used, header, "f", 0.0, 0)
    ledger.commit(t_run=0.0, t_wall=0, file=head.file, sha256=head.sha256, mode="local", contributions=[c])
    ledger.close()


def test_a_change_is_kept_with_the_run_and_the_same_file_again_is_none(run: RunDir, file: Callable[..., Path]) -> None:
    first = run.config.read_bytes()
    assert take_up(file(), run) == []
    assert kept(run) == ([[]], 200, [(0, 200, "free")], "learned")
    assert run.config.read_bytes() == first
    said = take_up(file('[policy]\nname = "threshold"\n', sites=("a", "c")), run)
    assert said == ["from now on: site.b: removed", "from now on: site.c: added",
                    'from now on: policy.name: "learned" -> "threshold"']  # fmt: skip
    assert kept(run) == ([[], ["site.b", "site.c", "policy.name"]], 200, [(0, 200, "free")], "threshold")
    assert take_up(file('[policy]\nname = "threshold"\n', sites=("c", "a")), run) == []
    assert len(kept(run)[0]) == 2


def test_a_refusal_names_every_key_and_changes_nothing(run: RunDir, file: Callable[..., Path]) -> None:
    before = kept(run), run.config.read_bytes()
    other = file('[policy]\nname = "threshold"\n[federation]\nouter = "nesterov"\n', run="seed = 3", budget=128)
    with pytest.raises(ConfigError) as caught:
        take_up(other, run)
    assert caught.value.exit_code == 2
    said = str(caught.value)
    assert "run.seed: 0 -> 3 (" in said
    assert f"run.budget_tokens: {BUDGET} -> 128 (it may grow, not shrink" in said
    assert 'federation.outer: "average" -> "nesterov" (' in said
    assert "policy.name" not in said
    assert "begin another run (--run-dir)" in said
    assert (kept(run), run.config.read_bytes()) == before


def test_a_larger_budget_is_the_same_blocks_and_more_after_them(run: RunDir, file: Callable[..., Path]) -> None:
    train(run, 20)
    assert take_up(file(budget=2 * BUDGET), run) == [f"from now on: run.budget_tokens: {BUDGET} -> {2 * BUDGET}"]
    assert kept(run)[1:3] == (400, [(0, 20, "committed"), (20, 400, "free")])
    about = describe_site(load(run.config), run, "a", "", 0)["trainer"]
    assert about["budget_tokens"] == 2 * BUDGET
    assert list(about["extents"]) == [(0, BUDGET, "warmdown"), (20 * 64, 2 * BUDGET, "warmdown")]


def test_the_order_of_the_data_knows_nothing_of_the_budget(run: RunDir) -> None:
    """Two trainers, of a budget within the first epoch and of one beyond it, read the same tokens for a block."""
    from windfall.train.spec import TrainerSpec
    from windfall.train.trainer import LocalTrainer

    about = describe_site(load(run.config), run, "a", "", 0)["trainer"]
    small = LocalTrainer(TrainerSpec(**about))
    epoch = small.data.train_sequences // 2
    large = LocalTrainer(
        TrainerSpec(
            **{**about, "budget_tokens": 64 * 5 * epoch, "extents": [(0, BUDGET, "warmdown"), (640, 64 * 5 * epoch, "hold")]}
        )
    )
    for block in (0, 1, epoch - 1, epoch, epoch + 1, 3 * epoch):
        for one, other in zip(small.data.block_batch(block, 1, 2), large.data.block_batch(block, 1, 2), strict=True):
            assert one.tolist() == other.tolist()


def test_a_trainer_learns_past_the_end_that_was(run: RunDir) -> None:
    from windfall.train.spec import TrainerSpec
    from windfall.train.trainer import LocalTrainer

    about = describe_site(load(run.config), run, "a", "", 0)["trainer"]
    longer = {"budget_tokens": 2 * BUDGET, "extents": [[0, BUDGET, "warmdown"], [BUDGET, 2 * BUDGET, "warmdown"]]}
    learned = []
    for spec in (TrainerSpec(**about), TrainerSpec(**{**about, **longer})):  # as site.json gives them back
        trainer = LocalTrainer(spec)
        before = trainer.weights()
        trainer.step([0, 1], 1.2 * BUDGET)
        learned.append(any((w != before[n]).any() for n, w in trainer.weights().items()))
    assert learned == [False, True]


def test_a_run_that_is_done_is_made_longer_by_word(run: RunDir, file: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"--extend: run\.budget_tokens = 12800 is what the run has already; give a larger"):
        take_up(file(), run, "hold")
    train(run, 200)
    larger = file(budget=2 * BUDGET)
    with pytest.raises(ConfigError, match=r"the warm-down has begun: add --extend warmdown.*--extend hold"):
        take_up(larger, run)
    with pytest.raises(ConfigError, match="nothing would be learned: --extend warmdown"):
        take_up(larger, run, "hold")
    take_up(larger, run, "warmdown")
    assert take_up(larger, run, "warmdown") == [], "the same again makes it no longer"
    assert take_up(larger, run) == []
    assert kept(run)[1:3] == (400, [(0, 200, "committed"), (200, 400, "free")])
    with pytest.raises(ConfigError, match="is what the run has already"):
        take_up(larger, run, "hold")


def test_what_is_not_there_is_not_made_longer(tmp_path: Path, file: Callable[..., Path]) -> None:
    supervisor = Supervisor(load(file()), RunDir(tmp_path / "nowhere"), NoView(), lambda _: None, extend="hold")
    with pytest.raises(ConfigError, match=r"--extend hold: there is no run in .*nowhere to make longer"):
        supervisor.prepare()
    assert not (tmp_path / "nowhere").exists()


def test_whoever_dies_between_ledger_and_file_has_changed_it_all_the_same(
    run: RunDir, file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    longer = file('[policy]\nname = "threshold"\n', budget=2 * BUDGET)
    with monkeypatch.context() as broken:
        broken.setattr("windfall.run.resume.keep_config", dies)
        with pytest.raises(KeyboardInterrupt):
            take_up(longer, run)
    assert kept(run)[1:] == (400, [(0, 400, "free")], "learned")
    assert take_up(longer, run) == []
    assert kept(run) == ([[], ["run.budget_tokens", "policy.name"]], 400, [(0, 400, "free")], "threshold")


def test_a_run_of_before_configurations_were_kept_goes_on(run: RunDir, file: Callable[..., Path]) -> None:
    import sqlite3

    db = sqlite3.connect(run.ledger)
    db.executescript(
        "DROP TABLE configurations; DROP TABLE tokens; DROP TABLE requests; UPDATE meta SET value = '3' WHERE key = 'schema';"
        "ALTER TABLE inner_states DROP COLUMN generation; ALTER TABLE inner_states DROP COLUMN cut;"
    )
    db.close()
    before = run.config.read_text()
    take_up(file('[policy]\nname = "threshold"\n'), run)
    ledger = Ledger.open(run.ledger, read_only=True)
    first, second = ledger.configurations()
    ledger.close()
    assert first.text == before
    assert (first.t_run, second.t_run) == (1_767_225_600.0, None)
    assert [x["key"] for x in second.changes] == ["policy.name"]


def test_without_its_file_such_a_run_goes_on_as_it_was_and_no_otherwise(run: RunDir, file: Callable[..., Path]) -> None:
    import sqlite3

    db = sqlite3.connect(run.ledger)
    db.executescript("DELETE FROM configurations;")
    db.close()
    run.config.unlink()
    with pytest.raises(ConfigError, match=r"another configuration, and .* cannot be read to say where"):
        take_up(file('[policy]\nname = "threshold"\n'), run)
    take_up(file(), run)
    assert kept(run)[0] == [[]]


def test_a_run_that_goes_on_is_left_alone_and_what_would_change_is_said(run: RunDir, file: Callable[..., Path]) -> None:
    before = kept(run), run.config.read_bytes()
    lock = RunLock(run)
    lock.acquire()
    try:
        supervisor = Supervisor(load(file('[policy]\nname = "threshold"\n')), run, NoView(), lambda _: None)
        with pytest.raises(StoreError, match=r'is running this run.*Nothing was changed; .*policy\.name: "learned" -> "thresh'):
            supervisor.prepare()
    finally:
        lock.release()
    assert (kept(run), run.config.read_bytes()) == before


def test_a_site_that_lives_on_is_ended_where_it_is_gone_or_told_otherwise_and_left_where_not(
    run: RunDir, file: Callable[..., Path]
) -> None:
    ledger = Ledger.open(run.ledger)
    run_id = str(ledger.meta("run_id"))
    for site in ("a", "b"):
        ledger.asked(5.0, clock.wall(), site, 1, "ensure_up", "in a window")
    ledger.close()
    sleeper = (sys.executable, "-c", "import signal; signal.pause()")
    driver = LocalDriver(run.sites, run_id, lambda _: {}, agent=sleeper)
    try:
        for site in ("a", "b"):
            driver.ensure_up(site, 1)
        take_up(file('[policy]\nname = "threshold"\n'), run)
        assert {p.site for p in marked(run_id, run.root)} == {"a", "b"}, "a policy is nothing that a site is told"
        said = take_up(file('[policy]\nname = "threshold"\n', sites=("a",)), run)
        assert said[0] == "b lives on from an earlier start, and no part of the run any more: ending it, its work is kept"
        driver.observe(["b"])  # its parent is this test, which has to look at it
        assert {p.site for p in marked(run_id, run.root)} == {"a"}
        take_up(file('[policy]\nname = "threshold"\n', sites=("a",), run="", budget=2 * BUDGET), run)
        driver.observe(["a"])
        assert not marked(run_id, run.root)
    finally:
        driver.kill_all()
    ledger = Ledger.open(run.ledger)
    last = ledger.last_asked()
    ledger.close()
    assert last["b"][:2] == (1, "ensure_down")
    assert last["a"][1] == "ensure_down"
