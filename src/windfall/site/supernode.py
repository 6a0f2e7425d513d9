"""A site's SuperNode: ``python -m windfall.site.supernode [--spawn] flower-supernode ARGUMENTS``.

It answers messages itself, by our ClientApp; with ``--spawn``, or where Flower is not as we know it, it starts a process for each.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import entry_points
from typing import NoReturn

from windfall.site.flower_executor import Changed, adopt, correct_clock, let_messages_take_their_time
from windfall.site.spawning import CLOCK_OFFSET, SPAWN, SPAWNING


def main() -> NoReturn:
    """Run the command named by the first argument that is not ``--spawn``, and end with it."""
    words = [word for word in sys.argv[1:] if word != SPAWN]
    mind_the_clock(float(os.environ.get(CLOCK_OFFSET, 0)))
    sys.argv = [*words, "--isolation", isolation(asked_to_spawn=SPAWN in sys.argv)]
    (command,) = entry_points(group="console_scripts", name=words[0])
    status: object = 1
    try:
        command.load()()
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Where Flower's loop has ended without Flower's own exit, its server's thread would keep this process for ever.
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def mind_the_clock(offset_s: float) -> None:
    """Let Flower have the run's time where this machine's clock is off."""
    if not offset_s:
        return
    try:
        correct_clock(offset_s)
    except Changed as e:
        told = f"this machine's clock is {offset_s:+.0f} s from the run's, and that cannot be corrected for Flower ({e})"
        print(f"Windfall: {told}; set it by NTP", file=sys.stderr, flush=True)


def isolation(*, asked_to_spawn: bool) -> str:
    """Prepare this process for one of Flower's two ways of running a ClientApp: the name that it has for it."""
    why = "as its agent asked (agent.log says why)"
    if not asked_to_spawn:
        from windfall.site.client_app import app

        try:
            adopt(app)
            return "process"
        except Changed as e:
            why = f"Flower is not as we know it ({e})"
    print(f"{SPAWNING}: {why}", file=sys.stderr, flush=True)
    let_messages_take_their_time()
    return "subprocess"


if __name__ == "__main__":
    main()
