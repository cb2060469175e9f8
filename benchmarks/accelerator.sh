#!/usr/bin/env bash
# Everything in benchmarks/ that needs a GPU or TPU, in one call of under 25 minutes.
#
#     benchmarks/accelerator.sh OUT.json [PYTHON]
#
# Each measurement is a process of its own, so that each has the whole memory; one that fails or
# runs out of time leaves the others be, and is named at the end. PyTorch's peers run where torch and
# diffusers are installed.
set -euo pipefail
out=${1:?give the JSON file to write}
python=${2:-python}
cd "$(dirname "$0")/.."
cache=$(mktemp -d)
trap 'rm -rf -- "${cache:?}"' EXIT
export JAX_COMPILATION_CACHE_DIR="$cache"
failed=()

measure() { # SECONDS ARGUMENT...
  timeout "$1" "$python" -m "${@:2}" --out "$out" || failed+=("${*:2}")
}

peers=()
if "$python" -c 'import torch, diffusers' 2>/dev/null; then
  peers=(--peer eager --peer compile)
fi
unroll=(--set model.unroll=True)
measure 150 benchmarks.train_step --case dit_s2 "${unroll[@]}"
measure 240 benchmarks.train_step --case dit_b2 "${unroll[@]}" "${peers[@]}"
measure 150 benchmarks.train_step --case dit_l2 "${unroll[@]}"
measure 300 benchmarks.train_step --case dit_xl2 "${unroll[@]}" "${peers[@]}"
measure 150 benchmarks.train_step --case dit_xl2
measure 150 benchmarks.train_step --case adm64
measure 180 benchmarks.sampling --case dit_xl2
measure 150 benchmarks.curriculum_overhead --case dit_b2 "${unroll[@]}" --pairs 20
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
