"""Keys of the configuration that an operator changes while the run goes on (`windfall set`): its budget, deadline and limits.

A change makes a configuration of its own in the ledger, as a changed file does at a resume, and by the same rules
(`run.changes`). So each decision is known with the configuration that it was made under, and a replay decides by that.
"""

from __future__ import annotations

from contextlib import closing

from pydantic import ValidationError

from windfall import clock
from windfall.config.accepted import accepted, table_of
from windfall.config.load import dotted, fingerprint, stored, to_toml
from windfall.config.schema import Config
from windfall.errors import ConfigError, StoreError
from windfall.fleet.loop import Loop
from windfall.policy.build import build_policy
from windfall.run.changes import KeyChange, RunSoFar, compare
from windfall.run.recorder import TelemetryRecorder
from windfall.run.requests import BUDGET, Request, value_of
from windfall.run.resume import keep_config, known_config, run_so_far
from windfall.store.ledger import Ledger
from windfall.store.records import TakenRequest
from windfall.store.rundir import RunDir
from windfall.units import clock_text, parse_utc


def change(run: RunDir, r: Request) -> tuple[Config, list[KeyChange]]:
    """What the run's configuration would be with what is asked, and what changes. For who asks: it writes nothing.

    Raises:
        ConfigError: it cannot be changed so.
        StoreError: the run cannot be read.
    """
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        config = known_config(run, ledger)
        if config is None:
            raise StoreError(f"{run.config}: cannot be read; restore it from a copy")
        t_run = ledger.head().t_run if ledger.has_version() else float("-inf")
        return changed(config, r, t_run, run_so_far(run, ledger, r.extend))


def changed(config: Config, r: Request, t: float, stage: RunSoFar) -> tuple[Config, list[KeyChange]]:
    """The configuration with one key changed at run time ``t``, and all that differs. Raises ConfigError if it may not be."""
    table, key = r.key.split(".")
    raw = config.model_dump(mode="json", exclude_none=True)
    present = raw[table].get(key)
    if r.expect is not None and value_of(r.expect) != present:
        raise ConfigError(f"{r.key} is {_shown(present)}, and not {r.expect} as its asker saw it")
    if table == "policy":
        if config.policy.name != "budgeted":
            raise ConfigError(f"{r.key}: policy {config.policy.name} knows no deadline; only budgeted does")
        for other in ("deadline", "deadline_h"):  # the new one takes the place of either
            raw[table].pop(other, None)
    raw[table].pop(key, None)
    if r.value is not None:
        raw[table][key] = r.value
    elif r.key == BUDGET:
        raise ConfigError(f"{r.key}: a run has a budget; give a number of tokens")
    try:
        new = Config.model_validate(raw)
        build_policy(new)
    except ValidationError as e:
        raise ConfigError("; ".join(_wrong(r, tuple(d["loc"]), d["msg"]) for d in e.errors(include_url=False))) from None
    if r.key == "policy.deadline" and new.policy.deadline is not None and parse_utc(new.policy.deadline) <= t:
        raise ConfigError(f"{r.key} = {new.policy.deadline}: has passed; it is {clock_text(t)} UTC of run time")
    found = compare(config, new, stage)
    if found.refused:
        raise ConfigError("; ".join(f"{c.text()}: {why}" for c, why in found.refused))
    if not found.changes:
        raise ConfigError(f"{r.key} is {_shown(present)} already")
    return new, found.changes


def in_force(config: Config, run: RunDir) -> Config:
    """The configuration that the run is under: the ledger's newest. Its file, if a crash kept it from being written, is written."""
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        kept = ledger.configurations()
    if not kept:
        return config
    try:
        newest = stored(kept[-1].text)
    except ConfigError:
        return config  # of an older Windfall: its file is what a resume made of it
    if newest == config:
        return config
    keep_config(newest, run)
    return newest


class LiveSettings:
    """The coordinator's end: makes the changes."""

    def __init__(self, config: Config, run: RunDir, ledger: Ledger, recorder: TelemetryRecorder) -> None:
        self.config = config
        self._run = run
        self._ledger = ledger
        self._recorder = recorder
        self._loop: Loop | None = None

    def of(self, loop: Loop) -> None:
        """The loop whose policy is to be changed."""
        self._loop = loop

    def check(self, t: float, r: Request) -> tuple[Config, list[KeyChange]]:
        """What the configuration would be, and what changes. Raises ConfigError if it may not."""
        return changed(self.config, r, t, run_so_far(self._run, self._ledger, r.extend))

    def apply(self, t: float, r: Request, taken: TakenRequest) -> str:
        """Go on under the changed configuration from run time ``t``. Returns a warning, or an empty string.

        Raises:
            ConfigError: it may not be changed so.
        """
        new, changes = self.check(t, r)
        self._ledger.configure(
            to_toml(new), fingerprint(new), changes=[c.as_json() for c in changes],
            budget_blocks=max(new.budget_blocks, self._ledger.budget_blocks), how=r.extend or "warmdown", t_run=t,
            t_wall=clock.wall(), request=taken,
        )  # fmt: skip
        self.config = new
        self._recorder.under(self._ledger.configurations()[-1].number)
        if self._loop is not None and r.key != BUDGET:
            # To a policy within other limits what it remembers means the same. A plan for another deadline is made anew.
            self._loop.decide_by(build_policy(new), remembers=r.key.startswith("limits."))
        try:
            keep_config(new, self._run)
        except StoreError as e:
            return f"{e}; the ledger has the change, and the next start writes it"
        return ""


def _wrong(r: Request, where: tuple[int | str, ...], said: str) -> str:
    """What is wrong with a value, in the words that `windfall check` has for it."""
    table, _, name = r.key.rpartition(".")
    if where == (table, name):
        of = table_of(Config.model_fields[table].annotation)
        assert of is not None
        return f"{r.key} = {_shown(r.value)}: it takes {accepted(of.model_fields[name], name)}"
    said = said.removeprefix("Value error, ")
    return f"{dotted(where)}: {said}" if where else said


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
