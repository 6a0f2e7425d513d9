"""Which keys of a configuration a resumed run may change, and what has changed between two of them.

One table has a verdict for every key of the schema. Free: it may change, from now on. Guarded: it may change if that leaves what
was trained as it is. Fixed: it may not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from windfall.config.schema import Config
from windfall.errors import DataError
from windfall.grid.http import public_url
from windfall.run.training_inputs import prepared_source
from windfall.store.configurations import THERE, change_text
from windfall.train.schedule import Extent, ScheduleConfig, schedule
from windfall.units import parse_utc

#: Holding a learning rate below this share of the recipe's would train next to nothing.
_LEAST_RATE = 1e-3
#: The defaults of `data.vocab_size` and of `model`, as the schema and `windfall.train.model` have them.
_VOCABULARY = 65_536

#: The verdict and its reason, by key of the schema or by `table.*`.
RULES: dict[str, tuple[Literal["free", "guarded", "fixed"], str]] = {
    "run.name": ("free", "a label; the run keeps its identity"),
    "run.budget_tokens": ("guarded", "it may grow; what is trained already keeps its place"),
    "run.threshold_g_per_kwh": ("free", "windows are counted so from now on, booked entries stay"),
    "run.threshold_price_per_mwh": ("free", "windows are counted so from now on, booked entries stay"),
    "run.seed": ("fixed", "the initial model and the order of the data were drawn by it"),
    "run.tick_s": ("free", "how often decisions are made"),
    "run.clock": ("fixed", "run time went on by this clock and cannot go on by another"),
    "run.speed": ("free", "how fast time is replayed changes nothing that happens in it"),
    "run.bus": ("free", "how sites are told, not what"),
    "run.start": ("guarded", "run time has begun there"),
    "policy.*": ("free", "decides from now on"),
    "limits.*": ("free", "hold from now on"),
    "model.depth": ("fixed", "the model's shape"),
    "model.width": ("guarded", "the model's shape"),
    "model.head_dim": ("guarded", "the model's shape"),
    "model.sequence_length": ("fixed", "the data were cut into sequences of it"),
    "model.initial_weights": ("guarded", "version 0 was made of them"),
    "data.source": ("guarded", "the data must be the same"),
    "data.tokenizer": ("guarded", "the data were encoded with it"),
    "data.vocab_size": ("guarded", "the data were encoded with it"),
    "data.packing": ("fixed", "the data were packed so"),
    "data.text_column": ("fixed", "the data were read from it"),
    "data.skip_bad_rows": ("fixed", "the data were read so"),
    "data.held_out_fraction": ("fixed", "the data were divided so"),
    "data.eval_every_tokens": ("free", "which versions are measured, not what is trained"),
    "data.eval_sequences": ("free", "what versions are measured on, not what is trained"),
    "data.sample_prompt": ("free", "what versions write, not what is trained"),
    "data.sample_tokens": ("free", "what versions write, not what is trained"),
    "train.batch_sequences": ("fixed", "an optimizer step's size"),
    "train.batch": ("guarded", "how much each site of a joint round takes of an optimizer step"),
    "train.block_sequences": ("fixed", "blocks are lent and counted in it"),
    "train.optimizer": ("fixed", "the recipe"),
    "train.lr_scale": ("fixed", "the recipe"),
    "train.warmdown_fraction": ("fixed", "the recipe"),
    "train.lr_floor": ("fixed", "the recipe"),
    "train.reset_warmup_fraction": ("fixed", "the recipe"),
    "train.precision": ("guarded", "the number format of every step"),
    "train.micro_batch_sequences": ("free", "how a step is computed, not what"),
    "train.compile": ("free", "how a step is computed, not what"),
    "train.checkpoint_activations": ("free", "how a step is computed, not what"),
    "train.spike_factor": ("fixed", "which steps are skipped"),
    "train.max_skips": ("free", "when a site gives up, not what it trains"),
    "federation.round_s": ("free", "when sites hand in"),
    "federation.round_min_s": ("free", "when sites hand in"),
    "federation.round_tokens": ("free", "when sites hand in"),
    "federation.solo_cut_s": ("free", "when sites hand in"),
    "federation.quorum": ("free", "how long a round waits"),
    "federation.grace_s": ("free", "how long a round waits"),
    "federation.outer": ("fixed", "what makes versions of contributions"),
    "federation.outer_lr": ("fixed", "what makes versions of contributions"),
    "federation.outer_momentum": ("fixed", "what makes versions of contributions"),
    "federation.codec": ("free", "how deltas travel; each says which it is in"),
    "federation.overlap": ("free", "whether sites wait for merges"),
    "federation.average_inner_every": ("free", "which inner states are averaged from now on"),
    "federation.clip_delta_norm": ("free", "how much far too large work counts from now on; each version says"),
    "federation.base_max_age": ("free", "which late work is taken from now on"),
    "federation.inner_max_age": ("free", "which inner states are taken up again from now on"),
    "federation.snapshot_s": ("free", "how much a crash may cost"),
    "federation.keep_versions": ("free", "which files are kept from now on"),
    "federation.keep_every": ("free", "which files are kept from now on"),
    "federation.inline_limit_mb": ("free", "how things travel, not what"),
    "federation.port": ("free", "where this machine listens"),
    "fleet.*": ("free", "patience"),
    "network.*": ("free", "how sites elsewhere reach it, from their next starts on"),
    "tracker": ("free", "where figures are sent, not what is trained"),
    "tracker.*": ("free", "where figures are sent, not what is trained"),
    "account.*": ("free", "how entries are shown; what is booked stays"),
    "alerts.*": ("free", "what people are told"),
    "openadr": ("free", "whose events hold or limit sites from now on"),
    "openadr.*": ("free", "whose events hold or limit sites from now on"),
    "backtest.*": ("free", "no part of a run"),
    "economics": ("free", "no part of a run"),
    "economics.*": ("free", "no part of a run"),
    "site": ("free", "a site more or fewer; what one has booked and trained stays"),
    "site.name": ("free", "another name is a site fewer and a site more"),
    "site.region": ("free", "readings and entries from now on"),
    "site.driver": ("free", "what turns it on from now on"),
    "site.data": ("free", "where it reads the same data"),
    "site.resident": ("free", "what turns it on from now on"),
    "site.resident.*": ("free", "what turns it on from now on"),
    "site.slurm": ("free", "where and as what its next starts run"),
    "site.slurm.*": ("free", "where and as what its next starts run"),
    "site.command": ("free", "what turns it on from now on"),
    "site.command.*": ("free", "what turns it on from now on"),
    "site.kubernetes": ("free", "where and as what its next starts run"),
    "site.kubernetes.*": ("free", "where and as what its next starts run"),
    "site.exalsius": ("free", "where and as what its next starts run"),
    "site.exalsius.*": ("free", "where and as what its next starts run"),
    "site.spin_up_s": ("free", "what its next starts are taken to last"),
    "site.load_s": ("free", "what its next starts are taken to last"),
    "site.train_power_w": ("free", "booked from now on"),
    "site.idle_power_w": ("free", "booked from now on"),
    "site.provisioning_power_w": ("free", "booked from now on"),
    "site.meter": ("free", "measured from its next start on"),
    "site.meter.*": ("free", "measured from its next start on"),
    "site.embodied": ("free", "no entry depends on it"),
    "site.embodied.*": ("free", "no entry depends on it"),
    "site.microgrid": ("free", "simulated so from now on; what is booked stays"),
    "site.microgrid.*": ("free", "simulated so from now on; what is booked stays"),
    "site.microgrid.source": ("free", "simulated so from now on; what is booked stays"),
    "site.microgrid.source.*": ("free", "simulated so from now on; what is booked stays"),
    "site.tokens_per_s": ("free", "what it is taken to train from now on"),
    "site.power_levels": ("free", "what it may take and train from now on"),
    "site.power_levels.*": ("free", "what it may take and train from now on"),
    "site.threads": ("free", "how its steps are computed"),
    "site.ranks": ("free", "how its steps are computed"),
    "site.device": ("free", "how its steps are computed"),
    "site.transfer_s": ("free", "what its transfers are taken to last"),
    "site.bandwidth_mbit_s": ("free", "how fast things travel"),
    "site.own_signal": ("free", "what it watches from now on"),
    "site.trigger": ("free", "decides from now on"),
    "site.max_starts_per_h": ("free", "holds from now on"),
    "site.ramp_w_per_min": ("free", "holds from now on"),
    "site.signal.*": ("free", "readings from now on"),
    "site.signals": ("free", "readings from now on"),
    "site.signals.*": ("free", "readings from now on"),
    "counterfactual": ("free", "for comparison only"),
    "counterfactual.*": ("free", "for comparison only"),
}


@dataclass(frozen=True)
class RunSoFar:
    """What a run has done so far, for judging a changed configuration. ``tokens`` are those committed."""

    tokens: int
    manifest: str
    #: All budgets that the run has had.
    extents: list[Extent]
    #: Whether the run prepared its data itself and keeps them.
    own_data: bool
    #: What the user asks for with a larger budget: hold, warmdown or None.
    extend: str | None = None


@dataclass(frozen=True)
class KeyChange:
    """A changed key and its values without secrets; None where a configuration does not have it."""

    key: str
    old: Any
    new: Any
    site: str | None = None

    def text(self) -> str:
        """``policy.name: "breakeven" -> "paper"``; ``site.b: removed``."""
        return change_text(self.key, self.old, self.new)

    def as_json(self) -> dict[str, Any]:
        """The change as the ledger keeps it."""
        return {"key": self.key, "old": self.old, "new": self.new, "site": self.site}


@dataclass(frozen=True)
class ConfigComparison:
    """All changes, and those that are refused, each with the reason."""

    changes: list[KeyChange]
    refused: list[tuple[KeyChange, str]]

    def refusal(self) -> str:
        """The refused changes, a line each."""
        return "\n".join(f"  {c.text()} ({why})" for c, why in self.refused)


def rule_of(key: str) -> tuple[str, str]:
    """Verdict and reason of a key of the schema. Raises KeyError for a key that the table lacks."""
    if key in RULES:
        return RULES[key]
    table = key
    while "." in table:
        table = table.rpartition(".")[0]
        if f"{table}.*" in RULES:
            return RULES[f"{table}.*"]
    raise KeyError(key)


def compare(old: Config, new: Config, stage: RunSoFar) -> ConfigComparison:
    """What differs between two configurations of one run. Keys that are written differently and mean the same do not differ."""
    was, now = dict(_leaves(old)), dict(_leaves(new))
    gone, come = _rows(was) - _rows(now), _rows(now) - _rows(was)
    found = ConfigComparison([], [])
    for rows, before, after in ((gone, THERE, None), (come, None, THERE)):
        for row in sorted(rows):
            if not any(row.startswith(f"{other}.") for other in rows):
                found.changes.append(KeyChange(row, before, after, _site_of(row)))
    for shown in [*was, *(k for k in now if k not in was)]:
        if any(shown == row or shown.startswith(f"{row}.") for row in gone | come):
            continue
        key, before = was.get(shown, ("", None))
        key, after = now.get(shown, (key, None))
        if before == after:
            continue
        verdict, why = rule_of(key)
        change = KeyChange(shown, _told(key, before), _told(key, after), _site_of(shown))
        guard = _GUARDS.get(key)
        said: str | None = why if verdict == "fixed" else ""
        if guard is not None:
            said = guard(old, new, stage)
        if said:
            found.refused.append((change, said))
        elif said is not None:
            found.changes.append(change)
    return found


def decides_alike(then: Config, now: Config) -> bool:
    """Whether what a policy remembers under one configuration has the same meaning under the other."""
    return _seen_by_policies(then) == _seen_by_policies(now)


def _seen_by_policies(c: Config) -> tuple[Any, ...]:
    r = c.run
    sites = sorted(c.site, key=lambda s: s.name)
    return c.policy, c.limits, sites, r.budget_tokens, r.threshold_g_per_kwh, r.threshold_price_per_mwh, r.tick_s


# -- the keys of a configuration ---------------------------------------------------------------------------------


def _leaves(table: BaseModel, shown: str = "", key: str = "") -> Iterator[tuple[str, tuple[str, Any]]]:
    """Every key with its value. A key has two forms: for messages (site.NAME.region) and as in the schema (site.region)."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        at, of = f"{shown}{name}", f"{key}{name}"
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{at}.", f"{of}.")
        elif isinstance(value, list) and (not value or isinstance(value[0], BaseModel)) and of in RULES:
            seen: list[str] = []
            for row in value:
                label = str(next(v for k in ("label", "name", "region", "kind") if (v := getattr(row, k, None))))
                seen.append(label)
                label += f"#{seen.count(label)}" if seen.count(label) > 1 else ""
                yield f"{at}.{label}", (of, _ROW)
                yield from _leaves(row, f"{at}.{label}.", f"{of}.")
        else:
            yield at, (of, value)


#: Stands for the value of a whole table.
_ROW = object()


def _rows(leaves: dict[str, tuple[str, Any]]) -> set[str]:
    return {shown for shown, (_, value) in leaves.items() if value is _ROW}


def _site_of(shown: str) -> str | None:
    parts = shown.split(".")
    return parts[1] if parts[0] == "site" else None


def _told(key: str, value: Any) -> Any:
    """A value for messages: of an address, what may be secret is left out."""
    if isinstance(value, str) and key.rpartition(".")[2] in ("url", "base_url", "bus"):
        return public_url(value)
    return value


# -- guarded keys: the reason to refuse; empty if the change is allowed; None if it changes nothing in effect -------------


def _budget(old: Config, new: Config, stage: RunSoFar) -> str | None:
    if (old.tokens_per_block, old.tokens_per_step) != (new.tokens_per_block, new.tokens_per_step):
        return "and a step's size changes too"
    if new.budget_blocks == old.budget_blocks:
        return None
    if new.budget_blocks < old.budget_blocks:
        return "it may grow, not shrink; a run may be stopped before its end, and its newest version is a whole model"
    if stage.extend is None:
        more = "--extend warmdown, for a new one at the new end, or --extend hold, for the rates as they are now"
        return f"the warm-down has begun: add {more}" if warmdown_begun(old, stage) else ""
    if stage.extend == "hold" and (rate := rate_now(old, stage)) < _LEAST_RATE:
        return f"held, the learning rate would be {rate:.2g} of the recipe's, and nothing would be learned: --extend warmdown"
    return ""


def warmdown_begun(config: Config, stage: RunSoFar) -> bool:
    """Whether the learning rate already falls or has been held once. A larger budget then needs `--extend`."""
    if not stage.tokens:
        return False
    last = stage.extents[-1]
    return last.how == "hold" or stage.tokens >= (1.0 - config.train.warmdown_fraction) * last.budget_tokens


def rate_now(config: Config, stage: RunSoFar) -> float:
    """The run's present learning rate as a share of the recipe's."""
    t = config.train
    shape = ScheduleConfig(
        warmdown_fraction=t.warmdown_fraction, final_lr_multiplier=t.lr_floor, reset_warmup_fraction=t.reset_warmup_fraction
    )
    return schedule(stage.tokens, stage.extents, shape).lr_multiplier


def _start(old: Config, new: Config, stage: RunSoFar) -> str | None:
    before, after = old.run.start, new.run.start
    if before is None or after is None or parse_utc(before) == parse_utc(after):
        return None
    return "" if new.run.clock == "real" else RULES["run.start"][1]


def _shape(old: Config, new: Config, stage: RunSoFar) -> str | None:
    return None if _sizes(old) == _sizes(new) else RULES["model.width"][1]


def _sizes(c: Config) -> tuple[int, int]:
    """Width and head dimension as `windfall.train.model` takes them. Importing that would import torch."""
    wide = c.model.width or 64 * c.model.depth
    return wide, c.model.head_dim or (128 if wide >= 256 and wide % 128 == 0 else 32)


def _vocabulary(old: Config, new: Config, stage: RunSoFar) -> str | None:
    same = (old.data.vocab_size or _VOCABULARY) == (new.data.vocab_size or _VOCABULARY)
    return None if same or (old.data.tokenizer, new.data.tokenizer) == ("bytes", "bytes") else RULES["data.vocab_size"][1]


def _precision(old: Config, new: Config, stage: RunSoFar) -> str | None:
    def on(c: Config) -> set[str]:
        auto = {"cuda": "bf16", "cpu": "fp32"}
        return {auto[s.device] if c.train.precision == "auto" else c.train.precision for s in (*old.site, *new.site)}

    return None if on(old) == on(new) and len(on(old)) == 1 else RULES["train.precision"][1]


def _source(old: Config, new: Config, stage: RunSoFar) -> str | None:
    folder = prepared_source(new)
    if folder is not None:
        from windfall.train.manifest import Manifest

        try:
            found = Manifest.load(folder).hash
        except DataError as e:
            return str(e)
        if found == stage.manifest:
            return ""
        return f"it holds other data (manifest {found[:12]}) than the run was begun with ({stage.manifest[:12]})"
    if stage.own_data and _moved(old.data.source, new.data.source):
        return ""
    return "the run goes on with the data that it was begun with"


def _moved(old: str | None, new: str | None) -> bool:
    """Whether a file or folder has gone from its old place, and one with its name is at the new place."""
    if not old or not new:
        return False
    return Path(old).name == Path(new).name and Path(new).exists() and not Path(old).exists()


def _tokenizer(old: Config, new: Config, stage: RunSoFar) -> str | None:
    return "" if _moved(old.data.tokenizer, new.data.tokenizer) else RULES["data.tokenizer"][1]


def _initial(old: Config, new: Config, stage: RunSoFar) -> str | None:
    return "" if _moved(old.model.initial_weights, new.model.initial_weights) else RULES["model.initial_weights"][1]


_GUARDS: dict[str, Callable[[Config, Config, RunSoFar], str | None]] = {
    "run.budget_tokens": _budget,
    "run.start": _start,
    "model.width": _shape,
    "model.head_dim": _shape,
    "model.initial_weights": _initial,
    "data.source": _source,
    "data.tokenizer": _tokenizer,
    "data.vocab_size": _vocabulary,
    "train.precision": _precision,
}
