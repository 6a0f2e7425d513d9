"""A site whose trainer only answers: ``python stand_in.py FOLDER`` is its agent, with ``--trainer`` the trainer.

A message with ``wait`` is taken and not answered while there is a file ``hold`` in the site's folder.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from windfall import clock
from windfall.site import agent
from windfall.store.files import Envelope
from windfall.wire.transport import FileMailbox


class StandInAgent(agent.Agent):
    """An agent with such a trainer."""

    def trainer_command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).resolve()), "--trainer", str(self._folder)]


def answer(folder: Path) -> int:
    """Answer until told to end."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda n, _: asked.append(n))
    mailbox, hold = FileMailbox(folder), folder / "hold"
    while not asked:
        taken = mailbox.take()
        if taken is None:
            clock.pause(0.01)
            continue
        (folder / "taken").touch()
        while taken[1].header.get("wait") and hold.exists() and not asked:
            clock.pause(0.01)
        mailbox.answer(taken[0], Envelope({"kind": "answered", "n": taken[1].header["n"]}, dict(taken[1].blobs)))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "--trainer":
        sys.exit(answer(Path(sys.argv[2])))
    sys.exit(agent.main([sys.argv[1]], make=StandInAgent))
