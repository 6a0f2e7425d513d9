"""Units and conversions, each written once.

Inside the package all values are in seconds, watts, joules, grams and Unix seconds (UTC). kWh, kg and hours are for input and
output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

J_PER_KWH = 3.6e6

UNITS = {
    "marginal_co2": "gCO2/kWh",
    "average_co2": "gCO2/kWh",
    "price": "currency/MWh",
    "curtailed_power": "MW",
    "surplus_power": "W",
    "state_of_charge": "share",
}


def kwh(joules: float) -> float:
    """Kilowatt-hours of an energy in joules."""
    return joules / J_PER_KWH


def from_grid(joules: float, own: float, stored: float) -> float:
    """What is left of an energy without what is ``own`` and ``stored``; 0 where nothing but rounding is."""
    left = joules - own - stored
    return left if abs(left) > 1e-9 * abs(joules) else 0.0


def parse_utc(text: str) -> float:
    """Unix seconds of an ISO 8601 instant. A missing offset is read as UTC.

    Raises:
        ValueError: the text is not an ISO 8601 instant.
    """
    moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def time_zone(text: str) -> tzinfo:
    """The zone that ``text`` names: Europe/Berlin (IANA), UTC, or an offset that holds all year, +10:00.

    Raises:
        ValueError: it names none.
    """
    plain = text.strip()
    offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", plain)
    if offset:
        span = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        if span <= timedelta(hours=15):
            return timezone(-span if offset[1] == "-" else span)
    if plain in ("UTC", "Z", "GMT"):
        return UTC
    try:
        if offset is None and re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", plain):
            return ZoneInfo(plain)
    except (OSError, ValueError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        pass
    raise ValueError(
        f'timezone = "{text}" is none that is known here; give a name as Europe/Berlin, America/Chicago, Australia/Brisbane '
        "(where a machine has no list of zones: pip install tzdata), or an offset that holds all year as +10:00"
    )


def iso_utc(t: float) -> str:
    """``2026-01-11T17:05:00Z`` for Unix seconds ``t``."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_text(t: float) -> str:
    """``Jan 11 17:05`` for Unix seconds ``t`` (UTC)."""
    return datetime.fromtimestamp(t, UTC).strftime("%b %d %H:%M")


def duration_text(seconds: float) -> str:
    """``2 h 05 min``, ``5 min``, ``40 s``."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(n: object, what: str) -> str:
    """``1 site``, ``2,000 sites``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}" if isinstance(n, int) else f"{n} {what}s"


#: 1 lb is 0.45359237 kg (exactly), so 1 lb/MWh is 0.45359237 g/kWh.
G_PER_LB = 453.59237

_GRAMS = {
    "g": 1.0, "gr": 1.0, "gram": 1.0, "grams": 1.0, "kg": 1e3, "kilogram": 1e3, "kilograms": 1e3,
    "t": 1e6, "tonne": 1e6, "tonnes": 1e6, "mt": 1e6, "metricton": 1e6, "metrictons": 1e6,
    "lb": G_PER_LB, "lbs": G_PER_LB, "pound": G_PER_LB, "pounds": G_PER_LB, "shortton": 2000 * G_PER_LB,
    "shorttons": 2000 * G_PER_LB,
}  # fmt: skip
_KWH = {"wh": 1e-3, "kwh": 1.0, "mwh": 1e3, "gwh": 1e6, "twh": 1e9, "j": 1 / J_PER_KWH, "mj": 1 / 3.6, "gj": 1e3 / 3.6}
_WATTS = {"w": 1.0, "kw": 1e3, "mw": 1e6, "gw": 1e9}
_SHARES = {"share": 1.0, "%": 0.01, "percent": 0.01}
_CENTS = frozenset(
    {"ct", "cts", "cent", "cents", "c", "¢", "p", "pence", "penny", "ore", "øre", "öre", "snt", "centime", "centimes"}
)
#: Names of currencies and of their cents, normalised: `eurct`.
_WRITTEN_OUT = (
    (re.compile("^euros?(?=$|c)"), "eur"), (re.compile("^us(?=c)"), "usd"), (re.compile("^au(?=c)"), "aud"),
    (re.compile("^(ct|c)(€|eur)$"), "eurct"),
)  # fmt: skip
_SYMBOLS = {"a$": "aud", "au$": "aud", "us$": "usd", "c$": "cad", "ca$": "cad", "nz$": "nzd", "$": "cur", "€": "eur", "£": "gbp"}
#: Currencies that are recognised in a column's name. A configured unit may name any currency by three letters.
_CURRENCIES = (
    "usd", "eur", "gbp", "aud", "cad", "chf", "nok", "sek", "dkk", "pln", "czk", "huf", "ron", "bgn", "jpy", "cny", "krw", "inr",
    "brl", "clp", "mxn", "nzd", "zar", "sgd", "try", "uah", "rsd", "isk",
)  # fmt: skip
_INTENSITY = ("marginal_co2", "average_co2")
#: Examples of what may be given as `unit`, by signal type, for messages.
ACCEPTED = {
    "marginal_co2": "g/kWh, kg/kWh, kg/MWh, t/MWh, lb/MWh, lb/kWh, g/MJ",
    "average_co2": "g/kWh, kg/kWh, kg/MWh, t/MWh, lb/MWh, lb/kWh, g/MJ",
    "price": "EUR/MWh, EUR/kWh, ct/kWh (any currency's three letters, or its cents; per kWh, MWh or GWh)",
    "curtailed_power": "W, kW, MW, GW",
    "surplus_power": "W, kW, MW, GW",
    "state_of_charge": "share (0 to 1), %",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A unit that a text names: ``carbon`` (``factor`` to g/kWh), ``price`` (to currency/MWh), ``power`` (to W) or ``share``.

    ``currency`` is three capital letters, or nothing where none is named.
    """

    kind: str
    factor: float
    text: str
    currency: str = ""

    def to(self, signal_type: str) -> float | None:
        """The factor from this unit to that of ``signal_type``; None if that is another quantity."""
        if self.kind != _quantity_of(signal_type):
            return None
        return self.factor / 1e6 if signal_type == "curtailed_power" else self.factor


def _quantity_of(signal_type: str) -> str:
    return "carbon" if signal_type in _INTENSITY else {"price": "price", "state_of_charge": "share"}.get(signal_type, "power")


def quantity(text: str) -> Quantity | None:
    """The unit that ``text`` names, such as lbs/MWh, gCO2eq/kWh, EUR/kWh, ct/kWh or MW; None if it is not known."""
    plain = re.sub(r"[\s_-]", "", re.sub(r"[\s_]per[\s_]", "/", text.lower().replace("₂", "2")))
    plain = re.sub(r"co2(eq|e)?", "", plain)
    if plain in _WATTS:
        return Quantity("power", _WATTS[plain], text.strip())
    if plain in _SHARES:
        return Quantity("share", _SHARES[plain], text.strip())
    above, slash, below = plain.partition("/")
    energy = _KWH.get(below) or _KWH.get(re.sub(r"hr?(e|el)?$", "h", below))  # MWhe and kWhel mean electric energy
    if not slash or energy is None:
        return None
    if above in _GRAMS:
        return Quantity("carbon", _GRAMS[above] / energy, text.strip())
    for form, plainly in _WRITTEN_OUT:
        above = form.sub(plainly, above)
    for symbol, code in _SYMBOLS.items():
        above = above.replace(symbol, code) if above.startswith(symbol) else above
    share = 1.0
    if above in _CENTS or (len(above) > 3 and above[3:] in _CENTS):
        share, above = 0.01, above[:3] if len(above) > 3 and above not in _CENTS else ""
    if above in ("", "cur", "currency"):
        return Quantity("price", share * 1000 / energy, text.strip())
    if re.fullmatch("[a-z]{3}", above) and above != "ton":  # a ton is short to some and metric to others, so it is not taken
        return Quantity("price", share * 1000 / energy, text.strip(), above.upper())
    return None


_CENT = r"(?:cts?|cents?|¢|pence|penny|[oøö]re|snt|centimes?)"
_NAMED = re.compile(
    r"(?<![a-z])((?:kg|g|t|mt|lbs?|pounds?|tonnes?|short tons?)(?:[ _]*co2(?:eq|e)?)?|"
    rf"(?:[a-z]{{0,2}}\$|€|£|euros?|us|au|(?:{'|'.join(_CURRENCIES)}))[ _]?{_CENT}|"
    rf"(?:[a-z]{{0,2}}\$|€|£|euros?|(?:{'|'.join(_CURRENCIES)}))|{_CENT}|ct?(?:€|eur)|[pc](?=[ _]*/|[ _]per[ _]))"
    r"[ _]*(?:/|[ _]per[ _]|[ _])[ _]*([kmgt]?w-?hr?|[mg]j)(?:e|el)?(?![a-z])"
)
#: Matches what looks like a unit and is not known: something per energy, something in brackets per power or time, or a text alone.
_ENERGIES = r"(?:[kmgt]?w-?hr?|[kmgt]?j|(?:mm)?btu|therms?|[kmg]?cal)"
_RATIO = re.compile(rf"(?<![^\s\[(_,])([^\s\[\](),;/]{{1,12}}(?:/|[ _]per[ _])[ _]*{_ENERGIES})(?![a-z])")
_BRACKETED = re.compile(
    rf"[\[(]\s*([^\[\]()]{{1,20}}(?:/|\sper\s)\s*(?:{_ENERGIES}|[kmg]?w|h|hr|hours?|min|s|days?|yr|years?)|"
    rf"{_ENERGIES}|kg|t|lbs?|tonnes?|tons?|(?:g|kg|t)co2(?:eq|e)?|%)\s*[\])]"
)
_ENERGY = re.compile(r"(?:^|[\[(_ ])([kmgt]?w-?hr?)(?:[\])]|$)")
_POWER = re.compile(r"(?:^|[\[(_ ])([kmg]?w)(?:[\])]|$)")


def quantity_in(name: str) -> Quantity | None:
    """The unit that a column's name holds: `moer_lbs_per_mwh`, `Preis [€/MWh]`, `surplus_kw`; None if it holds none."""
    plain = name.strip().lower().replace("₂", "2")
    found = _NAMED.search(plain)
    if found is not None:
        above = found[1].upper() if found[1] in _CURRENCIES else found[1]
        return quantity(f"{above}/{_written(found[2])}")
    power = _POWER.search(plain)
    return quantity(_written(power[1])) if power else None


def unknown_unit(name: str) -> str:
    """What looks like a unit in a name (or is nothing else) and is not known; empty if nothing does."""
    plain = name.strip().replace("₂", "2")
    found = _BRACKETED.search(plain.lower()) or _RATIO.search(plain.lower())
    return plain[found.start(1) : found.end(1)].strip() if found else ""


def energy_in(name: str) -> str:
    """The unit of energy that a name ends with, such as MWh of `curtailed_mwh`; empty if it has none."""
    found = _ENERGY.search(name.strip().lower())
    return _written(found[1]) if found else ""


def _written(unit: str) -> str:
    """kwh as kWh, mw as MW."""
    return unit.replace("-", "").replace("hr", "h").replace("w", "W").replace("mW", "MW").replace("gW", "GW").replace("tW", "TW")


def conversion(unit: str, signal_type: str) -> float:
    """The factor from ``unit`` to the unit of ``signal_type`` (``UNITS``).

    Raises:
        ValueError: ``unit`` is not known, or of another quantity; the message lists what is accepted.
    """
    found = quantity(unit)
    factor = found.to(signal_type) if found else None
    if factor is None:
        about = f"no unit of {signal_type}" if found else "no unit that is known"
        raise ValueError(f'unit = "{unit}" is {about}; accepted are {ACCEPTED[signal_type]}, or multiply with `scale`')
    return factor
