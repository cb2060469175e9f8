"""Post-hoc EMA: EMAs of any width, computed after training from stored EMAs of other widths.

A power-function EMA at step t has the profile p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), the
weight of the parameters of step tau. Its width is a fraction of the steps so far, not a number of
steps. It is given as the relative standard deviation
std = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).

Training stores EMAs of two widths in several checkpoints. The profile of another width is
approximated by a linear combination of their profiles, by least squares.

Source: Karras et al. 2024 (EDM2), arXiv 2312.02696, section 3 and appendix C.
"""

from collections.abc import Sequence

import numpy as np


def gamma(std: float) -> float:
    """Return the exponent gamma of the power function with a relative standard deviation.

    Args:
      std: in (0, 0.288); 0.288 is the width of gamma = 0, the mean over all steps.

    Raises:
      ValueError: std outside this range.
    """
    if not 0.0 < std < 12**-0.5:
        raise ValueError(
            f"The relative width of a power-function EMA is {std:g}; it must lie between 0 and "
            "0.288, such as 0.05 or 0.1."
        )
    # (gamma + 1) / std^2 = (gamma + 2)^2 (gamma + 3)
    roots = np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2])
    return float(np.max(roots.real))


def coefficients(
    stored: Sequence[tuple[float, float]], std: float, step: float | None = None
) -> np.ndarray:
    """Return the coefficients of the stored EMAs in the linear combination for another width.

    The profile of the combination is the least-squares approximation of the target profile.

    Args:
      stored: (step, std) of each stored EMA, step > 0.
      std: relative width of the target EMA.
      step: step of the target EMA; None for the largest step of `stored`.

    Returns:
      f64[len(stored)], with sum 1.

    Raises:
      ValueError: a width out of range, see `gamma`.
    """
    steps = np.array([step for step, _ in stored], np.float64)
    gammas = np.array([gamma(width) for _, width in stored])
    end = np.array(np.max(steps) if step is None else step, np.float64)
    target = np.array(gamma(std))
    products = _inner_product(steps[:, None], gammas[:, None], steps, gammas)
    found = np.linalg.solve(products, _inner_product(steps, gammas, end, target))
    # Not in the paper: with sum 1 a constant parameter keeps its value.
    return found / found.sum()


def _inner_product(
    t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray
) -> np.ndarray:
    """Return the integral of p_a(tau) p_b(tau) over tau."""
    exponent = np.where(t_a < t_b, gamma_b, -gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))
    return scale * (t_a / t_b) ** exponent
