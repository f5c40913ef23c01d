"""Values of another kind: a cluster beyond a valley of the density.

A long tail is not enough. Honest noise may be skewed, heavy-tailed or of varying
spread, and its density only falls; where it falls and significantly rises again, a
second population begins. That takes no model of either of them.
"""

import numpy as np
from scipy.special import bdtrc
from scipy.stats import gaussian_kde

SIGNIFICANCE = 1e-4
"""Largest p-value of a rise of the density. It is small as all pairs of windows are
tried: of 1,920 samples of honest noise, one had a valley."""

LARGEST_CLUSTER = 1 / 3
"""Share of the values above a valley, at most: more are no exceptions."""

SMALLEST_SHARE_OF_DISTINCT = 0.5
"""Values that repeat, as those of few distinct inputs do, have peaks and valleys of
their own, and tell nothing."""

N_BINS = 40
"""Between the mode and the largest value."""

DEEPEST_SHARE = 0.6
"""Density of a valley, as a share of that of the peak beyond it, at most."""


def chance_beyond_valley(values: np.ndarray) -> np.ndarray:
    """Return the chance that a value belongs to a cluster above that of most values.

    It is 0.5 at the bottom of the valley, zero where there is none, and never falls as
    values rise. The values, (n_samples,), must be finite.
    """
    valley = _find_valley(values)
    if valley is None:
        return np.zeros(len(values))
    mode, bottom, density_at_bottom, density = valley
    # Each population's density is about half of the bottom's there, and falls towards
    # the other's peak.
    other = 0.5 * np.minimum(1, density_at_bottom / density)
    chance = np.where(values >= bottom, 1 - other, other)
    order = np.argsort(values, kind="stable")
    chance[order] = np.maximum.accumulate(chance[order])
    # Values on the far side of the mode are not at all of the upper cluster.
    return np.where(values < mode, 0.0, chance)


def _find_valley(values: np.ndarray) -> tuple[float, float, float, np.ndarray] | None:
    """Return the mode, the bottom, and the density there and at all values."""
    ordered = np.sort(values)
    mode, largest = _mode(ordered), float(ordered[-1])
    if not mode < largest:
        return None
    above = ordered[ordered > mode]
    n_distinct = 1 + np.sum(np.diff(above) > 1e-9 * (largest - mode))
    if n_distinct < SMALLEST_SHARE_OF_DISTINCT * len(above):
        return None
    edges = np.linspace(mode, largest, N_BINS + 1)
    peak = _significant_rise(np.histogram(values, edges)[0])
    if peak is None:
        return None
    # A robust spread: the cluster itself must not widen the kernel.
    low, high = np.quantile(ordered, [0.16, 0.84])
    width = 0.45 * (high - low) / 2 * len(values) ** -0.2
    if not width > 0:
        return None
    kde = gaussian_kde(values, bw_method=width / np.std(values, ddof=1))
    grid = np.linspace(mode, float(edges[peak.stop]), 400)
    density = kde(grid)
    top = int(np.argmax(np.where(grid >= edges[peak.start], density, 0)))
    bottom = int(np.argmin(density[: top + 1]))
    is_large = np.mean(values > grid[bottom]) > LARGEST_CLUSTER
    if is_large or not density[bottom] < DEEPEST_SHARE * density[top]:
        return None
    at_values = np.interp(values, grid, density)
    beyond = values > grid[-1]
    at_values[beyond] = np.maximum(kde(values[beyond]), np.finfo(float).tiny)
    return mode, float(grid[bottom]), float(density[bottom]), at_values


def _mode(ordered: np.ndarray) -> float:
    """Return the median of the shortest interval that holds half of the values."""
    half = len(ordered) // 2
    widths = ordered[half:] - ordered[: len(ordered) - half]
    start = int(np.argmin(widths))
    return float(np.median(ordered[start : start + half + 1]))


def _significant_rise(counts: np.ndarray) -> slice | None:
    """Return the bins of the window that holds most significantly more than one below.

    Two windows of equal width, of up to a third of the bins, are compared by the
    binomial test: while the density falls, a later one holds no more than an earlier.
    """
    total = np.concatenate([[0], np.cumsum(counts)])
    best, found = SIGNIFICANCE, None
    for width in range(1, len(counts) // 3 + 1):
        inside = total[width:] - total[:-width]
        for start in range(len(inside) - width):
            later = inside[start + width :]
            with np.errstate(invalid="ignore"):
                p = bdtrc(later - 1.0, later + inside[start], 0.5)
            p = np.where(later > inside[start], p, 1.0)
            place = int(np.argmin(p))
            if p[place] < best:
                best = p[place]
                found = slice(start + width + place, start + 2 * width + place)
    return found
