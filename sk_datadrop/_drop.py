"""The drop rule: from the influence per view to the rows to keep.

Numpy and scipy only; knows neither nets nor estimators.
"""

from numbers import Real

import numpy as np
from scipy import stats

FALSE_DISCOVERY_RATE = 0.2
"""Largest estimated share of rows without effect among those "negative" drops."""

LAMBDA = 0.3
"""Two-sided p-values above are taken to come from rows without effect only."""

LOCAL_FALSE_DISCOVERY_RATE = 0.5
"""Rows at least this likely to have no effect are not dropped by "negative"."""


def check_drop_fraction(drop_fraction) -> None:
    """Raise a ValueError unless `drop_fraction` is a known rule or in [0, 1)."""
    is_number = isinstance(drop_fraction, Real) and not isinstance(drop_fraction, bool)
    is_rule = isinstance(drop_fraction, str) and drop_fraction in ("negative", "auto")
    if not is_rule and not (is_number and 0 <= drop_fraction < 1):
        raise ValueError(
            "drop_fraction must be 'negative', 'auto' or a number in [0, 1); got "
            f"{drop_fraction!r}."
        )


def mean_influence(views: np.ndarray) -> np.ndarray:
    """Mean over the views of each row, NaN for rows that no view scored.

    Parameters
    ----------
    views : ndarray of shape (n_views, n_samples)
        Influence per view, NaN where a view did not score the row.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    count = np.sum(~np.isnan(views), axis=0)
    return np.where(count > 0, np.nansum(views, axis=0) / np.maximum(count, 1), np.nan)


def standard_error(views: np.ndarray) -> np.ndarray:
    """Estimate how far `mean_influence` may be off, taking views for independent.

    Parameters
    ----------
    views : ndarray of shape (n_views, n_samples)
        Influence per view, NaN where a view did not score the row.

    Returns
    -------
    ndarray of shape (n_samples,)
        NaN for rows that fewer than two views scored.
    """
    count = np.sum(~np.isnan(views), axis=0)
    deviations = np.nansum((views - mean_influence(views)) ** 2, axis=0)
    error = np.sqrt(deviations / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return np.where(count >= 2, error, np.nan)


def keep_mask(views, split_of_view, drop_fraction, labels=None) -> np.ndarray:
    """Decide which rows stay.

    Parameters
    ----------
    views : ndarray of shape (n_views, n_samples)
        Influence per view, NaN where a view did not score the row.
    split_of_view : ndarray of shape (n_views,), dtype int
        The split each view comes from.
    drop_fraction : "negative" or float in [0, 1)
        "negative" drops the rows that `significantly_negative` names; a float
        drops that share of the scored rows, lowest mean influence first.
    labels : ndarray of shape (n_samples,) or None, default=None
        Classes. The most helpful row of each class is never dropped, so that no
        class is emptied.

    Returns
    -------
    ndarray of shape (n_samples,), dtype bool
        True = keep. Rows that no view scored are kept.
    """
    influence = mean_influence(views)
    droppable = ~np.isnan(influence) & ~_most_helpful_of_each_class(influence, labels)
    if drop_fraction == "negative":
        return ~(significantly_negative(views, split_of_view, labels) & droppable)
    return drop_fewer(~droppable, influence, drop_fraction)


def fractions_to_try(keep, influence) -> np.ndarray:
    """Shares that "auto" compares, by increasing size.

    Parameters
    ----------
    keep : ndarray of shape (n_samples,), dtype bool
        What "negative" keeps.
    influence : ndarray of shape (n_samples,)
        Mean over the views.

    Returns
    -------
    ndarray of shape (n_fractions,), dtype float64
        Of the scored rows: none, half of what "negative" drops, and all of it; none
        alone where it drops none.
    """
    n_dropped = int(np.sum(~keep))
    n_scored = np.sum(~np.isnan(influence))
    return np.unique([0, n_dropped // 2, n_dropped]) / max(n_scored, 1)


def drop_fewer(keep, influence, drop_fraction) -> np.ndarray:
    """Drop a share of the scored rows, of those that a rule drops.

    All that the rule drops, where these are fewer.

    Parameters
    ----------
    keep : ndarray of shape (n_samples,), dtype bool
        What the rule keeps.
    influence : ndarray of shape (n_samples,)
        Mean over the views; the lowest go first.
    drop_fraction : float in [0, 1)

    Returns
    -------
    ndarray of shape (n_samples,), dtype bool
        True = keep.
    """
    candidates = np.flatnonzero(~keep)
    order = candidates[np.argsort(influence[candidates], kind="stable")]
    fewer = np.ones(len(keep), dtype=bool)
    fewer[order[: round(drop_fraction * np.sum(~np.isnan(influence)))]] = False
    return fewer


def one_standard_error(objectives, overlap: float) -> int:
    """Tell which share is best, or that dropping nothing is about as good.

    Parameters
    ----------
    objectives : ndarray of shape (n_splits, n_fractions), dtype float64
        Held-out objective, lower is better; the first column is that of dropping
        nothing.
    overlap : float
        Held-out rows per training row of a split, for `paired_standard_error`.

    Returns
    -------
    int
        The column of the lowest mean, or 0 if the mean paired difference between the
        two is at most one standard error.

    References
    ----------
    Breiman, Friedman, Olshen, Stone (1984). Classification and regression trees,
    section 3.4.3. doi:10.1201/9781315139470
    """
    best = int(np.argmin(objectives.mean(axis=0)))
    gain = objectives[:, 0] - objectives[:, best]
    return best if gain.mean() > paired_standard_error(gain, overlap) else 0


def paired_standard_error(differences, overlap: float) -> np.ndarray:
    """Estimate how far a mean over runs may be off that share training rows.

    Parameters
    ----------
    differences : ndarray of shape (n_runs, ...), dtype float64
        At least two runs.
    overlap : float
        Test rows per training row, by which the variance of the mean is larger than
        that of independent runs.

    Returns
    -------
    ndarray of shape (...), dtype float64

    References
    ----------
    Nadeau, Bengio (2003). Inference for the generalization error.
    doi:10.1023/A:1024068626366
    """
    return differences.std(axis=0, ddof=1) * np.sqrt(1 / len(differences) + overlap)


def significantly_negative(views, split_of_view, labels=None) -> np.ndarray:
    """Rows more likely harmful than not, given how far the views agree.

    A one-sided t-test per row over independent views; then the rows whose local
    false discovery rate, the probability of having no effect given the p-value,
    is at most one half, as long as the false discovery rate of all of them is at
    most one fifth. With m rows, k of them at or below a p-value p, and a share pi
    of rows without effect, the cut is where ``k - 2 pi m p`` is largest among the
    p with ``pi m p <= k / 5``.

    Storey's estimate of pi joins two rules in one. On clean data most rows
    disagree about their sign from split to split: pi is large, small p-values
    are no more frequent than chance makes them, and nothing is dropped. Where
    there are harmful rows, splits agree about nearly every row, helpful or
    harmful: pi is small, and the cut comes close to the plain sign rule of the
    Data Dropout paper.

    A row must pass among all rows, and once more among those of its class: where a
    class is rare, splits disagree about its rows, and the agreement about all others
    is no evidence against them [2]_.

    With three splits or more the views of a split are averaged first: views of
    one split share its training and are no independent evidence. With fewer,
    every view counts; with a single view there is nothing to test, and the sign
    decides.

    Parameters
    ----------
    views : ndarray of shape (n_views, n_samples)
        Influence per view, NaN where a view did not score the row.
    split_of_view : ndarray of shape (n_views,), dtype int
        The split each view comes from.
    labels : ndarray of shape (n_samples,) or None, default=None
        Classes.

    Returns
    -------
    ndarray of shape (n_samples,), dtype bool

    References
    ----------
    .. [1] Efron, Tibshirani, Storey, Tusher (2001). Empirical Bayes analysis of a
       microarray experiment. doi:10.1198/016214501753382129

    .. [2] Efron (2008). Simultaneous inference: when should hypothesis testing
       problems be combined? doi:10.1214/07-AOAS141

    .. [3] Storey (2002). A direct approach to false discovery rates.
       doi:10.1111/1467-9868.00346
    """
    names = np.unique(split_of_view)
    if len(names) >= 3:
        views = np.stack(
            [mean_influence(views[split_of_view == name]) for name in names]
        )
    mean = mean_influence(views)
    if len(views) == 1:
        return mean < 0
    p = _p_values(views, mean)
    significant = (mean < 0) & _more_likely_than_not(p)
    for label in [] if labels is None else np.unique(labels):
        of_class = labels == label
        significant[of_class] &= _more_likely_than_not(p[of_class])
    return significant


def _more_likely_than_not(p) -> np.ndarray:
    return p <= _largest_p_to_drop(p[~np.isnan(p)])


def _largest_p_to_drop(p) -> float:
    """Where the local false discovery rate reaches its limit, or -1.

    The density of the p-values is estimated by the slope of the least concave
    majorant of their distribution (Grenander), so that the cut needs no bins:
    the slope falls below that of a line through the origin where the distance to
    it is largest.
    """
    if not len(p):
        return -1.0
    ordered = np.sort(p)
    count = np.arange(1, len(p) + 1)
    without_effect = _null_share(p) * len(p) * ordered
    gain = count - without_effect / LOCAL_FALSE_DISCOVERY_RATE
    # Helpful rows have p-values above one half; without the second condition the
    # density alone would take any rise at moderate p-values for effects.
    excluded = (ordered > 0.5) | (without_effect > FALSE_DISCOVERY_RATE * count)
    gain[excluded] = -np.inf
    best = int(np.argmax(gain))
    return float(ordered[best]) if gain[best] > 0 else -1.0


def _p_values(views, mean) -> np.ndarray:
    """P-value of "the influence is not negative"; NaN with fewer than two views."""
    count = np.sum(~np.isnan(views), axis=0)
    error = standard_error(views)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Views that agree to the last bit: zero is no effect, all else is certain.
        t = np.where((mean == 0) & (error == 0), 0.0, mean / error)
    return stats.t.cdf(t, np.maximum(count - 1, 1))


def _null_share(p) -> float:
    """Storey's share of rows without effect, from two-sided p-values above LAMBDA.

    Lower than the usual 1/2: where one view outweighs the others, |t| comes to
    about 1 by that alone, a two-sided p-value of .37 with five views, and must not
    count as an effect.
    """
    two_sided = 2 * np.minimum(p, 1 - p)
    return min(1.0, (np.sum(two_sided > LAMBDA) + 1) / ((1 - LAMBDA) * len(p)))


def _most_helpful_of_each_class(influence, labels) -> np.ndarray:
    protected = np.zeros(len(influence), dtype=bool)
    if labels is None:
        protected[np.argmax(np.nan_to_num(influence, nan=np.inf))] = True
        return protected
    # A row that was never scored is kept anyway and serves its class best.
    order = np.argsort(np.nan_to_num(-influence, nan=-np.inf), kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    protected[order[first]] = True
    return protected
