"""Inception Score (Salimans et al. 2016, arXiv 1606.03498)."""

import numpy as np


def inception_score(logits: np.ndarray, split: int = 5000) -> tuple[float, float]:
    """Return mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

    Args:
      logits: float[n, classes] of images whose classes are in random order or in turn; without bias
        for the published numbers.
      split: images per split; the last, smaller split is used only if it is the only one.

    Returns:
      (mean, deviation): the mean is in [1, classes], the deviation is 0 for one split.

    Raises:
      ValueError: there are no images.
    """
    if len(logits) == 0:
        raise ValueError("There are no images; an Inception Score needs at least 1.")
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    scores = []
    for i in range(max(len(logits) // split, 1)):
        part = log_p[i * split : (i + 1) * split]
        p = np.exp(part)
        with np.errstate(divide="ignore"):
            log_marginal = np.log(p.mean(axis=0))
        # For p = 0 the term p log p is 0.
        kl = np.where(p > 0, p * (part - np.where(p > 0, log_marginal, 0.0)), 0.0).sum(axis=1)
        scores.append(np.exp(kl.mean()))
    return float(np.mean(scores)), float(np.std(scores))
