#!/usr/bin/env bash
# Prints the state of the queued resource and its nodes. Exit code 0 if all are ready, otherwise 1.
#
#     launch/tpu_status.sh [--dry-run]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
source launch/lib.sh
only_dry_run "$@"

look
if [ "$dry_run" = 1 ]; then
  exit 0
fi
echo "$state: $details"
[ "$state" = ready ]
