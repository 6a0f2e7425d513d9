"""`windfall check`: every error of a configuration at once."""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.cli.output import print_json, say
from windfall.config.look import look
from windfall.config.problems import ConfigProblems
from windfall.config.schema import Config
from windfall.units import counted, duration_text


def check(file: Path, as_json: bool, measure: bool = False) -> int:
    """Check ``file``, the traces and data that it names, and whether its model fits; the exit code.

    ``measure``: take a few optimizer steps on this machine first, and keep how long they took.
    """
    from windfall.run.addresses import addresses
    from windfall.run.expect import expect
    from windfall.run.preflight import look_around, vocabulary
    from windfall.run.speeds import cache_file

    looked = look(file)
    found, warnings = look_around(looked.config or looked.partial, whole=looked.config is not None)
    problems = looked.problems + [looked.problem_at_word(f.key, f.what) for f in found if not f.here]
    warnings += [f"to run here: {looked.problem_at_word(f.key, f.what).text(str(file))}" for f in found if f.here]
    if problems or looked.config is None:
        problems = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.key))
        if as_json:
            print_json({"ok": False, "problems": [p.as_json() for p in problems], "warnings": warnings})
        else:
            print(f"{ConfigProblems(str(file), problems)}\n{counted(len(problems), 'problem')}", file=sys.stderr)
        return ConfigProblems.exit_code
    config = looked.config
    asked = addresses(config)
    warnings += [f"to run here: {a.what}: {a.where} is asked {a.way}" for a in asked if a.fault]
    if measure:
        _measure(config)
    expected = expect(config, vocabulary(config), cache_file())
    warnings += [expected.short] if expected.short else []
    rate = sum(s.tokens_per_s for s in config.site) / len(config.site)
    hours = config.run.budget_tokens / rate / 3600
    if as_json:
        print_json({"ok": True, "sites": [s.name for s in config.site], "budget_blocks": config.budget_blocks,
                    "site_hours": hours, "expected": expected.as_json(), "warnings": warnings,
                    "addresses": [{"what": a.what, "address": a.where, "way": a.way} for a in asked]})  # fmt: skip
        return 0
    for w in warnings:
        print(f"warning: {w}")
    for a in asked:
        print(f"{a.what}: {a.where} is asked {a.way}")
    print(
        f"{file}: good. {counted(len(config.site), 'site')}, {counted(config.run.budget_tokens, 'token')} in "
        f"{counted(config.budget_blocks, 'block')}, "
        f"about {duration_text(hours * 3600)} of one site's training"
    )
    print(f"how long it takes: {expected.text}")
    return 0


def _measure(config: Config) -> None:
    """A few real steps of every kind of site that there is."""
    from windfall.run.expect import measure
    from windfall.run.speeds import cache_file
    from windfall.ui.terminal.progress import Progress

    with Progress("measuring") as progress:
        untold = measure(config, progress.done, cache_file())
    for text in untold:
        say(text)
