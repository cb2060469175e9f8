"""Cost of the curriculum: a train step with it, compared with the same step with a uniform density.

    python -m benchmarks.curriculum_overhead [--case dit_b2] [--out FILE.json]

Prints the ratio of the FLOPs of the compiled programs and the ratio of their times. Times are
measured in interleaved pairs; the ratio is a median with a bootstrap interval.
Targets: FLOPs <= 1.001, time <= 1.01.
"""

import argparse
import time

import jax
import numpy as np

from benchmarks import records
from benchmarks.cases import CASES, case_config, compiled_step, parse_overrides


def seconds(step, state, calls):
    began = time.perf_counter()
    for _ in range(calls):
        state, metrics = step.program(state, step.batch)
    jax.block_until_ready(metrics["loss"])
    return time.perf_counter() - began, state


def compare(name: str, overrides: dict, pairs: int, calls: int, out: str | None) -> None:
    kinds = ("curriculum", "uniform")
    steps = {
        kind: compiled_step(
            case_config(name, **overrides, **{"curriculum.enabled": kind == "curriculum"})
        )
        for kind in kinds
    }
    flops = {kind: step.program.cost_analysis()["flops"] for kind, step in steps.items()}
    states = {kind: step.state for kind, step in steps.items()}
    ratios = []
    for i in range(pairs + 1):
        elapsed = {}
        # The order alternates, so that neither kind always runs first.
        for kind in sorted(steps, reverse=i % 2 == 1):
            elapsed[kind], states[kind] = seconds(steps[kind], states[kind], calls)
        if i:  # the first pair warms up
            ratios.append(elapsed["curriculum"] / elapsed["uniform"])
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    record = {
        "case": name, "pairs": pairs, "steps_a_turn": calls,
        "flops_ratio": flops["curriculum"] / flops["uniform"],
        "time_ratio": float(np.median(ratios)), "interval": [low, high],
    }  # fmt: skip
    records.append(out, "curriculum_overhead", record)
    print(
        f"{name}: FLOPs ratio {record['flops_ratio']:.6f}, time ratio "
        f"{record['time_ratio']:.4f} [{low:.4f}, {high:.4f}] over {pairs} pairs of {calls} steps",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[*CASES], action="append", help="default: those for CPUs")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--out", help="JSON file to append the records to")
    args = parser.parse_args()
    for name in args.case or ("digits", "dit_s4"):
        calls = 8 if name == "digits" else 2
        compare(name, parse_overrides(args.set), args.pairs, calls, args.out)


if __name__ == "__main__":
    main()
