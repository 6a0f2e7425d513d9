"""The study's scenarios as configurations: one site that is always on, two that are, and three that train in windows only."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.demo import bundled
from windfall.config.load import load, loads, to_toml
from windfall.config.schema import Config, SiteTable

#: By scenario: the sites that take part (of the demo's and the study's, which have the same names), and the policy (None: its own).
SCENARIOS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "single": (("california",), "always"),
    "aware": (("california", "texas", "south_australia"), None),
    "federated": (("california", "south_australia"), "always"),
}
NAMES = {"single": "centralised", "federated": "two-site federated", "aware": "curtailment-aware"}

#: The study, Table 1 and its text. Perplexity is of training: the least and the last of a moving mean with 0.99.
STUDY: dict[str, dict[str, float]] = {
    "single": {"runtime_h": 17.81, "site_hours": 17.78, "kwh": 35.99, "perplexity_least": 14.73, "perplexity_last": 14.83},
    "federated": {"runtime_h": 11.07, "site_hours": 17.56, "kwh": 35.82, "perplexity_least": 15.23, "perplexity_last": 15.52},
    "aware": {"runtime_h": 14.60, "site_hours": 17.86, "kwh": 37.72, "perplexity_least": 14.64, "perplexity_last": 15.05},
}
STUDY_KG = {"CAISO_NORTH": 11.41, "SPP_TX": 14.55, "NEM_SA": 12.33, "DE": 27.07, "aware": 1.379}
STUDY_INSIDE = {"CAISO_NORTH": 0.335, "SPP_TX": 0.375, "NEM_SA": 0.589, "DE": 0.0, "aware": 0.970}
#: Share of the cleanest always-on region, and energy over the centralised run's.
STUDY_OF_CLEANEST, STUDY_ENERGY = 1.379 / 11.41, 37.72 / 35.99


def demo() -> Config:
    """The scenarios' base at CPU scale: the demo, its nodes taking idle power while they are provisioned."""
    base = loads(bundled("demo.toml"), "demo.toml", Path.cwd())
    sites = [s.model_copy(update={"provisioning_power_w": s.idle_power_w}) for s in base.site]
    return base.model_copy(update={"site": sites})


def scenario(base: Config, name: str, seed: int) -> Config:
    """One scenario of ``base`` with a seed: its sites, its policy, the same tokens."""
    chosen, policy = SCENARIOS[name]
    sites = _chosen(base, chosen)
    run = base.run.model_copy(update={"name": f"study-{name}", "seed": seed})
    decided = base.policy if policy is None else base.policy.model_copy(update={"name": policy})
    return base.model_copy(update={"run": run, "policy": decided, "site": sites})


def _chosen(base: Config, names: tuple[str, ...]) -> list[SiteTable]:
    """The sites of these names; where the configuration calls them otherwise, the first ones."""
    own = [s for s in base.site if s.name in names]
    return own if len(own) == len(names) else list(base.site[: len(names)])


def paper_day() -> Config:
    """The study's day at its own size, for simulations."""
    return loads(bundled("paper_day.toml"), "paper_day.toml", Path.cwd())


#: What a configuration for real GPUs begins as, besides the study's sites.
_FULL = """# The study at full size: 561M parameters, 12.8 billion tokens, three sites of 4 GPUs. Set for each site what turns it on
# (driver) and where its readings come from, and for [data] what is trained on. Then, from this folder:
#   python -m benchmarks.study --full {file}      checks it, and writes the three scenarios beside it
#   windfall run study-single.toml                 and the same with study-federated.toml and study-aware.toml
# run.clock = "real" and live signals make a run of the calendar; as it stands the study's day is replayed, as fast as GPUs allow.

"""


def write_full(file: Path) -> list[Path]:
    """The scenarios for real GPUs beside ``file``, which is written from the study's day where there is none. The files.

    Raises:
        ConfigError: ``file`` has mistakes, or fewer than three sites.
    """
    if not file.exists():
        base = paper_day()
        data = base.data.model_copy(update={"source": "hf:karpathy/fineweb-edu-100b-shuffle"})
        sites = [s for s in base.site if s.name != "germany"]
        file.write_text(_FULL.format(file=file.name) + to_toml(base.model_copy(update={"data": data, "site": sites})))
    base = load(file)
    if len(base.site) < len(SCENARIOS["aware"][0]):
        from windfall.errors import ConfigError

        raise ConfigError(f"{file}: the study has three sites, and here are {len(base.site)}; add [[site]] tables")
    made = [file]
    for name in SCENARIOS:
        path = file.with_name(f"study-{name}.toml")
        path.write_text(to_toml(scenario(base, name, base.run.seed)), encoding="utf-8")
        load(path)
        made.append(path)
    return made
