"""FLOPs of networks, and the peak FLOP/s of accelerators."""

import math
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from cdt import from_config
from cdt.models.dit import DiT

# FLOP/s of one chip for dense bfloat16 products, from the data sheets.
_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Return the bfloat16 FLOP/s of a chip from its data sheet, or None if it is unknown."""
    return next((peak for name, peak in _PEAKS.items() if name in device.device_kind), None)


def dit_forward_flops(network: DiT, image_size: int, channels: int) -> int:
    """Return the FLOPs of evaluating a DiT without text on one image.

    Matrix products are counted, with two FLOPs a multiply-add: L (24 N D^2 + 4 N^2 D + 12 D^2) in
    the blocks, and the layers before and after them.

    Args:
      network: the DiT.
      image_size: height and width of the images or latents.
      channels: of the images or latents.
    """
    d, patch = network.hidden_size, network.patch_size**2
    n = (image_size // network.patch_size) ** 2
    mlp = 8 + 4 * network.mlp_ratio  # four projections of attention, two layers of 2 N D^2 each
    blocks = network.depth * (mlp * n * d**2 + 4 * n**2 * d + 12 * d**2)
    patches = 2 * n * patch * d * (channels + network.out_channels)
    return int(blocks + patches + 2 * 256 * d + 2 * d**2 + 4 * d**2)


def forward_flops(config: ConfigDict) -> int:
    """Return the FLOPs of evaluating the network of a config on one image.

    Products and convolutions of the traced program are counted, including attention, with two FLOPs
    a multiply-add.
    """
    # In float32, attention is a sequence of products on every backend.
    config = config.copy_and_resolve_references()
    config.model.dtype = "float32"
    model = from_config.model(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    condition = {name: jax.numpy.asarray(value)[None] for name, value in model.null.items()}
    x = jax.ShapeDtypeStruct((1, *model.image_shape), "float32")
    time = jax.ShapeDtypeStruct((1,), "float32")
    return count_flops(lambda p, x, t: model.apply(p, x, t, condition, None), params, x, time)


def count_flops(function: Callable, *arguments) -> int:
    """Return the FLOPs of all products and convolutions of a function, including loops.

    Args:
      function: function of arrays; it is traced, not run.
      *arguments: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(kernel) // out_features
        times = equation.params["length"] if name == "scan" else 1
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                total += times * _of_jaxpr(inner)
    return total
