"""What Slurm says, and what it means: why a job waits, how it ended, and who has to act when a request is refused.

The names are those of Slurm's manual pages (`squeue`, "JOB REASON CODES" and "JOB STATE CODES") and of its error messages.
"""

from __future__ import annotations

import re

from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.asking import Answer, last_line

#: States of a job that has ended. One that is in none of these lives, and so does one in a state of a later Slurm.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
#: States of a job that has not begun. It is asked to end by taking it out of the queue.
WAITS = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}

#: Why a job waits, by the beginning of Slurm's reason; the first that fits counts.
_WAITING = (
    ("None", "Slurm has not looked at it yet"),
    ("Resources", "what it asks for is in use"),
    ("Priority", "jobs with more priority are before it"),
    ("Dependency", "an earlier job of this site has not ended"),
    ("Singleton", "an earlier job of this site has not ended"),
    ("BeginTime", "its time to begin has not come"),
    ("Reservation", "it waits for its reservation"),
    ("Licenses", "it waits for a licence"),
    ("PartitionDown", "the partition takes jobs and starts none"),
    ("PartitionInactive", "the partition is closed"),
    ("ReqNodeNotAvail", "nodes that it could have are down, drained or reserved"),
    ("Nodes required for job are", "nodes that it could have are down, drained or reserved"),
    ("NodeDown", "the node that it was to have is down"),
    ("Cleaning", "what is left of its last attempt is being cleared away"),
    ("Prolog", "its node is being prepared"),
    ("JobHeldUser", "the user holds it; scontrol release starts it"),
    ("JobHeldAdmin", "an administrator holds it"),
    ("QOSMaxJobs", "the user has as many jobs as the quality of service allows"),
    ("MaxJobsPerAccount", "the account has as many jobs as it may have"),
    ("QOSGrp", "everybody under its quality of service together has as much as it allows"),
    ("AssocGrp", "the account has as much in use as it may have"),
    ("QOSMaxGRESPerUser", "the user has as many GPUs as the quality of service allows"),
    ("QOSMax", "the user has as much in use as the quality of service allows"),
    ("AssocMaxJobs", "the account has as many jobs as it may have"),
    ("AssocMax", "the account has as much in use as it may have"),
    ("QOSUsageThreshold", "the account has used too much"),
    ("QOSResourceLimit", "a limit of its quality of service is reached"),
    ("AssociationJobLimit", "the account has as many jobs as it may have"),
    ("AssociationResourceLimit", "the account has as much in use as it may have"),
    ("BurstBuffer", "it waits for a burst buffer"),
    ("JobArray", "an array's limit is reached"),
    ("FrontEndDown", "no front end is up"),
    ("launch failed", "it could not be started and is held; an administrator has to look at the node"),
    ("JobLaunchFailure", "it could not be started"),
)
#: Why a job waits for ever: it asks for what it cannot have. By the whole reason, or by its end.
_NEVER = {
    "BadConstraints": "no node can be as it asks for",
    "PartitionConfig": "the partition has not what it asks for",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives a job",
    "PartitionTimeLimit": "its time limit is longer than the partition's; lower time_limit_min",
    "MaxMemPerLimit": "it asks for more memory than the partition gives a job",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its quality of service is not valid",
    "AccountNotAllowed": "its account may not use the partition",
    "QOSNotAllowed": "its quality of service may not use the partition",
    "AccountingPolicy": "the accounting policy does not allow it",
    "DependencyNeverSatisfied": "what it depends on never comes",
}
_NEVER_END = ("PerJobLimit", "PerJob", "MinGRES", "MinMemory", "MinCpusNode", "MinCPUs")

#: Whom a refusal concerns, by Slurm's words (in small letters). What is in no row has to be changed by a person.
_NOBODY = re.compile(
    "|".join((
        "unable to contact slurm controller", "socket timed out", "connection refused", "connection timed out", "connect failure",
        "temporarily unable", "temporarily unavailable", "zero bytes were transmitted", "communication", "standby mode",
        "try again", "maxsubmitjob", "max_submit", "slurmdbd", "transport endpoint", "no route to host", "network is unreachable",
        "required partition not available", "in an invalid state", "resource deadlock", "interrupted system call",
        "name resolution", "insane message length", "incomplete message",
    ))
)  # fmt: skip
_LOGIN = re.compile(
    "|".join((
        "access/permission denied", "permission denied", "invalid user", "invalid authentication", "authentication error",
        "authentication failed", "auth_g", "munge", "invalid credential", "not permitted to use", "expired", "no associations",
    ))
)  # fmt: skip
#: What is refused because it is gone already.
_GONE = ("invalid job id specified", "job/step already completing or completed", "job is no longer")


def refused(program: str, answer: Answer) -> DriverError:
    """What a refusal of one of Slurm's programs is, in Slurm's own words."""
    said = " ".join(answer.err.split()).lower()
    lines = [re.sub(rf"^{program}: ((error|fatal): )?", "", x.strip()) for x in answer.err.splitlines() if x.strip()]
    words = [line for line in dict.fromkeys(lines) if not line.startswith("Try ")]
    told = last_line("; ".join(words[-3:])) or f"it ended with status {answer.status} and said nothing"
    kind = Permanent
    if _LOGIN.search(said):
        kind = Unauthorized
    elif _NOBODY.search(said):
        return Transient(f"{program}: {told}")
    return kind(f"{program}: {told}")


def is_gone(answer: Answer) -> bool:
    """Whether a job could not be signalled as it has ended already."""
    said = answer.err.lower()
    return any(words in said for words in _GONE)


def waits_for_ever(reason: str) -> str:
    """Why a job can never start, in words; empty if it can."""
    if reason in _NEVER:
        return _NEVER[reason]
    return "it asks for more, or less, than a job may have" if reason.endswith(_NEVER_END) else ""


def waits_for(reason: str) -> str:
    """Why a job has not started, in words, with Slurm's own in brackets."""
    words = next((w for begin, w in _WAITING if reason.startswith(begin)), "")
    if reason == "None":
        return words
    return f"{words} ({reason})" if words else reason


def ended(state: str, reason: str, *, limit: str, at_limit: bool) -> str:
    """How a job ended that nobody here had asked to end, in words. ``limit``: its time limit, as Slurm writes it."""
    why = f" ({reason})" if reason not in ("", "None", "(null)") else ""
    match state:
        case "COMPLETED" if at_limit:
            return f"ended in order before its time limit ({limit}); what it could not hand in is in its outbox"
        case "COMPLETED":
            return "ended by itself"
        case "TIMEOUT":
            return f"was ended at its time limit ({limit}), as it had not ended by itself; raise term_before_s"
        case "NODE_FAIL":
            return "lost its node"
        case "OUT_OF_MEMORY":
            return "was ended as it ran out of memory"
        case "PREEMPTED":
            return "was ended for a job with more priority"
        case "BOOT_FAIL":
            return "could not start, as its node did not come up"
        case "CANCELLED":
            return f"was cancelled, and not by this run{why}"
        case "DEADLINE":
            return "was ended at its deadline"
        case "FAILED" if reason == "JobLaunchFailure":
            return "could not be started, or was killed"
        case "FAILED":
            return f"failed{why}"
    return f"ended as {state}{why}"


def seconds(text: str) -> float | None:
    """A time as Slurm writes it: ``[days-][[hours:]minutes:]seconds``. None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, secs = (int(g or 0) for g in match.groups())
    return 86400.0 * days + 3600.0 * hours + 60.0 * minutes + secs
