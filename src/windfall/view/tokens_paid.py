"""What the sites of a run trained, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from windfall.config.schema import Config, SiteTable
from windfall.energy.levels import tokens_per_s_at
from windfall.store.rundir import RunDir
from windfall.store.telemetry_energy import EnergyRow
from windfall.view.state import RunState

#: States of a run whose sites hold nothing any more.
ENDED = ("done", "interrupted")


@dataclass(frozen=True, slots=True)
class TokensPaid:
    """What the sites trained, and what became of it: ``paid`` is what they took steps on, by their own count.

    ``repeated`` was trained and never handed in (a crash), so that others trained it again. ``in_hand``, of a run that has not
    ended, may still be handed in and committed. paid = committed + in_hand + lost + repeated.
    ``estimated``: sites whose own count is not here; theirs is estimated from their energy. ``uncounted``: tokens that were handed
    in and are in no site's count, as where a disk was lost; they are part of ``paid``.
    """

    committed: int
    lost: int
    repeated: int
    paid: int
    estimated: tuple[str, ...]
    uncounted: int = 0
    in_hand: int = 0


def tokens_paid(run: RunDir, config: Config, state: RunState, rows: Sequence[EnergyRow], lives: dict[str, int]) -> TokensPaid:
    """What sites have trained, by their own count where it is here. ``lives``: the generations of sites that have had any."""
    paid, estimated = 0, []
    for name in state.sites:
        count = own_count(run, name)
        if count is None and name not in lives:
            continue
        if count is None:
            estimated.append(name)
            site = next((s for s in config.site if s.name == name), None)
            own = [r for r in rows if r.site == name and r.phase == "training"]
            count = max(state.sites[name].tokens, round(math.fsum(_trained_by(site, r) for r in own)) if site else 0)
        paid += count
    committed, lost = state.tokens_committed, state.work_lost.tokens
    # A step under way is counted when it is done, and handed in later: what is open is neither lost nor repeated.
    uncounted = max(0, committed + lost - paid)
    paid += uncounted
    rest = paid - committed - lost
    # As long as a run goes on, what sites have trained of the blocks that they hold is in their hands, and counts when it has come.
    open_ = (state.blocks["leased"] + state.blocks["received"]) * config.tokens_per_block if state.state not in ENDED else 0
    in_hand = min(rest, open_)
    return TokensPaid(committed, lost, rest - in_hand, paid, tuple(estimated), uncounted, in_hand)


def _trained_by(site: SiteTable, r: EnergyRow) -> float:
    """Tokens that a site trains with the energy of an entry, at the power level that the entry is of, or corrects."""
    if not site.power_levels:
        return r.joules / site.train_power_w * site.tokens_per_s
    # Of a correction the power is a difference: the seconds are in the entry that it corrects.
    return 0.0 if r.cause else (r.t1 - r.t0) * tokens_per_s_at(site, r.watts)


def own_count(run: RunDir, site: str) -> int | None:
    """How many tokens all lives of a site have trained, by its own files; None where they are not here."""
    folder = run.sites / site / "trained"
    try:
        lives = [f.read_bytes()[:20] for f in folder.iterdir()]
    except OSError:
        return None
    return sum(int(x) for x in lives if x.isdigit())
