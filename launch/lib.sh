# shellcheck shell=bash
# What the tpu_*.sh scripts share. Sourced after env.sh, in the root of the repository.
set -euo pipefail

say() {
  echo "launch: $*" >&2 || true  # a terminal that was closed must not keep anything from happening
}

case "$NUM_SLICES" in
  "" | *[!0-9]* | 0*) say "NUM_SLICES is '$NUM_SLICES'; give a number from 1 up." && exit 2 ;;
esac
case "$SPOT $DELETE_AFTER" in
  [01]" "[01]) ;;
  *) say "SPOT is '$SPOT' and DELETE_AFTER '$DELETE_AFTER'; give 0 or 1." && exit 2 ;;
esac

# Nodes are slices: one is called as the queued resource, several get its name and a number.
nodes="$NAME"
if [ "$NUM_SLICES" -gt 1 ]; then
  nodes=""
  for ((i = 0; i < NUM_SLICES; i++)); do
    nodes="$nodes $NAME-$i"
  done
fi

dry_run=0
pretended=ACTIVE  # what a dry run takes for the state of the queued resource

# For scripts with no other argument than --dry-run: TPUs cost money, so a misspelt one is an error.
only_dry_run() {
  if [ "${1:-}" = --dry-run ]; then
    dry_run=1
    shift
  fi
  if [ $# -gt 0 ]; then
    say "'$1' is not an option; the only one is --dry-run."
    exit 2
  fi
}

# One line that a shell reads as exactly these words.
quoted() {
  local line
  line=$(printf '%q ' "$@")
  printf '%s\n' "${line% }"
}

# Calls a command, or prints it.
call() {
  if [ "$dry_run" = 1 ]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Sets `answer` to what gcloud answers: "absent" for something that does not exist, nothing where
# gcloud fails in another way (its message is passed on). A dry run prints the call and pretends.
ask() {  # PRETENDED ARGUMENTS...
  local errors pretended=$1
  shift
  if [ "$dry_run" = 1 ]; then
    quoted gcloud "$@"
    answer=$pretended
    return
  fi
  errors=$(mktemp)
  if ! answer=$(gcloud "$@" 2>"$errors"); then
    answer=""
    if grep -q NOT_FOUND "$errors"; then
      answer=absent
    else
      cat "$errors" >&2
    fi
  fi
  rm -f "$errors"
}

# Sets `state` to what the TPU is good for, and `details` to why:
#   ready    the queued resource is active, and all its nodes are ready
#   absent   there is no such queued resource
#   lost     it has to be deleted and asked for anew
#   waiting  it may become ready by itself
#   unknown  gcloud does not answer
look() {
  local node
  ask "$pretended" compute tpus queued-resources describe "$NAME" --project="$PROJECT" \
    --zone="$ZONE" --format='value(state.state)'
  details="queued resource $NAME: ${answer:-unknown}"
  case "$answer" in
    ACTIVE) state=ready ;;
    SUSPENDED | FAILED) state=lost ;;
    absent) state=absent ;;
    "") state=unknown ;;
    *) state=waiting ;;
  esac
  [ "$state" = ready ] || return 0
  # A queued resource may be called active for a while when one of its nodes is gone already.
  for node in $nodes; do
    ask READY compute tpus tpu-vm describe "$node" --project="$PROJECT" --zone="$ZONE" \
      --format='value(state)'
    details="$details; node $node: ${answer:-unknown}"
    case "$answer" in
      READY) ;;
      PREEMPTED | TERMINATED | STOPPED | absent) state=lost ;;
      "") [ "$state" = lost ] || state=unknown ;;
      *) [ "$state" = lost ] || state=waiting ;;
    esac
  done
}
