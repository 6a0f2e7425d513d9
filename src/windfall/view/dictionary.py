"""What every exported column means, and its unit: written beside tables, shown in docs/columns.md, and held complete by a test.

A name with ``*`` stands for columns that there is one of for each site, currency or number. Settings that were swept over are
columns of the tables of many simulations, with what the configuration's schema says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from windfall.config.backtest import TrainerTable
from windfall.config.policy import PolicyTable
from windfall.config.schema import SiteTable
from windfall.view.frame import Frame

_UNIX = "Unix seconds"
_RUN_TIME = (_UNIX, "run time (of replayed traces: their own time)")
_WALL = (_UNIX, "time of the machine")
_SITE = ("", "name of the site")
_POLICY = ("", "policy")
_DELAY = ("s", "how late readings were known to the policy; empty: as the signals are configured")
_SIGNAL_UNIT = "unit of the signal"
#: Before the name of a setting that a figure has too.
SET = "set_"
_SUFFIXES = (("_g_per_kwh", "g/kWh"), ("_per_mwh", "currency/MWh"), ("_days", "days"), ("_s", "s"), ("_h", "h"))

#: Figures of one simulation: columns of `rows` and `points`.
_FIGURES: dict[str, tuple[str, str]] = {
    "policy": _POLICY,
    "preset": ("", "model of the trainer: windfall (the sites' own starts, no stall) or prototype (the study's start and stall)"),
    "publication_delay_s": _DELAY,
    "deadline_h": ("h", "from the start; budgeted and oracle had to keep it, others are judged by it (or by their own finish)"),
    "finish_h": ("h", "from the start to when the budget was trained; empty: it was not, or there is none"),
    "site_hours": ("h", "training: one site taking optimizer steps for one hour, starts and stalls excluded"),
    "energy_kwh": ("kWh", "energy of all sites and phases, starts, loading and stalls included"),
    "kg_co2": (
        "kg",
        "emissions of that energy, by marginal intensity where a site has one, else by average; unknown hours excluded",
    ),
    "money": ("currency", "cost of the energy, where all sites pay in one currency"),
    "starts": ("", "starts of sites"),
    "idle_h": ("h", "time in which sites were on without training: loading, stalls, draining"),
    "share_inside": ("share", "energy used while a site's first signal met the run's criterion, over all of known hours"),
    "share_of_oracle": ("share", "value of the schedule over the largest possible value in the same time, in hindsight"),
    "kg_over_oracle": ("ratio", "emissions over the least possible ones for the same training by deadline_h, in hindsight"),
    "value": (
        "kW s",
        "value of the schedule: (worth - reading) / scale of the worth, while training, less reading / scale in starts",
    ),
    "span_h": ("h", "from the start to the finish, or to where the simulation ended"),
    "unknown_kwh": ("kWh", "energy used in hours without a reading: part of energy_kwh, of no kg, neither inside nor outside"),
    "g_per_kwh_training": ("g/kWh", "mean intensity of the energy of training alone, without starts and stalls"),
    "training_power_w": ("W", "mean power, while they trained, of sites with power levels; empty: no site has any"),
    "seeds": ("", "seeds over which `seeds` has this policy's figures; the row itself is of the configured one"),
}

#: Meanings by table and column: unit, meaning.
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "rows": {
        "row": ("", "place of the row, from 0; lanes and seeds refer to it"),
        **_FIGURES,
        "kg_*": ("kg", "emissions by one kind of intensity: kg_marginal, kg_average"),
        "kwh_*": ("kWh", "of sites with a microgrid: kwh_own of their plants, kwh_stored out of their battery, kwh_grid"),
        "money_*": ("currency", "cost in this currency"),
        "site_hours_*": ("h", "training at this site"),
        "notes": ("", "what the figures leave out"),
    },
    "lanes": {
        "row": ("", "place in rows"),
        "policy": _POLICY,
        "site": _SITE,
        "t0": (_UNIX, "begin"),
        "t1": (_UNIX, "end"),
        "state": ("", "state of the site between them: provisioning, ready, training, draining, off"),
    },
    "baselines": {
        "region": ("", "region of the grid"),
        "site_hours": ("h", "training of one site that never stops, from the start"),
        "kg_co2": ("kg", "its emissions there; empty where hours of that time are unknown"),
    },
    "seeds": {
        "row": ("", "place in rows"),
        "policy": _POLICY,
        "figure": ("", "which figure: a column of rows, in its unit"),
        "seeds": ("", "how many seeds were drawn"),
        "p10": ("unit of the figure", "10th percentile over the seeds"),
        "p50": ("unit of the figure", "median over the seeds"),
        "p90": ("unit of the figure", "90th percentile over the seeds"),
    },
    "points": {
        **_FIGURES,
        "start": (_UNIX, "start of the simulation"),
    },
    "summary": {
        "policy": _POLICY,
        "publication_delay_s": _DELAY,
        "deadline_h": ("h", "deadline, where the policy had to keep one"),
        "start_dates": ("", "start dates that were simulated"),
        "finished": ("", "start dates from which the budget was trained; figures are of these (without a budget: of all)"),
        "*_p10": ("unit of the figure", "10th percentile over start dates"),
        "*_p50": ("unit of the figure", "median over start dates"),
        "*_p90": ("unit of the figure", "90th percentile over start dates"),
    },
    "pairs": {
        "policy": _POLICY,
        "against": ("", "the policy that it is compared with"),
        "publication_delay_s": _DELAY,
        "deadline_h": ("h", "deadline, where one of them had to keep one"),
        "figure": ("", "which figure: a column of points, in its unit"),
        "start_dates": ("", "start dates from which both have the figure"),
        "mean": ("unit of the figure", "mean over start dates of policy minus against"),
        "low": ("unit of the figure", "lower end of the 95 % interval of the mean; empty with fewer than three blocks"),
        "high": ("unit of the figure", "upper end of it"),
        "median": ("unit of the figure", "median over start dates of policy minus against"),
        "lower": ("share", "start dates from which policy has the lower figure, over all"),
        "block_starts": ("", "start dates in a block of the bootstrap: as many as one simulation overlaps with"),
        "blocks": ("", "start dates over block_starts: how many independent observations there are, about"),
    },
    "traces": {
        "site": ("", "name of the site; empty for a region that only baselines have"),
        "region": ("", "region of the grid"),
        "signal": ("", "what triggers and reports call the signal"),
        "type": ("", "marginal_co2, average_co2, price, curtailed_power or surplus_power"),
        "unit": ("", "unit of the values as they were used"),
        "source": ("", "file of the trace, or how it was generated"),
        "sha256": ("", "hash of the file as it lies there"),
        "begins": ("UTC", "instant of the first reading"),
        "ends": ("UTC", "when the last reading ceases to hold; empty: without end"),
        "holes": ("", "times without a reading between them"),
        "hole_h": ("h", "how long these are together"),
        "longest_hole_h": ("h", "how long the longest of them is"),
    },
    "versions": {
        "version": ("", "number of the model's version; 0 is the initial model"),
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
        "mode": ("", "how it came about: local (one site) or federated (several)"),
        "tokens": ("tokens", "trained between the version before and this one"),
        "tokens_total": ("tokens", "trained in all"),
        "retained": ("", "whether its weights are kept"),
        "val_bpb": ("bits/byte", "loss on the held-out text, where it was evaluated"),
        "tokens_*": ("tokens", "of these, trained by this site"),
    },
    "blocks": {
        "first": ("", "first block of a range of the budget"),
        "end": ("", "block after its last one"),
        "blocks": ("", "how many blocks it has"),
        "state": ("", "free, leased, received, committed, skipped or quarantined"),
    },
    "events": {
        "id": ("", "number of the event"),
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
        "kind": ("", "what happened, as a word"),
        "site": ("", "site that it happened to, if to one"),
        "version": ("", "version that it is about, if about one"),
        "what": ("", "what happened, in a sentence"),
        "detail": ("", "everything that is known of it (JSON)"),
    },
    "decisions": {
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
        "site": _SITE,
        "wanted": ("", "whether the policy wanted the site on"),
        "reason": ("", "why, in words and numbers"),
        "until": (_UNIX, "until when it expected that to hold"),
        "numbers_*": (_SIGNAL_UNIT, "a number that the decision was made with, as the policy calls it"),
        "memory_*": (_SIGNAL_UNIT, "what the policy remembers until its next decision"),
    },
    "readings": {
        "site": _SITE,
        "valid_from": (_UNIX, "from when the reading holds"),
        "known_at": (_UNIX, "when it became known"),
        "stale_at": (_UNIX, "from when it is too old to go by"),
        "value": (_SIGNAL_UNIT, "the reading"),
        "unit": ("", "its unit"),
        "source": ("", "where it came from"),
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
    },
    "forecasts": {
        "site": _SITE,
        "made_at": (_UNIX, "when the forecast was made"),
        "t": (_UNIX, "the instant that it is about"),
        "value": (_SIGNAL_UNIT, "what it says for then"),
    },
    "metrics": {
        "id": ("", "number of the row"),
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
        "site": _SITE,
        "name": ("", "loss (nats/token), val_bpb (bits/byte), and others as they are called"),
        "value": ("as the name says", "the figure"),
        "tokens": ("tokens", "that the figure is of"),
        "version": ("", "version that it is about"),
        "detail": ("", "more of it (JSON)"),
    },
    "steps": {
        "t_run": _RUN_TIME,
        "t_wall": _WALL,
        "site": _SITE,
        "tokens": ("tokens", "progress of the budget at the step: committed, and expected to be under way"),
        "version": ("", "version that the site held"),
        "loss": ("nats/token", "training loss of the step"),
        "mode": ("", "local or federated"),
        "tokens_per_s_wall": ("tokens/s", "pace, in time of the machine"),
    },
    "energy": {
        "site": _SITE,
        "phase": (
            "",
            "off (a machine that stays on), provisioning, idle, training, evaluation, stall, draining, terminating or network",
        ),
        "t0": (_UNIX, "begin of the interval (run time)"),
        "t1": (_UNIX, "its end; its begin where energy was used beside what the site did"),
        "watts": ("W", "mean power"),
        "g_per_kwh": ("g/kWh", "intensity by which it is accounted; empty: unknown"),
        "joules": ("J", "energy"),
        "grams": ("g", "its emissions"),
        "inside": ("", "whether the region's reading met the criterion; empty: unknown"),
        "average_grams": ("g", "its emissions by average intensity, where the site has that signal"),
        "money": ("currency of the site's price", "its cost"),
        "measured_joules": ("J", "part of the energy that was measured; the rest is modelled"),
        "cause": ("", "of a correction: why; its figures are signed, and change what was booked before over the same time"),
        "booked_at": (_UNIX, "run time of a booking that had waited for a meter; empty: at once"),
        "own_joules": ("J", "of joules, from the site's own plants; like those out of its battery in no grams and no cost"),
        "stored_joules": ("J", "of joules, out of the site's battery"),
    },
    "states": {
        "site": _SITE,
        "t_run": _RUN_TIME,
        "until": (_UNIX, "run time of the site's next state"),
        "t_wall": _WALL,
        "state": ("", "off, provisioning, ready, training, draining or failed"),
        "reason": ("", "why it came about"),
    },
    "modes": {
        "t_run": _RUN_TIME,
        "until": (_UNIX, "run time of the next mode"),
        "t_wall": _WALL,
        "mode": ("", "paused (no site trains), local (one) or federated (several)"),
    },
    "counterfactuals": {
        "name": ("", "the run, a region, or the alternative in words"),
        "kind": ("", "run, region (one site there, always on), all_on, random, threshold, paper (the study's rule) or oracle"),
        "kg_co2": ("kg", "its emissions for the tokens that the run has committed; of one that is drawn the median over seeds"),
        "run_share": ("ratio", "the run's kg_co2 over it"),
        "kg_low": ("kg", "10th percentile over seeds"),
        "kg_high": ("kg", "90th percentile over seeds"),
        "seeds": ("", "how many times it was drawn"),
        "energy_kwh": ("kWh", "energy of all its sites and phases"),
        "site_hours": ("h", "training: one site taking optimizer steps for one hour"),
        "finish_h": ("h", "run time from the start until it had the tokens"),
        "starts": ("", "starts of sites; empty where there are none"),
        "unknown_h": ("h", "in which its sites were on without a reading, summed over sites; in no kg"),
        "why_not": ("", "why there are no kg"),
        "money_*": ("currency", "cost of its energy in this currency"),
    },
}

#: What the tables are, for the page of all of them.
TABLES = {
    "rows": "A backtest: a row for each policy, deadline and publication delay.",
    "lanes": "A backtest: states of sites over time.",
    "baselines": "A backtest: one site in each region that is always on.",
    "seeds": "A backtest: figures of a policy that draws, over seeds.",
    "points": "Many simulations: a row for each policy, start date and setting.",
    "summary": "Many simulations: quantiles over start dates.",
    "pairs": "Many simulations: differences between two policies from the same start dates.",
    "traces": "What a backtest was computed on.",
    "versions": "A run: versions of the model.",
    "blocks": "A run: the partition of the budget.",
    "events": "A run: what happened.",
    "decisions": "A run: decisions of the policy.",
    "readings": "A run: readings that decisions were made on.",
    "forecasts": "A run: forecasts that decisions were made on.",
    "metrics": "A run: every figure by name.",
    "steps": "A run: optimizer steps.",
    "energy": "A run: the account, a row for each interval of one site, phase and reading.",
    "states": "A run: states of sites.",
    "modes": "A run: modes.",
    "counterfactuals": "A run beside its alternatives: the same tokens, at the run's own pace and power, under the same readings.",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a column holds; ``unit`` is empty where it has none."""

    unit: str
    text: str


def meaning(table: str, column: str) -> Meaning | None:
    """What a column of a table means; None where nothing is written of it (a test sees to it that this is never)."""
    known = COLUMNS.get(table, {})
    if column in known:
        return Meaning(*known[column])
    base = column.removesuffix("_utc")
    if base != column and base in known:
        return Meaning("UTC", f"{known[base][1]} (the same as {base}, ISO 8601)")
    for pattern, said in known.items():
        if "*" in pattern and fnmatchcase(column, pattern):
            of = _FIGURES.get(column[: 1 - len(pattern)]) if table == "summary" else None
            return Meaning(*said) if of is None else Meaning(of[0], f"{said[1]}: {of[1]}")
    return _setting(column.removeprefix(SET)) if table in ("points", "summary", "pairs") else None


def _setting(key: str) -> Meaning | None:
    """A number of the configuration that was swept over."""
    fields = {**TrainerTable.model_fields, **PolicyTable.model_fields, "spin_up_s": SiteTable.model_fields["spin_up_s"]}
    if key not in fields:
        return None
    unit = next((unit for suffix, unit in _SUFFIXES if key.endswith(suffix)), "")
    return Meaning(unit, f"setting: {fields[key].description or key}")


def dictionary(frames: Mapping[str, Frame]) -> Frame:
    """The columns of these tables: table, column, kind, unit, meaning."""
    found = []
    for table, frame in frames.items():
        for column in frame.columns:
            said = meaning(table, column) or Meaning("", "")
            found.append((table, column, frame.kinds[column], said.unit, said.text))
    return Frame({"table": "text", "column": "text", "kind": "text", "unit": "text", "meaning": "text"}, found)


def page() -> str:
    """docs/columns.md."""
    lines = [
        "# Columns of exported tables", "",
        "Made by `python -m windfall.view.dictionary`. `windfall backtest --csv DIR` and `windfall export` write the same, of the "
        "columns that there are, into `columns.csv`. Instants in Unix seconds have a second column with the suffix `_utc`; an "
        "empty cell is a value that is not known or does not apply; shares are 0 to 1. Tables of many simulations have a column "
        "for each setting that was swept over, by the name of its key.",
    ]  # fmt: skip
    for table, about in TABLES.items():
        lines += ["", f"## {table}", "", about, "", "| column | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{column}` | {unit} | {text} |" for column, (unit, text) in COLUMNS[table].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
