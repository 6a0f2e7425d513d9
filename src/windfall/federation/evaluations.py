"""Which versions have been evaluated, and by what: sites evaluate, the coordinator only keeps the figures."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from windfall.errors import Refused
from windfall.store.ledger import Ledger
from windfall.store.records import Version
from windfall.store.telemetry import Events
from windfall.wire.fields import Fields, finite, text

_FIGURES = ("val_bpb", "val_nats_per_byte")
#: Characters of a sample that are kept.
_SAMPLE_CHARACTERS = 4000


@dataclass(frozen=True)
class _Evaluation:
    figures: dict[str, float]
    #: What the parameters wrote.
    sample: str
    #: Wall seconds that it took.
    seconds: float | None


class Evaluations:
    """A site evaluates the version that it holds, when it is asked to. Sites take turns."""

    def __init__(self, ledger: Ledger, events: Events, *, every_tokens: int = 0) -> None:
        """``every_tokens``: between two versions that are evaluated; the last one always is."""
        self._ledger = ledger
        self._events = events
        self._every_tokens = every_tokens
        self._done: set[int] = set()
        #: Progress of the newest version that a site was asked to evaluate.
        self._asked_at: int | None = None
        #: How often each site was asked.
        self._turns: dict[str, int] = {}

    def known(self, versions: Iterable[int]) -> None:
        """These need no evaluation any more."""
        self._done.update(versions)
        newest = self._ledger.version(max(self._done)) if self._done else None
        self._asked_at = newest.tokens_total if newest else None

    def has(self, version: int) -> bool:
        """Whether a version has been evaluated."""
        return version in self._done

    def due(self, version: Version) -> bool:
        """Whether a version is to be evaluated."""
        if version.version in self._done:
            return False
        return self._asked_at is None or version.tokens_total >= self._asked_at + self._every_tokens

    def whose_turn(self, sites: Collection[str]) -> str:
        """Which of the sites evaluates the newest version."""
        site = min(sorted(sites), key=lambda s: self._turns.get(s, 0))
        self._turns[site] = self._turns.get(site, 0) + 1
        self._asked_at = self._ledger.head().tokens_total
        return site

    def take(self, t: float, site: str, entry: dict[str, Any]) -> None:
        """A site has evaluated. Raises Refused if what it says is malformed, or no version of this run's."""
        f = Fields(entry)
        sample = text(entry.get("sample", ""), _SAMPLE_CHARACTERS)
        found = _Evaluation({k: f.number(k) for k in _FIGURES}, sample, finite(entry.get("seconds")))
        version = f.count("version")
        if self._ledger.version(version) is None:
            raise Refused(f"version is {version}, and there is none of that number")
        self._keep(t, site, version, found)

    def _keep(self, t: float, site: str, version: int, evaluation: _Evaluation) -> None:
        if version in self._done:
            return
        self._done.add(version)
        found = self._ledger.version(version)
        tokens = found.tokens_total if found else None
        at = found.t_run if found else t
        took = None if evaluation.seconds is None else {"seconds": evaluation.seconds}
        for name, value in evaluation.figures.items():
            self._events.metric(at, site, name, value, tokens=tokens, version=version, detail=took)
        rounded = {k: round(v, 5) for k, v in evaluation.figures.items()}
        wrote = {"sample": evaluation.sample} if evaluation.sample else {}
        self._events.event(t, "evaluation", site=site, version=version, **rounded, **wrote)
