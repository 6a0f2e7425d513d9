"""A command of Flower with our patience: ``python -m windfall.federation.flower_command flower-supernode ARGUMENTS``.

A SuperNode gives the process that it starts for each message 30 s to come up. Where that takes longer (it imports for some four
seconds of a core, and the machine may be shared by many), it takes the process's token back, which then fails with "401 …
task-token authentication failed", and starts another one, which is no faster. Flower has no option for this time. It is one
name in one of its modules, and `tests/federation/test_federation_flower.py` holds that it is what we take it for.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

#: How long a message's process may take to come up.
START_S = 300.0


def be_patient() -> None:
    """Let a message's process take ``START_S`` to come up; how long it may be silent after that stays as it was."""
    from flwr.supercore.corestate import in_memory_corestate as state

    silent_s = state.HEARTBEAT_PATIENCE * state.HEARTBEAT_DEFAULT_INTERVAL
    state.HEARTBEAT_DEFAULT_INTERVAL = START_S  # type: ignore[assignment]
    state.HEARTBEAT_PATIENCE = silent_s / START_S  # type: ignore[assignment]


def main() -> None:
    """Run the command named by the first argument."""
    sys.argv = sys.argv[1:]
    (command,) = entry_points(group="console_scripts", name=sys.argv[0])
    be_patient()
    command.load()()


if __name__ == "__main__":
    main()
