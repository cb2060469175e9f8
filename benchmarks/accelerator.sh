#!/usr/bin/env bash
# Runs all benchmarks that need a GPU or TPU, in less than 25 minutes.
#
#     benchmarks/accelerator.sh OUT.json [PYTHON] [REGEX]
#
# REGEX selects the benchmarks whose command it matches, such as 'adm64|dit_l2|eager'. Each one runs
# in its own process, so that it has the whole memory. If one fails or exceeds its time limit, the
# others still run; the failed ones are listed at the end. ADM comes last, because the search for its
# convolutions takes minutes. PyTorch is measured if torch and diffusers are installed.
set -euo pipefail
out=${1:?is missing; give the JSON file to write: benchmarks/accelerator.sh OUT.json}
python=${2:-python}
only=${3:-}
cd "$(dirname "$0")/.."
cache=$(mktemp -d)
trap 'rm -rf -- "${cache:?}"' EXIT
export JAX_COMPILATION_CACHE_DIR="$cache"
failed=()

measure() { # SECONDS ARGUMENT...
  [[ "${*:2}" =~ $only ]] || return 0
  timeout "$1" "$python" -m "${@:2}" --out "$out" || failed+=("${*:2}")
}

unroll=(--set model.unroll=True)
torch=no
if "$python" -c 'import torch, diffusers' 2>/dev/null; then
  torch=yes
fi
measure 120 benchmarks.train_step --case dit_xl2 "${unroll[@]}"
measure 90 benchmarks.train_step --case dit_b2 "${unroll[@]}"
if [[ $torch == yes ]]; then
  measure 150 benchmarks.train_step --case dit_xl2 --peers_only --peer compile
  measure 120 benchmarks.train_step --case dit_b2 --peers_only --peer compile
fi
measure 150 benchmarks.sampling --case dit_xl2 "${unroll[@]}"
measure 90 benchmarks.curriculum_overhead --case dit_b2 "${unroll[@]}" --pairs 20
measure 90 benchmarks.train_step --case dit_s2 "${unroll[@]}"
measure 120 benchmarks.train_step --case dit_l2 "${unroll[@]}"
measure 120 benchmarks.train_step --case dit_xl2
if [[ $torch == yes ]]; then
  measure 120 benchmarks.train_step --case dit_xl2 --peers_only --peer eager
  measure 90 benchmarks.train_step --case dit_b2 --peers_only --peer eager
fi
measure 210 benchmarks.train_step --case adm64
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
