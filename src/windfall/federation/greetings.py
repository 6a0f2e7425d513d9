"""What nodes answer to ``hello``: as which of the run's sites, or why as none of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from windfall.errors import Refused
from windfall.wire.fields import is_count, text
from windfall.wire.messages import PROTOCOL, Standing, check_protocol
from windfall.wire.transport import Reply

_NOT_OURS = "did not answer hello as one of this run's sites"


class Stranger(Refused):
    """A node that cannot be worked with. ``site``: who it says that it is, if anybody; ``fails``: that site cannot go on."""

    def __init__(self, reason: str, site: str = "", *, fails: bool = False) -> None:
        super().__init__(reason)
        self.site, self.fails = site, fails


def unread(reply: Reply) -> bool:
    """Whether ``hello`` may have been lost, or changed on its way there, and is worth asking again."""
    header = reply.envelope.header if reply.envelope else {}
    return reply.envelope is None or (header.get("kind") == "error" and header.get("protocol") == PROTOCOL)


def read_hello(reply: Reply, sites: Collection[str], generations: Mapping[str, int], manifest: str) -> Standing:
    """How things stand at the site that answers: one of ``sites``, in the life that counts, with the run's data.

    Raises:
        Stranger: it is none of them, or one that cannot go on like this.
    """
    header = reply.envelope.header if reply.envelope else {}
    named, generation = header.get("site"), header.get("generation")
    site = text(named, 100) if isinstance(named, str) else ""
    ours = site in sites and is_count(generation) and generation == generations.get(site)
    try:
        if header.get("kind") == "error":
            raise Refused(text(header.get("error")))
        if header.get("kind") != "hello":
            raise Refused(reply.error or _NOT_OURS)
        check_protocol(header, "coordinator")
        if site not in sites:
            raise Refused(_NOT_OURS)
        stands = Standing.parse(header)
    except Refused as e:
        raise Stranger(f"its hello is of no use: {e}" if ours else str(e), site, fails=ours) from None
    if not ours:
        raise Stranger(f"generation {generation} is not the current one", site)
    if stands.manifest != manifest:
        raise Stranger(f"holds other data (manifest {stands.manifest}, the run's is {manifest})", site, fails=True)
    return stands
