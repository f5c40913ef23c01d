"""Which labels are wrong, from what nets predict for samples they were not trained on.

The given label is the true one, confused with a chance that depends on the true class
only. How often, the most confident predictions tell: there the prediction is right, and
a label that differs is a wrong one (anchor points, Liu & Tao 2016, arXiv:1411.7718).
On clean data next to none differ, however hard the other samples are, and this is
what keeps those from being taken for wrong.

Where all samples are hard the most confident predictions are mistaken, too. Two things
tell: less confident ones are then mistaken more often, while wrong labels are spread
evenly over all; and nets that train on a hard sample come round to its label, while
they go on to contradict a wrong one for some time.
"""

from typing import NamedTuple

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

NEXT_SHARE = 0.3
"""The less confident predictions down to here are what anchors are compared with."""

PERSISTING_IF_HARD, PERSISTING_IF_WRONG = 0.45, 0.85
"""Of labels that anchors contradict, the share that nets still contradict at their best
epoch after training on them. Where labels were wrong it was .74 to 1, where they were
right .2 to .7, over the cells of the gauntlet that are for choosing and some harder."""

PERSISTING_OF_ALL = 0.55
"""Where nets persist in less of all they contradict, they fit most samples, and as much
less is expected of both kinds."""

PERSISTENCE_PRIOR = 5
"""Contradicted labels that weigh as much as the expectation of wrong ones."""

SMALLEST_RATE = 1e-4
"""Of wrong labels; one in ten thousand is about as clean as real data are."""


class Contradiction(NamedTuple):
    """How the most confident predictions contradict the given labels.

    `rate` is the share of them that do, and `share_wrong` the part of it that wrong
    labels account for, not hard samples.
    """

    rate: float
    share_wrong: float


def contradiction(
    held_out: np.ndarray, codes: np.ndarray, trained_on: np.ndarray | None = None
) -> Contradiction:
    """Tell wrong labels from hard samples among the most confident predictions.

    Log-probabilities, (n_samples, n_classes), are of nets that did not train on a
    sample, and of those that did, NaN where there is none.
    """
    predicted, place = _confidence(held_out)
    contradicted = predicted != codes
    surest = place < ANCHOR_SHARE
    rate = float(contradicted[surest].mean())
    if not rate:
        return Contradiction(0.0, 1.0)
    share = 1.0
    following = (place >= ANCHOR_SHARE) & (place < NEXT_SHARE)
    if following.any():
        later = float(contradicted[following].mean())
        variance = rate * (1 - rate) / surest.sum()
        variance += later * (1 - later) / following.sum()
        # Less one standard error: few samples do not prove a rise.
        rise = later - rate - float(np.sqrt(variance))
        share = min(max(1 - rise / rate, 0.0), 1.0)
    if trained_on is not None:
        share *= _share_persisting(contradicted, place, trained_on, codes)
    return Contradiction(rate, share)


def _share_persisting(
    contradicted: np.ndarray,
    place: np.ndarray,
    trained_on: np.ndarray,
    codes: np.ndarray,
) -> float:
    """Return the share of wrong labels by what nets say that trained on the samples."""
    asked = contradicted & ~np.isnan(trained_on).any(axis=1)
    if not asked.any():
        return 1.0
    persists = trained_on.argmax(axis=1) != codes
    surest = asked & (place < 2 * ANCHOR_SHARE)
    persisting = (persists[surest].sum() + PERSISTENCE_PRIOR * PERSISTING_IF_WRONG) / (
        surest.sum() + PERSISTENCE_PRIOR
    )
    # Nets that fit most of what they mispredict persist in nothing.
    fitted = max(0.0, PERSISTING_OF_ALL - float(persists[asked].mean()))
    part = (persisting + fitted - PERSISTING_IF_HARD) / (
        PERSISTING_IF_WRONG - PERSISTING_IF_HARD
    )
    return min(max(float(part), 0.0), 1.0)


def _confidence(log_proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class, and the share of its class that is more confident."""
    predicted = log_proba.argmax(axis=1)
    two = np.partition(log_proba, -2, axis=1)[:, -2:]
    confidence = two[:, 1] - two[:, 0]
    place = np.empty(len(log_proba))
    for label in np.unique(predicted):
        rows = np.flatnonzero(predicted == label)
        order = np.argsort(-confidence[rows], kind="stable")
        place[rows[order]] = np.arange(len(rows)) / len(rows)
    return predicted, place


def confusion_matrix(
    log_proba: np.ndarray, codes: np.ndarray, share_wrong: float = 1.0
) -> np.ndarray:
    """Estimate the chances of the given label (columns) for each true class (rows).

    Log-probabilities are of shape (n_samples, n_classes); of the labels that the most
    confident ones contradict, only a share may be wrong.
    """
    n_classes = log_proba.shape[1]
    predicted, place = _confidence(log_proba)
    surest = place < ANCHOR_SHARE
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (predicted[surest], codes[surest]), 1)
    n_anchors_of = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    overall = max(counts.sum() / max(n_anchors_of.sum(), 1), SMALLEST_RATE)
    n_wrong = counts.sum(axis=1)
    rates = (n_wrong + RATE_PRIOR) / (n_anchors_of + RATE_PRIOR / overall)
    rates = np.maximum(share_wrong * rates, min(SMALLEST_RATE, float(rates.min())))
    shares = counts + SHARE_PRIOR
    np.fill_diagonal(shares, 0)
    matrix: np.ndarray = rates[:, None] * shares / shares.sum(axis=1, keepdims=True)
    np.fill_diagonal(matrix, 1 - rates)
    return matrix


def chance_of_wrong_label(
    held_out: np.ndarray,
    codes: np.ndarray,
    every: np.ndarray | None = None,
    trained_on: np.ndarray | None = None,
) -> np.ndarray:
    """Return the posterior chance that a given label is not the true one, (n_samples,).

    By the theorem of Bayes, from the nets' predictions of the true label and from
    `confusion_matrix`. A net that saw wrong labels hedges: its predictions are
    sharpened, or flattened, by the power that makes the given labels most likely.

    How many labels are wrong, predictions for samples `held_out` tell without bias.
    Which ones, the mean over `every` net tells better, though those that were trained
    on a sample lean to its label: their posterior gives the order, and the other the
    numbers. Both are log-probabilities, (n_samples, n_classes), and the first has NaN
    for samples that were never held out: these take what every net says. Those by nets
    that `trained_on` a sample tell hard samples from wrong labels.
    """
    every = held_out if every is None else every
    is_held_out = ~np.isnan(held_out).any(axis=1)
    unbiased = held_out if is_held_out.any() else every
    known = ~np.isnan(unbiased).any(axis=1)
    if every.shape[1] < 2:
        return np.zeros(len(codes))
    _, share_wrong = contradiction(
        unbiased[known],
        codes[known],
        None if trained_on is None else trained_on[known],
    )
    matrix = confusion_matrix(unbiased[known], codes[known], share_wrong)
    power = _sharpening(unbiased[known], codes[known], matrix)
    chance = _posterior(every, codes, matrix, power)
    rows = np.flatnonzero(is_held_out)
    order = np.argsort(chance[rows], kind="stable")
    chance[rows[order]] = np.sort(
        _posterior(held_out[rows], codes[rows], matrix, power)
    )
    # However sure the nets are, of what they contradict no larger share is wrong.
    return share_wrong * chance


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
