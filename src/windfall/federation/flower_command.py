"""A command of Flower with our patience: ``python -m windfall.federation.flower_command flower-supernode ARGUMENTS``."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from windfall.federation.flower_attach import let_messages_take_their_time


def main() -> None:
    """Run the command named by the first argument."""
    sys.argv = sys.argv[1:]
    (command,) = entry_points(group="console_scripts", name=sys.argv[0])
    let_messages_take_their_time()
    command.load()()


if __name__ == "__main__":
    main()
