"""Training a run again from its record: the same blocks in the same order from the same states give the same weights.

The ledger keeps, with every committed contribution, the blocks that it used and its lineage: which parameters were loaded
before which step, which inner state, what progress the schedules saw, and which refused work was shed. On the same kind of
machine, with as many threads, what comes out equals the stored weights bit for bit; where it does not, the record or the
weights are wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windfall.errors import DataError
from windfall.federation.merge import Outer, combine
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

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Cut:
        return cls(record["cut"], record["first_step"], record["last_step"], record["consumed"], record["lineage"])

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
    deltas: dict[int, Tensors] = field(default_factory=dict)


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
        lineages = [op for cuts in self._cuts.values() for c in cuts for op in c.lineage]
        #: What will be needed later on, so that nothing else has to be kept.
        self._loaded = {int(op[2]) for op in lineages if op[1] == "load"}
        self._own: dict[tuple[str, int, int], bytes] = {}

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
            new, self._momentum = combine(weights, made_of, lambda c, like=weights: self._delta(c, like), self._outer, momentum)  # type: ignore[misc]
            self._weights[version.version] = new
            if before.version not in self._loaded:
                del self._weights[before.version]
            yield version, new

    def _delta(self, c: Received, like: Tensors) -> Tensors:
        delta = self._lives[c.site, c.generation].deltas[c.cut]
        return codec.decode(codec.encode(delta, c.header["codec"]), c.header["codec"], like)

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
        life.deltas[c.cut] = life.trainer.cut()

    def _apply(self, life: _Life, op: list[Any], site: str, generation: int) -> None:
        match op[1:]:
            case ["order", start, rate]:
                life.start, life.rate = float(start), float(rate)
            case ["load", version]:
                life.trainer.load(self._weights[int(version)])
            case ["shed", applied, record]:
                if applied:
                    life.trainer.correct(life.deltas[record["cut"]], -1.0)
            case ["inner", "reset"]:
                life.trainer.reset_inner()
            case ["inner", "sent", str(giver), int(version)]:
                life.trainer.load_inner(self._left_state(giver, version))
            case ["inner", "own", int(earlier), int(steps)]:
                life.trainer.load_inner(self._own_state(site, earlier, steps))
            case _:
                raise DataError(f"the record of {site}, generation {generation}, has an entry that is not known: {op}")

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


def _all_cuts(contributions: Sequence[Received]) -> dict[tuple[str, int], list[_Cut]]:
    """By life of a site: its cuts in order, those refused as well."""
    found: dict[tuple[str, int], dict[int, _Cut]] = defaultdict(dict)

    def note(site: str, record: Mapping[str, Any]) -> None:
        found[site, int(record["generation"])][int(record["cut"])] = _Cut.of(record)
        for op in record["lineage"]:
            if op[1] == "shed":
                note(site, op[3])

    for c in contributions:
        note(c.site, c.header)
    return defaultdict(list, {life: [cuts[n] for n in sorted(cuts)] for life, cuts in found.items()})
