#!/bin/sh
# run.sh FILE RUN_DIR: runs or resumes a run. SIGTERM is passed on, and waited for while sites hand in their work. A run that is done
# leaves the pod there, for `windfall report`, `windfall export-weights` and `kubectl cp`: a container that ended would be started again.
set -u
done_file=${TMPDIR:-/tmp}/done
# What an earlier container of this pod has left would say that this one is well.
rm -f "$done_file" "$2/logs/coordinator.json"
windfall run "$1" --run-dir "$2" --quiet &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
wait "$child"
code=$?
# A signal ends `wait`, not the run.
while kill -0 "$child" 2>/dev/null; do
  wait "$child"
  code=$?
done
[ "$code" -eq 0 ] || exit "$code"
trap 'kill "$!" 2>/dev/null; exit 0' TERM INT
: >"$done_file"
echo "the run is done; this pod stays until its release is uninstalled" >&2
while :; do
  sleep 86400 &
  wait $!
done
