"""FLOP counts of the benchmarks."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.cases import case_config
from benchmarks.flops import count_flops, dit_forward_flops, forward_flops, peak_flops
from cdt import from_config
from cdt.models.dit import named_dit


@pytest.mark.parametrize("name", ["S", "B", "L", "XL"])
def test_counting_a_dit_agrees_with_the_formula(name):
    network = named_dit(f"{name}/2", out_channels=4, num_classes=1000)
    counted = forward_flops(case_config(f"dit_{name.lower()}2"))
    # The class table is read by a product with a one-hot vector, which the formula does not count.
    table = 2 * 1001 * network.hidden_size
    assert counted == dit_forward_flops(network, 32, 4) + table


def test_dit_xl_costs_what_its_authors_say():
    network = named_dit("XL/2", out_channels=8, num_classes=1000)
    assert dit_forward_flops(network, 32, 4) == pytest.approx(2 * 118.64e9, rel=2e-3)


@pytest.mark.parametrize(
    "network, least, most",
    [
        pytest.param("dit", 0.95, 1.0, marks=pytest.mark.long),
        pytest.param("ddpmpp", 0.95, 1.06, marks=pytest.mark.slow),
    ],
)
def test_xla_counts_about_as_many(network, least, most):
    """XLA's count includes element-wise operations and excludes products with the zero padding of
    images, here up to 6 %."""
    config = case_config("digits")
    if network == "ddpmpp":
        config.data.update(name="mock", image_size=32)
        config.model.update(name="ddpmpp", channels=32, num_blocks=1, attention_resolutions=(16,))
    model = from_config.model(config)
    params = model.init(jax.random.key(0))
    label = {"label": jnp.zeros(1, jnp.int32)}
    x = jnp.zeros((1, *model.image_shape))

    def forward(params, x, time):
        return model.apply(params, x, time, label, None)

    cost = jax.jit(forward).lower(params, x, jnp.zeros(1)).compile().cost_analysis()
    assert least < forward_flops(config) / cost["flops"] < most


def test_loops_and_nested_functions_are_counted():
    @jax.jit
    def times(x):
        return x @ x

    def function(x):
        return jax.lax.scan(lambda c, _: (jax.checkpoint(times)(c), None), x, length=5)[0]

    assert count_flops(function, jnp.ones((8, 8))) == 5 * 2 * 8**3


@pytest.mark.parametrize(
    "kind, peak",
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("TPU v5 lite", 197e12),
     ("TPU v5", 459e12), ("cpu", None)],
)  # fmt: skip
def test_peaks(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak
