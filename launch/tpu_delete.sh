#!/usr/bin/env bash
# Gives a TPU back: the queued resource and its nodes. Nothing in a bucket is touched.
#
#     launch/tpu_delete.sh [--dry-run]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
source launch/lib.sh
only_dry_run "$@"

# --force: together with its nodes. --quiet: without asking.
call gcloud compute tpus queued-resources delete "$NAME" --project="$PROJECT" --zone="$ZONE" \
  --force --quiet
