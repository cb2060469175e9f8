#!/usr/bin/env bash
# Everything in benchmarks/ that needs a GPU or TPU, in one call of under 25 minutes.
#
#     benchmarks/accelerator.sh OUT.json [PYTHON] [REGEX]
#
# With a regular expression only those whose command it matches, such as 'adm64|dit_l2|eager'.
# Each measurement is a process of its own, so that each has the whole memory; one that fails or
# runs out of time leaves the others be, and is named at the end. What matters most comes first;
# ADM comes last, as the search for its convolutions takes minutes. PyTorch's peers run where torch
# and diffusers are installed.
set -euo pipefail
out=${1:?give the JSON file to write}
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
