"""The addresses outside of its own processes that a run talks to, and whether directly or through a proxy."""

from __future__ import annotations

from dataclasses import dataclass

from windfall import proxies
from windfall.config.load import signals
from windfall.config.schema import Config
from windfall.train.corpus import HUB


@dataclass(frozen=True)
class Address:
    """An address: what it is for, where it is, and how it is reached. ``fault``: why it cannot be reached."""

    what: str
    where: str
    way: str
    fault: str = ""


def addresses(config: Config) -> list[Address]:
    """Every address that a run of ``config`` talks to, each once, but for those that are secrets."""
    found = []
    for (kind, i, *_), table in signals(config):
        if table.live:
            from windfall.grid.live import live_signal  # httpx takes a while to import, and traces do without

            owners = config.site if kind == "site" else config.counterfactual
            signal = live_signal(table, owners[int(i)].region)
            found.append(_asked(signal.source, signal.address))
    if config.run.bus != "embedded":
        from windfall.store.redis_link import where

        scheme = config.run.bus.partition(":")[0]
        found.append(Address("bus", f"{scheme}://{where(config.run.bus)}", "straight (no proxy speaks Redis)"))
    if config.data.source.startswith(HUB):
        from windfall.train.hub import address

        found.append(_asked("data", address()))
    if config.openadr is not None:
        found += [_asked("openadr", url) for url in (config.openadr.url, config.openadr.token_url) if url]
    webhook = config.alerts.webhook
    if webhook is not None and not webhook.startswith(("env:", "file:")):  # from there it may be a secret
        found.append(_asked("alerts", webhook))
    found += [_asked(t.kind, t.url) for t in config.tracker if t.url and t.url.startswith(("http:", "https:"))]
    return list(dict.fromkeys(found))


def _asked(what: str, url: str) -> Address:
    if not url:
        return Address(what, "its package's own addresses", "as HTTPS_PROXY and NO_PROXY say")
    way = proxies.way(url)
    return Address(what, url, str(way), way.fault)
