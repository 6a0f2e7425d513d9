"""Command driver: the user's own commands turn a site on and off. What they are given and have to answer is in docs/drivers.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall.config.drivers import CommandTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.asking import FOR_A_PERSON, Answer, ask, last_line
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.machine import Observation, Observed
from windfall.store.files import read_json, write_json, write_secret

#: What the commands get of this process's environment in any case.
_USUAL = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR")
#: Exit codes with a meaning, as in BSD's sysexits.h: try again, and no permission.
_TEMPFAIL, _NOPERM = 75, 77
#: In the site's folder: the generation that was started last.
_NOTE = "started.json"
_LIVES = {Observed.STARTING, Observed.UP, Observed.STOPPING}


@dataclass(frozen=True)
class _Reported:
    state: Observed
    words: str
    generation: int | None


class CommandDriver:
    """One site. Implements ``fleet.driver.Driver``; it waits for the commands."""

    def __init__(self, site: str, table: CommandTable, run_id: str, starts: Starts, folder: Path) -> None:
        """``folder``: the site's in the run directory, for the files that `up` is given."""
        self._site, self._table, self._run_id, self._starts, self._folder = site, table, run_id, starts, folder

    def ensure_up(self, site: str, generation: int) -> None:
        seen = self._see()
        if seen.state in (Observed.STARTING, Observed.UP):
            if seen.generation in (None, generation):
                return
            raise Transient(f"{site}: generation {seen.generation} is still there")
        if seen.state is Observed.STOPPING:
            raise Transient(f"{site}: an earlier start is still stopping")
        start = self._starts.of(site, generation)
        self._carry_out("up", self._table.up, generation, self._lay_out(start))

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        try:
            if self._see().state is Observed.ABSENT:
                return
        except DriverError:
            pass  # what cannot be seen is asked to stop all the same
        more = {"WINDFALL_GRACE_S": f"{grace_s:g}", "WINDFALL_REASON": reason.replace("\0", " ")}
        self._carry_out("down", self._table.down, self._noted(), more)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        seen = self._see()
        return dict.fromkeys(sites, Observation(seen.state, seen.words))

    def list_owned(self, run_id: str) -> list[Owned]:
        if run_id != self._run_id:
            return []
        seen = self._see()
        if seen.state not in _LIVES:
            return []
        return [Owned(self._site, self._noted() if seen.generation is None else seen.generation, self._site)]

    # -- the commands ----------------------------------------------------------------------------------------

    def _see(self) -> _Reported:
        answer = self._ask("observe", self._table.observe, self._noted(), {})
        if answer.status:
            raise _refused("observe", answer)
        return _understood(answer.out)

    def _carry_out(self, name: str, command: list[str], generation: int, more: dict[str, str]) -> None:
        answer = self._ask(name, command, generation, more)
        if answer.status:
            raise _refused(name, answer)

    def _ask(self, name: str, command: list[str], generation: int, more: dict[str, str]) -> Answer:
        kept = self._table.environment
        env = {k: v for k, v in os.environ.items() if kept is None or k in kept or k in _USUAL}
        env |= {"WINDFALL_RUN": self._run_id, "WINDFALL_SITE": self._site, "WINDFALL_GENERATION": str(generation), **more}
        try:
            return ask(command, timeout_s=self._table.timeout_s, env=env)
        except DriverError as e:
            raise type(e)(f"{name}: {e}") from None

    def _lay_out(self, start: Start) -> dict[str, str]:
        """Write the files of a start, and note its generation; returns what `up` is told of it."""
        token, ca = self._folder / "token", self._folder / "ca.pem"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_secret(token, start.token)
            if start.ca:
                write_secret(ca, start.ca)
            write_json(self._folder / _NOTE, {"generation": start.generation}, durable=True)
        except OSError as e:
            kind = Permanent if e.errno in FOR_A_PERSON else Transient
            raise kind(f"{self._site}: {e.filename or self._folder} cannot be written: {e.strerror or e}") from None
        told = {"WINDFALL_ENDPOINT": start.endpoint, "WINDFALL_TOKEN_FILE": str(token.absolute())}
        return told | ({"WINDFALL_CA_FILE": str(ca.absolute())} if start.ca else {})

    def _noted(self) -> int:
        """The generation that was started last; 0 if none has been."""
        note = read_json(self._folder / _NOTE)
        generation = note.get("generation") if isinstance(note, dict) else None
        return generation if isinstance(generation, int) else 0


def _refused(name: str, answer: Answer) -> DriverError:
    told = last_line(answer.err) or f"it ended with status {answer.status} and said nothing on standard error"
    kind = {_TEMPFAIL: Transient, _NOPERM: Unauthorized}.get(answer.status, Permanent)
    return kind(f"{name}: {told}")


def _understood(out: str) -> _Reported:
    """What `observe` has printed. Raises Transient with it if it means nothing."""
    line = last_line(out, most=10_000)
    try:
        told: Any = json.loads(line)
        state = Observed(told["state"])
        words, generation = told.get("words", ""), told.get("generation")
        if not isinstance(words, str) or not (generation is None or type(generation) is int):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        shown = last_line(out, most=120) or "nothing"
        states = ", ".join(o.value for o in Observed)
        raise Transient(
            f'observe: it has to print one line {{"state": ..., "words": "...", "generation": N}} with a state of {states}, and '
            f"printed {shown}"
        ) from None
    return _Reported(state, last_line(words), generation)
