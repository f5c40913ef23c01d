"""The drop rule: from the influence per view to the samples to keep.

It uses numpy and scipy only, and knows neither nets nor estimators.
"""

from numbers import Real
from typing import Any

import numpy as np
from scipy import stats

FALSE_DISCOVERY_RATE = 0.2
"""Largest estimated share of samples without effect among those "harmful" drops."""

STOREY_LAMBDA = 0.3
"""Two-sided p-values above it are assumed to come from samples without effect."""

LOCAL_FALSE_DISCOVERY_RATE = 0.5
"""Samples at least this likely to have no effect are not dropped by "harmful"."""


def check_drop_fraction(drop_fraction: Any) -> None:
    """Raise a ValueError unless `drop_fraction` is a known rule or in [0, 1)."""
    is_number = isinstance(drop_fraction, Real) and not isinstance(drop_fraction, bool)
    is_rule = isinstance(drop_fraction, str) and drop_fraction in ("harmful", "auto")
    if not is_rule and not (is_number and 0 <= drop_fraction < 1):
        raise ValueError(
            "drop_fraction must be 'harmful', 'auto' or a number in [0, 1); got "
            f"{drop_fraction!r}."
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
    influence_per_view: np.ndarray,
    split_of_view: np.ndarray,
    drop_fraction: str | float,
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """Decide which samples stay.

    To add a rule: a name in `check_drop_fraction`, and its branch here.

    Parameters
    ----------
    influence_per_view : ndarray of shape (n_views, n_samples)
        Influence per view, NaN where a view did not score the sample.
    split_of_view : ndarray of shape (n_views,), dtype int
        The split each view comes from.
    drop_fraction : "harmful" or float in [0, 1)
        "harmful" drops the samples that `significantly_negative` names; a float
        drops that share of the scored samples, lowest mean influence first.
    codes : ndarray of shape (n_samples,) or None, default=None
        Classes.

    Returns
    -------
    ndarray of shape (n_samples,), dtype bool
        True = keep. Samples that no view scored are kept, and so is the most helpful
        sample of each class.
    """
    influence = mean_influence(influence_per_view)
    droppable = ~np.isnan(influence) & ~_most_helpful_of_each_class(influence, codes)
    if isinstance(drop_fraction, str):
        harmful = significantly_negative(influence_per_view, split_of_view, codes)
        keep: np.ndarray = ~(harmful & droppable)
        return keep
    return drop_fewer(~droppable, influence, drop_fraction)


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
    keep: np.ndarray, influence: np.ndarray, drop_fraction: float
) -> np.ndarray:
    """Drop a share of the scored samples, among those that a rule drops.

    The lowest mean influence goes first. Where the rule drops fewer, all of these are
    dropped. Returns the samples to keep, (n_samples,).
    """
    candidates = np.flatnonzero(~keep)
    order = candidates[np.argsort(influence[candidates], kind="stable")]
    fewer = np.ones(len(keep), dtype=bool)
    fewer[order[: round(drop_fraction * np.sum(~np.isnan(influence)))]] = False
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


def significantly_negative(
    influence_per_view: np.ndarray,
    split_of_view: np.ndarray,
    codes: np.ndarray | None = None,
) -> np.ndarray:
    """Find samples more likely harmful than not, given how far the views agree.

    A one-sided t-test per sample over independent views; then the samples whose local
    false discovery rate, the probability of having no effect given the p-value,
    is at most one half, as long as the false discovery rate of all of them is at
    most one fifth. With m samples, k of them at or below a p-value p, and a share pi
    of samples without effect, the cut is where ``k - 2 pi m p`` is largest among the
    p with ``pi m p <= k / 5``.

    Storey's estimate of pi joins two rules in one. On clean data splits disagree about
    the sign of most samples: pi is large, small p-values are no more frequent than
    chance makes them, and nothing is dropped. Where there are harmful samples, splits
    agree about nearly every sample, helpful or harmful: pi is small, and the cut comes
    close to the plain sign rule of the Data Dropout paper.

    A sample must pass among all samples, and once more among those of its class: where
    a class is rare, splits disagree about its samples, and the agreement about all
    others is no evidence against them (Efron 2008, doi:10.1214/07-AOAS141).

    With three splits or more the views of a split are averaged first: views of
    one split share its training and are no independent evidence. With fewer,
    every view counts; with a single view there is nothing to test, and the sign
    decides.

    Arguments are those of `keep_mask`. The local false discovery rate is that of Efron,
    Tibshirani, Storey & Tusher (2001), doi:10.1198/016214501753382129, and the share
    that of Storey (2002), doi:10.1111/1467-9868.00346.
    """
    splits = np.unique(split_of_view)
    opinions = influence_per_view
    if len(splits) >= 3:
        opinions = np.stack(
            [mean_influence(influence_per_view[split_of_view == s]) for s in splits]
        )
    mean = mean_influence(opinions)
    if len(opinions) == 1:
        return mean < 0
    p = _p_values(opinions, mean)
    significant: np.ndarray = (mean < 0) & _more_likely_than_not(p)
    if codes is not None:
        for code in np.unique(codes):
            of_class = codes == code
            significant[of_class] &= _more_likely_than_not(p[of_class])
    return significant


def _more_likely_than_not(p: np.ndarray) -> np.ndarray:
    return p <= _largest_p_to_drop(p[~np.isnan(p)])


def _largest_p_to_drop(p: np.ndarray) -> float:
    """Return the p-value where the local false discovery rate is at its limit, or -1.

    The density of the p-values is estimated by the slope of the least concave
    majorant of their distribution (Grenander), so that the cut needs no bins:
    the slope falls below that of a line through the origin where the distance to
    it is largest.
    """
    if not len(p):
        return -1.0
    ordered = np.sort(p)
    count = np.arange(1, len(p) + 1)
    without_effect = _null_proportion(p) * len(p) * ordered
    gain = count - without_effect / LOCAL_FALSE_DISCOVERY_RATE
    # Helpful samples have p-values above one half. Without the second condition the
    # density alone would mistake any rise at moderate p-values for effects.
    excluded = (ordered > 0.5) | (without_effect > FALSE_DISCOVERY_RATE * count)
    gain[excluded] = -np.inf
    best = int(np.argmax(gain))
    return float(ordered[best]) if gain[best] > 0 else -1.0


def _p_values(influence_per_view: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the p-values of "not negative"; NaN with fewer than two views.

    scipy's ttest_1samp is a hundred times slower where there are NaN, and has no
    p-value where all views agree to the last bit.
    """
    count = np.sum(~np.isnan(influence_per_view), axis=0)
    error = standard_error(influence_per_view)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where views agree to the last bit, zero is no effect and all else is certain.
        t = np.where((mean == 0) & (error == 0), 0.0, mean / error)
    p: np.ndarray = stats.t.cdf(t, np.maximum(count - 1, 1))
    return p


def _null_proportion(p: np.ndarray) -> float:
    """Return Storey's share of samples without effect, from large two-sided p-values.

    The bound is lower than the usual 1/2: where one view outweighs the others, |t| is
    about 1 by that alone, a two-sided p-value of .37 with five views, and must not
    count as an effect.
    """
    n_large = np.sum(2 * np.minimum(p, 1 - p) > STOREY_LAMBDA)
    return min(1.0, float(n_large + 1) / ((1 - STOREY_LAMBDA) * len(p)))


def _most_helpful_of_each_class(
    influence: np.ndarray, codes: np.ndarray | None
) -> np.ndarray:
    protected = np.zeros(len(influence), dtype=bool)
    if codes is None:
        protected[np.argmax(np.nan_to_num(influence, nan=np.inf))] = True
        return protected
    # A sample that was never scored is kept anyway and serves its class best.
    order = np.argsort(np.nan_to_num(-influence, nan=-np.inf), kind="stable")
    _, first = np.unique(codes[order], return_index=True)
    protected[order[first]] = True
    return protected
