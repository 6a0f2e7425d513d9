"""Training a run again from its record: the same blocks in the same order from the same states give the same weights.

The ledger keeps, with every committed contribution, the blocks that it used and its lineage: which parameters were loaded
before which step, which version came in and what was taken away with it, which inner state, what progress the schedules saw, and
which refused work was shed. On the same kind of
machine, with as many threads, what comes out equals the stored weights bit for bit; where it does not, the record or the
weights are wrong.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from windfall.errors import DataError
from windfall.federation.clipping import scaled
from windfall.federation.inner_mean import StatePart, stream_mean
from windfall.federation.merge import Outer, combine
from windfall.store.blobs import MemoryBlob
from windfall.store.ledger import Ledger
from windfall.store.records import Received, Version
from windfall.store.tensors import Tensors
from windfall.wire import codec

if TYPE_CHECKING:
    from windfall.train.trainer import Trainer

#: Makes the trainer of a life of a site (name and generation), with version 0 as its parameters.
MakeTrainer = Callable[[str, int], "Trainer"]


@dataclass(frozen=True)
class _Cut:
    """One cut of one life of a site, committed or refused."""

    cut: int
    first_step: int
    last_step: int
    consumed: list[Mapping[str, Any]]
    lineage: list[list[Any]]
    codec: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Cut:
        return cls(record["cut"], record["first_step"], record["last_step"], record["consumed"], record["lineage"], record["codec"])

    def blocks(self) -> list[int]:
        """Blocks in the order of training."""
        return [b for c in self.consumed for b in range(c["start"], c["end"])]


@dataclass
class _Life:
    """One generation of a site, played as far as was needed."""

    trainer: Trainer
    cuts: list[_Cut]
    played: int = 0
    steps: int = 0
    progress: float = 0.0
    start: float = 0.0
    rate: float = 1.0
    #: The version that the parameters are built on.
    base: Tensors = field(default_factory=dict)
    #: By cut: what it sent, and what rounding left.
    sent: dict[int, Tensors] = field(default_factory=dict)
    rest: dict[int, Tensors] = field(default_factory=dict)
    #: Cuts whose work is in no version that the site holds.
    open: set[int] = field(default_factory=set)
    #: What the next change of version adds besides.
    moves: list[tuple[float, Tensors]] = field(default_factory=list)


class Replay:
    """A run's versions, one after another, trained again."""

    def __init__(self, ledger: Ledger, initial: Tensors, make_trainer: MakeTrainer, outer: Outer) -> None:
        """``initial`` is version 0; ``outer`` as the run's."""
        self._make = make_trainer
        self._outer = outer
        self._versions: list[tuple[Version, list[Received]]] = [(v, ledger.contributions(v.version)) for v in ledger.versions()]
        self._cuts = _all_cuts([c for _, made_of in self._versions for c in made_of])
        self._lives: dict[tuple[str, int], _Life] = {}
        self._weights: dict[int, Tensors] = {0: initial}
        self._momentum: Tensors | None = None
        self._residual: Tensors | None = None
        lineages = [op for cuts in self._cuts.values() for c in cuts for op in c.lineage]
        #: What will be needed later on, so that nothing else has to be kept.
        self._loaded = {int(op[2]) for op in lineages if op[1] in ("load", "version")}
        self._own: dict[tuple[str, int, int], bytes] = {}
        #: By life of a site: the cuts at which another site was given its inner state; and those states.
        self._given: dict[tuple[str, int], set[int]] = defaultdict(set)
        for op in lineages:
            match op[1:]:
                case ["inner", "sent", str(giver), int(), int(generation), int(cut)]:
                    self._given[giver, generation].add(self._cut_by(giver, generation, cut))
        for version, _ in self._versions:
            for site, generation, cut, _ in version.inner_mean.cuts if version.inner_mean else ():
                self._given[site, generation].add(cut)
        self._sent: dict[tuple[str, int, int], bytes] = {}

    def versions(self) -> Iterator[tuple[Version, Tensors]]:
        """Every version with the weights that training it again gives; shapes as in the run's files.

        Raises:
            DataError: the record has a gap; it says where.
        """
        yield self._versions[0][0], self._weights[0]
        for (before, _), (version, made_of) in zip(self._versions, self._versions[1:], strict=False):
            for c in made_of:
                self._play(c.site, c.generation, c.cut)
            weights = self._weights[before.version]
            momentum = self._momentum if set(before.sites) == {c.site for c in made_of} else None
            new = self._weights[version.version] = self._merged(weights, version, made_of, momentum)
            if before.version not in self._loaded:
                del self._weights[before.version]
            yield version, new

    def _merged(self, weights: Tensors, version: Version, made_of: list[Received], momentum: Tensors | None) -> Tensors:
        """What these contributions make of ``weights``, as ``federation.merger`` does it; outer state goes on."""
        zero = {n: np.zeros_like(w) for n, w in weights.items()}

        def sent(c: Received) -> Tensors:
            whole, scale = self._lives[c.site, c.generation].sent[c.cut], version.scale(c.site, c.generation, c.cut)
            return whole if scale == 1.0 else {n: scaled(v.copy(), scale) for n, v in whole.items()}

        alone = None if version.alone is not None or not version.clipped else False
        moved, self._momentum = combine(zero, made_of, sent, self._outer, momentum, alone=alone)
        if version.alone is None:
            if self._residual is not None:
                moved = {n: m + self._residual[n] for n, m in moved.items()}
            rounded = _rounded(moved, version.codec)
            self._residual = {n: m - rounded[n] for n, m in moved.items()} if version.codec != "fp32" else None
            moved = rounded
        return {n: w + moved[n] for n, w in weights.items()}

    def _life(self, site: str, generation: int) -> _Life:
        if (site, generation) not in self._lives:
            self._lives[site, generation] = _Life(self._make(site, generation), self._cuts[site, generation])
        return self._lives[site, generation]

    def _play(self, site: str, generation: int, cut: int) -> None:
        """Train a life up to its cut ``cut``."""
        life = self._life(site, generation)
        while life.played < len(life.cuts) and life.cuts[life.played].cut <= cut:
            self._train(life, life.cuts[life.played], site, generation)
            life.played += 1

    def _train(self, life: _Life, c: _Cut, site: str, generation: int) -> None:
        if c.first_step != life.steps:
            raise DataError(
                f"the record has a gap: {site}, generation {generation}, goes on at step {c.first_step} after step {life.steps}"
            )
        blocks, tokens, at = c.blocks(), 0, 0
        per_block = life.trainer.tokens_per_step // life.trainer.blocks_per_step
        count = life.trainer.blocks_per_step
        for step in range(c.last_step - c.first_step):
            for op in (op for op in c.lineage if op[0] == step):
                if op[1] == "size":
                    count = int(op[2])
                else:
                    self._apply(life, op, site, generation)
            if at + count > len(blocks):
                raise DataError(f"the record of {site}, generation {generation}, has fewer blocks than steps in cut {c.cut}")
            life.progress = max(life.progress, life.start + life.rate * tokens)
            life.trainer.step(blocks[at : at + count], life.progress)
            at += count
            if not life.trainer.skipped:
                tokens += per_block * count
        for op in (op for op in c.lineage if op[0] == c.last_step - c.first_step):
            self._apply(life, op, site, generation)
        life.steps = c.last_step
        self._own[site, generation, life.steps] = life.trainer.inner(exact=True)
        if c.cut in self._given[site, generation]:
            self._sent[site, generation, c.cut] = life.trainer.inner()
        rest = life.trainer.weights()
        for name, value in rest.items():
            value -= life.base[name]
            for earlier in sorted(life.open):
                value -= life.sent[earlier][name]
        life.sent[c.cut] = _rounded(rest, c.codec)
        if c.codec != "fp32":
            life.rest[c.cut] = {n: v - life.sent[c.cut][n] for n, v in rest.items()}
        life.open.add(c.cut)

    def _apply(self, life: _Life, op: list[Any], site: str, generation: int) -> None:
        match op[1:]:
            case ["order", start, rate]:
                life.start, life.rate = float(start), float(rate)
            case ["load", version]:
                life.base = self._weights[int(version)]
                life.trainer.load(life.base)
            case ["move", sign, "sent" | "rest" as what, int(earlier), int(cut)]:
                other = self._life(site, earlier)
                self._play(site, earlier, cut)
                life.moves.append((float(sign), (other.sent if what == "sent" else other.rest)[cut]))
                if what == "sent":
                    life.open.discard(cut)
            case ["version", version]:
                before, life.base = life.base, self._weights[int(version)]
                moves = [(sign, move.__getitem__) for sign, move in life.moves]
                life.trainer.rebase(before.__getitem__, life.base.__getitem__, moves)
                life.moves.clear()
            case ["shed", _]:
                return
            case ["inner", "reset"]:
                life.trainer.reset_inner()
            case ["inner", "sent", str(giver), int(), int(generation), int(cut)]:
                life.trainer.load_inner(self._given_state(giver, generation, cut))
            case ["inner", "sent", str(giver), int() | str() as version]:
                # Of a record that does not say at which cut; it names the version, or the file that is named after it.
                life.trainer.load_inner(self._left_state(giver, _version_in(version)))
            case ["inner", "mean", int(version), int(generation_), int(cut), int(steps)]:
                mean = self._mean(version)
                life.trainer.shift_inner(mean, self._given_state(site, generation_, cut), steps)
            case ["inner", "own", int(earlier), int(steps)]:
                life.trainer.load_inner(self._own_state(site, earlier, steps))
            case _:
                raise DataError(f"the record of {site}, generation {generation}, has an entry that is not known: {op}")

    def _cut_by(self, site: str, generation: int, cut: int) -> int:
        """The newest cut with steps of a life, up to ``cut``, after which it may have cut without any; -1: there is none."""
        return max((c.cut for c in self._cuts[site, generation] if c.cut <= cut), default=-1)

    def _given_state(self, site: str, generation: int, cut: int) -> bytes:
        """The inner state that a site handed in at a cut. It may have gone on training since."""
        self._play(site, generation, cut)
        found = self._sent.get((site, generation, self._cut_by(site, generation, cut)))
        if found is None:
            raise DataError(f"the record has a gap: {site}, generation {generation}, has no cut up to {cut}")
        return found

    def _mean(self, number: int) -> bytes:
        """The mean of inner states that went with a version."""
        version = next((v for v, _ in self._versions if v.version == number), None)
        if version is None or version.inner_mean is None:
            raise DataError(f"the record has a gap: with version {number} goes no mean of inner states")
        parts = [
            StatePart(site, generation, cut, tokens, MemoryBlob(self._given_state(site, generation, cut)))
            for site, generation, cut, tokens in version.inner_mean.cuts
        ]
        made = io.BytesIO()
        stream_mean(parts, made)
        return made.getvalue()

    def _left_state(self, site: str, version: int) -> bytes:
        """The inner state that a site handed in when it left: that of its newest life by then, as that life ended."""
        lives = [c.generation for v, made_of in self._versions if v.version <= version for c in made_of if c.site == site]
        if not lives:
            raise DataError(f"the record has a gap: {site} had handed nothing in by version {version}")
        life = self._life(site, max(lives))
        self._play(site, max(lives), max(c.cut for c in life.cuts))
        return life.trainer.inner()

    def _own_state(self, site: str, generation: int, steps: int) -> bytes:
        """The inner state that an earlier life of a site left behind."""
        for c in self._cuts[site, generation]:
            if c.last_step <= steps:
                self._play(site, generation, c.cut)
        found = self._own.get((site, generation, steps))
        if found is None:
            raise DataError(f"the record has a gap: no cut of {site}, generation {generation}, ends at step {steps}")
        return found


def _version_in(named: int | str) -> int:
    """The version of a number, or of a file name such as ``inner-SITE-v000007-abc123.safetensors``. Raises DataError."""
    found = re.search(r"-v(\d+)-[0-9a-f]+\.safetensors$", named) if isinstance(named, str) else None
    if isinstance(named, str) and not found:
        raise DataError(f"the record names an inner state that is not known: {named}")
    return int(found[1]) if found else int(named)


def _rounded(tensors: Tensors, name: str) -> Tensors:
    """What a codec makes of tensors."""
    return codec.decode(codec.encode(tensors, name), {n: t.shape for n, t in tensors.items()})


def _all_cuts(contributions: Sequence[Received]) -> dict[tuple[str, int], list[_Cut]]:
    """By life of a site: its cuts in order, those refused as well."""
    found: dict[tuple[str, int], dict[int, _Cut]] = defaultdict(dict)

    def note(site: str, record: Mapping[str, Any]) -> None:
        found[site, int(record["generation"])][int(record["cut"])] = _Cut.of(record)
        for op in record["lineage"]:
            if op[1] == "shed":
                note(site, op[2])

    for c in contributions:
        note(c.site, c.header)
    return defaultdict(list, {life: [cuts[n] for n in sorted(cuts)] for life, cuts in found.items()})
