"""Throughput, FLOP/s, MFU, memory and compile time of the train step on one device.

    python -m benchmarks.train_step --case dit_b2 --case dit_xl2 [--set model.unroll=True] \
      [--peer eager --peer compile] [--out FILE.json]

It is the whole step: random draws, forward, backward, AdamW, one EMA, the check for NaN or inf, and
the sums per cluster. MFU is FLOPs / (time * bfloat16 rate of the data sheet). FLOPs are three
forward passes an image; recomputation does not count. `--peer` also runs the same DiT in PyTorch
(requirements-peers.txt), eager or with `torch.compile`.

Targets on one H100 class GPU: MFU >= 45 % for DiT-B/2 and >= 50 % for DiT-XL/2; >= 1.15 times the
images/s of `torch.compile`.
"""

import argparse
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import records
from benchmarks.cases import CASES, case_config, compiled_step, parse_overrides
from benchmarks.flops import forward_flops, peak_flops

WINDOWS = 5


def seconds_a_step(run, wait, steps: int) -> list[float]:
    """Return the seconds a step in each of WINDOWS windows of `steps` steps, after a warm-up."""
    times = []
    for _ in range(WINDOWS + 1):
        began = time.perf_counter()
        for _ in range(steps):
            result = run()
        wait(result)
        times.append((time.perf_counter() - began) / steps)
    return times[1:]


def ours(config: ConfigDict, steps: int) -> dict:
    step = compiled_step(config)
    memory = step.program.memory_analysis()
    cost = step.program.cost_analysis() or {}
    state = step.state

    def run():
        nonlocal state
        state, metrics = step.program(state, step.batch)
        return metrics["loss"]

    times = seconds_a_step(run, jax.block_until_ready, steps)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "params": step.num_params,
        "compile_seconds": step.compile_seconds,
        "state_gib": memory.argument_size_in_bytes / 2**30,
        "temporary_gib": memory.temp_size_in_bytes / 2**30,
        "peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "xla_flops": cost.get("flops"),
        "loss": float(run()),
        "seconds": times,
    }


def peer(config: ConfigDict, steps: int, compiled: bool) -> dict:
    import torch

    from benchmarks.torch_dit import torch_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    began = time.perf_counter()
    run, params = torch_step(
        config, device, bfloat16=config.model.dtype == "bfloat16", compiled=compiled
    )
    float(run())
    first = time.perf_counter() - began
    times = seconds_a_step(run, float, steps)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {
        "params": params,
        "first_step_seconds": first,
        "peak_gib": peak,
        "torch": torch.__version__,
        "seconds": times,
    }


def report(name: str, side: str, config: ConfigDict, result: dict, out: str | None) -> None:
    batch, flops = config.train.batch_size, 3 * forward_flops(config)
    seconds = float(np.median(result["seconds"]))
    peak = peak_flops(jax.devices()[0])
    result |= {
        "images_per_second": batch / seconds,
        "tflops_per_second": batch * flops / seconds / 1e12,
        "mfu": batch * flops / seconds / peak if peak else None,
        "step_flops": batch * flops,
    }
    records.append(
        out,
        "train_step",
        {
            "case": name, "side": side, "batch_size": batch, "dtype": config.model.dtype,
            "unroll": config.model.unroll, "remat": config.model.remat, **result,
        },
    )  # fmt: skip
    mfu = f"MFU {100 * result['mfu']:.1f} %" if peak else "MFU unknown (no peak for this device)"
    spread = 1e3 * np.ptp(result["seconds"])
    compile_seconds = result.get("compile_seconds", result.get("first_step_seconds"))
    print(
        f"{name} {side}: batch {batch}, {1e3 * seconds:.1f} ms a step (spread {spread:.1f}), "
        f"{batch / seconds:.0f} images/s, {result['tflops_per_second']:.1f} TFLOP/s, {mfu}, "
        f"compiled in {compile_seconds:.0f} s, peak {result['peak_gib']:.1f} GiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append", required=True)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--peer", choices=["eager", "compile"], action="append", default=[])
    parser.add_argument("--peers_only", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="steps in a window")
    parser.add_argument("--out", help="JSON file to append the records to")
    args = parser.parse_args()
    overrides = parse_overrides(args.set)
    for name in args.case:
        config = case_config(name, **overrides)
        if not args.peers_only:
            report(name, "ours", config, ours(config, args.steps), args.out)
        for kind in args.peer:
            result = peer(config, args.steps, compiled=kind == "compile")
            report(name, f"torch {kind}", config, result, args.out)


if __name__ == "__main__":
    main()
