"""Sites that are no part of a run any more: what they have trained and not handed in is taken, and their leases end."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from windfall.errors import DataError
from windfall.federation.intake import Intake
from windfall.site.outbox import Outbox
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Events
from windfall.wire.messages import cut_of


def departed(ledger: Ledger, folders: Path, sites: Collection[str]) -> list[str]:
    """Sites that have left something, leases or a folder, and are not among ``sites``."""
    known = {lease.site for lease in ledger.live_leases()} | {p.name for p in folders.iterdir() if p.is_dir()}
    return sorted(known - set(sites))


def take_leave(t: float, gone: Iterable[str], ledger: Ledger, intake: Intake, events: Events, folders: Path) -> None:
    """Take in what lies in the outbox of each, as its next `hello` would have offered it, and let others have what it was lent.

    Their processes have been ended. At every start of a coordinator, so that nothing is left over by one that dies here.
    """
    for site in gone:
        taken = 0
        if (folders / site / "outbox").is_dir():
            outbox = Outbox(folders / site)
            for name, blob in outbox.all().items():
                try:
                    ack = intake.take(t, Envelope.within(blob, name, in_memory_up_to=2**20), site)
                except DataError as e:
                    events.event(t, "refused", site=site, reason=str(e))
                    outbox.acknowledged(*(cut_of(name) or (0, 0)))
                    continue
                taken += ack is None
                if ack is not None:  # else it waits for its commit, and is kept until then
                    outbox.acknowledged(ack.generation, ack.cut)
        leases = ledger.live_leases(site)
        blocks = sum(b - a for lease in leases for a, b in ledger.remaining(lease.epoch))
        for lease in leases:
            ledger.release(lease.epoch)
        if leases or taken:
            events.event(t, "site_left", site=site, contributions=taken, blocks=blocks)
