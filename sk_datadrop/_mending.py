"""Suggest targets for harmful samples, and make targets to train on instead.

A class that is suspected gives its chance of harm to the others, by how likely they are
if it is wrong. A target of another kind moves toward what the nets predict that did not
train on the sample. In the manner of the dynamic bootstrapping of Arazo et al. (2019,
arXiv:1904.11238), but with predictions for held-out samples, and with the chances that
a label of one class is given as another, so that a net that is confused in just that
way does not mend right labels.

It uses numpy only, and knows neither nets nor estimators.
"""

from typing import NamedTuple

import numpy as np

from sk_datadrop._judge import Evidence
from sk_datadrop._label_noise import chances_of_others
from sk_datadrop._safeguards import HARMFUL


class Suggestion(NamedTuple):
    """Targets as they should be, and how likely each is right, (n_samples, ...).

    Classes are codes. The given target is its own suggestion where it is more likely
    right than not.
    """

    targets: np.ndarray
    probability: np.ndarray


def other_classes(evidence: Evidence) -> np.ndarray:
    """Return how likely the others are if a class is wrong, (n_samples, n_classes).

    Of samples that no net predicts the class given is all there is.
    """
    every, codes = evidence.log_proba("all"), evidence.codes
    if every is None or codes is None:
        raise ValueError("no net predicted any class.")
    known = np.flatnonzero(~np.isnan(every).any(axis=1))
    others = np.eye(every.shape[1])[codes]
    if len(known) and every.shape[1] > 1:
        others[known] = chances_of_others(
            evidence.log_proba("held out")[known],
            codes[known],
            every[known],
            evidence.log_proba("trained on")[known],
        )
    return np.asarray(others)


def chances_of_classes(
    others: np.ndarray, codes: np.ndarray, chance: np.ndarray
) -> np.ndarray:
    """Return how likely each class is the true one, (n_samples, n_classes).

    The class given passes its chance of harm, (n_samples,), on to the others.
    """
    share = chance[:, None]
    return np.asarray((1 - share) * np.eye(others.shape[1])[codes] + share * others)


def doubt(chance: np.ndarray) -> np.ndarray:
    """Return by how much targets are mended, (n_samples,), for a chance of harm.

    Small chances are those of many samples, nearly all of them right: below one half
    they count by their square. Otherwise their sum would smooth right targets more than
    it mends wrong ones.
    """
    return np.where(chance > HARMFUL, chance, chance**2 / HARMFUL)


def suggest_classes(
    chances: np.ndarray, codes: np.ndarray, chance: np.ndarray
) -> Suggestion:
    """Suggest the most likely other class where the given one is likely wrong.

    `chances` are those of `chances_of_classes`; `chance` is that of harm, zero where it
    may not be acted on.
    """
    rows = np.arange(len(codes))
    others = chances.copy()
    others[rows, codes] = -1.0
    targets = np.where(chance > HARMFUL, others.argmax(axis=1), codes)
    return Suggestion(targets, chances[rows, targets])


def suggest_values(
    y: np.ndarray, predicted: np.ndarray, chance: np.ndarray, suspicion: np.ndarray
) -> Suggestion:
    """Suggest the prediction for held-out samples where the target is likely wrong.

    `chance` is that of harm, zero where it may not be acted on, as in `suspicion`.
    """
    is_wrong = (chance > HARMFUL) & ~np.isnan(predicted).reshape(len(y), -1).any(axis=1)
    targets = np.where(_as_column(is_wrong, y), predicted, y)
    probability = np.where(is_wrong, suspicion, 1 - suspicion)
    return Suggestion(targets.astype(y.dtype), probability)


def mend_values(y: np.ndarray, predicted: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Move targets toward the predictions, by the chance that they are wrong."""
    share = _as_column(chance, y)
    known = ~np.isnan(predicted)
    mended = np.where(known, (1 - share) * y + share * predicted, y)
    return np.asarray(mended.astype(y.dtype))


def _as_column(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(len(like), *[1] * (like.ndim - 1))
