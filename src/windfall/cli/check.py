"""`windfall check`: every error of a configuration at once."""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.cli.output import print_json
from windfall.config.lines import key_lines, line_of
from windfall.config.load import ConfigProblems, Problem, dotted, load
from windfall.errors import ConfigError, SignalError
from windfall.grid.build import build_grid, run_start
from windfall.policy.build import build_policy
from windfall.units import counted, duration_text


def check(file: Path, as_json: bool) -> int:
    """Check ``file``, the traces and data that it names, and whether its model fits; the exit code."""
    from windfall.run.addresses import addresses
    from windfall.run.preflight import preflight

    try:
        config = load(file)
        build_policy(config)
        grid = build_grid(config)
        grid.require_from(run_start(config))
        lines = key_lines(file.read_text(encoding="utf-8"))
        told: list[str] = []
        found = [(f.here, Problem(line_of(f.key, lines), dotted(f.key), f.what)) for f in preflight(config, told.append)]
        if not all(here for here, _ in found):
            raise ConfigProblems(str(file), [p for here, p in found if not here])
        warnings = [*grid.warnings, *told, *(f"to run here: {p.text(str(file))}" for _, p in found)]
        asked = addresses(config, grid)
        warnings += [f"to run here: {a.what}: {a.where} is asked {a.way}" for a in asked if a.fault]
    except ConfigProblems as e:
        if as_json:
            print_json({"ok": False, "problems": [{"line": p.line, "key": p.key, "message": p.message} for p in e.problems]})
        else:
            print(f"{e}\n{len(e.problems)} problem{'s' if len(e.problems) > 1 else ''}", file=sys.stderr)
        return e.exit_code
    except (ConfigError, SignalError) as e:
        if as_json:
            print_json({"ok": False, "problems": [{"line": None, "key": None, "message": str(e)}]})
            return ConfigError.exit_code
        raise ConfigError(str(e)) from None
    rate = sum(s.tokens_per_s for s in config.site) / len(config.site)
    hours = config.run.budget_tokens / rate / 3600
    if as_json:
        print_json({"ok": True, "sites": [s.name for s in config.site], "budget_blocks": config.budget_blocks,
                    "site_hours": hours, "warnings": warnings,
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
    return 0
