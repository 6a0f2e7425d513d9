"""What a coordinator does at its start about files that are damaged or left over."""

from __future__ import annotations

from windfall.errors import DataError
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.intake import Intake
from windfall.store.ledger import Ledger
from windfall.store.records import Version
from windfall.store.telemetry import Events


def recover(t: float, ledger: Ledger, checkpoints: Checkpoints, intake: Intake, events: Events) -> Version:
    """Make sure that the newest version can be read, and clear away what no record names. The head to go on from.

    A damaged newest version is made again from its contributions, which are kept for that; if they are damaged as well
    it is taken back, its blocks are free again, and the version before it is the newest.

    Raises:
        StoreError: version 0 itself is damaged.
    """
    while True:
        head = ledger.head()
        try:
            checkpoints.verify(head)
            break
        except DataError as e:
            damage = str(e)
        if intake.make_again(head):
            events.event(t, "checkpoint_repaired", version=head.version, reason=f"{damage}; made again from its contributions")
            continue
        before = ledger.roll_back()
        events.event(
            t, "checkpoint_damaged", version=head.version,
            reason=f"{damage}; going back to version {before.version}, {head.tokens} tokens are trained again",
        )  # fmt: skip
    gone = checkpoints.tidy()
    if gone:
        events.event(t, "tidied", files=gone[:20], count=len(gone))
    return head
