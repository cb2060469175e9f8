"""Throughput and MFU of guided sampling on one device.

    python -m benchmarks.sampling --case dit_xl2 [--steps 250] [--batch_size 64] \
      [--set model.unroll=True] [--out FILE.json]

Weights are random; the time does not depend on them. Target on one H100 class GPU: DiT-XL/2 with
250 steps and guidance at >= 55 % MFU.
"""

import argparse
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import records
from benchmarks.cases import CASES, case_config, parse_overrides
from benchmarks.flops import forward_flops, peak_flops
from cdt import from_config
from cdt.from_config import evaluations


def compiled_sampler(config: ConfigDict, batch_size: int):
    """Return (compiled sampler, its arguments, seconds of compilation)."""
    model = from_config.model(config)
    sample = from_config.sampler(config, model)
    params = jax.jit(model.init)(jax.random.key(0))
    indices = np.arange(batch_size, dtype=np.int32)
    condition = {"label": indices % config.model.num_classes}
    arguments = jax.device_put((params, indices, condition))
    began = time.perf_counter()
    program = sample.lower(*arguments).compile()
    return program, arguments, time.perf_counter() - began


def sampling_config(case: str, steps: int, guidance: float, overrides: dict) -> ConfigDict:
    config = case_config(case, **overrides)
    config.sample.sampler = "heun" if config.process.name == "edm" else "euler"
    config.sample.steps, config.sample.guidance = steps, guidance
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], default="dit_xl2")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="JSON file to append the record to")
    args = parser.parse_args()

    config = sampling_config(args.case, args.steps, args.guidance, parse_overrides(args.set))
    program, arguments, compile_seconds = compiled_sampler(config, args.batch_size)
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - began)
    best = min(seconds)
    rate = args.batch_size * evaluations(config) * forward_flops(config) / best
    peak = peak_flops(jax.devices()[0])
    record = {
        "case": args.case, "batch_size": args.batch_size, "steps": args.steps,
        "guidance": args.guidance, "evaluations_an_image": evaluations(config),
        "unroll": config.model.unroll, "seconds": seconds, "compile_seconds": compile_seconds,
        "images_per_second": args.batch_size / best, "tflops_per_second": rate / 1e12,
        "mfu": rate / peak if peak else None,
    }  # fmt: skip
    records.append(args.out, "sampling", record)
    mfu = f"MFU {100 * rate / peak:.1f} %" if peak else "MFU unknown (no peak for this device)"
    print(
        f"{args.case}: {args.batch_size} images, {evaluations(config)} evaluations each, "
        f"{best:.2f} s, {args.batch_size / best:.2f} images/s, {rate / 1e12:.1f} TFLOP/s, {mfu}"
    )


if __name__ == "__main__":
    main()
