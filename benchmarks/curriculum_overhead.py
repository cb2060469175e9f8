"""What the curriculum costs: the train step with it against the same step with uniform sampling.

    python -m benchmarks.curriculum_overhead

Prints, for the digits DiT and for DiT-S/4 on 32x32x3, the ratio of FLOPs of the compiled programs
and the ratio of their times, measured in interleaved pairs (median, and a bootstrap interval of the
median). Targets: FLOPs <= 1.001, time <= 1.01.
"""

import argparse
import time

import jax
import numpy as np

from cdt import build
from cdt.compilation import compile_program
from cdt.config import default_config


def digits_config():
    config = default_config()
    config.model.num_classes = 10
    config.model.depth = 4
    config.train.batch_size = 64
    config.model.unroll = True
    return config


def dit_s4_config():
    config = default_config()
    config.data.name = "mock"
    config.data.image_size, config.data.channels = 32, 3
    config.model.size, config.model.num_classes = "S/4", 10
    config.train.batch_size = 16
    return config


def compiled_step(config, name):
    """(compiled step, state, batch) with `timesteps.name` = name."""
    config.timesteps.name = name
    source, _ = build.data(config)
    model = build.model(config)
    parts = build.training(config, model, 1, source.size, build.open_all_at(config, source.size))
    indices = np.arange(config.train.batch_size)
    batch = jax.device_put(
        {"image": source.images(indices), "label": source.labels[indices].astype(np.int32)}
    )
    state = jax.jit(parts.init)(jax.random.key(0))
    program = jax.jit(parts.step, donate_argnums=0).lower(state, batch)
    return compile_program(program), state, batch


def seconds(step, state, batch, calls):
    began = time.perf_counter()
    for _ in range(calls):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics["loss"])
    return time.perf_counter() - began, state


def compare(name, config, pairs, calls):
    steps = {kind: compiled_step(config, kind) for kind in ("curriculum", "uniform")}
    flops = {kind: step.cost_analysis()["flops"] for kind, (step, _, _) in steps.items()}
    states = {kind: state for kind, (_, state, _) in steps.items()}
    ratios = []
    for i in range(pairs + 1):
        elapsed = {}
        # Each pair in the other order, so that neither kind always runs first.
        for kind in sorted(steps, reverse=i % 2 == 1):
            step, _, batch = steps[kind]
            elapsed[kind], states[kind] = seconds(step, states[kind], batch, calls)
        if i:  # the first pair warms up
            ratios.append(elapsed["curriculum"] / elapsed["uniform"])
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    print(
        f"{name}: FLOPs ratio {flops['curriculum'] / flops['uniform']:.6f}, time ratio "
        f"{np.median(ratios):.4f} [{low:.4f}, {high:.4f}] over {pairs} pairs of {calls} steps"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    compare("digits DiT, batch 64", digits_config(), pairs, calls=8)
    compare("DiT-S/4 32x32x3, batch 16", dit_s4_config(), pairs, calls=2)


if __name__ == "__main__":
    main()
