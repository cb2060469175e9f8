# shellcheck shell=bash
# The settings of the tpu_*.sh scripts, and their only place. Edit this file, or set variables of
# the same names, which win: NUM_SLICES=2 launch/tpu_create.sh
set -euo pipefail

: "${PROJECT:?is not set; give the Google Cloud project, as in export PROJECT=my-project}"
: "${ZONE:?is not set; give the zone of the TPU, as in export ZONE=us-east5-a}"
: "${NAME:?is not set; give the TPU a name, as in export NAME=imagenet64}"
# Which type goes with which runtime: v4-32 tpu-ubuntu2204-base, v5litepod-16 v2-alpha-tpuv5-lite,
# v5p-16 v2-alpha-tpuv5, v6e-16 v2-alpha-tpuv6e (cloud.google.com/tpu/docs/runtimes has them all).
: "${ACCELERATOR_TYPE:?is not set; give the type of a slice, as in export ACCELERATOR_TYPE=v6e-16}"
: "${RUNTIME_VERSION:?is not set; give its runtime, as in export RUNTIME_VERSION=v2-alpha-tpuv6e}"

NUM_SLICES="${NUM_SLICES:-1}"           # more than one: multislice, trained as one run
SPOT="${SPOT:-1}"                       # 1: spot, cheap and taken away at any time; 0: on demand
CREATE_FLAGS="${CREATE_FLAGS:-}"        # more flags of queued-resources create: --network=mine
SSH_FLAGS="${SSH_FLAGS:-}"              # more flags of tpu-vm ssh and scp: --internal-ip
POLL_SECONDS="${POLL_SECONDS:-60}"      # between two looks at the state of the TPU
MAX_CRASHES="${MAX_CRASHES:-3}"         # in a row, that tpu_run.sh answers by starting again
DELETE_AFTER="${DELETE_AFTER:-0}"       # 1: tpu_run.sh gives the TPU back once the run has ended
