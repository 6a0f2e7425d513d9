"""What is wrong with the network between a run and sites on other machines, as far as that can be seen here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from windfall import clock
from windfall.config.drivers import ELSEWHERE
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.wire.certificates import SOON_DAYS, Certificates

#: How often a run looks at its certificates (s).
_LOOK_S = 3600.0


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


class CertificateWatch:
    """Looks now and then, while a run lasts, whether its certificates end soon, and says so ever more urgently."""

    def __init__(self, config: Config) -> None:
        self._folder, self._address = config.network.certificates, config.network.address
        self._look_at = -math.inf
        #: Days before the end at which something has still to be said.
        self._left = [0.0, 1.0, 7.0, SOON_DAYS]

    def look(self, now: float) -> str:
        """What has not been said yet, at Unix time ``now``; mostly nothing."""
        if self._folder is None or now < self._look_at:
            return ""
        self._look_at = now + _LOOK_S
        try:
            days = Certificates.open(self._folder).days_left(now)
        except ConfigError as e:
            return f"network.certificates: {e}" if self._left and self._left.pop() else ""
        passed = [d for d in self._left if days <= d]
        self._left = [d for d in self._left if days > d]
        if not passed:
            return ""
        when = f"ends in {days:.0f} days" if days >= 1 else f"ends in {24 * days:.0f} h" if days > 0 else "has ended"
        return (
            f"network.certificates: a certificate {when}; make a new one (windfall certs init {self._folder} --address "
            f"{self._address}) and have the endpoint start again with it, by starting the run again"
        )


def require_network(config: Config, warn: Callable[[str], None]) -> None:
    """Raise ConfigError with everything that is wrong."""
    found = [f"network.{key}: {what}" for key, what in network_faults(config, warn)]
    if found:
        raise ConfigError("\n".join(found))
