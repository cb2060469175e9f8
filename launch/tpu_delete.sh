#!/usr/bin/env bash
# Deletes the TPU: the queued resource and its nodes. Nothing in a bucket is deleted.
#
#     launch/tpu_delete.sh [--dry-run]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
source launch/lib.sh
only_dry_run "$@"

# --force: also delete the nodes. --quiet: do not ask for confirmation.
call gcloud compute tpus queued-resources delete "$NAME" --project="$PROJECT" --zone="$ZONE" \
  --force --quiet
