"""The error tree. Every message says what was found, where, and what to do.

``WindfallError`` is what the command line turns into one line and an exit code; anything else that
reaches the top is a bug and keeps its traceback in the log.
"""

from __future__ import annotations


class WindfallError(Exception):
    """Base of every error that a user can do something about. ``exit_code``: 2 for wrong usage or configuration, else 1."""

    exit_code = 1


class ConfigError(WindfallError):
    """A configuration file or a command-line argument is wrong."""

    exit_code = 2


class DataError(WindfallError):
    """A corpus, shard, trace or weights file is missing, malformed or changed."""


class SignalError(WindfallError):
    """A signal cannot be read as it is configured (a single bad reading is never an error, see invariant 5)."""

    exit_code = 2


class StoreError(WindfallError):
    """The run directory cannot be opened, read or written."""


class FederationError(WindfallError):
    """Flower, or a message between coordinator and sites, failed in a way that stops the run."""


class DriverError(WindfallError):
    """A driver could not do what the fleet asked of it."""


class Transient(DriverError):
    """Try again later; nothing needs to change."""


class Permanent(DriverError):
    """Trying again cannot help; a person has to change something."""


class Unauthorized(Permanent):
    """Credentials are missing, wrong or expired."""


class RunError(WindfallError):
    """The run cannot go on; the run directory is intact and a later ``windfall run`` resumes it."""


class HandOver(RunError):
    """This coordinator ends, and the next one is to go on at once with the sites as they are."""


class TakenOver(StoreError):
    """Another coordinator runs this run now: this one stops, and touches nothing that is the other's."""


class RankError(WindfallError):
    """One of a site's ranks could not start, or is gone: the site's trainer ends, its work is kept."""


class Refused(WindfallError):
    """A contribution or lease request breaks a rule of the ledger. The reason is kept as an event."""
