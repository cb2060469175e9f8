# shellcheck shell=bash
# Functions of the tpu_*.sh scripts. Source it after env.sh, in the root of the repository.
set -euo pipefail

say() {
  echo "launch: $*" >&2 || true  # continue if the terminal was closed
}

case "$NUM_SLICES" in
  "" | *[!0-9]* | 0*) say "NUM_SLICES is '$NUM_SLICES'; it must be at least 1." && exit 2 ;;
esac
case "$SPOT $DELETE_AFTER" in
  [01]" "[01]) ;;
  *) say "SPOT is '$SPOT' and DELETE_AFTER is '$DELETE_AFTER'; each must be 0 or 1." && exit 2 ;;
esac

# A node is a slice. One node has the name of the queued resource; several have a number too.
nodes="$NAME"
if [ "$NUM_SLICES" -gt 1 ]; then
  nodes=""
  for ((i = 0; i < NUM_SLICES; i++)); do
    nodes="$nodes $NAME-$i"
  done
fi

dry_run=0
pretended=ACTIVE  # state of the queued resource in a dry run

# For scripts whose only option is --dry-run. TPUs cost money, so a misspelt option is an error.
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

# Prints the arguments as one line, quoted for a shell.
quoted() {
  local line
  line=$(printf '%q ' "$@")
  printf '%s\n' "${line% }"
}

# Runs a command, or prints it in a dry run.
call() {
  if [ "$dry_run" = 1 ]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Runs gcloud and sets `answer` to its output. `answer` is "absent" if the resource does not exist,
# and empty if gcloud fails in another way; its message is then printed. A dry run prints the
# command and sets `answer` to PRETENDED.
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

# Sets `state` to the state of the TPU, and `details` to the states that gcloud reports:
#   ready    the queued resource is active and all its nodes are ready
#   absent   the queued resource does not exist
#   lost     it must be deleted and requested again
#   waiting  it may become ready without an action
#   unknown  gcloud failed
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
  # A queued resource may be reported as active for a while after one of its nodes was lost.
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
