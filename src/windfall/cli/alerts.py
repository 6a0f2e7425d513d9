"""`windfall alerts`: what a run tells people of, where it is sent, and a trial of it."""

from __future__ import annotations

from pathlib import Path

from windfall import clock
from windfall.cli.output import print_json
from windfall.config.load import load, stored
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError, SignalError, Transient, Unauthorized
from windfall.grid.http import AGAIN, host_of, public_url
from windfall.run.alerts import KINDS, thresholds, trial
from windfall.run.webhook import Webhook, missing
from windfall.store.rundir import RunDir


def alerts(file: Path, test: bool, as_json: bool) -> None:
    """Print the alerts of a configuration, or of a run directory's; with ``test`` send one now.

    Raises:
        RunError: it could not be sent; the message says why.
        ConfigError: there is nothing to send it to, or the configuration is wrong.
    """
    config = _config(file)
    table, said = config.alerts, thresholds(config)
    where = table.webhook
    if test and where is None:
        raise ConfigError(f"{file}: alerts.webhook is not set, so nothing is sent; name where it goes")
    sent = _send(config) if test else None
    lacks = missing(table)
    if as_json:
        print_json({"webhook": _shown(where), "format": table.format, "alerts": said, "missing": lacks, "sent": sent})
        return
    for kind, threshold in said.items():
        print(f"{kind:<14}  {KINDS[kind]}: {threshold or 'left out'}")
    to = "kept as events; alerts.webhook is not set" if where is None else f"sent to {_shown(where)} ({table.format})"
    for line in lacks or [f"alerts are {to}"]:
        print(line)
    if sent:
        print(f"a test was sent to {sent}, and taken")


def _shown(where: str | None) -> str | None:
    return where if where is None or where.startswith(("env:", "file:")) else public_url(where)


def _send(config: Config) -> str:
    webhook = Webhook(config.alerts)
    try:
        webhook.send(trial(config, clock.wall()))
        return host_of(webhook.address())
    except (Transient, SignalError, Unauthorized) as e:
        raise RunError(f"the test was not sent: {str(e).removesuffix(AGAIN)}") from None
    finally:
        webhook.close()


def _config(file: Path) -> Config:
    if file.is_dir():
        run = RunDir(file).open_existing()
        return stored(run.config.read_text(encoding="utf-8"))
    return load(file)
