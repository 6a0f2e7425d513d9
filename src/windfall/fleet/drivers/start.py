"""What a platform elsewhere is given to start one life of a site.

Whatever the platform, the machine runs one command, with which the site fetches everything else that it has to know:

    windfall site start --endpoint URL --token-file FILE [--ca-file FILE] --folder DIR

``--folder`` is the site's own disk: it has to be there again at the next start, as its outbox is in it. SIGTERM lets the site hand
in what it can and end; the exit status is 0 if it was told to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

#: The command, besides its options.
SITE_START = ("windfall", "site", "start")


@dataclass(frozen=True)
class Start:
    """One life of a site, as its machine has to know it."""

    run_id: str
    site: str
    generation: int
    #: Where the run's endpoint is, as that machine reaches it.
    endpoint: str
    #: What it proves itself with, for this life only. It is a secret: never on a command line, in an environment or in a log.
    token: str = field(repr=False)
    #: Certificates (PEM) that the endpoint's is checked against; empty without TLS, or where the machine's own do.
    ca: str = ""

    def arguments(self, token_file: str, ca_file: str, folder: str) -> list[str]:
        """The whole command, with these files as that machine has them."""
        ca = ["--ca-file", ca_file] if self.ca else []
        return [*SITE_START, "--endpoint", self.endpoint, "--token-file", token_file, *ca, "--folder", folder]


class Starts:
    """Starts that have been prepared. ``make`` is for the loop's thread, ``of`` for any."""

    def __init__(self, make: Callable[[str, int], Start]) -> None:
        self._make = make
        self._made: dict[str, Start] = {}

    def make(self, site: str, generation: int) -> None:
        """Prepare the start of a generation, unless it has been."""
        made = self._made.get(site)
        if made is None or made.generation != generation:
            self._made[site] = self._make(site, generation)

    def of(self, site: str, generation: int) -> Start:
        """A start that has been prepared."""
        made = self._made[site]
        assert made.generation == generation, f"{site}: generation {generation} has not been prepared"
        return made
