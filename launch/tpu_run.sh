#!/usr/bin/env bash
# Runs cdt on all workers of a TPU until the run has ended, and restarts it after a preemption.
#
#     launch/tpu_run.sh [--dry-run] --config=FILE --workdir=gs://BUCKET/DIR [--config.KEY=VALUE ...]
#
# It requests the TPU if there is none, waits for it, installs the commit that is checked out here,
# and runs the program. The exit code of the program decides what follows:
#
#     0           the run is finished; this script ends with 0
#     2, 3        this script ends with the same code; the message is at the end of the output
#     75          the run was saved, or a worker was lost: the script restarts the program
#     TPU lost    the script deletes the TPU, requests a new one, and restarts the program on it
#     other       a crash: the script restarts the program, at most MAX_CRASHES times in a row, then
#                 ends with this code
#
# Ctrl-C or TERM: the program saves and ends on all workers, and this script ends with 75. The TPU
# stays, and the same command continues the run. A second signal ends the script at once. If the
# script is killed, the program keeps running. The same command lets it save, stops it and continues
# the run.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
source launch/lib.sh

if [ "${1:-}" = --dry-run ]; then
  dry_run=1
  shift
fi
case "$(printf '%s\n' "$@" | grep '^--workdir=' || true)" in
  --workdir=*://*) ;;
  *)
    say "--workdir=gs://BUCKET/DIR is missing; a run on the disk of a TPU is lost with the TPU."
    exit 2
    ;;
esac

archive="build/launch/$NAME.tar.gz"
worker="cdt-launch/source/launch/tpu_worker.sh"
id="$(date +%Y%m%d%H%M%S)-$$"  # of this call of the script; each start adds its number

# --- Commands on all workers --------------------------------------------------------------------
# A lost node does not close its connections, so ssh checks regularly whether it is alive.

# shellcheck disable=SC2086  # SSH_FLAGS is split into words
on_workers() {  # NODE COMMAND
  call gcloud compute tpus tpu-vm ssh "$1" --project="$PROJECT" --zone="$ZONE" --worker=all \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oConnectTimeout=30 $SSH_FLAGS --command="$2"
}

# shellcheck disable=SC2086
send() {  # NODE
  call gcloud compute tpus tpu-vm scp "$archive" "$1:cdt-launch.tar.gz" --project="$PROJECT" \
    --zone="$ZONE" --worker=all --scp-flag=-oServerAliveInterval=30 \
    --scp-flag=-oConnectTimeout=30 $SSH_FLAGS
}

# An earlier program must end before its code is replaced.
install() {  # NODE
  on_workers "$1" "if [ -e $worker ]; then bash $worker stop; fi && rm -rf cdt-launch/source &&\
 mkdir -p cdt-launch/source && tar -xzf cdt-launch.tar.gz -C cdt-launch/source &&\
 bash $worker install"
}

# The exit code of gcloud is not reliable: it is that of one worker out of many, or 1 or 2 if gcloud
# itself fails. If a connection breaks, gcloud repeats the command. Therefore a worker starts the
# program only once for each ID. When the program ends, the worker prints `cdt-exit HOST CODE`, and
# exits with 0.
run() {  # NODE ARGUMENTS...
  local node=$1
  shift
  on_workers "$node" "bash $worker run $id.$starts $(quoted "$@")"
}

stop() {  # NODE
  on_workers "$1" "bash $worker stop $id.$starts"
}

# Calls a function for all nodes in parallel, with a log for each node; fails if one of them fails.
# (`gcloud compute tpus queued-resources ssh` reaches all nodes with one call, but only 64 workers
# at a time, and a run starts only when all its workers have started.)
on_nodes() {  # FUNCTION [ARGUMENTS...]
  local node pids="" function=$1
  shift
  for node in $nodes; do
    if [ "$dry_run" = 1 ]; then
      "$function" "$node" "$@"
      continue
    fi
    set -m  # a separate process group: Ctrl-C does not reach it, and it can be ended as a whole
    ("$function" "$node" "$@" 2>&1 | tee "build/launch/$node.$function.log") </dev/null &
    set +m
    pids="$pids $!"
  done
  # shellcheck disable=SC2086  # $pids is split into numbers
  await $pids
}

# --- Signals ------------------------------------------------------------------------------------
signals=0   # number of signals received
answered=0  # number of signals handled
running=0   # 1 while the workers run the program
children=""
trap 'signals=$((signals + 1))' INT TERM HUP
trap 'for child in $children; do kill -TERM -- "-$child" 2>/dev/null || true; done' EXIT

# Waits for child processes and handles signals meanwhile; fails if one of them failed.
await() {  # PROCESSES...
  local child code status=0
  for child in "$@"; do
    children="$children $child "
  done
  for child in "$@"; do
    while :; do
      code=0
      wait "$child" || code=$?
      [ "$signals" -gt "$answered" ] || break
      answer_signal
    done
    children=${children/ $child /}
    [ "$code" = 0 ] || status=$code
  done
  return "$status"
}

answer_signal() {
  answered=$signals
  if [ "$running" = 0 ]; then
    say "stopped; the TPU still exists, delete it with launch/tpu_delete.sh."
    exit 75
  elif [ "$signals" -gt 1 ]; then
    say "stopped at once; the program may still be running, and the same command continues the run."
    exit 75
  fi
  say "stopping: the program saves on all workers; a second signal ends this script at once."
  on_nodes stop || say "not all workers could be stopped."
}

pause() {
  set -m
  sleep "$POLL_SECONDS" &
  set +m
  await $!
}

# --- The TPU ------------------------------------------------------------------------------------
ours=1       # 1: an absent TPU is expected, because it was not requested yet or was deleted here
asked=0      # 1: this script requested the TPU, and it has not been ready since
was_ready=0  # 1: the TPU was ready at least once
known=0      # 1: gcloud answered at least once
crashes=0    # crashes in a row

crashed() {  # CODE
  crashes=$((crashes + 1))
  if [ "$crashes" -gt "$MAX_CRASHES" ]; then
    say "crash $crashes in a row, more than MAX_CRASHES=$MAX_CRASHES; giving up."
    finish "$1"
  fi
  say "crash $crashes in a row (MAX_CRASHES=$MAX_CRASHES); restarting."
}

finish() {  # CODE
  if [ "$DELETE_AFTER" = 1 ]; then
    again bash launch/tpu_delete.sh || say "the TPU was not deleted; run launch/tpu_delete.sh."
  fi
  exit "$1"
}

# Calls another script, with --dry-run if this one has it.
again() {
  if [ "$dry_run" = 1 ]; then
    "$@" --dry-run
  else
    "$@"
  fi
}

# Requests the TPU if there is none, and waits until it is ready.
make_ready() {
  local before=""
  while :; do
    [ "$ours" = 0 ] && pretended=ACTIVE || pretended=absent
    look
    [ "$signals" = "$answered" ] || answer_signal
    if [ "$details" != "$before" ] && [ "$dry_run" = 0 ]; then
      say "$details"
      before=$details
    fi
    [ "$state" = unknown ] || known=1
    case "$state" in
      unknown)
        if [ "$known" = 0 ]; then
          say "gcloud failed, so the state of the TPU is unknown; see its message above."
          exit 1
        fi
        ;;
      ready)
        ours=0
        asked=0
        was_ready=1
        return
        ;;
      absent)
        if [ "$ours" = 0 ]; then
          say "the TPU was deleted elsewhere; the same command requests a new one and continues."
          exit 75
        fi
        if again bash launch/tpu_create.sh; then
          ours=0
          asked=1
        elif [ "$was_ready" = 0 ]; then
          say "the TPU cannot be requested; see the message of gcloud above."
          exit 1
        fi
        ;;
      lost)
        # A request that fails before it is granted counts as a crash: it may never succeed.
        [ "$asked" = 0 ] || crashed 1
        say "the TPU was lost; requesting a new one."
        if again bash launch/tpu_delete.sh; then
          ours=1
          asked=0
          continue
        fi
        ;;
    esac
    [ "$dry_run" = 1 ] || pause
  done
}

# --- The program --------------------------------------------------------------------------------
call mkdir -p build/launch
call git archive --format=tar.gz --output="$archive" HEAD
if [ "$dry_run" = 0 ] && [ -n "$(git status --porcelain)" ]; then
  say "warning: uncommitted changes are not sent to the TPU."
fi
run_logs=""
for node in $nodes; do
  run_logs="$run_logs build/launch/$node.run.log"
done

for ((starts = 1; ; starts++)); do
  make_ready
  failed=0
  codes=""  # exit codes that the workers print, each once and followed by a space
  on_nodes send && on_nodes install || failed=$?
  if [ "$failed" = 0 ]; then
    running=1
    on_nodes run "$@" || failed=$?
    running=0
    if [ "$dry_run" = 1 ]; then
      finish 0
    fi
    # shellcheck disable=SC2086  # $run_logs is split into one log for each node
    codes=$(sed -n 's/^cdt-exit [^ ]* //p' $run_logs | sort -u | tr '\n' ' ')
  fi
  # If the codes differ, 2 or 3 is the cause of the others and needs a fix by the user.
  case " $codes" in
    *" 2 "* | *" 3 "*)
      code=3
      case " $codes" in *" 2 "*) code=2 ;; esac
      say "the run ended with exit code $code; see its message above or in build/launch/."
      finish "$code"
      ;;
  esac
  if [ "$failed" = 0 ] && [ "$codes" = "0 " ]; then
    say "the run is finished."
    finish 0
  fi
  if [ "$signals" -gt 0 ]; then
    say "stopped; the TPU still exists, delete it with launch/tpu_delete.sh."
    exit 75
  fi
  # Workers that lose another worker end with 75 too. If that worker prints a code, it crashed.
  # shellcheck disable=SC2086  # $codes is split, one code a line
  crash=$(printf '%s\n' $codes | grep -vx -e 0 -e 75 -e lost || true)
  case "$crash $codes" in
    " "*"75 "*)
      say "the run was saved, or a worker was lost; restarting."
      crashes=0
      continue
      ;;
  esac
  say "failed; exit codes: gcloud $failed, program ${codes:-unknown}"
  pause  # the state of a lost node changes only after a while
  look
  if [ "$state" = ready ]; then
    for code in $crash; do
      failed=$code
    done
    crashed "$failed"
  else
    crashes=0
  fi
done
