"""Estimate of the MFU that a DiT reaches on many chips, without running on them.

    JAX_PLATFORMS=cpu python -m benchmarks.roofline [--chip v5e --chips 64] [--case dit_xl2] \
      [--batch_per_chip 32] [--efficiency 0.45] [--set model.unroll=True] [--out FILE.json]

The train step is compiled for each machine (benchmarks/targets.py: it needs libtpu or the CUDA
plugin, but no such chip). The compiled program shows its memory and the bytes it sends. The time to
compute is FLOPs / (peak * efficiency), where efficiency is the MFU of one chip. The time to send is
the bytes divided by the rate of the links. MFU is printed for two assumptions: no overlap, and the
overlap that the program allows.

Without --fsdp, the state is split over the fewest chips that hold it in a quarter of their memory.
The first value of `model.remat` that fits the step into memory is used.
"""

import argparse
import time
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from benchmarks import records, targets
from benchmarks.cases import case_config, parse_overrides
from benchmarks.collectives import collectives, sent_bytes
from benchmarks.flops import forward_flops, peak_flops
from cdt import from_config
from cdt.devices.memory import USABLE, Memory, planned_memory
from cdt.models.remat import REMATS

NUM_CHIPS = (1, 8, 64, 256, 1024)
FLOAT = 4  # bytes
GB = 1e9


class Program(NamedTuple):
    """Memory and traffic of a compiled train step."""

    remat: str
    memory: Memory
    sent: float  # bytes that a chip sends in a step
    sending: float  # seconds to send them
    hidden: float  # part of these seconds that may overlap with computing
    compile_seconds: float


def fitting(config: ConfigDict, chip: targets.Chip, number: int, fsdp: int) -> Program | None:
    """Return the step with the least rematerialization that fits into memory, or None."""
    for remat in REMATS:
        config.model.remat = remat
        began = time.perf_counter()
        try:
            step = targets.compiled_step(config, chip, number, fsdp)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            continue
        memory = planned_memory(step)
        if chip.platform == "cuda" and memory.total > USABLE * chip.memory:
            continue
        seconds = time.perf_counter() - began
        sent = sending = hidden = 0.0
        for collective in collectives(step.as_text()):
            near, far = sent_bytes(collective, number, chip.domain)
            took = near / chip.link + far / chip.network
            sent += near + far
            sending += took
            hidden += took * collective.overlaps
        return Program(remat, memory, sent, sending, hidden, seconds)
    return None


def fewest(state: float, chip: targets.Chip, number: int) -> int:
    """Return the smallest number of chips that hold the state in a quarter of their memory."""
    fsdp = 1
    while state / fsdp > chip.memory / 4 and fsdp < min(number, chip.domain):
        fsdp *= 2
    return fsdp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=[*targets.CHIPS], action="append")
    parser.add_argument("--chips", type=int, choices=NUM_CHIPS, action="append", help="number")
    parser.add_argument("--fsdp", type=int, help="chips to split the state over")
    parser.add_argument("--case", default="dit_xl2")
    parser.add_argument("--batch_per_chip", type=int, default=32)
    parser.add_argument("--efficiency", type=float, default=0.45, help="MFU of one chip")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--out", help="JSON file to append the records to")
    args = parser.parse_args()

    overrides = {"model.dtype": "bfloat16"} | parse_overrides(args.set)
    config = case_config(args.case, **overrides)
    shapes = jax.eval_shape(from_config.model(config).init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    forward = args.batch_per_chip * forward_flops(config)
    state = FLOAT * num_params * 4  # parameters, two moments, one EMA
    print(
        f"{args.case}: {num_params / 1e6:.0f} M parameters, {3 * forward / 1e12:.1f} TFLOP a chip"
    )
    print(
        "| chips | mesh data x fsdp | batch | remat | memory | sent a chip | step | overlap | MFU |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.chip or targets.CHIPS:
        chip = targets.CHIPS[name]
        peak = peak_flops(targets.devices(chip, 1)[0])
        for number in args.chips or NUM_CHIPS:
            fsdp = args.fsdp or fewest(state, chip, number)
            config.train.batch_size = number * args.batch_per_chip
            program = fitting(config, chip, number, fsdp)
            start = f"| {number} {name} | {number // fsdp} x {fsdp} | {config.train.batch_size:,} "
            if program is None:
                print(f"{start}| does not fit | | | | | |", flush=True)
                continue
            passes = 4 if program.remat == "block" else 3
            computing = passes * forward / (peak * args.efficiency)
            shown = program.sending - program.hidden
            steps = (computing + program.sending, max(computing, program.hidden) + shown)
            mfu = [3 * forward / seconds / peak for seconds in steps]
            cells = (
                program.remat,
                f"{program.memory.arguments / GB:.1f} + {program.memory.temporary / GB:.1f} GB",
                f"{program.sent / GB:.2f} GB",
                f"{1e3 * computing:.0f} + {1e3 * program.sending:.0f} ms",
                f"{1e3 * program.hidden:.0f} ms",
                f"{100 * mfu[0]:.0f}-{100 * mfu[1]:.0f} %",
            )
            print(f"{start}| {' | '.join(cells)} |", flush=True)
            records.append(
                args.out,
                "roofline",
                {"case": args.case, "chip": name, "number": number, "fsdp": fsdp, "mfu": mfu}
                | {"batch_size": config.train.batch_size, "computing_seconds": computing}
                | program._replace(memory=program.memory._asdict())._asdict(),
            )


if __name__ == "__main__":
    targets.prepare_environment()
    main()
