"""Which versions have been evaluated, and by what: sites evaluate, the coordinator only keeps the figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from windfall.errors import Refused
from windfall.federation.intake import Committed
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Events
from windfall.wire.fields import Fields, text

_FIGURES = ("val_bpb", "val_nats_per_byte")
#: Characters of a sample that are kept.
_SAMPLE_CHARACTERS = 4000


@dataclass(frozen=True)
class _Evaluation:
    figures: dict[str, float]
    #: What the parameters wrote.
    sample: str


class Evaluations:
    """A site names a version, or (alone, on the calendar) the cut whose parameters it evaluated."""

    def __init__(self, ledger: Ledger, events: Events) -> None:
        self._ledger = ledger
        self._events = events
        self._done: set[int] = set()
        #: (site, generation, cut) -> the version that is exactly that cut's parameters.
        self._version_of: dict[tuple[str, int, int], int] = {}
        #: Of cuts that have not been committed yet.
        self._early: dict[tuple[str, int, int], _Evaluation] = {}

    def known(self, versions: Iterable[int]) -> None:
        """These need no evaluation any more."""
        self._done.update(versions)

    def has(self, version: int) -> bool:
        """Whether a version has been evaluated."""
        return version in self._done

    def take(self, t: float, site: str, entry: dict[str, Any]) -> None:
        """An evaluation has come over the bus. Raises Refused if it is malformed, or of a version that there is not."""
        f = Fields(entry)
        found = _Evaluation({k: f.number(k) for k in _FIGURES}, text(entry.get("sample", ""), _SAMPLE_CHARACTERS))
        if "version" in f:
            version = f.count("version")
            if self._ledger.version(version) is None:
                raise Refused(f"version is {version}, and there is none of that number")
            self._keep(t, site, version, found)
            return
        key = (site, f.count("generation"), f.count("cut"))
        if key in self._version_of:
            self._keep(t, site, self._version_of.pop(key), found)
        else:
            self._early[key] = found

    def committed(self, t: float, outcome: Committed) -> None:
        """A version has been made: if it is one cut's parameters, that cut's evaluation is its own."""
        for c in outcome.contributions:
            key = (c.site, c.generation, c.cut)
            early = self._early.pop(key, None)
            if outcome.exact_for != c.site:
                continue
            if early is None:
                self._version_of[key] = outcome.version.version
            else:
                self._keep(t, c.site, outcome.version.version, early)

    def _keep(self, t: float, site: str, version: int, evaluation: _Evaluation) -> None:
        if version in self._done:
            return
        self._done.add(version)
        found = self._ledger.version(version)
        tokens = found.tokens_total if found else None
        at = found.t_run if found else t
        for name, value in evaluation.figures.items():
            self._events.metric(at, site, name, value, tokens=tokens, version=version)
        rounded = {k: round(v, 5) for k, v in evaluation.figures.items()}
        wrote = {"sample": evaluation.sample} if evaluation.sample else {}
        self._events.event(t, "evaluation", site=site, version=version, **rounded, **wrote)
