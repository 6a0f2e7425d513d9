"""What was learned, trained, waited for and emitted over a run, thinned to so many points: the curves of the dashboard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from windfall.store.ledger import Ledger
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_metrics import LOSS, NETWORK_BYTES, VAL_BPB
from windfall.store.telemetry_thinned import EnergyBin
from windfall.view.lanes import now_of
from windfall.view.moment import Moment

#: Parts of the budget of which the curve of training losses keeps the least and the greatest.
PARTS = 1200
#: Rows of telemetry that are read at one go, so that nobody waits long for anything.
_AT_ONCE = 100_000
_WAITED = ("stall",)
_TRAINED = ("training", "evaluation", "stall")


@dataclass(frozen=True, slots=True)
class LossPoint:
    """Training losses (nats per token) of steps around ``tokens`` that were made in one mode."""

    tokens: int
    mode: str
    low: float
    high: float
    mean: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A version that was evaluated: validation loss in bits per byte."""

    version: int
    t_run: float
    mode: str
    tokens: int
    val_bpb: float


@dataclass(frozen=True, slots=True)
class Loss:
    """What was learned. ``read``: the share of the training losses that are in it yet, 1 when all are."""

    read: float
    training: list[LossPoint]
    versions: list[Evaluated]


@dataclass(frozen=True, slots=True)
class SiteRates:
    """One site in equal parts of a time. ``stall_share``: of the time in which it trained, what passed without a step.

    ``tokens_per_s`` in run time; ``bytes``: what moved to and from it, None where nothing was counted in all that time.
    """

    site: str
    tokens_per_s: list[float]
    stall_share: list[float | None]
    bytes: list[int | None]


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput, stalls and bytes: ``t`` [n] is where parts of ``width_s`` seconds begin."""

    t: list[float]
    width_s: float
    sites: list[SiteRates]


@dataclass
class LossCurve:
    """Training losses of a run by tokens, read once and then followed. It takes the same room however long the run is."""

    budget: int
    _read_upto: int = 0
    _parts: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    #: Of each part the ids of its first and last row, so that a closer look reads no others.
    _rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    _share: float = 0.0

    @property
    def width(self) -> float:
        """Tokens of one part."""
        return max(1.0, self.budget / PARTS)

    def advance(self, t: Telemetry) -> bool:
        """Read some of what has come; whether that was all."""
        last = t.last_metric_id()
        if last < self._read_upto:  # telemetry was set aside and began anew
            self._parts.clear()
            self._rows.clear()
            self._read_upto = 0
        upto = min(last, self._read_upto + _AT_ONCE)
        for b in t.loss_bins(LOSS, self._read_upto, upto, 0, self.width):
            kept = self._parts.setdefault((b.bin, b.mode), [b.low, b.high, 0.0, 0.0])
            kept[0], kept[1] = min(kept[0], b.low), max(kept[1], b.high)
            kept[2] += b.mean * b.rows
            kept[3] += b.rows
            first, final = self._rows.get(b.bin, (b.first, b.last))
            self._rows[b.bin] = (min(first, b.first), max(final, b.last))
        self._read_upto = upto
        self._share = upto / last if last else 1.0
        return upto == last

    def points(self) -> list[LossPoint]:
        """All of them, in order of tokens."""
        return [
            _point(int((i + 0.5) * self.width), mode, low, high, total / n)
            for (i, mode), (low, high, total, n) in sorted(self._parts.items())
        ]

    def within(self, t: Telemetry, a: int, b: int, points: int) -> list[LossPoint]:
        """Those of tokens in ``[a, b)``, closer than ``points`` would show them where they are kept so."""
        rows = [r for i, r in self._rows.items() if int(a / self.width) <= i <= int(b / self.width)]
        if not rows or b <= a:
            return []
        width = max(1.0, (b - a) / points)
        found = t.loss_bins(LOSS, min(r[0] for r in rows) - 1, max(r[1] for r in rows), a, width)
        return [_point(int(a + (x.bin + 0.5) * width), x.mode, x.low, x.high, x.mean) for x in found if 0 <= x.bin * width < b - a]

    @property
    def read(self) -> float:
        """The share of what there is that has been read."""
        return self._share


def _point(tokens: int, mode: str, low: float, high: float, mean: float) -> LossPoint:
    return LossPoint(tokens, mode, round(low, 4), round(high, 4), round(mean, 4))


def evaluated(at: Moment) -> list[Evaluated]:
    """Every version that was evaluated, in order."""
    if at.telemetry is None:
        return []
    bpb = dict(at.telemetry.evaluations())
    return [
        Evaluated(v.version, v.t_run, v.mode, v.tokens_total, bpb[v.version]) for v in at.ledger.versions() if v.version in bpb
    ]  # fmt: skip


def emitted(
    t: Telemetry, bins: Sequence[EnergyBin], t0: float, t1: float, points: int
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Run times, and kg of all sites since the run's begin, at borders of the account over ``[t0, t1]``, of which ``bins`` are."""
    slopes: dict[float, float] = {}
    jumps: dict[float, float] = {}
    for b in bins:
        if b.t1 > b.t0:
            slopes[b.t0] = slopes.get(b.t0, 0.0) + b.grams / (b.t1 - b.t0)
            slopes[b.t1] = slopes.get(b.t1, 0.0) - b.grams / (b.t1 - b.t0)
        else:
            jumps[b.t0] = jumps.get(b.t0, 0.0) + b.grams
    total, rate, last = t.grams_before(t0), 0.0, t0
    times, kg = [t0], [total / 1000.0]
    least = (t1 - t0) / max(1, points)
    for at in sorted({*slopes, *jumps}):
        total += rate * (at - last) + jumps.get(at, 0.0)
        rate, last = rate + slopes.get(at, 0.0), at
        if at - times[-1] >= least:
            times.append(at)
            kg.append(total / 1000.0)
    if last > times[-1] or total / 1000.0 > kg[-1]:
        times.append(last)
        kg.append(total / 1000.0)
    return [round(x, 1) for x in times], [float(f"{x:.6g}") for x in kg]


def rates(
    at: Moment, bins: Sequence[EnergyBin], sites: Sequence[str], t0: float, t1: float, parts: int
) -> Rates:  # fmt: skip
    """Throughput, stalls and bytes of ``sites`` in ``parts`` equal parts of ``[t0, t1]``; ``bins``: the account of that time."""
    width = (t1 - t0) / parts
    if at.telemetry is None or width <= 0:
        return Rates([], 0.0, [])
    t = at.telemetry
    trained = {s: [0.0] * parts for s in sites}
    waited = {s: [0.0] * parts for s in sites}
    spans: dict[str, list[tuple[float, float]]] = {}
    for b in bins:
        if b.phase in _TRAINED and b.site in trained:
            _spread(trained[b.site], t0, width, b.t0, b.t1, b.seconds)
            spans.setdefault(b.site, []).append((b.t0, b.t1))
        if b.phase in _WAITED and b.site in waited:
            _spread(waited[b.site], t0, width, b.t0, b.t1, b.seconds)
    tokens = {s: [0.0] * parts for s in sites}
    moved: dict[str, list[int | None]] = {s: [None] * parts for s in sites}
    for site, i, n in t.metric_bins(NETWORK_BYTES, t0, t1, parts):
        if site in moved:
            moved[site] = [v or 0 for v in moved[site]]
            moved[site][i] = round(n)
    last = t.last_cuts(t0)
    for c in t.cut_bins(t0, t1, 2 * parts):
        if c.site not in tokens:
            continue
        # What a cut holds was trained since the one before: spread over the training in between.
        before = last.get(c.site, t0)
        since = max(before, t0)
        own = [(max(a, since), min(b, c.t1)) for a, b in spans.get(c.site, []) if b > since and a < c.t1]
        own = own or [(max(since, c.t1 - width), c.t1)]
        if before < t0 and own[0][0] <= t0:  # it had begun before this time did
            own.insert(0, (before, t0))
        whole = math.fsum(b - a for a, b in own)
        for x, y in own if whole > 0 else ():
            _spread(tokens[c.site], t0, width, x, y, c.tokens * (y - x) / whole)
        if whole <= 0:  # several at one instant
            tokens[c.site][min(parts - 1, int((c.t1 - t0) / width))] += c.tokens
        last[c.site] = c.t1
    return Rates(
        [round(t0 + i * width, 1) for i in range(parts)], width,
        [
            SiteRates(
                s, [float(f"{n / width:.4g}") for n in tokens[s]],
                [round(min(1.0, w / n), 4) if n > width / 1000 else None for w, n in zip(waited[s], trained[s], strict=True)],
                moved[s],
            )
            for s in sites
        ],
    )  # fmt: skip


def _spread(into: list[float], t0: float, width: float, a: float, b: float, amount: float) -> None:
    """Add ``amount``, which belongs to ``[a, b)`` evenly, to parts of ``width`` from ``t0`` on."""
    if b <= a:
        return
    for i in range(max(0, math.floor((a - t0) / width)), min(len(into) - 1, int((b - t0) / width)) + 1):
        share = (min(b, t0 + (i + 1) * width) - max(a, t0 + i * width)) / (b - a)
        into[i] += amount * max(0.0, share)


def span_of(at: Moment) -> tuple[float, float]:
    """From when to when a run has been told of (run time); both 0 where nothing has happened."""
    versions = _ends(at.ledger)
    times: Iterable[float] = versions
    if at.telemetry is not None:
        first = at.telemetry.modes()[:1]
        latest = now_of(at.telemetry)
        times = [*versions, *(m.t_run for m in first), *([latest] if math.isfinite(latest) else [])]
    known = list(times)
    return (min(known), max(known)) if known else (0.0, 0.0)


def _ends(ledger: Ledger) -> list[float]:
    if not ledger.has_version():
        return []
    first = ledger.version(0)
    return [v.t_run for v in (first, ledger.head()) if v is not None]


def samples(at: Moment) -> list[int]:
    """Versions of which a sample text is kept."""
    if at.telemetry is None:
        return []
    return sorted({int(e.version or 0) for _, e in at.telemetry.events_of("evaluation") if e.detail.get("sample")})


def sample_of(at: Moment, version: int) -> tuple[str, float | None] | None:
    """What a version wrote, and its bits per byte; None where nothing is kept of it."""
    if at.telemetry is None:
        return None
    for _, e in reversed(at.telemetry.events_of("evaluation")):
        if int(e.version or 0) == version and e.detail.get("sample"):
            bpb = e.detail.get(VAL_BPB)
            return str(e.detail["sample"]), None if bpb is None else float(bpb)
    return None
