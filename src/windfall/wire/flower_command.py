"""A command of Flower with our patience: ``python -m windfall.wire.flower_command flower-supernode ARGUMENTS``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from flwr.supercore.corestate import in_memory_corestate

#: How long a SuperNode may wait for the process that it starts for a message.
START_S = 300.0


def let_messages_take_their_time() -> None:
    """In a SuperNode's process: a message's process may take ``START_S`` to come up. How long it may be silent after that stays.

    Flower gives it 30 s. Where it takes longer (it imports for some seconds of a core, and the machine may be shared by many), the
    process's token is taken back, which then fails with "401 ... task-token authentication failed", and another one is started,
    which is no faster. There is no option for this time.
    """
    silent_s = in_memory_corestate.HEARTBEAT_PATIENCE * in_memory_corestate.HEARTBEAT_DEFAULT_INTERVAL
    in_memory_corestate.HEARTBEAT_DEFAULT_INTERVAL = START_S
    in_memory_corestate.HEARTBEAT_PATIENCE = silent_s / START_S


def main() -> None:
    """Run the command named by the first argument."""
    sys.argv = sys.argv[1:]
    (command,) = entry_points(group="console_scripts", name=sys.argv[0])
    let_messages_take_their_time()
    command.load()()


if __name__ == "__main__":
    main()
