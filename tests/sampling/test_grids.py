"""Grids of levels against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdt.sampling import grids


@pytest.mark.parametrize("steps", [1, 2, 7, 250, 999, 1000])
def test_rounded(steps):
    grid = grids.rounded_timesteps(1000, steps)
    ascending = [round(i * 999 / max(steps - 1, 1)) for i in range(steps)]
    expected = (ascending if steps > 1 else [999])[::-1] + [-1]
    np.testing.assert_array_equal(grid, expected)
    assert grid.dtype == np.float64 and np.all(np.diff(grid) < 0)


@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_strided(steps):
    grid = grids.strided_timesteps(1000, steps)
    np.testing.assert_array_equal(grid, [*reversed(range(0, 1000, 1000 // steps)), -1])
    assert grid.dtype == np.float64


def test_karras():
    n, rho = 18, 7.0
    grid = grids.karras_sigmas(n, 0.002, 80.0, rho)
    i = np.arange(n)
    ends = 80 ** (1 / rho), 0.002 ** (1 / rho)
    np.testing.assert_allclose(grid[:-1], (ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** rho)
    np.testing.assert_allclose(grid[[0, n - 1, n]], [80, 0.002, 0])
    np.testing.assert_allclose(grids.karras_sigmas(1), [80, 0])


def test_uniform():
    np.testing.assert_allclose(grids.uniform_times(4), [1, 0.75, 0.5, 0.25, 0])


def test_scan_inputs():
    i, level, next_level = grids.scan_inputs(grids.uniform_times(4))
    np.testing.assert_array_equal(i, [0, 1, 2, 3])
    np.testing.assert_array_equal(level[1:], next_level[:-1])
    assert level.dtype == next_level.dtype == jnp.float32


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: grids.rounded_timesteps(1000, 1001),
            "has 1001 steps; the number must be between 1 and 1000",
        ),
        (
            lambda: grids.strided_timesteps(1000, 300),
            "300 steps; the number must be a divisor of the 1000",
        ),
        (lambda: grids.karras_sigmas(0), "has 0 steps; the number must be at least 1"),
        (lambda: grids.karras_sigmas(10, 80, 0.002), "must satisfy 0 < sigma_min < sigma_max"),
        (lambda: grids.uniform_times(-1), "has -1 steps"),
        (lambda: grids.scan_inputs(np.array([0.0, 0.5, 1.0])), "strictly decreasing"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
