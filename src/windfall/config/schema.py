"""The configuration of a run: one class per table, one docstring line per key, units in the names.

The larger tables have files of their own: `policy`, `recipe`, `federation`, `drivers`, `signals`, `backtest`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from windfall.config.account import AccountTable, EmbodiedTable
from windfall.config.alerts import AlertsTable
from windfall.config.backtest import BacktestTable
from windfall.config.base import Instant, Name, NonNegative, Positive, Table, Wrong
from windfall.config.drivers import (
    ELSEWHERE,
    NEEDS_TABLE,
    CommandTable,
    DriverName,
    NetworkTable,
    ResidentTable,
    SlurmTable,
    is_loopback,
)
from windfall.config.economics import EconomicsTable
from windfall.config.exalsius import ExalsiusTable
from windfall.config.federation import FederationTable
from windfall.config.kubernetes import KubernetesTable
from windfall.config.levels import PowerLevelTable, level_faults
from windfall.config.meter import MeterTable
from windfall.config.microgrid import MicrogridTable
from windfall.config.openadr import OpenAdrTable
from windfall.config.policy import BACKTEST_ONLY, PolicyTable
from windfall.config.recipe import DataTable, ModelTable, TrainTable
from windfall.config.signals import LIVE, SignalTable
from windfall.config.trackers import TrackerTable
from windfall.config.trigger import parse_trigger


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
        "embedded",
        description="embedded, rediss://HOST:PORT (with a user of its own for each site) or redis://HOST:PORT; password: "
        "WINDFALL_REDIS_PASSWORD",
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
        options = {k: v[-1].lower() for k, v in parse_qs(found.query).items()}
        if found.username or found.password or not all(k.startswith("ssl_") for k in options) or "ssl_password" in options:
            raise ValueError(
                "may hold no user, password or other secret (of options only ssl_*); put the password into the environment as "
                "WINDFALL_REDIS_PASSWORD"
            )
        unnamed = options.get("ssl_check_hostname", "true") in ("false", "f", "no", "n", "0")
        if unnamed or options.get("ssl_cert_reqs", "required") != "required":
            raise ValueError(
                "would trust whoever answers; leave ssl_cert_reqs and ssl_check_hostname out, and name the CA in ssl_ca_certs"
            )
        return bus


class LimitsTable(Table):
    """`[limits]`: what all sites together may not exceed. The sites that gain most go first."""

    max_sites: int | None = Field(None, ge=1, description="sites on at a time")
    max_power_w: Positive | None = Field(None, description="sum of train_power_w of the sites that are on")
    max_spend_per_h: Positive | None = Field(None, description="what the sites that are on may cost an hour, in the prices' unit")
    max_spend: Positive | None = Field(None, description="what the run may cost in all; then sites train at prices of 0 or less")


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
    slurm: SlurmTable | None = Field(None, description='settings of driver = "slurm"')
    command: CommandTable | None = Field(None, description='settings of driver = "command"')
    kubernetes: KubernetesTable | None = Field(None, description='settings of driver = "kubernetes"')
    exalsius: ExalsiusTable | None = Field(None, description='settings of driver = "exalsius"')
    meter: MeterTable | None = Field(None, description="what measures its power (default: modelled from its phases)")
    embodied: EmbodiedTable | None = Field(None, description="emissions of making it (default: not known, and said so)")
    microgrid: MicrogridTable | None = Field(None, description="sun, wind and a battery behind its meter (default: the grid alone)")
    power_levels: list[PowerLevelTable] = Field(
        default_factory=list,
        description="signal surplus_power: powers to train at, the highest that the surplus covers (default: train_power_w alone)",
    )
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

    @model_validator(mode="after")
    def _own_power(self) -> SiteTable:
        wrong: list[tuple[tuple[str | int, ...], str]] = []
        places: list[tuple[str | int, ...]] = [("signal",), *(("signals", i) for i in range(len(self.signals)))]
        for place, table in zip(places, self.all_signals, strict=True):
            if table.kind == "microgrid" and self.microgrid is None:
                told = 'kind = "microgrid" needs a table [site.microgrid]: what stands behind the site\'s meter; add it'
                wrong.append(((*place, "kind"), told))
        if self.signal.type == "state_of_charge":
            told = (
                "a state of charge does not say when the region has power to spare; put it into [[site.signals]], where trigger "
                "can name it, and another signal here"
            )
            wrong.append((("signal", "type"), told))
        if self.own_signal and self.signal.kind == "microgrid":
            told = "the microgrid is simulated by the coordinator, so the site cannot watch it by itself; leave own_signal out"
            wrong.append((("own_signal",), told))
        if wrong:
            raise Wrong(*wrong)
        return self

    @model_validator(mode="after")
    def _levels(self) -> SiteTable:
        if not self.power_levels:
            return self
        if self.signal.type != "surplus_power":
            told = (
                f"levels follow a surplus, and the site's first signal is {self.signal.type}; put surplus_power there, or drop them"
            )
            raise Wrong((("power_levels",), told))
        wrong: list[tuple[tuple[str | int, ...], str]] = []
        if self.trigger is not None and self.signal.label not in parse_trigger(self.trigger).names():
            told = f"the trigger does not name {self.signal.label}, which the levels follow; name it there, or drop power_levels"
            wrong.append((("trigger",), told))
        faults = level_faults(
            self.power_levels, train_power_w=self.train_power_w, idle_power_w=self.idle_power_w, tokens_per_s=self.tokens_per_s
        )
        wrong += [(("power_levels", *path), told) for path, told in faults]
        if wrong:
            raise Wrong(*wrong)
        return self

    @model_validator(mode="after")
    def _balances(self) -> SiteTable:
        if self.microgrid is not None:
            load = max(self.train_power_w, self.idle_power_w, self.provisioning_power_w)
            short = self.microgrid.lacking_w(load)
            if short > 0:
                battery = self.microgrid.battery
                stored = f" and {battery.discharge_w:,.0f} W from the battery" if battery is not None else ""
                told = (
                    f"the microgrid cannot balance: the site takes up to {load:,.0f} W, and without sun and wind there are "
                    f"{self.microgrid.max_import_w:,.0f} W from the grid{stored}; raise max_import_w by {short:,.0f}"
                )
                told += ", or capacity_wh of the battery" if battery is not None else ", or add [site.microgrid.battery]"
                raise Wrong((("microgrid", "max_import_w"), told))
        return self

    @property
    def demand_w(self) -> float:
        """The least power at which it trains: what a surplus has to cover for a window to be open."""
        return self.power_levels[0].power_w if self.power_levels else self.train_power_w

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
    account: AccountTable = Field(default_factory=AccountTable)  # type: ignore[arg-type]
    alerts: AlertsTable = Field(default_factory=AlertsTable)  # type: ignore[arg-type]
    openadr: OpenAdrTable | None = Field(None, description="the grid operator whose events hold or limit sites")
    backtest: BacktestTable = Field(default_factory=BacktestTable)  # type: ignore[arg-type]
    economics: EconomicsTable | None = Field(None, description="what sites cost, for `windfall economics`")
    site: list[SiteTable] = Field(min_length=1)
    counterfactual: list[CounterfactualTable] = Field(default_factory=list)
    tracker: list[TrackerTable] = Field(default_factory=list)

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
    def _elsewhere(self) -> Config:
        told = "a region without a site has no microgrid; give it a trace or a provider"
        wrong = [
            (("counterfactual", i, "signal", "kind"), told)
            for i, c in enumerate(self.counterfactual) if getattr(getattr(c, "signal", None), "kind", "") == "microgrid"
        ]  # fmt: skip
        if wrong:
            raise Wrong(*wrong)
        return self

    @model_validator(mode="after")
    def _nodes(self) -> Config:
        owner: dict[tuple[str, str], str] = {}
        for i, site in enumerate(self.site):
            if site.exalsius is None:
                continue
            for node in site.exalsius.nodes:
                other = owner.setdefault((site.exalsius.host, node), site.name)
                if other != site.name:
                    told = f"node {node} is site {other}'s, too; a node is in the cluster for one site only, so give each its own"
                    raise Wrong((("site", i, "exalsius", "nodes"), told))
        return self

    @model_validator(mode="after")
    def _bus(self) -> Config:
        found = urlsplit(self.run.bus)
        if found.scheme == "redis" and not is_loopback(found.hostname or "") and not self.network.insecure:
            told = (
                f"Redis at {found.hostname} is not on this machine, and without TLS anybody on the way could read the password and "
                'give the sites orders; write rediss://, or set network.insecure = "I know"'
            )
            raise Wrong((("run", "bus"), told))
        if "ssl_certfile" in parse_qs(found.query) and any(s.driver in ELSEWHERE for s in self.site):
            raise Wrong((("run", "bus"), "ssl_certfile is a file of this machine, and sites elsewhere have none; leave it out"))
        return self

    @model_validator(mode="after")
    def _replayed(self) -> Config:
        if self.run.clock == "scaled" and any(kind in LIVE for kind in _kinds(self)):
            raise ValueError('run.clock = "scaled" replays the past, and a live signal has none; use clock = "real", or traces')
        return self

    @model_validator(mode="after")
    def _grid(self) -> Config:
        table, names = self.openadr, [s.name for s in self.site]
        if table is None:
            return self
        if self.run.clock == "scaled":
            raise Wrong(
                (("openadr",), 'events of a VTN are of the calendar, and run.clock = "scaled" replays the past; leave one out')
            )
        wrong = [
            (("openadr", "groups", group), f"there is no site {site}; there are {', '.join(names)}")
            for group, sites in table.groups.items() for site in sites if site not in names
        ]  # fmt: skip
        if wrong:
            raise Wrong(*wrong)
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
    def _costed(self) -> Config:
        table = self.economics
        if table is None:
            return self
        wrong: list[tuple[tuple[str | int, ...], str]] = []
        places: list[tuple[tuple[str | int, ...], str, list[tuple[tuple[str | int, ...], SignalTable]]]] = []
        for i, s in enumerate(self.site):
            first: tuple[tuple[str | int, ...], SignalTable] = (("site", i, "signal"), s.signal)
            more = [(("site", i, "signals", k), t) for k, t in enumerate(s.signals)]
            places.append((("site", i), s.region, [first, *more]))
        for i, c in enumerate(self.counterfactual):
            places.append((("counterfactual", i), c.region, [(("counterfactual", i, "signal"), c.signal)]))
        regions = sorted({region for _, region, _ in places})
        for i, t in enumerate(table.tariff):
            if t.region is not None and t.region not in regions:
                told = f"no site or counterfactual is in {t.region}; the regions are {', '.join(regions)}"
                wrong.append((("economics", "tariff", i, "region"), told))
        for where, region, signals in places:
            if table.tariffs_of(region):
                continue
            priced = [(path, t) for path, t in signals if t.type == "price"]
            if not priced and where[0] == "site":
                told = f"nothing says what energy costs in {region}; give it a price signal, or add [[economics.tariff]]"
                wrong.append((where, told))
            for path, price in priced[:1]:
                if price.currency != table.currency:
                    told = (
                        f"its prices are in {price.currency} and [economics] is in {table.currency}, and currencies cannot be "
                        f'added; set currency = "{table.currency}" here, without unit, and scale to the rate of exchange'
                    )
                    wrong.append(((*path, "currency"), told))
        if wrong:
            raise Wrong(*wrong)
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

    def settled(self, site: SiteTable) -> SiteTable:
        """The site with what other tables say of it: the grace of its pod, where it has one and names none."""
        grace_s = math.ceil(self.fleet.drain_timeout_s + self.fleet.stop_grace_s)
        if site.kubernetes is not None and site.kubernetes.grace_s is None:
            return site.model_copy(update={"kubernetes": site.kubernetes.model_copy(update={"grace_s": grace_s})})
        if site.exalsius is not None and site.exalsius.kubernetes.grace_s is None:
            pod = site.exalsius.kubernetes.model_copy(update={"grace_s": grace_s})
            return site.model_copy(update={"exalsius": site.exalsius.model_copy(update={"kubernetes": pod})})
        return site

    def notice_s(self, site: SiteTable) -> float:
        """How long before it ends a site by force its platform tells it to end; 0: that is not known, or not before."""
        site = self.settled(site)
        if site.slurm is not None:
            return site.slurm.term_before_s
        pod = site.kubernetes or (site.exalsius.kubernetes if site.exalsius is not None else None)
        return (pod.grace_s or 0.0) if pod is not None else 0.0

    def site_named(self, name: str) -> SiteTable:
        """The table of one site."""
        return next(s for s in self.site if s.name == name)


def _kinds(config: Config) -> list[str]:
    """Where the sites' readings come from, as far as it is known: a rule is asked of tables that lack what is wrong in them."""
    tables = [
        t for s in config.site
        for t in (getattr(s, "signal", None), *getattr(s, "signals", ()), *getattr(getattr(s, "microgrid", None), "source", ()))
        if t is not None
    ]  # fmt: skip
    return [kind for t in tables if (kind := getattr(t, "kind", None)) is not None]
