"""Which labels are wrong, from what nets predict for samples they were not trained on.

The given label is the true one, confused with a chance that depends on the true class
only. How often, the most confident predictions tell: there the prediction is right, and
a label that differs is a wrong one (anchor points, Liu & Tao 2016, arXiv:1411.7718).
On clean data next to none differ, however hard the other samples are, and this is
what keeps those from being taken for wrong.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

ANCHOR_SHARE = 0.1
"""Share of the predictions of a class that counts as its most confident ones. A larger
one mistakes hard samples of clean data for noise, a smaller one leaves too few."""

RATE_PRIOR = 0.25
"""Wrong labels among the anchors of a class that weigh as much as those of all classes:
with next to none a class has the rate of all, with some its own."""

SHARE_PRIOR = 0.3
"""Wrong labels of each other class that are added: few anchors do not rule any out, and
yet some may be confused with one class only."""

SMALLEST_RATE = 1e-4
"""Of wrong labels; one in ten thousand is about as clean as real data are."""


def confusion_matrix(log_proba: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Estimate the chances of the given label (columns) for each true class (rows).

    Log-probabilities are of shape (n_samples, n_classes).
    """
    n_classes = log_proba.shape[1]
    predicted = log_proba.argmax(axis=1)
    two = np.partition(log_proba, -2, axis=1)[:, -2:]
    confidence = two[:, 1] - two[:, 0]
    counts = np.zeros((n_classes, n_classes))
    for label in range(n_classes):
        rows = np.flatnonzero(predicted == label)
        n_anchors = int(np.ceil(ANCHOR_SHARE * len(rows)))
        anchors = rows[np.argsort(-confidence[rows], kind="stable")[:n_anchors]]
        counts[label] = np.bincount(codes[anchors], minlength=n_classes)
    n_anchors_of = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    overall = max(counts.sum() / max(n_anchors_of.sum(), 1), SMALLEST_RATE)
    n_wrong = counts.sum(axis=1)
    rates = (n_wrong + RATE_PRIOR) / (n_anchors_of + RATE_PRIOR / overall)
    shares = counts + SHARE_PRIOR
    np.fill_diagonal(shares, 0)
    matrix: np.ndarray = rates[:, None] * shares / shares.sum(axis=1, keepdims=True)
    np.fill_diagonal(matrix, 1 - rates)
    return matrix


def chance_of_wrong_label(
    held_out: np.ndarray, codes: np.ndarray, every: np.ndarray | None = None
) -> np.ndarray:
    """Return the posterior chance that a given label is not the true one, (n_samples,).

    By the theorem of Bayes, from the nets' predictions of the true label and from
    `confusion_matrix`. A net that saw wrong labels hedges: its predictions are
    sharpened, or flattened, by the power that makes the given labels most likely.

    How many labels are wrong, predictions for samples `held_out` tell without bias.
    Which ones, the mean over `every` net tells better, though those that were trained
    on a sample lean to its label: their posterior gives the order, and the other the
    numbers. Both are log-probabilities, (n_samples, n_classes), and the first has NaN
    for samples that were never held out: these take what every net says.
    """
    every = held_out if every is None else every
    is_held_out = ~np.isnan(held_out).any(axis=1)
    unbiased = held_out if is_held_out.any() else every
    known = ~np.isnan(unbiased).any(axis=1)
    if every.shape[1] < 2:
        return np.zeros(len(codes))
    matrix = confusion_matrix(unbiased[known], codes[known])
    power = _sharpening(unbiased[known], codes[known], matrix)
    chance = _posterior(every, codes, matrix, power)
    rows = np.flatnonzero(is_held_out)
    order = np.argsort(chance[rows], kind="stable")
    chance[rows[order]] = np.sort(
        _posterior(held_out[rows], codes[rows], matrix, power)
    )
    return chance


def _sharpening(log_proba: np.ndarray, codes: np.ndarray, matrix: np.ndarray) -> float:
    """Return the power of the predictions that makes the given labels most likely."""
    of_given = matrix[:, codes]

    def surprise(log_power: float) -> float:
        true = softmax(np.exp(log_power) * log_proba, axis=1)
        given = np.einsum("ij,ji->i", true, of_given)
        return -float(np.log(given + np.finfo(float).tiny).mean())

    found = minimize_scalar(surprise, bounds=(-2, 2.5), method="bounded")
    return float(np.exp(found.x))


def _posterior(
    log_proba: np.ndarray, codes: np.ndarray, matrix: np.ndarray, power: float
) -> np.ndarray:
    joint = softmax(power * log_proba, axis=1) * matrix[:, codes].T
    return np.asarray(1 - joint[np.arange(len(codes)), codes] / joint.sum(axis=1))
