"""The coordinator's end of what people ask (`run.requests`): it takes each request up once, in the order in which they were asked.

A request and what it does are one transaction of the ledger, under the request's id, so that one whose file was not removed in time
is not done again. What was done is told in an event with who and why; an event that a crash has kept from being written is told by
the next coordinator. A hold, a drain and a stop take effect at once; what changes decisions (`set`) takes effect as a tick begins;
a larger budget when the sites have handed in their work, as each is to start again under the new schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock, faults
from windfall.errors import ConfigError
from windfall.run.requests import BUDGET, OF_SITES, Request, read, words
from windfall.store.ledger import Ledger
from windfall.store.records import Hold, TakenRequest
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir
from windfall.store.telemetry import Telemetry

if TYPE_CHECKING:
    from windfall.policy.base import Decision
    from windfall.run.settings import LiveSettings

#: So many requests are taken up at a time, so that no flood of them keeps a tick waiting.
_AT_A_TIME = 100
#: Of so many that were taken up last it is looked whether their events were written.
_LOOKED_BACK = 200


class Operator:
    """Takes requests up, and says which sites they keep off (a `fleet.loop.OperatorHolds`)."""

    def __init__(
        self, run: RunDir, ledger: Ledger, telemetry: Telemetry, *, sites: set[str],
        stands: Callable[[], Mapping[str, str]] = dict, settings: LiveSettings | None = None,
    ) -> None:  # fmt: skip
        """``stands``: the sites' states now, and under "" the run's mode; ``settings`` makes what is `set`."""
        self._run = run
        self._folder = run.operator
        self._ledger = ledger
        self._telemetry = telemetry
        self._sites = sites
        self._stands = stands
        self._settings = settings
        self._holds = {name: hold for name, hold in ledger.holds().items() if name in sites}
        #: Files that are done with and could not be removed.
        self._seen: set[str] = set()
        #: Why the run is to end, or empty.
        self.stopped = ""
        #: Why sites are to hand in their work, so that the run can go on with another budget; or empty.
        self.pausing = ""
        #: The request for that, and its file.
        self._budget: tuple[Path, Request] | None = None
        self._grid: Callable[[float, bool], None] | None = None
        self._go_on()

    def _go_on(self) -> None:
        """Go on where the last coordinator ended: a stop that it took up still counts, and what it did not tell is told."""
        taken = self._ledger.last_requests(_LOOKED_BACK)
        for one in taken:
            began = self._run_began()
            if one.asked.get("kind") == "stop" and one.applied and began is not None and one.t_wall >= began:
                self.stopped = self._stop_words(Request.of(one.asked))
        if not taken:
            return
        told = {e.detail.get("request") for _, e in self._telemetry.events_of(*_TOLD)}
        first = self._telemetry.events_of("started", "resumed")
        for one in taken:  # of a telemetry that was begun anew, what was before it is not told again
            if one.id not in told and first and one.t_wall >= first[0][1].t_wall:
                self._tell(one, Request.of(one.asked))

    # -- taking up -------------------------------------------------------------------------------------------

    def begin(self, t: float) -> None:
        """A tick begins: what changes decisions is taken up too."""
        self._look(t, tick=True)
        if self._grid is not None:
            self._grid(t, True)

    def look(self, t: float) -> None:
        """Take up what has been asked since the last look, except what waits for a tick."""
        self._look(t, tick=False)
        if self._grid is not None:
            self._grid(t, False)

    # -- what this process asks itself, for the grid ---------------------------------------------------------

    def hears(self, grid: Callable[[float, bool], None]) -> None:
        """Have ``grid`` look, with whether a tick begins, each time that what people ask has been taken up."""
        self._grid = grid

    @property
    def holds(self) -> Mapping[str, Hold]:
        """By site, what keeps it off."""
        return self._holds

    def ask(self, t: float, asked: Request) -> bool:
        """Take up at once what this process asks: a hold, a release or, as a tick begins, a `set`. False if it is refused.

        What was taken up before under its id is not done again.
        """
        if self._ledger.request(asked.id) is not None:
            return True
        try:
            if wrong := asked.wrong():
                raise ConfigError(wrong)
            if asked.kind == "set":
                self._make(t, asked)
            else:
                self._expect(asked)
                self._site(t, asked)
        except ConfigError as e:
            self._refuse(t, asked, str(e))
            return False
        return True

    def _look(self, t: float, *, tick: bool) -> None:
        if not self._folder.is_dir():
            return
        waiting = [p for p in sorted(self._folder.glob("*.json")) if p.name not in self._seen]
        for path in waiting[:_AT_A_TIME]:
            try:
                asked = read(path)
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as e:
                self._telemetry.event(t, "refused", reason=f"operator request {path.name}: {type(e).__name__}: {e}")
                self._remove(t, path)
                continue
            if self._ledger.request(asked.id) is None:
                if asked.kind == "set" and (not tick or (self._budget and self._budget[0] == path)):
                    continue
                if not self._take(t, asked, path):
                    continue
            self._remove(t, path)

    def _take(self, t: float, asked: Request, path: Path) -> bool:
        """Take a request up; False if it waits on."""
        try:
            if asked.kind == "set":
                return self._set(t, asked, path)
            self._expect(asked)
            if asked.kind == "stop":
                self._stop(t, asked)
            else:
                self._site(t, asked)
        except ConfigError as e:
            self._refuse(t, asked, str(e))
        faults.reach("after-request", path)
        return True

    def _remove(self, t: float, path: Path) -> None:
        self._seen.add(path.name)
        try:
            path.unlink(missing_ok=True)
        except OSError as e:  # it is another user's file: that must not end the run
            self._telemetry.event(t, "warning", reason=f"operator request {path.name} cannot be removed: {e.strerror}")

    def _expect(self, asked: Request) -> None:
        """Raise ConfigError unless things stand as the asker saw them."""
        if asked.kind in OF_SITES and asked.site not in self._sites:
            raise ConfigError(f"{asked.site}: no such site in this run")
        if asked.expect is None:
            return
        state = self._stands().get(asked.site or "", "")
        now = {state} if asked.site is None else {state, "held" if asked.site in self._holds else "free"}
        seen = asked.expected()
        if not now & set(seen):
            so = ", ".join(sorted(now - {""})) or "unknown"
            raise ConfigError(f"{asked.site or 'the run'} is {so}, and not {' or '.join(seen)} as its asker saw it")

    def _site(self, t: float, asked: Request) -> None:
        site = asked.site or ""
        if asked.kind == "release":
            self._ledger.unhold(site, taken := _taken(t, asked))
            self._holds.pop(site, None)
        else:
            hold = Hold(site, asked.kind, t, None if asked.for_s is None else t + asked.for_s, asked.who, asked.why)
            self._ledger.hold(hold, taken := _taken(t, asked))
            self._holds[site] = hold
        self._tell(taken, asked)

    def _stop(self, t: float, asked: Request) -> None:
        began = self._run_began()
        if asked.at is not None and began is not None and asked.at < began:
            raise ConfigError("the run has been started again since")
        self._ledger.take(taken := _taken(t, asked))
        self.stopped = self._stop_words(asked)
        self._tell(taken, asked)

    def _set(self, t: float, asked: Request, path: Path) -> bool:
        if self._settings is None:
            raise ConfigError("nothing can be set here")
        self._settings.check(t, asked)
        if asked.key == BUDGET and self._budget is None:
            # The sites end first: each begins again under the schedule that the new budget has. The file stays until then.
            self._budget = (path, asked)
            self.pausing = f"{asked.who} has asked for {asked.what()}: sites hand in their work and start again"
            return False
        if asked.key == BUDGET:
            return False  # one after the other
        self._make(t, asked)
        return True

    def go_on_with_budget(self, t: float) -> str:
        """All sites have ended, for another budget: make it so. What came of it, in words."""
        assert self._budget is not None
        path, asked = self._budget
        self._budget, self.pausing = None, ""
        try:
            self._make(t, asked)
            said = f"{asked.what()}, as {asked.who} has asked"
        except ConfigError as e:
            self._refuse(t, asked, str(e))
            said = f"{asked.what()} is refused: {e}"
        faults.reach("after-request", path)
        self._remove(t, path)
        return said

    def _make(self, t: float, asked: Request) -> None:
        assert self._settings is not None
        taken = _taken(t, asked)
        warning = self._settings.apply(t, asked, taken)
        self._tell(taken, asked)
        if warning:
            self._telemetry.event(t, "warning", reason=warning)

    def _refuse(self, t: float, asked: Request, why: str) -> None:
        self._ledger.take(taken := _taken(t, asked, refused=why))
        self._tell(taken, asked)

    def over(self, t: float) -> None:
        """The run is done: what still waits is refused."""
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            try:
                asked = read(path)
            except (ValueError, OSError):
                continue
            if self._ledger.request(asked.id) is None:
                self._refuse(t, asked, "the run is done")
            self._remove(t, path)

    # -- telling ---------------------------------------------------------------------------------------------

    def _tell(self, taken: TakenRequest, asked: Request) -> None:
        """The event of a request that has been taken up."""
        said: dict[str, Any] = {"who": asked.who, "request": asked.id}
        if not taken.applied:
            self._telemetry.event(taken.t_run, "request_refused", site=asked.site, what=asked.what(), reason=taken.reason, **said)
            return
        said["reason"] = asked.why or "no reason given"
        until = None if asked.for_s is None else taken.t_run + asked.for_s
        match asked.kind:
            case "hold":
                self._telemetry.event(taken.t_run, "held", site=asked.site, until=until, **said)
            case "drain":
                self._telemetry.event(taken.t_run, "drain_asked", site=asked.site, until=until, **said)
            case "release":
                self._telemetry.event(taken.t_run, "released", site=asked.site, **said)
            case "stop":
                self._telemetry.event(taken.t_run, "stop_asked", **said)
            case "set":
                for c in self._ledger.configurations():
                    made = c.t_run == taken.t_run and any((x["key"], x["new"]) == (asked.key, asked.value) for x in c.changes)
                    for x in c.changes if made else ():
                        self._telemetry.event(
                            taken.t_run, "configuration_changed", site=x["site"], number=c.number, key=x["key"], old=x["old"],
                            new=x["new"], **said,
                        )  # fmt: skip

    def _run_began(self) -> float | None:
        """Wall time at which the present `windfall run` began, if that is known. A stop asked before that is of an earlier one."""
        try:
            return (self._run.root / SUPERVISOR_LOCK).stat().st_mtime
        except OSError:
            return None

    @staticmethod
    def _stop_words(asked: Request) -> str:
        return f"stopped by {asked.who}" + (f": {asked.why}" if asked.why else "")

    # -- keeping off -----------------------------------------------------------------------------------------

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """Sites that must be off whatever their policy says, each with the reason."""
        self.look(t)  # so that a resumed run's first decision knows what was asked meanwhile
        for site, hold in list(self._holds.items()):
            over = hold.until is not None and t >= hold.until
            # A drain ends one on-period. If it has no time of its own it is over when that on-period would have ended.
            over = over or (hold.kind == "drain" and hold.until is None and not (site in decisions and decisions[site].on))
            if over:
                self._ledger.unhold(site)
                del self._holds[site]
                self._telemetry.event(t, "released", site=site, who=hold.who, reason=f"the {hold.kind} is over")
        return {site: words(hold) for site, hold in self._holds.items()}


#: The kinds of events that tell of a request.
_TOLD = ("held", "drain_asked", "released", "stop_asked", "request_refused", "configuration_changed")


def _taken(t: float, asked: Request, *, refused: str = "") -> TakenRequest:
    return TakenRequest(asked.id, t, clock.wall(), asked.as_json(), not refused, refused)
