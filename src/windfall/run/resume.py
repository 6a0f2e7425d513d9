"""Goes on with a run under a changed configuration: makes the changes that are allowed, or refuses before it changes anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.config.load import fingerprint, stored, to_toml
from windfall.config.schema import Config
from windfall.errors import ConfigError, DataError, RunError, StoreError
from windfall.fleet.drivers.build import driver_of_what_lives
from windfall.fleet.machine import Action, Observed
from windfall.run.changes import ConfigComparison, RunSoFar, compare
from windfall.run.sites import describe_site
from windfall.run.training_inputs import data_dir, prepared_source
from windfall.store.configurations import extents
from windfall.store.files import write_atomic
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.train.schedule import Extent

Say = Callable[[str], None]
_POLL_S = 0.05
#: A process that is still there so long (s) after it was killed will not end.
_KILLED_S = 30.0


def resume(config: Config, run: RunDir, say: Say, extend: str | None = None) -> None:
    """Make ``config`` that of the run in ``run``, which is not running. ``extend``: hold or warmdown, for a larger budget.

    Raises:
        ConfigError: it changes what is fixed; every such key is named, with its old and new value.
        StoreError: the run directory cannot be read or written.
        DataError: the data are not those that the run was begun with.
    """
    ledger = Ledger.open(run.ledger)
    try:
        kept = ledger.configurations()
        known = known_config(run, ledger)
        if known is None:  # the run is older than the table of configurations, and its file is gone
            if ledger.meta("fingerprint") != fingerprint(config):
                raise ConfigError(
                    f"{run.root}: was started with another configuration, and {run.config} cannot be read to say where; "
                    "put it back, or begin another run (--run-dir)"
                )
            known = config
        found = _compared(known, config, run, ledger, extend)
        _require_data(data_dir(config, run), str(ledger.meta("manifest")), run)
        if not kept:
            began = float(ledger.meta("t_run") or 0)
            ledger.configure(
                to_toml(known), fingerprint(known), budget_blocks=ledger.budget_blocks, t_run=began, t_wall=clock.wall()
            )
        if found.changes:
            _end_sites(run, ledger, known, config, say)
            ledger.configure(
                to_toml(config), fingerprint(config), changes=[c.as_json() for c in found.changes],
                budget_blocks=max(config.budget_blocks, ledger.budget_blocks), how=extend or "warmdown", t_wall=clock.wall(),
            )  # fmt: skip
            for c in found.changes:
                say(f"from now on: {c.text()}")
        moved = prepared_source(config)
        if moved is not None and str(moved) != ledger.meta("data_dir") and not (run.data / "manifest.json").exists():
            ledger.set_meta(data_dir=str(moved))
    finally:
        ledger.close()
    # The file is written after the ledger. After a crash in between the next start writes it.
    keep_config(config, run)


def differing(config: Config, run: RunDir) -> list[str]:
    """What ``config`` would change in a run that is running. It changes nothing."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        known = known_config(run, ledger)
        found = compare(known, config, run_so_far(run, ledger)) if known else ConfigComparison([], [])
    finally:
        ledger.close()
    return [c.text() for c in (*found.changes, *(c for c, _ in found.refused))]


def keep_config(config: Config, run: RunDir) -> None:
    """Store the resolved configuration, if it is not there already. Raises StoreError if it cannot be written."""
    text = to_toml(config).encode()
    try:
        if not run.config.is_file() or run.config.read_bytes() != text:
            write_atomic(run.config, [text])
    except OSError as e:
        raise StoreError(f"{run.config}: cannot be written: {e.strerror}") from None


def known_config(run: RunDir, ledger: Ledger) -> Config | None:
    """The run's configuration so far; None if it cannot be read."""
    kept = ledger.configurations()
    try:
        return stored(kept[-1].text if kept else run.config.read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError):
        return None


def run_so_far(run: RunDir, ledger: Ledger, extend: str | None = None) -> RunSoFar:
    """What the run has done, for judging a changed configuration."""
    budgets = [Extent(*e) for e in extents(ledger.configurations())]  # type: ignore[arg-type]
    budgets = budgets or [Extent(0.0, ledger.budget_blocks * ledger.tokens_per_block)]
    own = (run.data / "manifest.json").exists()
    return RunSoFar(ledger.head().tokens_total, str(ledger.meta("manifest")), budgets, own, extend)


def _compared(known: Config, config: Config, run: RunDir, ledger: Ledger, extend: str | None) -> ConfigComparison:
    stage = run_so_far(run, ledger, extend)
    found = compare(known, config, stage)
    if found.refused:
        raise ConfigError(
            f"{run.root}: was started with another configuration, and a run cannot change these:\n{found.refusal()}\n"
            "Put the old values back (nothing has been changed), or begin another run (--run-dir)"
        )
    if extend and config.budget_blocks <= ledger.budget_blocks:
        if len(stage.extents) > 1 and stage.extents[-1].how == extend:
            return found  # this extension has been made already
        raise ConfigError(
            f"--extend: run.budget_tokens = {config.run.budget_tokens} is what the run has already; give a larger one in the file"
        )
    return found


def _end_sites(run: RunDir, ledger: Ledger, old: Config, new: Config, say: Say) -> None:
    """End living sites that the configuration has no more, or tells something else. Their work is kept in their folders."""
    run_id = ledger.meta("run_id") or ""
    driver = driver_of_what_lives(run, run_id)
    now = {s.name for s in new.site}
    known = {s.name for s in old.site}
    ending = []
    for o in driver.list_owned(run_id):
        if o.site not in now:
            ending.append((o, "no part of the run any more"))
        elif o.site not in known or old.budget_blocks != new.budget_blocks or _told(old, run, o.site) != _told(new, run, o.site):
            ending.append((o, "its configuration has changed"))
    last, t = ledger.last_asked(), ledger.head().t_run
    for o, why in ending:
        say(f"{o.site} lives on from an earlier start, and {why}: ending it, its work is kept")
        ledger.asked(max(t, last.get(o.site, (0, "", t))[2]), clock.wall(), o.site, o.generation, Action.DOWN.value, why)
        driver.ensure_down(o.site, new.fleet.stop_grace_s, why)
    names = [o.site for o, _ in ending]
    deadline = clock.monotonic() + new.fleet.stop_grace_s + _KILLED_S
    while left := [s for s, o in driver.observe(names).items() if o.state is not Observed.ABSENT]:
        if clock.monotonic() > deadline:
            raise RunError(f"{', '.join(left)}: processes of an earlier start do not end; nothing has been changed, try again")
        clock.pause(_POLL_S)


def _told(config: Config, run: RunDir, site: str) -> dict[str, Any]:
    return describe_site(config, run, site, "", 0)


def _require_data(folder: Path, data_hash: str, run: RunDir) -> None:
    """Raise DataError if the run's data are not those that it was begun with, because all of its sites would fail.

    This machine itself needs no data to go on. If it has none, the sites say what they find.
    """
    from windfall.train.manifest import MANIFEST_NAME, Manifest

    if not (folder / MANIFEST_NAME).exists():
        return
    manifest = Manifest.load(folder)
    if manifest.hash != data_hash:
        raise DataError(
            f"{folder}: holds other data (manifest {manifest.hash[:12]}) than the run was begun with ({data_hash[:12]}); put that "
            "back, or begin another run (--run-dir)"
        )
    manifest.verify(folder, run.root / "data-checked.json")
