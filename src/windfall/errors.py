"""The error tree. Every message says what was found, where, and what to do.

The command line turns a ``WindfallError`` into one message and an exit code. Any other error that reaches it is a bug, and keeps
its traceback.
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


class NoData(DataError):
    """There is no corpus or weights file where one is named."""

    exit_code = 2


class SignalError(WindfallError):
    """A signal cannot be read as it is configured (a single bad reading is never an error, see invariant 5)."""

    exit_code = 2


class StoreError(WindfallError):
    """The run directory cannot be opened, read or written."""


class NoRun(StoreError):
    """There is no run where one is named."""

    exit_code = 2


class FederationError(WindfallError):
    """Flower, or a message between coordinator and sites, failed in a way that stops the run."""


class TransferError(WindfallError):
    """A file that is too large for a message cannot be had from, or given to, the other end; trying again cannot help."""


class DriverError(WindfallError):
    """A driver could not do what the fleet asked of it."""


class Transient(DriverError):
    """The same request may succeed later; nothing needs to change."""


class Permanent(DriverError):
    """The same request fails until a person has changed something."""


class Unauthorized(Permanent):
    """Credentials are missing, wrong or expired."""


class RunError(WindfallError):
    """The run cannot go on; the run directory is intact and a later ``windfall run`` resumes it."""


class HandOver(RunError):
    """This coordinator ends, and the supervisor starts the next one at once, which goes on with the sites as they are."""


class TakenOver(StoreError):
    """Another coordinator has taken over this run. This one stops and changes nothing more."""


class MeterError(WindfallError):
    """A meter of power is not there, cannot be read or says what cannot be; the model of the site's power stands in for it."""


class TrackerError(WindfallError):
    """An experiment tracker is not there, refuses or cannot be reached; the run goes on, and what is missing is sent later."""


class RankError(WindfallError):
    """One of a site's ranks could not start or has ended. The site's trainer ends too; its work is kept."""


class Refused(WindfallError):
    """A contribution or a message breaks a rule. The reason is kept as an event."""
