"""Driving the loop in time: tick, wait for what is owed, grant the next stretch, wait for it to be worked off.

On a gated clock run time stands still while a site starts, drains or a round closes, and moves on only when every
site has done what it owes by then. On the calendar nothing waits. Whichever it is, an operator's word is looked for in wall
time and acts at once. Tests drive the very same function.
"""

from __future__ import annotations

from typing import Protocol

from windfall import clock
from windfall.fleet.loop import Loop
from windfall.units import clock_text

_WATCH_S = 0.25


class Host(Protocol):
    """Whoever drives."""

    def granted(self, t: float) -> None:
        """Sites may work up to run time ``t``."""
        ...

    def idle(self) -> None:
        """Called over and over while there is something to wait for."""
        ...

    def stop_asked(self) -> str:
        """Why to stop, or an empty string."""
        ...

    def noted(self, t: float) -> None:
        """Something may have changed at ``t``."""
        ...

    def moved(self, t: float) -> None:
        """Run time has moved to ``t``."""
        ...


def serve(loop: Loop, tick_s: float, host: Host, *, until: float | None = None) -> str:
    """Run to the end (or to run time ``until``): `done`, `interrupted` or `until`."""
    gated = loop.clock.gated
    while True:
        t = loop.clock.now()
        t_next = t + tick_s
        loop.stopping = host.stop_asked()
        loop.tick(t, clock.monotonic(), t_next)
        while not (_work_off(loop, t, t_next, host) if gated else _pass_time(loop, t, t_next, host)):
            # A stop was asked for: decide again at the same run time.
            loop.stopping = host.stop_asked()
            loop.tick(t, clock.monotonic(), t_next)
        host.noted(t)
        if loop.done():
            loop.work.tick(t, t, loop.controller.sites)  # sites that are off give their leases back
            return "done" if loop.work.complete() else "interrupted"
        loop.clock.move_to(t_next)
        loop.book(t, loop.clock.now())
        host.moved(loop.clock.now())
        if until is not None and loop.clock.now() >= until:
            return "until"


def _work_off(loop: Loop, t: float, t_next: float, host: Host) -> bool:
    """Gated: settle everything at ``t``, then let sites work until ``t_next``. False if a stop came in between."""
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
    """Calendar: carry on with what arrives until ``t_next``. False if a stop came in between."""
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
    """What an operator asks acts at once, also while run time stands: when (wall) it was last looked for."""
    now = clock.monotonic()
    if now - watched < _WATCH_S:
        return watched
    loop.obey(t)
    return now
