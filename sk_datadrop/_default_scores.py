"""Scores by default: those that wrong targets cannot turn round.

A strictly proper score, such as log loss, is best for predictions that expect the
errors: with enough of them it prefers the net that has learned them. Of the accuracy,
and of the mean probability of the given class, uniform errors take the same share of
every difference (they are symmetric: Ghosh et al. 2017, arXiv:1712.09482), and a median
does not follow gross errors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from sk_datadrop._predictions import accuracy_of_places

Scorer = Callable[[Any, Any, Any], float]
"""``scorer(fitted, X, y)``, greater being better."""

PROBABILITY = "probability of the given class"
MEDIAN_ERROR = "share of the median error saved"

_SQUARED_OR_PROPER = (
    "log_loss",
    "brier",
    "squared",
    "r2",
    "explained_variance",
    "deviance",
    "max_error",
    "d2_log",
    "d2_tweedie",
    "peak_signal",
)
"""Parts of the names of scores whose order wrong targets can reverse."""


def default_scores(estimator: Any) -> dict[str, Scorer]:
    """Return the scores of an estimator by default, by their names."""
    if is_classifier(estimator):
        return {"accuracy": share_right, PROBABILITY: mean_probability}
    return {MEDIAN_ERROR: median_error_saved}


def share_right(fitted: Any, X: Any, y: Any) -> float:
    """Return the share of the classes that are predicted.

    With many per sample it is that of the labels, tags or pixels, of which those that
    are to be ignored do not count.
    """
    given, predicted = np.asarray(y), np.asarray(fitted.predict(X))
    if fitted.aim_.shape is None:
        return float(np.mean(given.ravel() == predicted.ravel()))
    reading = fitted.aim_.reading
    if reading is not None and reading.is_binary:
        counts = np.isin(given, (reading.first, 1))
        return float(np.mean((given == predicted)[counts]))
    ignored = None if reading is None else reading.ignored
    return accuracy_of_places(given, predicted, ignored)


def mean_probability(fitted: Any, X: Any, y: Any) -> float:
    """Return the mean probability of the given class.

    It tells more than the accuracy of as many samples, and likes predictions that are
    too sure, such as those of a net trained without hard samples. NaN where samples
    have many classes, or the net no probabilities.
    """
    if fitted.aim_.shape is not None:
        return float(np.nan)
    try:
        chances = fitted.predict_proba(X)
    except ValueError:
        return float(np.nan)
    is_given = np.asarray(y).reshape(-1, 1) == fitted.classes_
    return float(np.mean(np.sum(chances[:, : is_given.shape[1]] * is_given, axis=1)))


def median_error_saved(fitted: Any, X: Any, y: Any) -> float:
    """Return one minus the median absolute error over that of the best constant.

    1.0 at best, and 0.0 for the median target. It is the mean over the columns of
    targets; images count by the mean absolute error of each. Where most targets are
    equal, the mean error of the constant is compared with. Raises a ValueError if
    predictions are not of the shape of the targets.
    """
    given = np.asarray(y, dtype=np.float64)
    predicted = np.asarray(fitted.predict(X), dtype=np.float64)
    if given.size != predicted.size:
        raise ValueError(
            f"predictions have shape {predicted.shape} and targets {given.shape}: the "
            "score by default cannot compare them. Pass scoring=, a function "
            "(fitted, X, y)."
        )
    errors = _of_columns(given - predicted.reshape(given.shape))
    deviations = _of_columns(given - np.median(given, axis=0))
    scale = np.median(deviations, axis=0)
    scale = np.where(scale > 0, scale, deviations.mean(axis=0))
    if not (varies := scale > 0).any():
        return float(not errors.any())
    return float(1 - np.mean(np.median(errors, axis=0)[varies] / scale[varies]))


def can_turn_round(name: str) -> bool:
    """Tell whether wrong targets are known to reverse the order of a score."""
    return any(part in name for part in _SQUARED_OR_PROPER)


def _of_columns(differences: np.ndarray) -> np.ndarray:
    """Return absolute differences, (n_samples, n_columns); one column of images."""
    sizes: np.ndarray = np.abs(differences).reshape(len(differences), -1)
    return sizes.mean(axis=1, keepdims=True) if differences.ndim > 2 else sizes
