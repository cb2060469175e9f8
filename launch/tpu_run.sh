#!/usr/bin/env bash
# Runs the program on all workers of a TPU until it has ended, whatever becomes of the TPU.
#
#     launch/tpu_run.sh [--dry-run] --config=FILE --workdir=gs://BUCKET/DIR [--config.KEY=VALUE ...]
#
# Asks for the TPU where there is none, waits for it, installs the commit that is checked out here,
# runs, and goes by what became of the program:
#
#     0           it is finished, and so is this script
#     2, 3        this script ends with the same code; the program's message ends its output
#     75          it has saved, or a worker was lost: started again
#     TPU lost    deleted, asked for anew, and started again when it is there
#     other       a crash: started again, MAX_CRASHES times in a row; then the code of this script
#
# Ctrl-C or TERM lets the program save and end on all workers; then this script ends with 75, the
# TPU stays, and the same command goes on. A second one ends the script at once. A script that is
# killed leaves the program running; the same command stops it, letting it save, and goes on.
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
    say "--workdir=gs://BUCKET/DIR is missing; elsewhere a run is lost with its TPU."
    exit 2
    ;;
esac

archive="build/launch/$NAME.tar.gz"
worker="cdt-launch/source/launch/tpu_worker.sh"
id="$(date +%Y%m%d%H%M%S)-$$"  # of this call of the script; a number for each start is added

# --- Commands on all workers --------------------------------------------------------------------
# A node that is gone does not close its connections, so ssh asks whether it is there.

# shellcheck disable=SC2086  # SSH_FLAGS are words
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

# What was left running must have ended before its code is replaced.
install() {  # NODE
  on_workers "$1" "if [ -e $worker ]; then bash $worker stop; fi && rm -rf cdt-launch/source &&\
 mkdir -p cdt-launch/source && tar -xzf cdt-launch.tar.gz -C cdt-launch/source &&\
 bash $worker install"
}

# gcloud's exit code does not tell that of the program: it is that of one worker out of many, 1 or 2
# where gcloud itself is at fault, and where a connection breaks gcloud calls the command again.
# So a worker starts the program once for each ID, however often it is told to; when the program has
# ended it says `cdt-exit HOST CODE`, and its own exit code is 0.
run() {  # NODE ARGUMENTS...
  local node=$1
  shift
  on_workers "$node" "bash $worker run $id.$starts $(quoted "$@")"
}

stop() {  # NODE
  on_workers "$1" "bash $worker stop $id.$starts"
}

# Calls a function for all nodes at once, with a log for each node; fails where one of them fails.
# (`gcloud compute tpus queued-resources ssh` reaches all nodes with one call, but no more than 64
# workers at a time, and a run begins only when all its workers have begun.)
on_nodes() {  # FUNCTION [ARGUMENTS...]
  local node pids="" function=$1
  shift
  for node in $nodes; do
    if [ "$dry_run" = 1 ]; then
      "$function" "$node" "$@"
      continue
    fi
    set -m  # a process group of its own: Ctrl-C does not reach it, and it can be ended as a whole
    ("$function" "$node" "$@" 2>&1 | tee "build/launch/$node.$function.log") </dev/null &
    set +m
    pids="$pids $!"
  done
  # shellcheck disable=SC2086  # numbers
  await $pids
}

# --- Signals ------------------------------------------------------------------------------------
signals=0   # received
answered=0  # of these
running=0   # whether the workers have been told to run the program
children=""
trap 'signals=$((signals + 1))' INT TERM HUP
trap 'for child in $children; do kill -TERM -- "-$child" 2>/dev/null || true; done' EXIT

# Waits for children, answering signals meanwhile; fails where one of them failed.
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
    say "stopped; the TPU stays until launch/tpu_delete.sh is called."
    exit 75
  elif [ "$signals" -gt 1 ]; then
    say "stopped at once: the program may still be running; the same command goes on with it."
    exit 75
  fi
  say "stopping: the program saves and ends on all workers; a second signal does not wait for it."
  on_nodes stop || say "not all workers could be told to stop."
}

pause() {
  set -m
  sleep "$POLL_SECONDS" &
  set +m
  await $!
}

# --- The TPU ------------------------------------------------------------------------------------
ours=1       # whether an absent TPU is so because it was not asked for yet, or deleted here
asked=0      # whether this script has asked for the TPU, and it has not been ready since
was_ready=0  # whether it has been ready at all
known=0      # whether gcloud has answered at all
crashes=0    # in a row

crashed() {  # CODE
  crashes=$((crashes + 1))
  if [ "$crashes" -gt "$MAX_CRASHES" ]; then
    say "that was crash $crashes in a row, and MAX_CRASHES is $MAX_CRASHES: giving up."
    finish "$1"
  fi
  say "crash $crashes in a row of at most $MAX_CRASHES; starting again."
}

finish() {  # CODE
  if [ "$DELETE_AFTER" = 1 ]; then
    again bash launch/tpu_delete.sh || say "the TPU is still there: call launch/tpu_delete.sh."
  fi
  exit "$1"
}

# Calls another of the scripts in the way that this one was called.
again() {
  if [ "$dry_run" = 1 ]; then
    "$@" --dry-run
  else
    "$@"
  fi
}

# Asks for the TPU where there is none, and waits until it is ready.
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
          say "gcloud does not tell whether there is a TPU; see what it says above."
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
          say "somebody deleted the TPU; the same command asks for a new one and goes on."
          exit 75
        fi
        if again bash launch/tpu_create.sh; then
          ours=0
          asked=1
        elif [ "$was_ready" = 0 ]; then
          say "the TPU cannot be asked for; see what gcloud says above."
          exit 1
        fi
        ;;
      lost)
        # A request that fails before it is granted may be one that never can be.
        [ "$asked" = 0 ] || crashed 1
        say "the TPU is lost; asking for a new one."
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
  say "what is not committed is not sent."
fi
run_logs=""
for node in $nodes; do
  run_logs="$run_logs build/launch/$node.run.log"
done

for ((starts = 1; ; starts++)); do
  make_ready
  failed=0
  codes=""  # those that the workers tell, each once, with a space after it
  on_nodes send && on_nodes install || failed=$?
  if [ "$failed" = 0 ]; then
    running=1
    on_nodes run "$@" || failed=$?
    running=0
    if [ "$dry_run" = 1 ]; then
      finish 0
    fi
    # shellcheck disable=SC2086  # one log a node
    codes=$(sed -n 's/^cdt-exit [^ ]* //p' $run_logs | sort -u | tr '\n' ' ')
  fi
  # Where workers differ, the code that asks for a person says why the others failed.
  case " $codes" in
    *" 2 "* | *" 3 "*)
      code=3
      case " $codes" in *" 2 "*) code=2 ;; esac
      say "the program ended with exit code $code; its message is above and in build/launch/."
      finish "$code"
      ;;
  esac
  if [ "$failed" = 0 ] && [ "$codes" = "0 " ]; then
    say "the program has finished."
    finish 0
  fi
  if [ "$signals" -gt 0 ]; then
    say "stopped; the TPU stays until launch/tpu_delete.sh is called."
    exit 75
  fi
  # Workers that have lost another one end with 75 too; where that one tells a code, it crashed.
  # shellcheck disable=SC2086  # one code a line
  crash=$(printf '%s\n' $codes | grep -vx -e 0 -e 75 -e lost || true)
  case "$crash $codes" in
    " "*"75 "*)
      say "the program was stopped and has saved, or a worker was lost; starting it again."
      crashes=0
      continue
      ;;
  esac
  say "something went wrong; exit codes: gcloud $failed, program ${codes:-unknown}"
  pause  # what the state says of a node that is gone comes late
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
