"""`windfall signals`: which providers could be asked, what each signal says now, and what policies would make of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.cli.output import print_json
from windfall.config.load import load
from windfall.config.schema import Config, SiteTable
from windfall.config.signals import SignalTable
from windfall.errors import ConfigError
from windfall.grid.build import Grid, build_grid, with_start
from windfall.grid.credentials import NEEDED, WHERE, Credentials
from windfall.grid.http import AGAIN
from windfall.grid.live import LiveSignal, live_signal
from windfall.grid.signal import Reading, Signal
from windfall.ui.terminal.progress import Progress
from windfall.units import duration_text, iso_utc, parse_utc

DEFAULT_FILE = Path("windfall.toml")
POLICIES = ("breakeven", "threshold", "paper", "percentile", "learned", "lookahead")
#: How long in all one signal may be tried again while a person waits.
_PATIENCE_S = 5.0
_HORIZON_S = 72 * 3600.0
#: What a provider is asked for where no configuration says.
_TYPES = {"watttime": "marginal_co2", "electricity_maps": "average_co2", "openelectricity": "price"}


@dataclass(frozen=True)
class ShownSignal:
    """One signal of a site or region, and the instant at which it is looked at."""

    owner: str
    region: str
    table: SignalTable
    signal: Signal
    t: float


def signals(region: str | None, file: Path | None, at: str | None, as_json: bool) -> int:
    """Show credentials, signals and what policies would say; 1 where sources were asked and not one of them answered.

    Raises:
        ConfigError: nothing is configured, or nothing is known of ``region``.
    """
    now = clock.wall()
    config = _config(region, file)
    when = _instant(at)
    if config is not None:
        with Progress("signals") as progress, closing(build_grid(config)) as grid:
            progress.done(-1.0, "asking the sources")
            config = with_start(config, grid)
            shown = _configured(config, grid, region, now, when)
            _refresh([s.signal for s in shown], now)
            said = [
                x for site in config.site if any(s.owner == site.name for s in shown) for x in _all_would_say(config, site, shown)
            ]
    else:
        assert region is not None
        with Progress("signals") as progress:
            progress.done(-1.0, "asking the providers")
            shown, said = _asked(region, now), []
    result: dict[str, Any] = {
        "credentials": _credentials(),
        "signals": [_signal_json(s) for s in shown],
        "policies": said,
    }
    if as_json:
        print_json(result)
    else:
        _print(result)
    asked = [s for s in result["signals"] if "last_error" in s]
    return 1 if asked and all(s["value"] is None and s["last_error"] for s in asked) else 0


def _config(region: str | None, file: Path | None) -> Config | None:
    if file is None and not DEFAULT_FILE.exists():
        if region is None:
            raise ConfigError(
                f"no signal is configured: there is no {DEFAULT_FILE} here; name a configuration with --config (`windfall init` "
                "writes one), or give a REGION to ask the providers whose credentials are set"
            )
        return None
    config = load(file or DEFAULT_FILE)
    known = {s.region for s in config.site} | {s.name for s in config.site} | {c.region for c in config.counterfactual}
    if region is None or region in known:
        return config
    if file is not None:
        raise ConfigError(f"{region}: no such region or site in {file}; there are {', '.join(sorted(known))}")
    return None


def _instant(at: str | None) -> float | None:
    if at is None:
        return None
    try:
        return parse_utc(at)
    except ValueError:
        raise ConfigError(f"--at {at}: not an ISO 8601 instant, as 2026-01-11T17:05Z is one") from None


def _configured(config: Config, grid: Grid, region: str | None, now: float, at: float | None) -> list[ShownSignal]:
    """The signals of a configuration: of ``region`` only, if given."""
    recorded = at if at is not None else parse_utc(config.run.start) if config.run.start else now

    def t(signal: Signal) -> float:
        return now if isinstance(signal, LiveSignal) else recorded

    shown = []
    for site in config.site:
        for table in (t for t in site.all_signals if not t.simulated):  # before a run nothing has charged or emptied a battery
            signal = grid.signals[site.name][table.label]
            shown.append(ShownSignal(site.name, site.region, table, signal, t(signal)))
    sites = {s.region for s in config.site}
    for extra in config.counterfactual:
        if extra.region not in sites:
            signal = grid.by_region[extra.region]
            shown.append(ShownSignal("", extra.region, extra.signal, signal, t(signal)))
    return [s for s in shown if region in (None, s.region, s.owner)]


def _asked(region: str, now: float) -> list[ShownSignal]:
    """What the providers whose credentials are set say of a zone of that name."""
    kinds = [k for k in _TYPES if not Credentials().missing(NEEDED[k])]
    if not kinds:
        names = "; ".join(f"{k}: {' and '.join(NEEDED[k])}, from {WHERE[k]}" for k in _TYPES)
        raise ConfigError(f"{region}: no provider's credentials are set; set those of one ({names})")
    shown = []
    for kind in kinds:
        extra = {"currency": "AUD"} if kind == "openelectricity" else {"period_s": 3600.0} if kind == "electricity_maps" else {}
        table = SignalTable.model_validate({"kind": kind, "type": _TYPES[kind], **extra})
        shown.append(ShownSignal("", region, table, live_signal(table, region), now))
    _refresh([s.signal for s in shown], now)
    for s in shown:
        if isinstance(s.signal, LiveSignal):
            s.signal.close()
    return shown


def _refresh(found: list[Signal], now: float) -> None:
    live = list(dict.fromkeys(s for s in found if isinstance(s, LiveSignal)))
    if live:
        with ThreadPoolExecutor(len(live)) as pool:
            list(pool.map(lambda s: s.refresh(now, _PATIENCE_S), live))


def _all_would_say(config: Config, site: SiteTable, shown: list[ShownSignal]) -> list[dict[str, Any]]:
    own = {s.table.label: s for s in shown if s.owner == site.name}
    first = own[site.signal.label]
    # A live reading was heard just now, so it is not known at an earlier instant.
    t = clock.wall() if isinstance(first.signal, LiveSignal) else first.t
    return [
        {"site": site.name, "policy": p, **_would_say(config, site, {k: s.signal for k, s in own.items()}, t, p)} for p in POLICIES
    ]


def _would_say(config: Config, site: SiteTable, own: dict[str, Signal], t: float, policy: str) -> dict[str, Any]:
    """What ``policy`` would decide at ``t`` for a site that has been off, and why; ``on`` is None where it cannot say."""
    from windfall.fleet.loop import SignalOutlook
    from windfall.policy.base import FleetView, SiteView
    from windfall.policy.build import build_policy

    first = own[site.signal.label]
    view = SiteView(
        site.name, first.at(t), False, t, site.spin_up_s, readings={k: s.at(t) for k, s in own.items()},
        outlook=SignalOutlook(first, t), rate=site.tokens_per_s, watts=site.train_power_w,
    )  # fmt: skip
    try:
        decision = build_policy(config, policy).decide(FleetView(t, {site.name: view}, t, float(config.run.budget_tokens)))[
            site.name
        ]
    except ConfigError as e:
        return {"on": None, "reason": str(e)}
    return {"on": decision.on, "reason": decision.reason}


def _credentials() -> list[dict[str, Any]]:
    """Each provider and what it needs: names, and whether they are set in the environment. Never a value."""
    own = Credentials()
    found: list[dict[str, Any]] = [
        {"provider": kind, "needs": {own.named(n): not own.missing((n,)) for n in names}} for kind, names in NEEDED.items()
    ]
    return [*found, {"provider": "gridstatus", "needs": {"package gridstatus": find_spec("gridstatus") is not None}}]


def _signal_json(s: ShownSignal) -> dict[str, Any]:
    live = isinstance(s.signal, LiveSignal)
    t = clock.wall() if live else s.t
    reading: Reading | None = s.signal.at(t)
    forecast = s.signal.forecast(t, _HORIZON_S)
    unit = s.signal.unit.replace("currency", s.table.currency)
    found: dict[str, Any] = {
        "site": s.owner or None, "region": s.region, "signal": s.table.label, "kind": s.table.kind, "unit": unit, "at": iso_utc(t),
        "value": reading.value if reading else None, "valid_from": iso_utc(reading.valid_from) if reading else None,
        "known_at": iso_utc(reading.known_at) if reading else None,
        "age_s": round(reading.age_s(t), 1) if reading else None, "fresh": bool(reading and reading.is_fresh(t)),
        "stale": bool(reading and reading.is_stale(t)), "source": reading.source if reading else None,
        "forecast_until": iso_utc(forecast.ends_at) if forecast else None,
    }  # fmt: skip
    if isinstance(s.signal, LiveSignal):
        status = s.signal.status()
        found |= {
            "source": found["source"] or status.source, "last_success": _iso(status.last_success), "last_error": status.last_error,
            "next_attempt": _iso(status.next_attempt), "requests": status.requests, "dropped": status.dropped,
            "warnings": list(status.warnings),
        }  # fmt: skip
    return found


def _iso(t: float | None) -> str | None:
    return None if t is None else iso_utc(t)


def _print(result: dict[str, Any]) -> None:
    print("credentials")
    for line in _credential_lines(result["credentials"]):
        print(f"  {line}")
    print("signals")
    for s in result["signals"]:
        owner = f"{s['site']} ({s['region']})" if s["site"] else s["region"]
        print(f"  {owner} {s['signal']}: {_reading_text(s)}")
        print(
            f"    source: {s['source'] or s['kind']}; forecast: {'until ' + s['forecast_until'] if s['forecast_until'] else 'none'}"
        )
        for text in s.get("warnings", ()):
            print(f"    warning: {text}")
        if s.get("last_error"):
            print(f"    last error: {s['last_error'].removesuffix(AGAIN)}")
    if result["policies"]:
        print("policies, from a standing start")
    for p in result["policies"]:
        word = "cannot say" if p["on"] is None else "on" if p["on"] else "off"
        print(f"  {p['site']} {p['policy']}: {word}: {p['reason'].removeprefix(word + ': ')}")


def _reading_text(s: dict[str, Any]) -> str:
    if s["value"] is None:
        return f"no reading at {s['at']}"
    state = "stale" if s["stale"] else "fresh" if s["fresh"] else "late"
    age = f"{duration_text(s['age_s'])} old"
    if s["known_at"] < s["valid_from"]:
        age += f", known since {s['known_at']}"
    return f"{s['value']:.4g} {s['unit']} from {s['valid_from']} ({age}, {state})"


def _credential_lines(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for c in found:
        needs = ", ".join(f"{n} {'set' if ok else 'not set'}" for n, ok in c["needs"].items())
        if c["provider"] == "gridstatus":
            needs = needs.replace("not set", "not installed: pip install 'windfall[gridstatus]'").replace(" set", " installed")
        lines.append(f"{c['provider']:<17} {needs}")
    return lines
