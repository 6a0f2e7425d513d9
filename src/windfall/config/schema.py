"""The configuration of a run: one class per table, one docstring line per key, units in the names."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from windfall.config.base import Instant, Name, NonNegative, Positive, Table, Wrong
from windfall.config.drivers import NEEDS_TABLE, DriverName, NetworkTable, ResidentTable
from windfall.config.kubernetes import KubernetesTable
from windfall.config.signals import LIVE, SignalTable
from windfall.config.trigger import parse_trigger

PolicyName = Literal[
    "breakeven", "threshold", "paper", "percentile", "learned", "lookahead", "budgeted", "oracle", "always", "random_duty",
]  # fmt: skip
#: Policies that know the future, or look at nothing. They are for comparison and not for runs.
BACKTEST_ONLY = ("oracle", "random_duty")


class RunTable(Table):
    """`[run]`: what is trained, and against which criterion windows are counted."""

    name: Name = Field("windfall", description="the run's name, in reports and on nodes")
    budget_tokens: int = Field(gt=0, le=10**16, description="tokens to train on; rounded up to whole blocks")
    threshold_g_per_kwh: Positive = Field(
        100.0, description="curtailment criterion: a region is in a window while its reading is under it"
    )
    threshold_price_per_mwh: float = Field(
        0.0, description="the same criterion for sites whose signal is a price: in a window while it is under this"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seeds the initial model, the data order and every jitter")
    tick_s: Positive = Field(10.0, description="run time between two decisions")
    clock: Literal["real", "scaled"] = Field("real", description="the calendar, or replayed time")
    speed: Positive = Field(1.0, description="scaled clock: at most this many run seconds per wall second")
    bus: str = Field(
        "embedded", description="embedded, redis://HOST:PORT or rediss://HOST:PORT (password: WINDFALL_REDIS_PASSWORD)"
    )
    start: Instant | None = Field(
        None, description="scaled clock: where run time begins (UTC; default: the first instant that all sites' traces have)"
    )

    @field_validator("bus")
    @classmethod
    def _bus(cls, bus: str) -> str:
        found = urlsplit(bus)
        if bus != "embedded" and (found.scheme not in ("redis", "rediss") or not found.hostname):
            raise ValueError("must be embedded, redis://HOST:PORT or rediss://HOST:PORT")
        if found.username or found.password or not all(q.startswith("ssl_") for q in parse_qs(found.query)):
            raise ValueError(
                "may hold no user, password or other secret (of options only ssl_*); put the password into the environment as "
                "WINDFALL_REDIS_PASSWORD"
            )
        return bus


class PolicyTable(Table):
    """`[policy]`: when a site is wanted on."""

    name: PolicyName = Field("breakeven", description="which policy decides")
    worth_g_per_kwh: Positive = Field(100.0, description="what a kWh of training is worth (lambda), against intensities")
    worth_per_mwh: float = Field(0.0, description="the same against prices: train while electricity costs less than this")
    value_scale_per_mwh: Positive = Field(20.0, description="how far under worth_per_mwh a price is worth as much as 0 g is")
    a_on: NonNegative = Field(0.5, description="breakeven: share of the restart cost to gain before a start")
    a_off: NonNegative = Field(0.5, description="breakeven: share of the restart cost to lose before a stop")
    start_g_per_kwh: Positive = Field(100.0, description="threshold: start below this")
    stop_g_per_kwh: Positive | None = Field(None, description="threshold: stop at or above this (default: start_g_per_kwh)")
    confirm_s: NonNegative = Field(0.0, description="threshold: how long the reading must stay below before a start")
    off_delay_s: NonNegative = Field(0.0, description="threshold: how long it must stay above before a stop")
    min_up_s: NonNegative = Field(0.0, description="threshold: shortest on-period")
    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        10.0, description="percentile: on in the lowest readings, this many %"
    )
    window_days: Positive = Field(7.0, description="percentile: of the trailing days that count")
    lookahead_h: Positive = Field(3.0, description="lookahead: how much of the forecast is used")
    deadline: Instant | None = Field(None, description="budgeted: when the budget must be trained (ISO 8601, UTC)")
    deadline_h: Positive | None = Field(None, description="budgeted: the same, in hours of run time from the start")
    climatology_days: Positive = Field(28.0, description="budgeted: past days that stand for the future beyond the forecast")
    replan_s: Positive = Field(900.0, description="budgeted: run time between two plans")
    duty: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="random_duty: share of the time on")
    duty_period_s: Positive = Field(3600.0, description="random_duty: time between two draws")

    @model_validator(mode="after")
    def _levels(self) -> PolicyTable:
        if self.stop_g_per_kwh is not None and self.stop_g_per_kwh < self.start_g_per_kwh:
            raise ValueError("stop_g_per_kwh must not be below start_g_per_kwh; swap the two")
        return self

    @model_validator(mode="after")
    def _one_deadline(self) -> PolicyTable:
        if self.deadline is not None and self.deadline_h is not None:
            raise ValueError("deadline and deadline_h are the same thing; give one of them")
        return self


class LimitsTable(Table):
    """`[limits]`: what all sites together may not exceed. The sites that gain most go first."""

    max_sites: int | None = Field(None, ge=1, description="sites on at a time")
    max_power_w: Positive | None = Field(None, description="sum of train_power_w of the sites that are on")
    max_spend_per_h: Positive | None = Field(None, description="what the sites that are on may cost an hour, in the prices' unit")
    max_spend: Positive | None = Field(None, description="what the run may cost in all; then sites train at prices of 0 or less")


class ModelTable(Table):
    """`[model]`: the network, by one dial."""

    depth: int = Field(4, ge=1, le=512, description="number of layers; the other sizes follow from it")
    width: int | None = Field(None, ge=32, description="model dimension (default 64 x depth)")
    head_dim: int | None = Field(None, ge=8, description="dimension of a head (default 128, or 32 for small models)")
    sequence_length: int = Field(256, ge=16, description="tokens per sequence")
    initial_weights: str | None = Field(
        None,
        min_length=1,
        description="folder of `windfall export-weights` or `import-weights`: version 0 (default: drawn by run.seed)",
    )


class DataTable(Table):
    """`[data]`: what is read."""

    source: str = Field(
        "stdlib",
        min_length=1,
        description="stdlib, text, JSON rows, parquet, a folder of these, or a folder made by `windfall data prepare`",
    )
    tokenizer: str = Field("bytes", description="bytes, bpe (trained on the source), or a tokenizer.json")
    vocab_size: int | None = Field(None, ge=265, description="bpe: size of the vocabulary, specials included (default 65,536)")
    packing: Literal["stream", "best_fit"] = Field("stream", description="documents behind each other, or fitted into sequences")
    text_column: str = Field("text", description="column or field that holds the text (parquet, JSON rows)")
    skip_bad_rows: bool = Field(False, description="leave rows out that are no text (counted and named), instead of refusing them")
    held_out_fraction: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.02, description="documents kept for validation")
    eval_sequences: int = Field(64, ge=1, description="held-out sequences per evaluation")
    eval_every_tokens: int | None = Field(
        None, ge=0, description="tokens between versions that are evaluated, besides the last (default: a 25th of the budget)"
    )
    sample_prompt: str = Field(
        "", max_length=500, description="what a version goes on with beside its evaluation (default: nothing)"
    )
    sample_tokens: int = Field(64, ge=0, le=1024, description="how many tokens of that a version writes; 0: none")


class TrainTable(Table):
    """`[train]`: optimizer step and recipe."""

    batch_sequences: int = Field(8, ge=1, description="sequences per optimizer step")
    batch: Literal["global", "site"] = Field(
        "global", description="global: the sites of a joint round share each step's sequences, by speed; site: each takes so many"
    )
    block_sequences: int = Field(4, ge=1, description="sequences per block; divides batch_sequences")
    optimizer: Literal["normuon", "muon_plain", "adamw"] = Field("normuon", description="inner optimizer")
    lr_scale: Positive = Field(1.0, description="multiplies every learning rate of the recipe")
    warmdown_fraction: Annotated[float, Field(ge=0, le=1)] = Field(0.4, description="last share of the budget: lr falls to 0")
    lr_floor: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="share of the learning rate left at the end")
    reset_warmup_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description="share of the budget over which lr rises after a reset of the inner state"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="forward and backward precision; auto: bf16 on GPUs, fp32 on CPUs; weights stay fp32"
    )
    micro_batch_sequences: int | None = Field(
        None, ge=1, description="sequences of one forward and backward pass at a rank (default: all it has of a step)"
    )
    compile: bool = Field(False, description="torch.compile the model, once in the life of a trainer")
    checkpoint_activations: bool = Field(False, description="compute activations again in the backward pass: less memory")
    spike_factor: Annotated[float, Field(gt=1)] = Field(
        20.0, description="a step whose gradient is this many times as long as usual is skipped"
    )
    max_skips: int = Field(8, ge=1, description="so many skipped steps in a row end a site's training")

    @model_validator(mode="after")
    def _divides(self) -> TrainTable:
        if self.batch_sequences % self.block_sequences:
            raise ValueError(
                f"block_sequences = {self.block_sequences} does not divide batch_sequences = {self.batch_sequences}; "
                "choose a divisor, so that no step ends inside a block"
            )
        return self


class FederationTable(Table):
    """`[federation]`: rounds, merging, checkpoints."""

    round_s: Positive = Field(600.0, description="longest federated round, run time (on a scaled clock, every one)")
    round_min_s: Positive = Field(
        60.0, description="clock real: shortest federated round; one is ten times its transfer and merge, longer as the run goes on"
    )
    round_tokens: int | None = Field(
        None, ge=1, description="tokens of each site per round, whole steps, instead of round_s; repeatable if snapshot_s is longer"
    )
    solo_cut_s: Positive = Field(600.0, description="a site alone cuts a version this often, run time")
    quorum: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of a round's sites that must have answered before grace runs"
    )
    grace_s: NonNegative = Field(60.0, description="wall time a round waits for late sites once it has a quorum")
    outer: Literal["average", "nesterov"] = Field("average", description="what turns contributions into a version")
    outer_lr: Positive = Field(0.7, description="outer Nesterov learning rate")
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="outer Nesterov momentum")
    codec: Literal["fp32", "bf16", "int8", "int4", "int2"] = Field(
        "int8", description="how what is trained together is rounded to travel, both ways (one site alone: always fp32)"
    )
    overlap: bool = Field(
        True, description="sites train on past their cut, until what it became part of has reached them (never with round_tokens)"
    )
    average_inner_every: int = Field(
        0, ge=0, description="every n-th version of joint rounds averages inner states too; no gain measured at rounds of two steps"
    )
    base_max_age: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description="late work may be based on a version this much of the budget old, or two versions; older is lost"
    )
    snapshot_s: Positive = Field(120.0, description="wall time between a site's local snapshots")
    keep_versions: int = Field(5, ge=2, description="weights files kept besides every keep_every-th")
    keep_every: int = Field(10, ge=1, description="every n-th version's weights are kept for good")
    inline_limit_mb: Positive = Field(64.0, description="what is larger travels as files beside the messages, over HTTP")
    port: int = Field(0, ge=0, le=65535, description="SuperLink port on this machine; 0 picks a free one")


class FleetTable(Table):
    """`[fleet]`: how patient the controller is. Wall time, as processes live in wall time."""

    start_timeout_s: Positive = Field(
        180.0, description="a site that is not ready by then, and does not say what it does, has failed"
    )
    drain_timeout_s: Positive = Field(
        60.0, description="a draining site that has not contributed by then, and does not say what it does, is stopped"
    )
    stop_grace_s: Positive = Field(10.0, description="between asking a site's processes to end and killing them")
    heartbeat_timeout_s: Positive = Field(60.0, description="a training site silent for this long has failed")
    step_timeout_s: Positive = Field(
        1800.0, description="what a life's first step may take before it counts as hung; later ones 10 times the longest so far"
    )
    coordinator_timeout_s: Positive = Field(120.0, description="a coordinator silent for this long is ended and started again")
    backoff_s: Positive = Field(120.0, description="run time before a site that keeps failing is tried again; doubles, with jitter")
    backoff_max_s: Positive = Field(3600.0, description="longest back-off")
    max_failures: int = Field(5, ge=1, description="failed starts in a row, on every site, after which the run gives up")
    dead_man_s: Positive = Field(120.0, description="a site that hears nothing from the coordinator for this long drains and stops")


class TrainerTable(Table):
    """`[backtest.trainer]`: the model that takes the trainer's place on the manual clock."""

    preset: Literal["windfall", "prototype"] = Field(
        "windfall", description="prototype has the study's start and stall; windfall the sites' own starts and no stall"
    )
    provision_s: NonNegative = Field(
        240.0, description="preset prototype: provisioning, at provisioning_power_w (windfall: spin_up_s - load_s of each site)"
    )
    load_s: NonNegative = Field(100.0, description="preset prototype: loading, at idle power (windfall: load_s of each site)")
    stall_s: NonNegative = Field(135.0, description="preset prototype: idle part of each cycle with two or more sites")
    stall_cycle_s: Positive = Field(648.0, description="preset prototype: length of that cycle")


class ReferenceTable(Table):
    """`[[backtest.reference]]`: figures from elsewhere, shown beside the rows."""

    name: str = Field(min_length=1, description="whose they are")
    preset: str = Field("measured", description="how they came about")
    finish_h: Positive | None = Field(None, description="hours from the start to the end")
    site_hours: Positive | None = Field(None, description="site-hours of training")
    energy_kwh: Positive | None = Field(None, description="energy")
    kg_co2: Positive | None = Field(None, description="emissions")
    share_inside: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="share of the energy inside windows")


class BacktestTable(Table):
    """`[backtest]`: the loop on a manual clock."""

    start: Instant | None = Field(None, description="first instant (default: [run] start, else the first row that all traces have)")
    until: Instant | None = Field(None, description="last instant (default: the end of the traces)")
    target: Literal["budget", "none"] = Field(
        "budget", description="budget: until it is trained; none: from start to until, whatever that trains"
    )
    site_hours: Positive | None = Field(None, description="budget in site-hours (default: budget_tokens)")
    baseline_site_hours: Positive | None = Field(None, description="site-hours of the always-on baselines (default: site_hours)")
    tick_s: Positive | None = Field(None, description="step of the simulation (default: [run] tick_s)")
    policies: list[PolicyName] = Field(["paper", "breakeven", "always", "oracle"], description="policies to compare")
    deadlines_h: list[Positive] = Field(
        default_factory=list, description="budgeted and oracle: hours by which the budget must be trained, a row for each"
    )
    publication_delays_s: list[NonNegative] = Field(
        default_factory=list, description="rows for readings that are known so late (default: as the signals say)"
    )
    trainer: TrainerTable = Field(default_factory=TrainerTable)  # type: ignore[arg-type]
    paper_preset: Literal["windfall", "prototype"] = Field(
        "prototype", description="preset of the row `paper`: the study ran with its stall"
    )
    reference: list[ReferenceTable] = Field(default_factory=list, description="figures from elsewhere, shown beside the rows")


class SiteTable(Table):
    """`[[site]]`: one GPU cluster in one grid region."""

    name: Name = Field(description="unique name")
    region: str = Field(min_length=1, description="grid region")
    driver: DriverName = Field("local", description="what turns the site on and off")
    spin_up_s: NonNegative = Field(description="from the decision to the first optimizer step")
    load_s: NonNegative = Field(0.0, description="last part of spin_up_s, at idle power")
    train_power_w: Positive = Field(description="whole site while training")
    idle_power_w: NonNegative = Field(description="whole site while on and not training")
    provisioning_power_w: NonNegative = Field(0.0, description="whole site while nodes are being provisioned")
    tokens_per_s: Positive = Field(description="the site's speed, in run time")
    threads: int = Field(1, ge=1, description="CPU threads of each rank (local driver)")
    ranks: int = Field(1, ge=1, le=64, description="processes that train together: one a GPU")
    device: Literal["cpu", "cuda"] = Field("cpu", description="what the ranks train on")
    bandwidth_mbit_s: Positive | None = Field(
        None, description="what its large files may take of its link, in each direction (default: no limit)"
    )
    transfer_s: NonNegative | None = Field(
        None, description="clock scaled: run time from a cut to its merge at the site (default: a tenth of the round)"
    )
    own_signal: bool = Field(
        False, description="the site watches its signal itself, and stops by it when the coordinator is out of touch"
    )
    trigger: str | None = Field(
        None, description="when the site may be on, over its signals' names: `moer < 100 or price <= 0` (default: its first signal)"
    )
    max_starts_per_h: int | None = Field(None, ge=1, description="starts in any hour")
    ramp_w_per_min: Positive | None = Field(
        None, description="how fast its load may rise again: after a switch of P watts no start for P / this minutes"
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="drivers other than local: folder of the prepared data there (default: fetched from the run)",
    )
    resident: ResidentTable | None = Field(None, description='settings of driver = "resident"')
    kubernetes: KubernetesTable | None = Field(None, description='settings of driver = "kubernetes"')
    signal: SignalTable
    signals: list[SignalTable] = Field(default_factory=list, description="more signals of the region, for triggers and accounts")

    @model_validator(mode="after")
    def _load(self) -> SiteTable:
        if self.load_s > self.spin_up_s:
            raise ValueError(f"load_s = {self.load_s:g} is part of spin_up_s = {self.spin_up_s:g} and cannot be longer")
        return self

    @model_validator(mode="after")
    def _driver(self) -> SiteTable:
        strange = [k for k in get_args(DriverName) if k != self.driver and getattr(self, k, None) is not None]
        if strange:
            raise ValueError(f'it has a table {strange[0]}, and driver = "{self.driver}"; set driver = "{strange[0]}" or drop it')
        if self.driver in NEEDS_TABLE and getattr(self, self.driver) is None:
            raise ValueError(f'driver = "{self.driver}" needs a table [site.{self.driver}]; add it')
        if self.driver == "local" and self.data is not None:
            raise ValueError("data is for sites elsewhere; a local site reads the run's own (data.source)")
        return self

    @model_validator(mode="after")
    def _labels(self) -> SiteTable:
        labels = [s.label for s in self.all_signals]
        double = sorted({x for x in labels if labels.count(x) > 1})
        if double:
            raise ValueError(f"two of its signals are called {double[0]}; give each a name")
        return self

    @model_validator(mode="after")
    def _trigger(self) -> SiteTable:
        labels = [s.label for s in self.all_signals]
        if self.trigger is not None:
            try:
                trigger = parse_trigger(self.trigger)
            except ValueError as e:
                raise Wrong((("trigger",), str(e))) from None
            aliases = {"moer"} if "marginal_co2" in [s.type for s in self.all_signals] else set()
            strange = sorted(trigger.names() - set(labels) - aliases)
            if strange:
                told = f"trigger names {strange[0]}, and the site's signals are {', '.join(labels)}; use one of these"
                raise Wrong((("trigger",), told))
        return self

    @property
    def all_signals(self) -> list[SignalTable]:
        """The first signal and the others."""
        return [self.signal, *self.signals]


class CounterfactualTable(Table):
    """`[[counterfactual]]`: a region without a site, for comparison only."""

    region: str = Field(min_length=1, description="grid region")
    signal: SignalTable


class Config(Table):
    """One run."""

    run: RunTable
    policy: PolicyTable = Field(default_factory=PolicyTable)  # type: ignore[arg-type]
    model: ModelTable = Field(default_factory=ModelTable)  # type: ignore[arg-type]
    data: DataTable = Field(default_factory=DataTable)  # type: ignore[arg-type]
    train: TrainTable = Field(default_factory=TrainTable)  # type: ignore[arg-type]
    federation: FederationTable = Field(default_factory=FederationTable)  # type: ignore[arg-type]
    fleet: FleetTable = Field(default_factory=FleetTable)  # type: ignore[arg-type]
    limits: LimitsTable = Field(default_factory=LimitsTable)  # type: ignore[arg-type]
    network: NetworkTable = Field(default_factory=NetworkTable)  # type: ignore[arg-type]
    backtest: BacktestTable = Field(default_factory=BacktestTable)  # type: ignore[arg-type]
    site: list[SiteTable] = Field(min_length=1)
    counterfactual: list[CounterfactualTable] = Field(default_factory=list)

    @model_validator(mode="after")
    def _unique(self) -> Config:
        first: dict[str, int] = {}
        double = []
        for i, name in enumerate(getattr(s, "name", None) for s in self.site):
            if name is not None and first.setdefault(name, i) != i:
                double.append((("site", i, "name"), f"two sites are named {name}; give each site a name of its own"))
        if double:
            raise Wrong(*double)
        return self

    @model_validator(mode="after")
    def _replayed(self) -> Config:
        if self.run.clock == "scaled" and any(kind in LIVE for kind in _kinds(self)):
            raise ValueError('run.clock = "scaled" replays the past, and a live signal has none; use clock = "real", or traces')
        return self

    @model_validator(mode="after")
    def _for_runs(self) -> Config:
        if self.policy.name in BACKTEST_ONLY:
            raise ValueError(f"policy.name = {self.policy.name} is for comparison in backtests; choose another")
        return self

    @model_validator(mode="after")
    def _generated(self) -> Config:
        if self.run.start is None and "synthetic" in _kinds(self):
            raise ValueError("synthetic signals need run.start, the instant from which they are generated")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Config:
        least = min(s.train_power_w for s in self.site)
        if self.limits.max_power_w is not None and self.limits.max_power_w < least:
            raise ValueError(
                f"limits.max_power_w = {self.limits.max_power_w:g} is less than any site's train_power_w ({least:g}): nothing "
                "could ever train; raise it"
            )
        return self

    @model_validator(mode="after")
    def _priced(self) -> Config:
        spending = [k for k in ("max_spend_per_h", "max_spend") if getattr(self.limits, k) is not None]
        unpriced = [s.name for s in self.site if all(t.type != "price" for t in s.all_signals)]
        if spending and unpriced:
            raise ValueError(
                f"limits.{spending[0]} needs a price at every site, and {', '.join(unpriced)} has none; give it a price signal in "
                "[[site.signals]]"
            )
        return self

    @model_validator(mode="after")
    def _rounds(self) -> Config:
        tokens = self.federation.round_tokens
        if tokens is not None and tokens % self.tokens_per_step:
            raise ValueError(f"federation.round_tokens = {tokens} is not a whole number of steps of {self.tokens_per_step} tokens")
        return self

    @property
    def tokens_per_block(self) -> int:
        """Tokens of one block."""
        return self.train.block_sequences * self.model.sequence_length

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step at a site."""
        return self.train.batch_sequences * self.model.sequence_length

    @property
    def budget_blocks(self) -> int:
        """The budget in whole blocks, itself a whole number of steps."""
        per_step = self.train.batch_sequences // self.train.block_sequences
        steps = -(-self.run.budget_tokens // self.tokens_per_step)
        return steps * per_step

    def site_named(self, name: str) -> SiteTable:
        """The table of one site."""
        return next(s for s in self.site if s.name == name)


def _kinds(config: Config) -> list[str]:
    """Where the sites' readings come from, as far as it is known: a rule is asked of tables that lack what is wrong in them."""
    tables = [t for s in config.site for t in (getattr(s, "signal", None), *getattr(s, "signals", ())) if t is not None]
    return [kind for t in tables if (kind := getattr(t, "kind", None)) is not None]
