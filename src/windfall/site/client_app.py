"""The ClientApp: a stateless messenger between the SuperNode and the trainer beside it. Public Flower API only.

It runs in the SuperNode's process (`flower_executor`) or in one of its own for every message; it imports neither torch nor `train`,
puts the message into the site's inbox as a file, and returns the trainer's answer.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from windfall import clock
from windfall.store.files import Envelope
from windfall.wire.records import pack, unpack

#: Between two looks for the answer: most messages are answered at once, a round's at its cut.
_FIRST_S, _LONGEST_S = 0.01, 0.1

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def order(message: Message, context: Context) -> Message:
    """Carry one message to the trainer and its answer back."""
    folder = Path(str(context.node_config["site-dir"]))
    # Named by time so that the trainer takes messages in the order of their arrival.
    name = f"{int(clock.wall() * 1e6):020d}-{os.getpid()}-{secrets.token_hex(4)}"
    unpack(message.content).save(folder / "inbox" / f"{name}.env")
    answer = folder / "answers" / f"{name}.env"
    pause_s = _FIRST_S
    while not answer.exists():
        clock.pause(pause_s)
        pause_s = min(_LONGEST_S, 1.1 * pause_s)
    data = answer.read_bytes()
    answer.unlink()
    return Message(pack(Envelope.parse(data, "answer")), reply_to=message)
