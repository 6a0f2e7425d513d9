"""Drives the loop in time: it ticks, waits for what must be done first, grants run time to the next tick, and waits for the sites.

A gated clock stands still while a site starts or drains and while a round closes, and it moves on to the next tick only when every
site has done the work that it owes by then. On the calendar nothing waits. On both, operators' requests are looked for in wall time
and take effect at once. Tests use this function too.
"""

from __future__ import annotations

from typing import Protocol

from windfall import clock
from windfall.fleet.loop import Loop
from windfall.units import clock_text

#: How often operators' requests and failed sites are looked for (wall time).
_WATCH_S = 0.25


class Host(Protocol):
    """What the driving of a loop needs from the process that does it; all times are run time."""

    def granted(self, t: float) -> None:
        """Sites may work up to run time ``t``."""
        ...

    def idle(self) -> None:
        """Called again and again while something is waited for. It pauses a little, so that waiting costs no processor time."""
        ...

    def stop_asked(self) -> str:
        """Why to stop, or an empty string."""
        ...

    def noted(self, t: float) -> None:
        """All that is due at ``t`` has been done, and something may have changed."""
        ...

    def moved(self, t: float) -> None:
        """Run time has moved to ``t``."""
        ...


def serve(loop: Loop, tick_s: float, host: Host, *, until: float | None = None) -> str:
    """Run the loop until it is done, has stopped, or run time is ``until``: `done`, `interrupted` or `until`."""
    gated = loop.clock.gated
    while True:
        t = loop.clock.now()
        t_next = t + tick_s
        loop.stopping = host.stop_asked()
        loop.tick(t, clock.monotonic(), t_next)
        while not (_work_off(loop, t, t_next, host) if gated else _pass_time(loop, t, t_next, host)):
            # A stop was asked for meanwhile, so everything is decided again at the same run time.
            loop.stopping = host.stop_asked()
            loop.tick(t, clock.monotonic(), t_next)
        host.noted(t)
        if loop.done():
            loop.work.tick(t, t, loop.controller.sites)  # sites that are off give their leases back
            loop.book(t, t)
            return "done" if loop.work.complete() else "interrupted"
        loop.clock.move_to(t_next)
        loop.book(t, loop.clock.now())
        host.moved(loop.clock.now())
        if until is not None and loop.clock.now() >= until:
            return "until"


def _work_off(loop: Loop, t: float, t_next: float, host: Host) -> bool:
    """On a gated clock: settle everything at ``t``, then let sites work until ``t_next``. False: a stop was asked for meanwhile."""
    watched = clock.monotonic()
    while why := loop.owes(t):
        loop.waiting = why
        host.idle()
        if host.stop_asked() and not loop.stopping:
            return False
        watched = _obey(loop, t, watched)
        loop.settle(t, clock.monotonic(), t_next)
    loop.waiting = ""
    if loop.done():
        return True
    host.noted(t)
    host.granted(t_next)
    watched = clock.monotonic()
    while not loop.clock.reached(t_next) or (why := loop.behind(t_next)):
        loop.waiting = f"{why}: its optimizer steps until {clock_text(t_next)}" if why else ""
        host.idle()
        if host.stop_asked() and not loop.stopping:
            return False
        now = clock.monotonic()
        if now - watched >= _WATCH_S:
            watched = now
            if loop.obey(t):
                loop.settle(t, now, t_next)
            else:
                loop.watch(t, now)
        else:
            loop.poll()
    loop.waiting = ""
    return True


def _pass_time(loop: Loop, t: float, t_next: float, host: Host) -> bool:
    """On the calendar: carry on with what arrives until ``t_next``. False if a stop was asked for meanwhile."""
    host.granted(t_next)
    watched = clock.monotonic()
    while not loop.clock.reached(t_next):
        host.idle()
        if host.stop_asked() and not loop.stopping:
            return False
        watched = _obey(loop, t, watched)
        loop.settle(t, clock.monotonic(), t_next)
        host.noted(t)
        if loop.done():
            break
    return True


def _obey(loop: Loop, t: float, watched: float) -> float:
    """Let the loop obey the operator if `_WATCH_S` have passed since ``watched`` (monotonic wall time); when it last obeyed."""
    now = clock.monotonic()
    if now - watched < _WATCH_S:
        return watched
    loop.obey(t)
    return now
