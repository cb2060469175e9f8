"""On paper: the MFU that a DiT can be expected to reach on many chips.

    JAX_PLATFORMS=cpu python -m benchmarks.roofline [--chip v5e --chips 64] [--case dit_xl2] \
      [--batch_per_chip 32] [--efficiency 0.45] [--set model.unroll=True] [--out FILE.json]

For each machine the train step is compiled as for the real one (benchmarks/targets.py: needs libtpu
or the CUDA plugin, and no such chip), which tells the memory that it takes and what it sends. A
step computes for FLOPs / (peak * efficiency), the efficiency being what one chip reaches, and sends
what the program sends at the rate of the links. MFU is given for sending that hides behind
computing not at all, and as far as the program sends while it computes.

Where --fsdp does not say otherwise, the state is split over as few chips as hold it in a quarter of
their memory. Of the choices of `model.remat` the first is taken whose step fits.
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
    """What a compiled train step says of itself, and what follows for its time."""

    remat: str
    memory: Memory
    sent: float  # bytes that a chip sends in a step
    sending: float  # seconds
    hidden: float  # of these, those in which it may compute meanwhile
    compile_seconds: float


def fitting(config: ConfigDict, chip: targets.Chip, number: int, fsdp: int) -> Program | None:
    """The step with the least rematerialisation that the chip's memory holds; None: with none."""
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
            hidden += took * collective.beside
        return Program(remat, memory, sent, sending, hidden, seconds)
    return None


def fewest(state: float, chip: targets.Chip, number: int) -> int:
    """As few of the chips as hold the state's bytes in a quarter of their memory."""
    fsdp = 1
    while state / fsdp > chip.memory / 4 and fsdp < min(number, chip.domain):
        fsdp *= 2
    return fsdp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=[*targets.CHIPS], action="append")
    parser.add_argument("--chips", type=int, choices=NUM_CHIPS, action="append", help="how many")
    parser.add_argument("--fsdp", type=int, help="chips that share the state, not the fewest")
    parser.add_argument("--case", default="dit_xl2")
    parser.add_argument("--batch_per_chip", type=int, default=32)
    parser.add_argument("--efficiency", type=float, default=0.45, help="MFU of one chip")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--out", help="JSON file to add the records to")
    args = parser.parse_args()

    overrides = {"model.dtype": "bfloat16"} | parse_overrides(args.set)
    config = case_config(args.case, **overrides)
    shapes = jax.eval_shape(from_config.model(config).init, jax.random.key(0))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    forward = args.batch_per_chip * forward_flops(config)
    state = FLOAT * num_params * 4  # parameters, two moments, one average
    print(
        f"{args.case}: {num_params / 1e6:.0f} M parameters, {3 * forward / 1e12:.1f} TFLOP a chip"
    )
    print(
        "| chips | mesh data x fsdp | batch | remat | memory | sent a chip | step | beside | MFU |"
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
