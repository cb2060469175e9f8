"""Results of a difficulty study: a verdict in words, a fitted curriculum, and tables."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cdt.difficulty.convergence import Correlation
from cdt.difficulty.relative_entropy import RelativeEntropy


class Contrast(NamedTuple):
    """Mean relative entropy at little noise and at much noise, without isolated examples.

    Attributes:
      low_noise: nats per dimension, mean over the cleaner half of the pairs.
      high_noise: the same over the noisier half.
      standard_error: of the difference; an upper bound.
      pairs: number of pairs outside the single-point region.
    """

    low_noise: float
    high_noise: float
    standard_error: float
    pairs: int


def contrast(entropy: RelativeEntropy) -> Contrast:
    """Compare the cleaner half of the levels with the noisier half.

    Levels in the single-point region are left out. All pairs use the same draws, so their errors
    are not independent. The standard error is the largest possible one, that of fully correlated
    errors.
    """
    values, errors = entropy.nats_per_dim, entropy.standard_error
    count = np.flatnonzero(~entropy.single_point)
    low, high = count[: len(count) // 2], count[(len(count) + 1) // 2 :]
    if len(low) == 0:
        return Contrast(math.nan, math.nan, math.nan, len(count))
    return Contrast(
        float(values[low].mean()),
        float(values[high].mean()),
        float(errors[low].mean() + errors[high].mean()),
        len(count),
    )


def converges_more_slowly(correlation: Correlation) -> str:
    """Return whether clusters of little noise converge more slowly: "yes", "no" or "undecided".

    It is decided if the interval over seeds lies on one side of 0, so never with a single seed.
    """
    if correlation.low is None or correlation.high is None or math.isnan(correlation.low):
        return "undecided"
    if correlation.high < 0:
        return "yes"
    return "no" if correlation.low > 0 else "undecided"


def entropy_is_larger(found: Contrast) -> str:
    """Return whether the relative entropy is larger at little noise: "yes", "no" or "undecided".

    It is decided if the halves differ by more than two standard errors.
    """
    difference = found.low_noise - found.high_noise
    if math.isnan(difference) or abs(difference) <= 2 * found.standard_error:
        return "undecided"
    return "yes" if difference > 0 else "no"


def study_verdict(
    name: str, correlation: Correlation | None = None, entropy: RelativeEntropy | None = None
) -> str:
    """Return one paragraph on whether this data set and family fit the curriculum's assumption.

    Args:
      name: of data and family, such as "digits, flow".
      correlation: between the number of a cluster and its steps to 90 % of its drop in loss; None
        if it was not measured.
      entropy: None if it was not measured.
    """
    sentences = [f"{name}:"]
    if correlation is None:
        sentences.append("Convergence was not measured.")
    else:
        sentences += _convergence_sentences(correlation)
    if entropy is None:
        sentences.append("Relative entropy was not measured.")
    else:
        sentences += _entropy_sentences(entropy)
    return " ".join(sentences)


def _convergence_sentences(found: Correlation) -> list[str]:
    answer = converges_more_slowly(found)
    opening = f"Do clusters of little noise converge more slowly? {answer.capitalize()}."
    if math.isnan(found.rho):
        return [
            f"{opening} There is nothing to rank: the loss dropped in only {found.clusters} "
            "clusters, or all took the same number of steps."
        ]
    rho = (
        "The rank correlation between the number of a cluster (1 = least noise) and its steps to "
        f"90 % of its drop in loss is {found.rho:+.2f}"
    )
    if found.low is None:
        leaning = "yes" if found.rho < 0 else "no"
        return [f"{opening} {rho}, which suggests {leaning}, but one seed gives no interval."]
    interval = f"95 % interval {found.low:+.2f} to {found.high:+.2f} over {found.seeds} seeds"
    meaning = {
        "yes": "",
        "no": " Clusters of much noise converge more slowly.",
        "undecided": " The interval includes 0.",
    }[answer]
    return [f"{opening}{meaning} {rho} ({interval})."]


def _entropy_sentences(entropy: RelativeEntropy) -> list[str]:
    found = contrast(entropy)
    question = "Is the relative entropy between neighbouring levels larger at little noise?"
    isolated = np.flatnonzero(entropy.single_point)
    if len(isolated) == len(entropy.u):
        return [
            f"{question} Undecided. At every level the {entropy.examples} examples are so far "
            "apart that each is isolated, so the value does not depend on the data."
        ]
    answer = entropy_is_larger(found)
    if found.pairs < 2:
        measured = "Only one pair of levels depends on the data."
    else:
        measured = (
            f"It is {found.low_noise:.2g} nats per dimension in the cleaner half of the levels "
            f"and {found.high_noise:.2g} in the noisier half (standard error of the difference: "
            f"at most {found.standard_error:.1g})."
        )
    sentences = [f"{question} {answer.capitalize()}. {measured}"]
    if len(isolated):
        # The region lies at the clean end; its last pair is where it ends.
        sentences.append(
            f"Levels u < {entropy.u[isolated[-1]] + entropy.step / 2:.3g} are left out: their "
            f"noise is so small that each of the {entropy.examples} examples is isolated from its "
            f"neighbours (median distance {entropy.nearest:.3g}), so the value is that of two "
            "isotropic Gaussians for any data."
        )
    return sentences


# --- Fitted curriculum ------------------------------------------------------------------------


def fitted_edges(entropy: RelativeEntropy, num_clusters: int, num_levels: int | None) -> np.ndarray:
    """Return edges of clusters of equal measured difficulty.

    Each cluster has an equal part of the integral over u of the *root* of the relative entropy.
    The entropy itself falls with the square of the step, so its integral would depend on the grid
    and on the coordinate. The integral of its root is a length along the path of marginals (the
    Fisher-Rao length, up to a factor), which depends on neither.

    Args:
      entropy: of one family; taken as constant beyond its first and last pair.
      num_clusters: N >= 1.
      num_levels: T >= N for a discrete family, whose edges become multiples of 1/T; None for a
        continuous one, whose edges are rounded to six decimals and at least 1e-6 apart.

    Returns:
      f64[N+1], increasing from 0 to 1.

    Raises:
      ValueError: N < 1, N > T, or an entropy that is zero everywhere.
    """
    resolution = num_levels or 10**6
    if not 1 <= num_clusters <= resolution:
        raise ValueError(
            f"The number of clusters is {num_clusters}; it must lie between 1 and {resolution}."
        )
    root = np.sqrt(np.maximum(entropy.nats_per_dim, 0.0))
    if not root.max() > 0:
        raise ValueError("The relative entropy is 0 at all levels; check the data.")
    # Between pairs a power of u, as it is at the clean end: there it falls by decades from one pair
    # to the next, and straight lines would see much more than there is.
    u = np.linspace(0.0, 1.0, 20_001)
    middles = (u[1:] + u[:-1]) / 2
    log_root = np.log(np.maximum(root, 1e-9 * root.max()))
    density = np.exp(np.interp(np.log(middles), np.log(entropy.u), log_root))
    length = np.concatenate([[0.0], np.cumsum(density)])
    i = np.arange(1, num_clusters)
    inner = np.interp(i / num_clusters * length[-1], length, u)
    # On the grid of levels, and apart: pushed up from the clean end, then down from the noisy one.
    inner = np.maximum.accumulate(np.maximum(np.rint(inner * resolution), 1) - i) + i
    inner = np.minimum(inner, resolution - num_clusters + i) / resolution
    return np.concatenate([[0.0], inner, [1.0]])


def fitted_order(edges: np.ndarray, study_edges: np.ndarray, difficulty: np.ndarray) -> list[int]:
    """Return the order in which to open clusters: those that converge fastest come first.

    Args:
      edges: f64[N+1] of the clusters to be ordered.
      study_edges: float[K+1] of the clusters that were measured.
      difficulty: float[K] steps to 90 %, mean over seeds; a NaN takes the value of the nearest
        known cluster.

    Returns:
      A permutation of 1..N, where 1 is the cluster of least noise. Equally difficult clusters are
      in the order from much noise to little.

    Raises:
      ValueError: no difficulty is known.
    """
    difficulty, study_edges = np.asarray(difficulty, float), np.asarray(study_edges, float)
    known = np.flatnonzero(np.isfinite(difficulty))
    if known.size == 0:
        raise ValueError("The loss of no cluster has dropped, so there is no order; train longer.")
    middles = (study_edges[1:] + study_edges[:-1]) / 2
    nearest = known[np.abs(middles[:, None] - middles[known]).argmin(axis=1)]
    # A fitted cluster's difficulty is the mean over its interval of u.
    total = np.concatenate([[0.0], np.cumsum(np.diff(study_edges) * difficulty[nearest])])
    means = np.diff(np.interp(edges, study_edges, total)) / np.diff(edges)
    # Smaller differences are rounding errors of the interpolation.
    means = np.round(means / np.abs(means).max(), 9)
    number = np.arange(1, len(edges))
    return number[np.lexsort((-number, means))].tolist()


def fitted_curriculum(
    entropy: RelativeEntropy,
    num_clusters: int,
    num_levels: int | None,
    study_edges: np.ndarray | None = None,
    difficulty: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return values for `config.curriculum`: clusters of equal difficulty, easiest first.

    The arguments are those of `fitted_edges` and `fitted_order`. Without a measured difficulty the
    order is that of the paper, from much noise to little.

    Returns:
      {"spacing": "custom", "num_clusters": N, "edges": [0.0, ..., 1.0], "order": "3,1,2"}.
    """
    edges = fitted_edges(entropy, num_clusters, num_levels)
    order = "easy_to_hard"
    if study_edges is not None and difficulty is not None:
        order = ",".join(map(str, fitted_order(edges, study_edges, difficulty)))
    return {
        "spacing": "custom",
        "num_clusters": num_clusters,
        "edges": edges.tolist(),
        "order": order,
    }


# --- Tables -----------------------------------------------------------------------------------


def entropy_csv(entropy: RelativeEntropy) -> str:
    """Return a CSV table with one line per pair of levels."""
    names = ("u", "nats_per_dim", "standard_error", "one_point", "single_point")
    columns = [getattr(entropy, name).tolist() for name in names]
    return _csv(names, zip(*columns, strict=True))


def convergence_csv(edges: np.ndarray, steps_to: Mapping[str, np.ndarray]) -> str:
    """Return a CSV table with one line per cluster and seed.

    Args:
      edges: float[N+1].
      steps_to: column name -> float[S, N], such as {"steps_to_90": ...}; NaN, where the loss has
        not dropped, becomes an empty field.
    """
    table = [np.asarray(values, float) for values in steps_to.values()]
    seeds, clusters = table[0].shape
    rows = (
        [n + 1, float(edges[n]), float(edges[n + 1]), s]
        + [v[s, n].item() if math.isfinite(v[s, n]) else "" for v in table]
        for n in range(clusters)
        for s in range(seeds)
    )
    return _csv(("cluster", "u_from", "u_to", "seed", *steps_to), rows)


def _csv(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
