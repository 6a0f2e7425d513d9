"""Alerts: what a person should know of a run while it goes on. Each is an event when it begins and when it is over, and is sent to
the webhook of `[alerts]`, where there is one (`run.webhook`).

An alert is known by its kind and site. While it is there it is told once; it is over when its condition has not been there for
`settle_s` of run time, so that what comes and goes is one alert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windfall import clock
from windfall.config.schema import Config
from windfall.energy.tariff import inside_of
from windfall.errors import ConfigError, StoreError
from windfall.fleet.loop import Loop
from windfall.fleet.machine import State
from windfall.grid.build import Grid
from windfall.run.webhook import Sender, Webhook
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_metrics import LOSS
from windfall.units import clock_text, duration_text, iso_utc, parse_utc
from windfall.wire.certificates import Certificates

#: What there are alerts for, in words.
KINDS = {
    "stale_signal": "a site's signal is stale",
    "flapping": "a site starts again and again",
    "missed_window": "a window is open and its site does not train",
    "slow_start": "a start takes long",
    "long_drain": "a drain takes long",
    "loss_rise": "the training loss has risen after a site joined",
    "deadline": "the deadline is at risk",
    "certificate": "a certificate ends soon",
}
#: Optimizer steps whose mean loss is compared, before and after a site joins; and after how many it is looked at no more.
_STEPS, _STEPS_MOST = 20, 400
#: A live source may take so long (run time) until it is heard for the first time.
_UNHEARD_S = 300.0
#: How often the certificates are looked at (wall time).
_CERTIFICATES_S = 3600.0


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to be told of: a sentence, and the figures in it."""

    kind: str
    site: str | None
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class _Active:
    alert: Alert
    begun: float
    #: Run time at which its condition was last there, and wall time at which it was last sent.
    seen: float
    sent: float


@dataclass
class _Join:
    """A site has joined: the loss before, and the number of the newest step then."""

    site: str
    before: float
    number: int


class AlertWatch:
    """Looks at a run and tells. Only the coordinator's thread calls it."""

    def __init__(
        self, config: Callable[[], Config], telemetry: Telemetry, loop: Loop, grid: Grid, *, run_id: str,
        sender: Sender | None = None, wall: Callable[[], float] = clock.wall, monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:  # fmt: skip
        """``config``: the configuration in force. ``sender`` sends; without one alerts are events alone."""
        self._config = config
        self._telemetry = telemetry
        self._loop = loop
        self._grid = grid
        self._run_id = run_id
        self._sender = sender
        self._wall, self._monotonic = wall, monotonic
        self._active: dict[tuple[str, str | None], _Active] = {}
        #: By site: since when its window has been open and missed, and since when there is no reading at all.
        self._open_since: dict[str, float] = {}
        self._unheard_since: dict[str, float] = {}
        self._training: set[str] | None = None
        self._join: _Join | None = None
        self._certificate: Alert | None = None
        self._certificate_at = -math.inf
        self._trouble, self._let_go = "", 0
        self._restore()

    def _restore(self) -> None:
        """Alerts that an earlier coordinator told of and that were not over: they are not told again."""
        try:
            told = self._telemetry.events_of("alert", "alert_over")
        except StoreError:
            return  # then they are told again
        for _, e in told:
            key = (str(e.detail.get("alert")), e.site)
            if e.kind == "alert":
                self._active[key] = _Active(Alert(*key, str(e.detail.get("reason"))), e.t_run, e.t_run, e.t_wall)
                if key[0] == "missed_window" and e.site is not None:
                    self._open_since[e.site] = e.t_run - self._config().alerts.missed_window_s
            else:
                self._active.pop(key, None)

    def look(self, t: float) -> None:
        """Tell of what has begun or is over, at run time ``t``."""
        config = self._config()
        going_on = not self._loop.stopping and not self._loop.work.complete()
        try:
            now = {(a.kind, a.site): a for a in self._found(t, config)} if going_on else {}
        except StoreError:
            return  # telemetry cannot be read for a moment, and nothing that must be right depends on it
        for key, alert in now.items():
            was = self._active.get(key)
            if was is None:
                self._active[key] = _Active(alert, t, t, self._wall())
                self._telemetry.event(t, "alert", site=alert.site, alert=alert.kind, reason=alert.text, numbers=alert.numbers)
                self._send(t, self._active[key], "firing")
                continue
            was.alert, was.seen = alert, t
            if config.alerts.repeat_h and self._wall() - was.sent >= config.alerts.repeat_h * 3600:
                was.sent = self._wall()
                self._send(t, was, "firing")
        for key, was in list(self._active.items()):
            if key not in now and (t - was.seen >= config.alerts.settle_s or not going_on):
                del self._active[key]
                self._telemetry.event(t, "alert_over", site=key[1], alert=key[0], reason=was.alert.text)
                self._send(t, was, "over")
        self._tell_of_sending(t)

    def _send(self, t: float, one: _Active, state: str) -> None:
        if self._sender is None:
            return
        a = one.alert
        self._sender.put(message(self._config().run.name, self._run_id, a, state=state, t=t, wall=self._wall(), begun=one.begun))

    def _tell_of_sending(self, t: float) -> None:
        if self._sender is None:
            return
        trouble, let_go = self._sender.trouble, self._sender.let_go
        if bool(trouble) != bool(self._trouble):
            reason = trouble or "alerts are sent again"
            self._telemetry.event(t, "alerts_unsent" if trouble else "alerts_sent_again", reason=reason, let_go=let_go)
        elif let_go > self._let_go:
            self._telemetry.event(t, "alerts_unsent", reason=trouble or "more were to be sent than wait at most", let_go=let_go)
        self._trouble, self._let_go = trouble, let_go

    # -- what there is to tell -------------------------------------------------------------------------------

    def _found(self, t: float, config: Config) -> Iterator[Alert]:
        for name in self._loop.controller.sites:
            yield from self._of_site(t, name, config)
        yield from self._loss(config)
        yield from self._deadline(t, config)
        yield from self._certificates(config)

    def _of_site(self, t: float, name: str, config: Config) -> Iterator[Alert]:
        table, a = config.site_named(name), config.alerts
        site, wall = self._loop.controller.sites[name], self._monotonic()
        reading = self._grid.by_site[name].at(t)
        stale = reading is None or reading.is_stale(t)
        unheard = t - self._unheard_since.setdefault(name, t) if reading is None else 0.0
        if reading is not None:
            self._unheard_since.pop(name, None)
        if a.stale_signal and stale and (reading is not None or unheard >= _UNHEARD_S):
            since = "there is none" if reading is None else f"the newest is of {clock_text(reading.valid_from)} UTC"
            yield Alert("stale_signal", name, f"{name}: no reading of its signal counts any more ({since}); it stays off")
        recent = [s for s in self._loop.starts[name].recent if t - s < 3600.0]
        if a.starts_per_h and len(recent) >= a.starts_per_h:
            yield Alert("flapping", name, f"{name}: {len(recent)} starts within an hour", {"starts": len(recent)})
        in_window = reading is not None and not stale and bool(inside_of(table, config.run)(np.array([reading.value]))[0])
        if in_window and site.state is not State.TRAINING and not site.held:
            missed = t - self._open_since.setdefault(name, t)
            if a.missed_window_s and missed >= a.missed_window_s:
                text = f"{name}: its window has been open for {duration_text(missed)} and it has not trained"
                yield Alert("missed_window", name, f"{text}; it is {site.state.value} ({self._why(name)})", {"open_s": missed})
        else:
            self._open_since.pop(name, None)
        if site.state is State.PROVISIONING and not site.adopted:
            took = t - site.since if self._loop.clock.gated else wall - site.since_wall
            if a.spin_up_factor and table.spin_up_s and took > a.spin_up_factor * table.spin_up_s:
                text = f"{name}: its start takes {duration_text(took)}, where {duration_text(table.spin_up_s)} were expected"
                yield Alert("slow_start", name, text, {"took_s": took, "spin_up_s": table.spin_up_s})
        if site.state is State.DRAINING and a.drain_s and wall - site.since_wall > a.drain_s:
            took = wall - site.since_wall
            yield Alert("long_drain", name, f"{name}: it has been draining for {duration_text(took)}", {"took_s": took})

    def _why(self, name: str) -> str:
        site = self._loop.controller.sites[name]
        decision = self._loop.decisions.get(name)
        return site.reason if site.state is not State.OFF or decision is None else decision.reason

    def _loss(self, config: Config) -> Iterator[Alert]:
        training = {n for n, s in self._loop.controller.sites.items() if s.state is State.TRAINING}
        was, self._training = self._training, training
        if was and (joined := sorted(training - was)):
            before = self._telemetry.newest_metrics(LOSS, _STEPS)
            self._join = _Join(joined[0], _mean([r.value for r in before]), before[0].id) if len(before) == _STEPS else None
        join, rise = self._join, config.alerts.loss_rise
        if join is None or not rise:
            return
        newest = self._telemetry.newest_metrics(LOSS, _STEPS)
        if not newest or newest[-1].id <= join.number:
            return  # not all of them are since
        after = _mean([r.value for r in newest])
        if after > join.before * (1 + rise):
            text = f"the training loss is {after:.3f} since {join.site} has joined, and was {join.before:.3f} before"
            yield Alert("loss_rise", join.site, text, {"before": join.before, "after": after})
        elif newest[0].id > join.number + _STEPS_MOST:
            self._join = None

    def _deadline(self, t: float, config: Config) -> Iterator[Alert]:
        p, share = config.policy, config.alerts.deadline_share
        if p.name != "budgeted" or not share:
            return
        deadline = parse_utc(p.deadline) if p.deadline is not None else self._loop.begun + 3600.0 * (p.deadline_h or 0.0)
        rate, left = sum(s.tokens_per_s for s in config.site), self._loop.work.left()
        need, remains = left / rate, deadline - t
        if left > 0 and need > share * remains:
            text = (
                f"{duration_text(need)} of training with every site on are left, and {duration_text(max(0.0, remains))} until the "
            )
            text += f"deadline {clock_text(deadline)} UTC"
            yield Alert("deadline", None, text, {"need_s": need, "left_s": remains})

    def _certificates(self, config: Config) -> Iterator[Alert]:
        folder, most = config.network.certificates, config.alerts.certificate_days
        if folder is None or not most:
            return
        if self._monotonic() - self._certificate_at >= _CERTIFICATES_S:
            self._certificate_at = self._monotonic()
            self._certificate = _ending(folder, self._wall(), most)
        if self._certificate is not None:
            yield self._certificate


def _ending(folder: str, now: float, most_days: float) -> Alert | None:
    try:
        days = Certificates.open(folder).days_left(now)
    except ConfigError as e:
        return Alert("certificate", None, f"network.certificates: {e}")
    if days > most_days:
        return None
    when = f"ends in {days:.0f} days" if days >= 1 else f"ends in {24 * days:.0f} h" if days > 0 else "has ended"
    return Alert("certificate", None, f"a certificate of network.certificates {when}", {"days": days})


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def message(name: str, run_id: str, a: Alert, *, state: str, t: float, wall: float, begun: float) -> dict[str, Any]:
    """What is sent. ``id`` is the same from an alert's beginning to its end, so that a receiver can put them together."""
    return {
        "version": 1, "source": "windfall", "name": name, "run_id": run_id, "alert": a.kind, "site": a.site, "state": state,
        "text": a.text, "numbers": a.numbers, "t_run": iso_utc(t), "t_wall": iso_utc(wall),
        "id": f"{run_id}:{a.kind}:{a.site or ''}:{begun:.0f}",
    }  # fmt: skip


def trial(config: Config, wall: float) -> dict[str, Any]:
    """What `windfall alerts --test` sends."""
    alert = Alert("test", None, "this is a test: alerts of this run arrive here")
    return message(config.run.name, "", alert, state="firing", t=wall, wall=wall, begun=wall)


def thresholds(config: Config) -> dict[str, str]:
    """By kind of alert: from when on it is told, in words; empty for what is left out."""
    a = config.alerts
    budgeted = config.policy.name == "budgeted"
    return {
        "stale_signal": "at once" if a.stale_signal else "",
        "flapping": f"from {a.starts_per_h} starts within an hour on" if a.starts_per_h else "",
        "missed_window": f"after {duration_text(a.missed_window_s)}" if a.missed_window_s else "",
        "slow_start": f"after {a.spin_up_factor:g} times spin_up_s" if a.spin_up_factor else "",
        "long_drain": f"after {duration_text(a.drain_s)}" if a.drain_s else "",
        "loss_rise": f"by more than {a.loss_rise * 100:g} %" if a.loss_rise else "",
        "deadline": f"from {a.deadline_share * 100:g} % of the time left on" if a.deadline_share and budgeted else "",
        "certificate": f"{a.certificate_days:g} days before" if a.certificate_days and config.network.certificates else "",
    }


def sender_of(config: Config) -> Sender | None:
    """The sender of a run; None where it has no webhook."""
    return Sender(Webhook(config.alerts).send) if config.alerts.webhook is not None else None
