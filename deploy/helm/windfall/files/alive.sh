#!/bin/sh
# alive.sh RUN_DIR MINUTES: whether the coordinator has given a sign of life since, or the run is done.
[ -e "${TMPDIR:-/tmp}/done" ] && exit 0
[ -n "$(find "$1/logs/coordinator.json" -mmin "-$2" 2>/dev/null)" ] && exit 0
echo "no sign of life of the coordinator for $2 minutes" >&2
exit 1
