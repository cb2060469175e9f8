"""Post-hoc EMA: any power-function average from two stored ones (Karras et al. 2024, EDM2,
arXiv 2312.02696, section 3 and appendix C).

A power-function average at step t weighs the parameters of step tau by p(tau) = (gamma + 1)
tau^gamma / t^(gamma + 1): its width is a fraction of the run so far and not a number of steps.
Its name is its relative standard deviation, std = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).

Two averages that are tracked while training and kept in some checkpoints span a space of profiles;
the profile of any other width is approximated in it by least squares.
"""

from collections.abc import Sequence

import numpy as np


def gamma(std: float) -> float:
    """The exponent of the power function of a relative standard deviation.

    Raises:
      ValueError: unless 0 < std < 0.288, the width of gamma = 0, the plain mean.
    """
    if not 0.0 < std < 12**-0.5:
        raise ValueError(
            f"the relative width of a power-function average is {std:g}; it must lie between 0 and "
            "0.288, such as 0.05 or 0.1."
        )
    # (gamma + 1) / std^2 = (gamma + 2)^2 (gamma + 3)
    roots = np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2])
    return float(np.max(roots.real))


def weights(
    stored: Sequence[tuple[float, float]], std: float, step: float | None = None
) -> np.ndarray:
    """How to add up stored averages so that their profile comes closest to the wanted one.

    Args:
      stored: (step, std) of each, steps > 0.
      std: of the wanted average.
      step: at which it is wanted; the largest of `stored` by default.

    Returns:
      float64[len(stored)], whose sum is 1.

    Raises:
      ValueError: a width out of range, see `gamma`.
    """
    steps = np.array([step for step, _ in stored], np.float64)
    gammas = np.array([gamma(width) for _, width in stored])
    end = np.array(np.max(steps) if step is None else step, np.float64)
    wanted = np.array(gamma(std))
    products = _inner_product(steps[:, None], gammas[:, None], steps, gammas)
    found = np.linalg.solve(products, _inner_product(steps, gammas, end, wanted))
    # Beyond the paper: what does not move must come out as it is, and parameters move little.
    return found / found.sum()


def _inner_product(
    t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray
) -> np.ndarray:
    """The integral of p_a(tau) p_b(tau)."""
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
    return scale * (t_a / t_b) ** exponent
