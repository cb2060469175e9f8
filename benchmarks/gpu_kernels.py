"""GPU kernels of a train step and the bytes they move, found by compiling without a GPU.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_kernels --case dit_xl2 --set model.depth=2 \
      --set model.unroll=True

It needs the CUDA plugin (jax[cuda13]) and no GPU: XLA compiles for an H100, without autotuning (see
benchmarks/targets.py). It lists the kernels of at least --megabytes in their order, with the bytes
of operands and results, and the sum of each kind. A kernel that only moves memory runs at about
3 TB/s on an H100. Only DiTs are supported: cuDNN's convolutions were not tested.
"""

import argparse
import re
from collections import Counter
from typing import NamedTuple

from benchmarks import targets
from benchmarks.cases import CASES, case_config, parse_overrides

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")
_MOVES_NOTHING = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")


class Kernel(NamedTuple):
    """One instruction of the entry computation that runs on the device."""

    name: str
    kind: str  # "product", "attention", or the kind of a fusion such as "kLoop"
    shape: str  # of the result
    operands: tuple[str, ...]  # their shapes
    num_bytes: int  # of result and operands
    op_name: str  # the operation in the Python program


def kernels(hlo: str) -> list[Kernel]:
    """Return the kernels in `compiled.as_text()`, in the order of the schedule."""
    entry = re.search(r"\nENTRY [^\n]*\n(.*?)\n}\n", hlo, re.DOTALL)[1]
    shapes, found = {}, []
    for line in entry.splitlines():
        if (match := _INSTRUCTION.match(line)) is None:
            continue
        name, shape, op, arguments, rest = match.groups()
        shapes[name] = shape
        if op in _MOVES_NOTHING:
            continue
        operands = tuple(shapes.get(x, "") for x in re.findall(r"%([\w.\-]+)", arguments))
        num_bytes = sum(map(_num_bytes, (shape, *operands)))
        op_name = re.search(r'op_name="([^"]*)"', rest)
        kind = _kind(op, name, rest)
        found.append(Kernel(name, kind, shape, operands, num_bytes, op_name[1] if op_name else ""))
    return found


def _kind(op: str, name: str, rest: str) -> str:
    # XLA fuses a product with the slice of stacked parameters that it reads.
    if "__cublas" in rest or name.startswith("dynamic_slice_fusion"):
        return "product"
    if "__cudnn$fmha" in rest:
        return "attention"
    fusion = re.search(r"kind=(\w+)", rest)
    return fusion[1] if fusion else op


def _num_bytes(shape: str) -> int:
    total = 0
    for _, bits, dims in _ARRAY.findall(shape):
        size = int(bits or 8) // 8
        for dim in filter(None, dims.split(",")):
            size *= int(dim)
        total += size
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    dits = [name for name in CASES if name.startswith("dit")]
    parser.add_argument("--case", choices=dits, default="dit_xl2")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="config")
    parser.add_argument("--megabytes", type=float, default=100.0)
    args = parser.parse_args()
    config = case_config(args.case, **{"model.dtype": "bfloat16"} | parse_overrides(args.set))
    found = kernels(targets.compiled_step(config, targets.CHIPS["h100"]).as_text())
    totals = Counter()
    for kernel in found:
        totals[kernel.kind] += kernel.num_bytes
        if kernel.num_bytes >= 1e6 * args.megabytes:
            arrays = " ".join(re.sub(r"\{[^}]*\}", "", shape) for shape in kernel.operands)
            result = re.sub(r"\{[^}]*\}", "", kernel.shape)
            print(
                f"{kernel.num_bytes / 1e6:7.0f} MB {kernel.kind:10s} {result} <- {arrays}  "
                f"{kernel.op_name[-60:]}"
            )
    for kind, total in totals.most_common():
        print(f"{kind:10s} {total / 1e9:8.2f} GB")


if __name__ == "__main__":
    targets.prepare_environment()
    main()
