"""What is wrong with the network between a run and sites on other machines, as far as that can be seen here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from windfall import clock
from windfall.config.drivers import ELSEWHERE
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.wire.certificates import SOON_DAYS, Certificates


def network_faults(config: Config, warn: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Faults as pairs of a key of `[network]` and what is wrong with it; what is only likely to be wrong is warned of."""
    away = [s for s in config.site if s.driver in ELSEWHERE]
    network = config.network
    if not away:
        return
    if network.loopback:
        who = f"{', '.join(s.name for s in away)} {'is' if len(away) == 1 else 'are'}"
        warn(
            f"network.address: is {network.address}, and {who} on other machines: these can reach it only if they are this machine "
            "all the same"
        )
    for site in away:
        tables = [t for t in site.all_signals if t.kind == "trace"]
        if site.own_signal and tables:
            yield "address", f"site {site.name} cannot watch a trace by itself on another machine; drop own_signal there"
    if network.certificates is None:
        return
    try:
        certificates = Certificates.open(network.certificates)
    except ConfigError as e:
        yield "certificates", str(e)
        return
    names, days = certificates.names(), certificates.days_left(clock.wall())
    remedy = f"make a new one: windfall certs init {network.certificates} --address {network.address}"
    if network.address not in names:
        yield "certificates", f"the endpoint's certificate is for {', '.join(names)}, and not for {network.address}; {remedy}"
    if days <= 0:
        yield "certificates", f"a certificate has ended {-days:.0f} days ago; {remedy}"
    elif days < SOON_DAYS:
        warn(f"network.certificates: a certificate ends in {days:.0f} days; {remedy}")


def require_network(config: Config, warn: Callable[[str], None]) -> None:
    """Raise ConfigError with everything that is wrong."""
    found = [f"network.{key}: {what}" for key, what in network_faults(config, warn)]
    if found:
        raise ConfigError("\n".join(found))
