"""All runs that are looked at, and what is kept of them for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any

from windfall.errors import StoreError, WindfallError
from windfall.ui.web.answers import Answers, KeptAnswer
from windfall.ui.web.guard import Bad
from windfall.ui.web.look import RunLook, as_json, unreadable
from windfall.view.run_folders import RunFolders
from windfall.view.state import run_state

#: Runs of which something is kept; the one that was looked at longest ago goes first.
_MOST = 32
#: A state may change without a file: a coordinator that is killed writes nothing.
_STATE_S = 2.0


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in the list of runs. ``error``: why it cannot be read, or empty; then figures are None."""

    name: str
    state: str
    mode: str
    tokens_committed: int | None
    tokens_budget: int | None
    val_bpb: float | None
    energy_kwh: float | None
    kg_co2: float | None
    sites: int | None
    t_run: float | None
    changed: float
    error: str


class Looks:
    """Looks by name, and answers that several may ask for."""

    def __init__(self, folders: RunFolders, *, compares: bool = True) -> None:
        self.folders = folders
        self._compares = compares
        self.answers = Answers()
        self._looks: OrderedDict[str, RunLook] = OrderedDict()

    def get(self, name: str) -> RunLook:
        """The look at a run. Raises Bad (404) where there is no such run."""
        run = self.folders.get(name)
        if run is None:
            raise Bad(404, "no run of that name is here (any more)")
        look = self._looks.get(name)
        if look is None or look.run != run:
            look = self._looks[name] = RunLook(name, run, self._compares)
        self._looks.move_to_end(name)
        while len(self._looks) > _MOST:
            self._looks.popitem(last=False)
        return look

    async def answer(
        self, look: RunLook, key: tuple[Hashable, ...], make: Callable[[], Any], *, least_s: float = 0.3, most_s: float = 3600.0
    ) -> KeptAnswer:  # fmt: skip
        """What ``make`` gives, as JSON, for all who ask for it at the same time."""
        return await self.answers.get((look.name, *key), look.mark(), as_json(make), least_s=least_s, most_s=most_s)

    async def whole(self, name: str) -> KeptAnswer:
        """Header and state of a run."""
        look = self.get(name)
        return await self.answer(look, ("whole",), look.whole, most_s=_STATE_S)

    def listed(self, search: str, offset: int, limit: int) -> dict[str, Any]:
        """Runs whose name holds ``search``, the one last written to first, and how many there are."""
        wanted = search.casefold()
        found = [f for f in self.folders.all() if wanted in f.name.casefold()]
        return {"total": len(found), "runs": [asdict(_listed(f.name, f.changed, self)) for f in found[offset : offset + limit]]}

    async def close(self) -> None:
        """End what is under way."""
        for look in self._looks.values():
            await look.close()


def _listed(name: str, changed: float, looks: Looks) -> ListedRun:
    run = looks.folders.get(name)
    try:
        if run is None:
            raise StoreError("it has just gone")
        s = run_state(run)
    except WindfallError as e:
        return ListedRun(name, "unreadable", "", None, None, None, None, None, None, None, changed, unreadable(e))
    return ListedRun(
        name, s.state, s.mode, s.tokens_committed, s.tokens_budget, s.val_bpb, s.energy_kwh, s.kg_co2, len(s.sites), s.t_run,
        changed, "",
    )  # fmt: skip
