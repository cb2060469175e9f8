"""Inception Score (Salimans et al. 2016, arXiv 1606.03498)."""

import numpy as np


def inception_score(logits: np.ndarray, split: int = 5000) -> tuple[float, float]:
    """(mean, standard deviation) over splits of exp(mean KL(p(y|x) || p(y))).

    Args:
      logits: float[n, classes], without bias for the published numbers, of images in random order
        or in turn through the classes.
      split: images a split; the last, smaller one is used only if it is the only one.

    Returns:
      The mean is >= 1 and at most the number of classes; the deviation is 0 for one split.

    Raises:
      ValueError: without images.
    """
    if len(logits) == 0:
        raise ValueError("an Inception Score needs at least one image")
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    scores = []
    for i in range(max(len(logits) // split, 1)):
        part = log_p[i * split : (i + 1) * split]
        p = np.exp(part)
        with np.errstate(divide="ignore"):
            log_marginal = np.log(p.mean(axis=0))
        # A class that no image has: p log p -> 0.
        kl = np.where(p > 0, p * (part - np.where(p > 0, log_marginal, 0.0)), 0.0).sum(axis=1)
        scores.append(np.exp(kl.mean()))
    return float(np.mean(scores)), float(np.std(scores))
