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
"""Share of the predictions, by confidence; those below the anchors are compared with
them."""

PERSISTING_IF_HARD, PERSISTING_IF_WRONG = 0.45, 0.85
"""Share of the labels contradicted by anchors that nets still contradict at their best
epoch after training on them. It was 0.74 to 1 where labels were wrong, and 0.2 to 0.7
where they were right (choosing cells of the gauntlet, and some harder problems)."""

PERSISTING_OF_ALL = 0.55
"""Nets that still contradict a smaller share of all contradicted labels fit most of the
samples, and both expectations above are lowered by as much."""

PERSISTENCE_PRIOR = 5
"""Contradicted labels that weigh as much as the expectation of wrong ones."""

MOST_SAMPLES_TO_SHARPEN = 5_000

SMALLEST_RATE = 1e-4
"""Lowest share of wrong labels; real data are hardly cleaner."""


class Contradiction(NamedTuple):
    """How the most confident predictions contradict the given labels.

    `rate` is the share of them that do, and `share_wrong` the part of it that wrong
    labels account for, not hard samples.
    """

    rate: float
    share_wrong: float


class LabelNoise(NamedTuple):
    """How labels as given come about.

    `matrix` is that of `confusion_matrix`, `power` sharpens the predictions of the true
    class, and `share_wrong` is that of `Contradiction`.
    """

    matrix: np.ndarray
    power: float
    share_wrong: float


def contradiction(
    held_out: np.ndarray, codes: np.ndarray, trained_on: np.ndarray | None = None
) -> Contradiction:
    """Tell wrong labels from hard samples among the most confident predictions.

    Log-probabilities, (n_samples, n_classes), are of nets that did not train on a
    sample, and of those that did, NaN where there is none.
    """
    confidence = _Confidence.of(held_out)
    contradicted = confidence.predicted != codes
    surest = confidence.inside(ANCHOR_SHARE)
    rate = float(surest @ contradicted / surest.sum())
    if not rate:
        return Contradiction(0.0, 1.0)
    share = 1.0
    following = confidence.inside(NEXT_SHARE) - surest
    if following.any():
        later = float(following @ contradicted / following.sum())
        variance = rate * (1 - rate) / surest.sum()
        variance += later * (1 - later) / following.sum()
        # Less one standard error: few samples do not prove a rise.
        rise = later - rate - float(np.sqrt(variance))
        share = min(max(1 - rise / rate, 0.0), 1.0)
    if trained_on is not None:
        doubled = confidence.inside(2 * ANCHOR_SHARE)
        share *= _share_persisting(contradicted, doubled, trained_on, codes)
    return Contradiction(rate, share)


def _share_persisting(
    contradicted: np.ndarray,
    surest: np.ndarray,
    trained_on: np.ndarray,
    codes: np.ndarray,
) -> float:
    """Return the share of wrong labels by what nets say that trained on the samples."""
    asked = contradicted & ~np.isnan(trained_on).any(axis=1)
    if not asked.any():
        return 1.0
    persists = trained_on.argmax(axis=1) != codes
    weights = surest * asked
    persisting = (weights @ persists + PERSISTENCE_PRIOR * PERSISTING_IF_WRONG) / (
        weights.sum() + PERSISTENCE_PRIOR
    )
    # Nets that fit most of what they mispredict persist in nothing.
    fitted = max(0.0, PERSISTING_OF_ALL - float(persists[asked].mean()))
    part = (persisting + fitted - PERSISTING_IF_HARD) / (
        PERSISTING_IF_WRONG - PERSISTING_IF_HARD
    )
    return min(max(float(part), 0.0), 1.0)


class _Confidence(NamedTuple):
    """The predicted class of samples, and where they stand among those of that class.

    `n_before` are surer, `n_tied` are as sure, the sample included, of `n_alike`.
    """

    predicted: np.ndarray
    n_before: np.ndarray
    n_tied: np.ndarray
    n_alike: np.ndarray

    @classmethod
    def of(cls, log_proba: np.ndarray) -> "_Confidence":
        predicted = log_proba.argmax(axis=1)
        two = np.partition(log_proba, -2, axis=1)[:, -2:]
        doubt = two[:, 0] - two[:, 1]
        counts = np.zeros((3, len(log_proba)))
        for label in np.unique(predicted):
            rows = np.flatnonzero(predicted == label)
            ordered = np.sort(doubt[rows])
            before = np.searchsorted(ordered, doubt[rows], side="left")
            upto = np.searchsorted(ordered, doubt[rows], side="right")
            counts[:, rows] = before, upto - before, np.full(len(rows), len(rows))
        return cls(predicted, *counts)

    def inside(self, share: float) -> np.ndarray:
        """Return how much of each sample is among that share of the surest.

        Samples that are tied across the border are inside in part, so that their order
        does not matter.
        """
        # Rounded first: 0.1 * 30 is a little more than 3.
        n_inside = np.ceil(np.round(share * self.n_alike, 9))
        return np.asarray(np.clip((n_inside - self.n_before) / self.n_tied, 0, 1))


def confusion_matrix(
    log_proba: np.ndarray, codes: np.ndarray, share_wrong: float = 1.0
) -> np.ndarray:
    """Estimate the chances of the given label (columns) for each true class (rows).

    Log-probabilities are of shape (n_samples, n_classes); of the labels that the most
    confident ones contradict, only a share may be wrong.
    """
    n_classes = log_proba.shape[1]
    confidence = _Confidence.of(log_proba)
    counts = np.zeros((n_classes, n_classes))
    surest = confidence.inside(ANCHOR_SHARE)
    np.add.at(counts, (confidence.predicted, codes), surest)
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
    if every.shape[1] < 2:
        return np.zeros(len(codes))
    noise = estimate_noise(held_out, codes, every, trained_on)
    chance = 1 - _given_is_true(every, codes, noise)
    rows = np.flatnonzero(~np.isnan(held_out).any(axis=1))
    order = np.argsort(chance[rows], kind="stable")
    of_held_out = 1 - _given_is_true(held_out[rows], codes[rows], noise)
    chance[rows[order]] = np.sort(of_held_out)
    # However sure the nets are, of what they contradict no larger share is wrong.
    return noise.share_wrong * chance


def chances_of_others(
    held_out: np.ndarray,
    codes: np.ndarray,
    every: np.ndarray | None = None,
    trained_on: np.ndarray | None = None,
) -> np.ndarray:
    """Return how likely each class is the true one, if the given one is not.

    By the theorem of Bayes, of shape (n_samples, n_classes); rows add up to one, and
    are zero where the label is given. Arguments are those of `chance_of_wrong_label`.
    """
    every = held_out if every is None else every
    noise = estimate_noise(held_out, codes, every, trained_on)
    is_held_out = ~np.isnan(held_out).any(axis=1)
    joint = _joint(np.where(is_held_out[:, None], held_out, every), codes, noise)
    joint[np.arange(len(codes)), codes] = 0
    total = joint.sum(axis=1, keepdims=True)
    # Where the nets rule all others out, those are as likely as each other.
    n_others = max(joint.shape[1] - 1, 1)
    uniform = (np.arange(joint.shape[1]) != codes[:, None]) / n_others
    return np.where(total > 0, joint / np.where(total > 0, total, 1), uniform)


def estimate_noise(
    held_out: np.ndarray,
    codes: np.ndarray,
    every: np.ndarray,
    trained_on: np.ndarray | None = None,
) -> LabelNoise:
    """Estimate the noise from predictions for held-out samples, or all if none is."""
    unbiased = held_out if (~np.isnan(held_out).any(axis=1)).any() else every
    known = ~np.isnan(unbiased).any(axis=1)
    unbiased, given = unbiased[known], codes[known]
    of_known = None if trained_on is None else trained_on[known]
    _, share_wrong = contradiction(unbiased, given, of_known)
    matrix = confusion_matrix(unbiased, given, share_wrong)
    return LabelNoise(matrix, _sharpening(unbiased, given, matrix), share_wrong)


def _sharpening(log_proba: np.ndarray, codes: np.ndarray, matrix: np.ndarray) -> float:
    """Return the power of the predictions that makes the given labels most likely."""
    of_given = log_proba[np.arange(len(codes)), codes]
    if len(codes) > MOST_SAMPLES_TO_SHARPEN:
        # Evenly by the likelihood of the label.
        step = 1 + len(codes) // MOST_SAMPLES_TO_SHARPEN
        some = np.argsort(of_given, kind="stable")[::step]
        log_proba, codes = log_proba[some], codes[some]
    of_given = matrix[:, codes]

    def surprise(log_power: float) -> float:
        true = softmax(np.exp(log_power) * log_proba, axis=1)
        given = np.einsum("ij,ji->i", true, of_given)
        return -float(np.log(given + np.finfo(float).tiny).mean())

    found = minimize_scalar(surprise, bounds=(-2, 2.5), method="bounded")
    return float(np.exp(found.x))


def _joint(log_proba: np.ndarray, codes: np.ndarray, noise: LabelNoise) -> np.ndarray:
    """Return how likely each class is the true one, and the label as given."""
    true = softmax(noise.power * log_proba, axis=1)
    return np.asarray(true * noise.matrix[:, codes].T)


def _given_is_true(
    log_proba: np.ndarray, codes: np.ndarray, noise: LabelNoise
) -> np.ndarray:
    joint = _joint(log_proba, codes, noise)
    return np.asarray(joint[np.arange(len(codes)), codes] / joint.sum(axis=1))
