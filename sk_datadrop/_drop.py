"""The drop rule: from what was found about the samples to those to keep.

It uses numpy only, and knows neither nets nor estimators.
"""

from numbers import Real
from typing import Any

import numpy as np


def check_drop_fraction(drop_fraction: Any) -> None:
    """Raise a ValueError unless `drop_fraction` is a known rule or in [0, 1)."""
    is_number = isinstance(drop_fraction, Real) and not isinstance(drop_fraction, bool)
    is_rule = isinstance(drop_fraction, str) and drop_fraction in ("harmful", "auto")
    if not is_rule and not (is_number and 0 <= drop_fraction < 1):
        raise ValueError(
            "drop_fraction must be 'harmful', 'auto' or a number in [0, 1); got "
            f"{drop_fraction!r}."
        )


def check_on_harmful(on_harmful: Any, drop_fraction: Any) -> None:
    """Raise a ValueError unless the two go together."""
    if on_harmful not in ("drop", "weigh", "mend"):
        raise ValueError(
            f"on_harmful must be 'drop', 'weigh' or 'mend'; got {on_harmful!r}."
        )
    if on_harmful != "drop" and drop_fraction != "harmful":
        raise ValueError(
            f"on_harmful={on_harmful!r} drops no sample, and drop_fraction="
            f"{drop_fraction!r} says how many to drop. Leave one of them at its "
            "default."
        )


def mean_influence(influence_per_view: np.ndarray) -> np.ndarray:
    """Return the mean over the views, (n_samples,); NaN where no view has a score."""
    count = np.sum(~np.isnan(influence_per_view), axis=0)
    total = np.nansum(influence_per_view, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def standard_error(influence_per_view: np.ndarray) -> np.ndarray:
    """Estimate how far `mean_influence` may be off, if the views are independent.

    It is NaN, of shape (n_samples,), for samples that fewer than two views scored.
    """
    count = np.sum(~np.isnan(influence_per_view), axis=0)
    mean = mean_influence(influence_per_view)
    deviations = np.nansum((influence_per_view - mean) ** 2, axis=0)
    error = np.sqrt(deviations / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return np.where(count >= 2, error, np.nan)


def keep_mask(
    influence: np.ndarray,
    harm_probability: np.ndarray,
    is_harmful: np.ndarray,
    drop_fraction: str | float,
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """Decide which samples stay.

    To add a rule: a name in `check_drop_fraction`, and its branch here.

    Parameters
    ----------
    influence : ndarray of shape (n_samples,), dtype float64
        Mean over the views, NaN where no view scored the sample.
    harm_probability : ndarray of shape (n_samples,), dtype float64
        Chance that the sample does harm, NaN where not scored.
    is_harmful : ndarray of shape (n_samples,), dtype bool
        Samples that "harmful" drops.
    drop_fraction : "harmful" or float in [0, 1)
        A float drops that share of the scored samples, those of the highest chance of
        harm first, and of equal ones those of the lowest influence.
    codes : ndarray of shape (n_samples,) or None, default=None
        Classes.

    Returns
    -------
    ndarray of shape (n_samples,), dtype bool
        True = keep. Samples that no view scored are kept, and so is the most helpful
        sample of each class.
    """
    order = most_harmful_first(influence, harm_probability)
    droppable = ~np.isnan(influence) & ~_last_of_each_class(order, codes)
    if isinstance(drop_fraction, str):
        keep: np.ndarray = ~(is_harmful & droppable)
        return keep
    return drop_fewer(~droppable, influence, harm_probability, drop_fraction)


def most_harmful_first(
    influence: np.ndarray, harm_probability: np.ndarray
) -> np.ndarray:
    """Return all positions, by falling chance of harm and then rising influence."""
    chance = np.nan_to_num(harm_probability, nan=-1.0)
    return np.lexsort((np.nan_to_num(influence, nan=np.inf), -chance))


def as_many_rows(
    kept: np.ndarray, n_rows: int, random_state: np.random.Generator
) -> np.ndarray:
    """Repeat some of the samples kept, so that there are as many as before.

    An epoch then has as many optimiser steps, and schedules of the learning rate fit.
    Repeats are drawn without replacement; if there are not enough samples, all are
    repeated first. `kept` holds positions, and so does the result, (n_rows,), in order.
    """
    n_whole, n_drawn = divmod(n_rows, len(kept))
    drawn = random_state.permutation(len(kept))[:n_drawn]
    return np.sort(np.concatenate([np.tile(kept, n_whole), kept[drawn]]))


def candidate_fractions(keep: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """Return the shares that "auto" compares, by increasing size.

    They are shares of the scored samples: none, half of those that "harmful" does not
    keep, and all of these; none alone where it keeps all.
    """
    n_dropped = int(np.sum(~keep))
    n_scored = np.sum(~np.isnan(influence))
    shares: np.ndarray = np.unique([0, n_dropped // 2, n_dropped]) / max(n_scored, 1)
    return shares


def drop_fewer(
    keep: np.ndarray,
    influence: np.ndarray,
    harm_probability: np.ndarray,
    drop_fraction: float,
) -> np.ndarray:
    """Drop a share of the scored samples, among those that a rule drops.

    The most harmful go first. Where the rule drops fewer, all of these are dropped.
    Returns the samples to keep, (n_samples,).
    """
    order = most_harmful_first(influence, harm_probability)
    candidates = order[~keep[order]]
    fewer = np.ones(len(keep), dtype=bool)
    fewer[candidates[: round(drop_fraction * np.sum(~np.isnan(influence)))]] = False
    return fewer


def one_standard_error(objectives: np.ndarray, overlap: float) -> int:
    """Choose the best share, or none where dropping nothing is about as good.

    The rule of one standard error is that of Breiman, Friedman, Olshen, Stone (1984),
    Classification and regression trees, section 3.4.3, doi:10.1201/9781315139470.

    Parameters
    ----------
    objectives : ndarray of shape (n_splits, n_fractions), dtype float64
        Held-out objective, lower is better; nothing is dropped in the first column.
    overlap : float
        Held-out samples per training sample of a split, for `paired_standard_error`.

    Returns
    -------
    int
        The column of the lowest mean, or 0 if the mean paired difference between the
        two is at most one standard error.
    """
    best = int(np.argmin(objectives.mean(axis=0)))
    gain = objectives[:, 0] - objectives[:, best]
    return best if gain.mean() > paired_standard_error(gain, overlap) else 0


def paired_standard_error(differences: np.ndarray, overlap: float) -> np.ndarray:
    """Estimate how far a mean over runs that share training samples may be off.

    The variance is larger than that of independent runs, by the test samples per
    training sample, `overlap` (Nadeau, Bengio 2003, doi:10.1023/A:1024068626366).
    `differences` of shape (n_runs, ...) holds two runs or more.
    """
    inflation = np.sqrt(1 / len(differences) + overlap)
    return np.asarray(differences.std(axis=0, ddof=1) * inflation)


def _last_of_each_class(order: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
    """Mark the most helpful sample of each class, the last in the order of dropping.

    A sample that was never scored is kept anyway and serves its class best.
    """
    protected = np.zeros(len(order), dtype=bool)
    most_helpful_first = order[::-1]
    classes = np.zeros(len(order), dtype=int) if codes is None else codes
    _, first = np.unique(classes[most_helpful_first], return_index=True)
    protected[most_helpful_first[first]] = True
    return protected
