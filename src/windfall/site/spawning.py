"""What an agent and its SuperNode tell each other about who carries messages. Apart, so that it can be had without Flower."""

from __future__ import annotations

#: Asks a SuperNode for a process per message.
SPAWN = "--spawn"
#: What says in a SuperNode's log that there is one, and why.
SPAWNING = "Windfall: every message of this SuperNode starts a process"
#: A SuperNode that ends with this status has found that it cannot answer messages by itself.
BROKEN_STATUS = 76
#: In a SuperNode's environment: what has to be added to this machine's clock to get the run's (s).
CLOCK_OFFSET = "WINDFALL_CLOCK_OFFSET_S"
