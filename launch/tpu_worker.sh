#!/usr/bin/env bash
# What tpu_run.sh calls on each worker of a TPU, in ~/cdt-launch/source. Not for people.
#
#     tpu_worker.sh install           makes ~/cdt-launch/venv
#     tpu_worker.sh run ID ARGS...    starts the program, unless ID was started already; follows it
#     tpu_worker.sh stop [ID]         ends what runs, letting it save; ID will not start any more
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python_version=3.12                  # the images bring an older one than the project needs
stop_seconds="${STOP_SECONDS:-600}"  # what saving may take before a program is killed

install() {
  # The images have pip, but neither uv nor, some of them, venv.
  python3 -m pip install --quiet --upgrade --target=uv uv
  uv/bin/uv venv --quiet --allow-existing --python="$python_version" venv
  # Resolved together, so that jax and its TPU library match.
  uv/bin/uv pip install --quiet --python=venv/bin/python -r source/requirements.txt 'jax[tpu]'
}

# Whether a run's program is alive; a process number may have been given to something else since.
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
    # Once: a second signal makes the program leave without saving.
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

# The program, apart from the connection that started it: its output and exit code go to files.
supervise() {
  local run=$1 code=0
  shift
  export PYTHONUNBUFFERED=1  # its messages are read as they come
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
  # gcloud calls this again when a connection breaks: then the program is running already.
  if mkdir "$run" 2>/dev/null; then
    lines=+1
    stop ""  # a program that was left behind would hold the TPU
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
