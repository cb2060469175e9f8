# shellcheck shell=bash
# All settings of the tpu_*.sh scripts. Edit this file, or set environment variables of the same
# names, which have priority: NUM_SLICES=2 launch/tpu_create.sh
set -euo pipefail

: "${PROJECT:?is not set; give the Google Cloud project: export PROJECT=my-project}"
: "${ZONE:?is not set; give the zone of the TPU: export ZONE=us-east5-a}"
: "${NAME:?is not set; give a name for the TPU: export NAME=imagenet64}"
# Each type needs its runtime: v4-32 tpu-ubuntu2204-base, v5litepod-16 v2-alpha-tpuv5-lite,
# v5p-16 v2-alpha-tpuv5, v6e-16 v2-alpha-tpuv6e (all: cloud.google.com/tpu/docs/runtimes).
: "${ACCELERATOR_TYPE:?is not set; give the type of a slice: export ACCELERATOR_TYPE=v6e-16}"
: "${RUNTIME_VERSION:?is not set; give its runtime: export RUNTIME_VERSION=v2-alpha-tpuv6e}"

NUM_SLICES="${NUM_SLICES:-1}"           # more than 1: multislice, one run over all slices
SPOT="${SPOT:-1}"                       # 1: spot, cheaper but preemptible at any time; 0: on demand
CREATE_FLAGS="${CREATE_FLAGS:-}"        # extra flags for queued-resources create: --network=mine
SSH_FLAGS="${SSH_FLAGS:-}"              # extra flags for tpu-vm ssh and scp: --internal-ip
POLL_SECONDS="${POLL_SECONDS:-60}"      # seconds between two checks of the state of the TPU
MAX_CRASHES="${MAX_CRASHES:-3}"         # crashes in a row after which tpu_run.sh still restarts
DELETE_AFTER="${DELETE_AFTER:-0}"       # 1: tpu_run.sh deletes the TPU after the run has ended
