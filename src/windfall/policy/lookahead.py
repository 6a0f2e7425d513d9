"""Lookahead: learns from readings and forecasts, while a run goes on, when to start and stop.

Let D be the value of being on rather than off from the next interval on, in units of R, the cost of a start. For an interval of
length dt with gain g the optimum is (by dynamic programming; starts that are given up half way apart)

    v = g·dt / R + E[D of the next interval]        when off, start if v >= 1        when on, stop if v < 0

and the D of the interval before it was clip(v, 0, 1). A policy therefore only needs an estimate of E[D of the next interval], a
number from 0 to 1. Here the estimate is a logistic function of the distance between reading and worth. It is fitted online: in each
interval one Newton step moves it towards the v that came of the interval before (temporal difference; Sutton and Barto,
Reinforcement Learning, chapter 6), with slow forgetting and a prior. A second feature is the same recursion run backwards over the
provider's forecast. Its weight is learned too, and begins at zero.

A reading that is known late says what the gain is now only by what has followed readings like it; so its interval's gain is told by
that (means by class, learned too), and what came of an interval is learned as what followed the reading that was the newest then.

`learned` runs beside it as a shadow. The values of both schedules are added up, with forgetting, and whichever leads decides, at
first `learned`. So `learned` decides where the estimate, or the forecast behind it, has been poor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from windfall.grid.signal import Forecast
from windfall.policy.base import Decision, Judged, Memory, SiteView
from windfall.policy.belief import class_of, usual_gain
from windfall.policy.learned import Learned

_HALF_LIFE_S = 28 * 86400.0
_RIDGE = 3.0
#: Coefficients of (1, distance, forecast's D) before anything is learned: being on is worth most of a start at a reading of 0 and
#: little at the worth, and forecasts count for nothing.
_PRIOR = (3.0, -4.0, 0.0)
_SIZE = len(_PRIOR)
#: Distances are cut off at `_FAR`. If both intervals of a pair are beyond `_TEACHES`, nothing is learned from them: so far over the
#: worth no policy starts or stops.
_FAR, _TEACHES = 2.5, 2.5
#: One schedule takes over when its value is ahead by so many starts.
_MARGIN = 2.0
#: A reading that holds until the next one is taken in this often, as intervals of this length (s).
_STEP_S = 300.0
#: An older forecast (s) is not used.
_FORECAST_STALE_S = 3600.0
#: Readings that are late by more steps than this are taken for so late.
_MOST_LATE = 12
#: Of how many readings what is usual stands for, in each class.
_WEIGHT = 30.0
#: What is remembered of the shadow, beside what it remembers itself; and of each reading whose interval's gain is not known yet.
_SHADOWS = ("b_on", "b_was", "b_spin")
_QUEUED = ("x1", "x2", "l", "b")


class Lookahead:
    """The learned rule, with break-even as its shadow. ``horizon_s``: how much of the forecast is used."""

    name = "lookahead"

    def __init__(self, learned: Learned, horizon_s: float) -> None:
        self._learned = learned
        self._horizon_s = horizon_s

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision:
        m = dict(site.memory)
        bounded = math.isfinite(judged.valid_until)
        seen = m.get("seen", -math.inf)
        new = judged.valid_from > m.get("from", -math.inf) or (not bounded and t - seen >= _STEP_S) or "informed" not in m
        shadow = self._shadow(t, site, judged, m)
        ahead: float | None = None
        if new:
            dt = judged.valid_until - judged.valid_from if bounded else _STEP_S
            delay_s = 0.0 if site.reading is None else max(0.0, site.reading.known_at - judged.valid_from)
            late = min(round(delay_s / dt), _MOST_LATE)
            ahead = self._ahead(t, site, judged, late * dt)
            self._learn(t, m, site, judged, dt, late, shadow, ahead)
            m["from"], m["seen"] = judged.valid_from, judged.valid_from if bounded else t
        m |= {f"b_{k}": v for k, v in shadow.memory.items()}
        m["b_on"] = float(shadow.on)
        trusts = bool(m["leads"]) and bool(m["informed"])
        on = bool(m["l_on"]) if trusts else shadow.on
        numbers = {"value": judged.value, "worth": judged.level, "expected": m["v"], "lead": m["lead"]}
        return Decision(on, self._reason(site, on, judged, m, shadow, trusts), numbers, None, m)

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        # What was learned stays. What was under way is forgotten, because nothing is known of the interval.
        gone = {"seen", "b_gain"} | ({"b_acc", "b_to", "l_spin", "b_spin"} if stale else set())
        kept = {k: v for k, v in site.memory.items() if k not in gone}
        _forget(kept)
        return kept | dict.fromkeys(("l_on", "l_was", "b_on", "b_was", "v"), 0.0) if stale and kept else kept

    def _shadow(self, t: float, site: SiteView, judged: Judged, m: dict[str, float]) -> Decision:
        """What `learned` decides, had it alone decided all along."""
        own = {k[2:]: m.pop(k) for k in list(m) if k.startswith("b_") and k not in _SHADOWS}
        return self._learned.decide_site(t, replace(site, on=bool(m.get("b_on", 0.0)), memory=own), judged)

    def _learn(
        self, t: float, m: dict[str, float], site: SiteView, judged: Judged, dt: float, late: int, shadow: Decision,
        ahead: float | None,
    ) -> None:  # fmt: skip
        """Take in one interval: fit the estimate, let the learned rule start or stop, and add to both schedules' values."""
        restart = max(site.spin_up_s, 1e-9)
        gain = judged.gain / judged.scale
        if "c2" not in m:
            m |= {f"c{i}": _PRIOR[i] for i in range(_SIZE)} | {"lead": 0.0, "leads": 0.0, "l_on": 0.0, "seen": t}
            m |= {f"h{i}{j}": _RIDGE * (i == j) for i in range(_SIZE) for j in range(i, _SIZE)}
        if m.get("late") != late:
            _forget(m)
            m["late"] = float(late)
        x = [1.0, min(max(1.0 - gain, -_FAR), _FAR), ahead or 0.0]
        v = _expected(m, x[1], gain, late) * dt / restart + self._guess(m, x)
        m["l_on"] = float(v >= 0.0 if m["l_on"] else v >= 1.0)
        m["v"] = v
        # `lead` counts up to the interval before: who decides depends on the past alone.
        if abs(m["lead"]) >= _MARGIN * restart:
            m["leads"] = float(m["lead"] > 0)
            m["lead"] = math.copysign(_MARGIN * restart, m["lead"])
        then = _queued(m, (x[1], x[2], m["l_on"], float(shadow.on)), late)
        if then is not None:
            self._came(m, then, gain, dt, site.spin_up_s, learns=ahead is not None)
        m["informed"] = float(ahead is not None)

    def _guess(self, m: Mapping[str, float], x: Sequence[float]) -> float:
        return _sigmoid(sum(m[f"c{i}"] * x[i] for i in range(_SIZE)))

    def _came(self, m: dict[str, float], then: Sequence[float], gain: float, dt: float, spin_up_s: float, *, learns: bool) -> None:
        """An interval brought ``gain``; ``then`` is what `_QUEUED` was when it was decided about."""
        x1, x2, l_on, b_on = then
        if m["late"]:
            _note(m, x1, gain, dt)
        if "x1" in m and min(x1, m["x1"]) < _TEACHES and learns:
            v = gain * dt / max(spin_up_s, 1e-9) + self._guess(m, (1.0, x1, x2))
            self._fit(m, min(1.0, max(0.0, v)), dt)
        m["x1"], m["x2"] = x1, x2
        for who, on, sign in (("l", l_on, 1.0), ("b", b_on, -1.0)):
            m["lead"] += sign * _net(m, who, bool(on), bool(m.get(f"{who}_was", 0.0)), gain, dt, spin_up_s)
            m[f"{who}_was"] = on

    def _fit(self, m: dict[str, float], target: float, dt: float) -> None:
        """One Newton step of the logistic fit (ridge, forgetting) towards ``target``, the value that followed the last interval."""
        n = _SIZE
        q = [1.0] + [m[f"x{i}"] for i in range(1, n)]
        p = _sigmoid(sum(m[f"c{i}"] * q[i] for i in range(n)))
        keep = 0.5 ** (dt / _HALF_LIFE_S)
        anew = (1.0 - keep) * _RIDGE
        rows = [[0.0] * n for _ in range(n)]
        right = [q[i] * (target - p) + anew * (_PRIOR[i] - m[f"c{i}"]) for i in range(n)]
        for i in range(n):
            for j in range(i, n):
                h = keep * m[f"h{i}{j}"] + p * (1.0 - p) * q[i] * q[j] + (anew if i == j else 0.0)
                m[f"h{i}{j}"] = rows[i][j] = rows[j][i] = h
        for i, step in enumerate(_solve(rows, right)):
            m[f"c{i}"] += step

    def _ahead(self, t: float, site: SiteView, judged: Judged, late_s: float) -> float | None:
        """The D of the next interval (0 to 1) if the forecast comes true; None without a forecast. Readings are ``late_s`` late."""
        forecast = site.outlook.forecast(self._horizon_s) if site.outlook else None
        if forecast is None or t - forecast.made_at > _FORECAST_STALE_S:
            return None
        begin = judged.valid_until + late_s if math.isfinite(judged.valid_until) else t
        return programme(forecast, begin, judged, max(site.spin_up_s, 1e-9))

    def _reason(self, site: SiteView, on: bool, judged: Judged, m: Mapping[str, float], shadow: Decision, trusts: bool) -> str:
        if not trusts:
            why = "no forecast" if not m["informed"] else "going by the forecast has not done better"
            return f"{shadow.reason}; {why}"
        verb = ("start" if on else "stop") if on != site.on else ("on" if on else "off")
        return f"{verb}: {judged.text}; to be on is expected to be worth {m['v']:.2f} of a start (starts at 1, stops under 0)"


def programme(forecast: Forecast, begin: float, judged: Judged, restart_s: float) -> float:
    """The D at ``begin`` if the forecast comes true: the recursion above, run backwards from the forecast's end, where D is 0."""
    edges = [*forecast.times.tolist(), forecast.ends_at]
    d = 0.0
    for i in range(len(edges) - 2, -1, -1):
        a, b = max(edges[i], begin), edges[i + 1]
        if b <= a:
            break
        if math.isnan(forecast.values[i]):
            d = 0.0  # no site stays on through unknown time, so being on before it is worth nothing more
            continue
        d = min(1.0, max(0.0, d + (judged.level - float(forecast.values[i])) / judged.scale * (b - a) / restart_s))
    return d


def _forget(m: dict[str, float]) -> None:
    """Leave out what is under way: the next reading does not follow the last one."""
    for key in [k for k in m if k.startswith("q") or k in ("x1", "x2")]:
        del m[key]


def _queued(m: dict[str, float], now: tuple[float, ...], late: int) -> tuple[float, ...] | None:
    """Take in what is ``now`` (`_QUEUED`); what was so ``late`` steps ago, when the newest interval was decided about, if known."""
    if late == 0:
        return now
    waiting = [tuple(m[f"q{i}{k}"] for k in _QUEUED) for i in range(late) if f"q{i}b" in m] + [now]
    then = waiting.pop(0) if len(waiting) > late else None
    m |= {f"q{i}{k}": x for i, each in enumerate(waiting) for k, x in zip(_QUEUED, each, strict=True)}
    return then


def _expected(m: Mapping[str, float], distance: float, gain: float, late: int) -> float:
    """The gain of now, if the newest reading is so many steps ``late``."""
    if late == 0:
        return gain
    i = class_of(distance)
    n = m.get(f"n{i}", 0.0)
    return (m.get(f"g{i}", 0.0) + _WEIGHT * usual_gain(late)[i]) / (n + _WEIGHT)


def _note(m: dict[str, float], distance: float, gain: float, dt: float) -> None:
    """Remember the ``gain`` that followed a reading."""
    i, keep = class_of(distance), 0.5 ** (dt / _HALF_LIFE_S)
    for key in [k for k in m if k[0] in "ng" and k[1:].isdigit()]:
        m[key] *= keep
    m[f"n{i}"] = m.get(f"n{i}", 0.0) + 1.0
    m[f"g{i}"] = m.get(f"g{i}", 0.0) + gain


def _net(m: dict[str, float], who: str, on: bool, was: bool, gain: float, dt: float, spin_up_s: float) -> float:
    """What an interval adds to a schedule's value: its gain while the site trains, less the energy's cost while it starts."""
    if on and not was:
        m[f"{who}_spin"] = spin_up_s
    if not on:
        return 0.0
    spin = min(dt, m.get(f"{who}_spin", 0.0))
    m[f"{who}_spin"] = m.get(f"{who}_spin", 0.0) - spin
    # 1 − gain is the signal's value over the worth, which is the cost of a second of starting.
    return gain * (dt - spin) - (1.0 - gain) * spin


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -30.0 else 0.0


def _solve(rows: list[list[float]], right: list[float]) -> list[float]:
    """Solves a small positive definite system [n, n] by Gaussian elimination."""
    n = len(right)
    a = [[*row, y] for row, y in zip(rows, right, strict=True)]
    for i in range(n):
        for j in range(i + 1, n):
            f = a[j][i] / a[i][i]
            for k in range(i, n + 1):
                a[j][k] -= f * a[i][k]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (a[i][n] - sum(a[i][k] * x[k] for k in range(i + 1, n))) / a[i][i]
    return x
