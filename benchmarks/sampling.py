"""Sampling on one device of any kind: images/s and MFU of a guided sampler.

    python -m benchmarks.sampling --case dit_xl2 [--steps 250] [--batch_size 64] [--out FILE.json]

Weights are random: time does not depend on them. Target, one H100 class GPU: DiT-XL/2 with 250
steps and guidance at >= 55 % MFU.
"""

import argparse
import time

import jax
import numpy as np

from benchmarks import records
from benchmarks.cases import CASES, case_config
from benchmarks.flops import forward_flops, peak_flops
from cdt import build


def measure(case: str, steps: int, batch_size: int, guidance: float, out: str | None) -> None:
    config = case_config(case)
    config.sample.sampler = "heun" if config.process.name == "edm" else "euler"
    config.sample.steps, config.sample.guidance = steps, guidance
    model = build.model(config)
    sample = build.sampler(config, model)
    params = jax.jit(model.init)(jax.random.key(0))
    indices = np.arange(batch_size, dtype=np.int32)
    told = jax.device_put({"label": indices % config.model.num_classes})
    began = time.perf_counter()
    program = sample.lower(params, indices, told).compile()
    compile_seconds = time.perf_counter() - began
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(program(params, indices, told))
        seconds.append(time.perf_counter() - began)
    best = min(seconds)
    nfe = (2 * steps - 1 if config.sample.sampler == "heun" else steps) * (
        2 if guidance != 1.0 else 1
    )
    rate = batch_size * nfe * forward_flops(config) / best
    peak = peak_flops(jax.devices()[0])
    record = {
        "case": case, "batch_size": batch_size, "steps": steps, "guidance": guidance,
        "evaluations_an_image": nfe, "seconds": seconds, "compile_seconds": compile_seconds,
        "images_per_second": batch_size / best, "tflops_per_second": rate / 1e12,
        "mfu": rate / peak if peak else None,
    }  # fmt: skip
    records.append(out, "sampling", record)
    mfu = f"MFU {100 * rate / peak:.1f} %" if peak else "MFU unknown: no data sheet"
    print(
        f"{case}: {batch_size} images, {nfe} evaluations each, {best:.2f} s, "
        f"{batch_size / best:.2f} images/s, {rate / 1e12:.1f} TFLOP/s, {mfu}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], default="dit_xl2")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--out", help="JSON file to add the record to")
    args = parser.parse_args()
    measure(args.case, args.steps, args.batch_size, args.guidance, args.out)


if __name__ == "__main__":
    main()
