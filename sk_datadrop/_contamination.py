"""Errors that leave no valley in a density: a few values of a much wider distribution.

Swapped targets have no size of their own. But a mixture of two normal distributions
then fits the residuals far better than one heavy-tailed distribution does (Student's
t), with a few of them several times as wide as the rest. Honest noise with heavy tails
is fitted by the latter, spread that varies is a mixture of similar shares, and skew has
one sign: none of these is taken for errors.

Targets of many values, such as images, have no sign. There the logarithms of the losses
are a mixture, with a wide one far above the rest, that fits better than any single peak
with tails (Johnson's SU).
"""

import warnings

import numpy as np
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

SMALLEST_GAIN_IN_LIKELIHOOD = 8.0
"""Log-likelihood by which the mixture must be better than the single distribution."""

SMALLEST_RATIO = 3.0
"""Ratio of the two standard deviations; honest groups hardly differ by so much."""

LARGEST_SHARE = 0.3
"""Share of wide residuals. Honest noise of varying spread gave 0.41 and more."""

SMALLEST_P_OF_SIGNS = 0.01
"""P value of a test that as many wide residuals lie above as below."""

SMALLEST_SEPARATION = 4.0
"""Distance of the upper losses from the rest, in standard deviations of the rest. Those
of swapped pictures were 5 and more away, those of any honest noise up to 3."""

MOST_VALUES_TO_FIT = 5_000
STARTS = (0.75, 0.9, 0.95, 0.99)
"""Quantiles at which the upper losses are looked for first."""

N_ITER = 200
DEGREES_OF_FREEDOM = (0.6, 0.8, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15, 30, 100)


def chance_of_contamination(residuals: np.ndarray) -> np.ndarray:
    """Return the chance that a residual is of the wide kind, (n_samples,).

    Zero for all of them unless there surely is such a kind. The residuals, of one sign
    or the other, must be finite.
    """
    centred = residuals - np.median(residuals)
    none = np.zeros(len(centred))
    narrow = np.median(np.abs(centred)) / 0.6745
    if not narrow > 0:
        return none
    # In units of the narrow ones, so that no square is out of range.
    centred = centred / narrow
    likelihood, share, ratio, chance = _fit_mixture(centred)
    if share > LARGEST_SHARE or ratio < SMALLEST_RATIO:
        return none
    if likelihood - _likelihood_of_t(centred) < SMALLEST_GAIN_IN_LIKELIHOOD:
        return none
    wide = centred[chance > 0.5]
    if not len(wide):
        return none
    signs = stats.binomtest(int(np.sum(wide > 0)), len(wide))
    return chance if signs.pvalue >= SMALLEST_P_OF_SIGNS else none


def _fit_mixture(values: np.ndarray) -> tuple[float, float, float, np.ndarray]:
    """Fit two centred normal distributions by expectation-maximisation.

    Returns log-likelihood, share of the wider one, ratio of the standard deviations,
    and the chance that a value is of the wider one.
    """
    squares = values**2
    variances, shares = np.array([[1.0], [25.0]]), np.array([[0.9], [0.1]])
    tiny = np.finfo(float).tiny

    def joint() -> np.ndarray:
        logs = np.log(shares) - 0.5 * np.log(2 * np.pi * variances)
        return np.asarray(logs - squares / (2 * variances))

    for _ in range(N_ITER):
        log_joint = joint()
        chances = np.exp(log_joint - logsumexp(log_joint, axis=0))
        total = np.maximum(chances.sum(axis=1, keepdims=True), tiny)
        shares = np.maximum(total / total.sum(), tiny)
        variances = np.maximum((chances @ squares)[:, None] / total, tiny)
    log_joint = joint()
    per_value = logsumexp(log_joint, axis=0)
    ratio = float(np.sqrt(variances[1, 0] / variances[0, 0]))
    chance = np.exp(log_joint[1] - per_value)
    return float(per_value.sum()), float(shares[1, 0]), ratio, chance


def _likelihood_of_t(values: np.ndarray) -> float:
    """Return the largest log-likelihood of a centred Student's t of any scale."""
    squares, found = values**2, []
    for df in DEGREES_OF_FREEDOM:
        variance = 1.0
        for _ in range(60):
            variance = float(np.mean((df + 1) * squares / (df + squares / variance)))
        found.append(stats.t.logpdf(values, df, scale=np.sqrt(variance)).sum())
    return float(np.max(found))


def chance_of_upper_kind(values: np.ndarray) -> np.ndarray:
    """Return the chance that a value is of a wide kind far above, (n_samples,).

    Zero for all of them unless there surely is such a kind. The values, logarithms of
    losses, must be finite.
    """
    none = np.zeros(len(values))
    spread = stats.median_abs_deviation(values, scale="normal")
    if not spread > 0 or len(values) < 2 * len(STARTS):
        return none
    values = (values - np.median(values)) / spread
    # Sorted, so that the order of the samples does not matter.
    some = np.sort(values)[:: 1 + len(values) // MOST_VALUES_TO_FIT, None]
    mixture = max(
        (_mixture_from(some, start) for start in STARTS), key=lambda m: m.score(some)
    )
    rest, upper = np.argsort(mixture.means_[:, 0])
    distance = mixture.means_[upper, 0] - mixture.means_[rest, 0]
    deviation = np.sqrt(mixture.covariances_[rest, 0, 0])
    if mixture.weights_[upper] > LARGEST_SHARE:
        return none
    if distance < SMALLEST_SEPARATION * deviation:
        return none
    likelihood = mixture.score(some) * len(some)
    if likelihood - _likelihood_of_one_peak(some) < SMALLEST_GAIN_IN_LIKELIHOOD:
        return none
    chance = mixture.predict_proba(values[:, None])[:, upper]
    return np.where(values > mixture.means_[rest, 0], chance, 0.0)


def _mixture_from(values: np.ndarray, start: float) -> GaussianMixture:
    means = np.quantile(values, [[0.5], [start]])
    model = GaussianMixture(
        2,
        means_init=means,
        init_params="random_from_data",
        tol=1e-6,
        max_iter=500,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(values)


def _likelihood_of_one_peak(values: np.ndarray) -> float:
    try:
        with np.errstate(all="ignore"):
            parameters = stats.johnsonsu.fit(values)
            likelihood = float(stats.johnsonsu.logpdf(values, *parameters).sum())
    except stats.FitError:
        return np.inf
    return likelihood if np.isfinite(likelihood) else np.inf
