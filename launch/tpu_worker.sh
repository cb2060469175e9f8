#!/usr/bin/env bash
# Runs on each worker of a TPU, in ~/cdt-launch/source. Only tpu_run.sh calls it.
#
#     tpu_worker.sh install           creates ~/cdt-launch/venv
#     tpu_worker.sh run ID ARGS...    starts cdt unless ID was started before; prints its output
#     tpu_worker.sh stop [ID]         stops running programs after they save; ID cannot start later
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python_version=3.12                  # the Python of the TPU images is too old
stop_seconds="${STOP_SECONDS:-600}"  # time for saving before a program is killed

install() {
  # The images have pip but not uv, and some do not have venv.
  python3 -m pip install --quiet --upgrade --target=uv uv
  uv/bin/uv venv --quiet --allow-existing --python="$python_version" venv
  # One command, so that uv chooses matching versions of jax and its TPU library.
  uv/bin/uv pip install --quiet --python=venv/bin/python -r source/requirements.txt 'jax[tpu]'
}

# Succeeds if the program of a run is alive. The process number may be reused, so check the command.
alive() {
  [ -e "$1/pid" ] && [[ "$(ps -o args= -p "$(cat "$1/pid")")" == *cdt.main* ]]
}

stop() {
  local run tick
  if [ -n "$1" ]; then
    mkdir -p runs
    : >"runs/$1.stopped"
  fi
  for run in runs/*; do
    alive "$run" || continue
    # Send TERM only once: after a second signal the program exits without saving.
    if mkdir "$run/stopping" 2>/dev/null; then
      kill -TERM "$(cat "$run/pid")" || true
    fi
    for ((tick = 0; tick < 5 * stop_seconds; tick++)); do
      alive "$run" || break
      sleep 0.2
    done
    if alive "$run"; then
      kill -KILL "$(cat "$run/pid")" || true
    fi
  done
}

# Runs the program independently of the connection; its output and exit code go to files.
supervise() {
  local run=$1 code=0
  shift
  export PYTHONUNBUFFERED=1  # show messages at once
  (
    cd source
    exec ../venv/bin/python -m cdt.main "$@"
  ) &
  echo $! >"$run/pid"
  wait $! || code=$?
  echo "$code" >"$run/new"
  mv "$run/new" "$run/exit"
}

run() {
  local run="runs/$1" lines=20 code=lost
  shift
  mkdir -p runs
  # gcloud repeats the command when a connection breaks; the program is then already running.
  if mkdir "$run" 2>/dev/null; then
    lines=+1
    stop ""  # a program of an earlier start would occupy the TPU
    if [ ! -e "$run.stopped" ]; then
      : >"$run/log"
      setsid bash source/launch/tpu_worker.sh supervise "$run" "$@" >"$run/log" 2>&1 </dev/null &
      echo $! >"$run/new_supervisor"
      mv "$run/new_supervisor" "$run/supervisor"
    fi
  fi
  until [ -e "$run/supervisor" ]; do
    if [ -e "$run.stopped" ]; then
      printf '\ncdt-exit %s 75\n' "$(uname -n)"
      return
    fi
    sleep 0.2
  done
  tail -n "$lines" -s 0.2 -f --pid="$(cat "$run/supervisor")" "$run/log"
  if [ -e "$run/exit" ]; then
    code=$(cat "$run/exit")
  fi
  printf '\ncdt-exit %s %s\n' "$(uname -n)" "$code"
}

case "$1" in
  install) install ;;
  run) run "${@:2}" ;;
  supervise) supervise "${@:2}" ;;
  stop) stop "${2:-}" ;;
esac
