"""Texts as numbers: decimal commas, thousands separators, signs as they are typed, currency signs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SPACES = str.maketrans({" ": "", "\u00a0": "", "\u202f": "", "\u2009": "", "'": "", "’": "", "−": "-", "$": "", "€": "", "£": ""})
_POINTS = re.compile(r"[-+]?\d{1,3}(\.\d{3})+(,\d*)?")
_COMMAS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
_ONE_GROUP = re.compile(r"[-+−]?[1-9]\d{0,2}[.,]\d{3}")
#: Numbers that some files hold in place of a missing value. One is taken for that only if it comes so many times and no other value
#: is as extreme, because the Australian market has real prices of -1,000.
_NO_VALUES = (-999.0, -9999.0, -99999.0, 9999.0, 99999.0)
_MANY, _NEAR = 3, 0.9


def no_values(values: npt.NDArray[np.float64]) -> dict[float, int]:
    """Which of the usual marks for a missing value are among ``values`` [n], and how often."""
    counts = {mark: int((values == mark).sum()) for mark in _NO_VALUES}
    rest = values[np.isfinite(values) & ~np.isin(values, _NO_VALUES)]
    return {mark: n for mark, n in counts.items() if n >= _MANY and not (rest * np.sign(mark) > _NEAR * abs(mark)).any()}


def numbers(texts: Sequence[str], decimal_comma: bool = False) -> npt.NDArray[np.float64]:
    """Each text as a number; NaN where it is none. With ``decimal_comma`` 1.234,5 is read as 1234.5, else 1,234.5 is."""
    if not decimal_comma:
        try:
            return np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            pass
    return np.fromiter((_number(text, decimal_comma) for text in texts), np.float64, len(texts))


def _number(text: str, decimal_comma: bool) -> float:
    plain = text.strip().translate(_SPACES)
    if plain.startswith("(") and plain.endswith(")"):  # a negative number in book-keeping
        plain = "-" + plain[1:-1]
    if decimal_comma:
        if _POINTS.fullmatch(plain):
            plain = plain.replace(".", "")
        plain = plain.replace(",", ".") if plain.count(",") == 1 and "." not in plain else plain
    elif _COMMAS.fullmatch(plain):
        plain = plain.replace(",", "")
    try:
        return float(plain)
    except ValueError:
        return math.nan


def looks_grouped(texts: Sequence[str]) -> bool:
    """Whether one of the first texts is 1.234 or 1,234: thousands, or three decimals."""
    return any(_ONE_GROUP.fullmatch(text.strip()) for text in texts[:2000])
