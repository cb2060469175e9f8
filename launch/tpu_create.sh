#!/usr/bin/env bash
# Requests a TPU with the settings in env.sh: one queued resource of one or more slices.
#
#     launch/tpu_create.sh [--dry-run]
#
# It returns when the request is in the queue. launch/tpu_status.sh shows its state.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
source launch/lib.sh
only_dry_run "$@"

if [ "$NUM_SLICES" -gt 1 ]; then
  set -- --node-count="$NUM_SLICES" --node-prefix="$NAME"
else
  set -- --node-id="$NAME"
fi
if [ "$SPOT" = 1 ]; then
  set -- "$@" --spot
fi
# shellcheck disable=SC2086  # CREATE_FLAGS is split into words
call gcloud compute tpus queued-resources create "$NAME" --project="$PROJECT" --zone="$ZONE" \
  --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" "$@" $CREATE_FLAGS
