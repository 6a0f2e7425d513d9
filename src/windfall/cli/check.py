"""`windfall check`: every error of a configuration at once."""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.cli.output import print_json
from windfall.config.look import look
from windfall.config.problems import ConfigProblems
from windfall.units import counted, duration_text


def check(file: Path, as_json: bool) -> int:
    """Check ``file``, the traces and data that it names, and whether its model fits; the exit code."""
    from windfall.run.preflight import look_around

    looked = look(file)
    found, warnings = look_around(looked.partial)
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
    rate = sum(s.tokens_per_s for s in config.site) / len(config.site)
    hours = config.run.budget_tokens / rate / 3600
    if as_json:
        print_json({"ok": True, "sites": [s.name for s in config.site], "budget_blocks": config.budget_blocks,
                    "site_hours": hours, "warnings": warnings})  # fmt: skip
        return 0
    for w in warnings:
        print(f"warning: {w}")
    print(
        f"{file}: good. {counted(len(config.site), 'site')}, {counted(config.run.budget_tokens, 'token')} in "
        f"{counted(config.budget_blocks, 'block')}, "
        f"about {duration_text(hours * 3600)} of one site's training"
    )
    return 0
