"""Stands in for Slurm's programs where their words matter and not what a cluster does: formats and errors are those of Slurm 22.05.

Jobs are processes of this machine. The programs keep what they know as files in a folder.
"""

from __future__ import annotations

from pathlib import Path

from windfall.errors import DriverError, Permanent, Transient, Unauthorized

_PROGRAM = r"""#!/bin/bash
cd "STATE"
me=$(basename "$0")
printf '%s' "$me" >> calls; printf ' %s' "$@" >> calls; echo >> calls
if [ -e "$me.err" ]; then cat "$me.err" >&2; exit "$(cat "$me.status")"; fi
lives() { [ -s "$1.pid" ] && [ -n "$(tr -d '\0' < "/proc/$(cat "$1.pid")/cmdline" 2>/dev/null)" ]; }
state() {
  if [ -e "$1.state" ]; then cat "$1.state"
  elif [ -e "$1.cancelled" ]; then lives "$1" && echo 'COMPLETING|None' || echo 'CANCELLED|None'
  elif [ ! -e "$1.status" ]; then echo 'RUNNING|None'
  else case $(cat "$1.status") in
    0) echo 'COMPLETED|None';; 1[0-9][0-9]) echo 'FAILED|JobLaunchFailure';; *) echo 'FAILED|NonZeroExitCode';; esac
  fi
}
case $me in
sbatch)
  n=$(($(cat number 2>/dev/null || echo 0) + 1)); echo $n > number
  cat > $n.sh
  printf '%s\n' "$@" > $n.options
  for a; do case $a in --job-name=*) echo "${a#*=}" > $n.name;; --comment=*) echo "${a#*=}" > $n.comment;;
    --output=*) out=${a#*=}; out=${out/\%j/$n};; --chdir=*) folder=${a#*=};; esac; done
  if [ -e queue ]; then cp queue $n.state; else
    mkdir -p "$(dirname "$out")"
    STATE=$PWD setsid bash -c 'cd "$2"; bash "$STATE/$1.sh" & echo $! > "$STATE/$1.pid"; wait $!; echo $? > "$STATE/$1.status"' \
      - $n "$folder" >> "$out" 2>&1 &
    while [ ! -s $n.pid ]; do sleep 0.01; done
  fi
  [ -e banner ] && cat banner
  echo $n ;;
squeue)
  [ -e limit ] && limit=$(cat limit) || limit='0:12|UNLIMITED'
  for a; do case $a in --name=*) name=${a#*=};; esac; done
  for f in *.name; do [ "$(cat "$f" 2>/dev/null)" = "$name" ] && [ ! -e "${f%.name}.forgotten" ] || continue
    n=${f%.name}; echo "$n|$(state $n)|$limit|$(cat $n.comment)"; done ;;
scancel)
  for n; do :; done
  case "$(state "$n")" in COMPLETED*|CANCELLED*|FAILED*)
    echo "scancel: error: Kill job error on job id $n: Invalid job id specified" >&2; exit 1;; esac
  case "$*" in
  *--signal=TERM*) [ -e $n.state ] || kill -TERM "$(cat $n.pid)" ;;
  *) touch $n.cancelled; rm -f $n.state; [ ! -e $n.pid ] || kill -KILL "$(cat $n.pid)" ;;
  esac ;;
sacct) cat accounts ;;
esac
exit 0
"""

#: A refusal of each kind, as Slurm words it.
REFUSALS: dict[type[DriverError], str] = {
    Transient: "Unable to contact slurm controller (connect failure)",
    Permanent: "Invalid account or account/partition combination specified",
    Unauthorized: "Access/permission denied",
}
_BEGINNINGS = {
    "sbatch": "sbatch: error: Batch job submission failed: ", "squeue": "slurm_load_jobs error: ",
    "scancel": "scancel: error: Kill job error on job id 1: ",
}  # fmt: skip


class FakeSlurm:
    """The programs, in the folder ``programs``, which belongs at the beginning of PATH."""

    def __init__(self, folder: Path) -> None:
        self.state, self.programs = folder / "state", folder / "programs"
        self.state.mkdir(parents=True)
        self.programs.mkdir()
        for name in ("sbatch", "squeue", "scancel", "sacct"):
            (self.programs / name).write_text(_PROGRAM.replace("STATE", str(self.state), 1))
            (self.programs / name).chmod(0o755)

    def say(self, name: str, text: str) -> None:
        """Write one of the files that the programs read."""
        (self.state / name).write_text(text)

    def refuse(self, program: str, err: str, status: int = 1) -> None:
        self.say(f"{program}.status", str(status))
        self.say(f"{program}.err", err)

    def refuse_all(self, kind: type[DriverError] | None) -> None:
        """Whatever is asked is refused in this way; None: nothing any more."""
        for program, begin in _BEGINNINGS.items():
            if kind is None:
                (self.state / f"{program}.err").unlink(missing_ok=True)
            else:
                self.refuse(program, f"{begin}{REFUSALS[kind]}\n")

    def calls(self, program: str) -> list[str]:
        """How a program has been called so far."""
        path = self.state / "calls"
        return [c for c in (path.read_text().splitlines() if path.exists() else []) if c.split(" ")[0] == program]
