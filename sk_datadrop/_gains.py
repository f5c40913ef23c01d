"""Gains that a drop curve measured, their intervals, and their meaning in words."""

from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from scipy import stats

from sk_datadrop._default_scores import MEDIAN_ERROR, PROBABILITY, can_turn_round
from sk_datadrop._drop import paired_standard_error

CONFIDENCE = 0.95

SMALLEST_SHARE = 0.01
"""Share of samples that look wrong, from which on they are spoken of."""

_HELPS, _SURER = ("helps", "hurts"), ("surer", "less sure")

_ON_SURER = (
    "Without hard samples a net is surer, also where it is no better: the accuracy "
    "tells."
)

_ON_MEDIAN = (
    "The median does not show what becomes of rare, extreme targets; scoring='r2' "
    "does, on trusted samples."
)

Gain = tuple[np.ndarray, ...]
"""A mean over the runs and its interval, (n_fractions,) each."""


@dataclass(frozen=True)
class DropCurve:
    """Result of :func:`drop_curve`.

    One column per rule; the first is that of the estimator. One row per repetition and
    part of the samples scored on: an outer split, or a part of `X_test`. The arms of a
    row share samples and seed. ``print(curve)`` prints the `summary`.

    Parameters
    ----------
    fractions : list of float or str
        The rules: that of the estimator, then those asked for.
    dropout, random : ndarray of shape (n_runs, n_fractions), dtype float64
        Scores after data dropout, and after the same with random samples of the same
        classes.
    none : ndarray of shape (n_runs,), dtype float64
        Scores after training on all samples as they are.
    n_dropped : ndarray of shape (n_runs, n_fractions), dtype int64
        Number of samples dropped; with "weigh" and "mend", of those that are more
        likely harmful than not.
    n_train, n_test : ndarray of shape (n_runs,), dtype int64
        Number of samples trained and scored on.
    n_parts : int, default=0
        Number of parts of `X_test`, on all of which each net was scored; 0 where outer
        splits of X were held out.
    score : str, default="score"
        Name of the score.
    share_harmful : float, default=0.0
        Share of the training samples that are more likely harmful than not; NaN if most
        runs cannot tell.
    n_classes : int, default=0
        Number of classes, 0 unless each sample has one of them.
    probability : DropCurve or None, default=None
        The same nets, scored by the mean probability of the given class. None where
        `scoring` was chosen, and for nets without one probability per class and sample.

    See Also
    --------
    drop_curve : Measures it.
    DropCurveDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import DropCurve
    >>> curve = DropCurve(
    ...     [0.1], np.array([[0.8], [0.9]]), random=np.array([[0.7], [0.6]]),
    ...     none=np.array([0.7, 0.8]), n_dropped=np.array([[9], [9]]),
    ...     n_train=np.array([90, 90]), n_test=np.array([50, 50]),
    ... )
    >>> curve.gain("none")[0]
    array([0.1])
    """

    fractions: list[str | float]
    dropout: np.ndarray
    random: np.ndarray
    none: np.ndarray
    n_dropped: np.ndarray
    n_train: np.ndarray
    n_test: np.ndarray
    n_parts: int = 0
    score: str = "score"
    share_harmful: float = 0.0
    n_classes: int = 0
    probability: "DropCurve | None" = None

    def gain(self, over: str = "none") -> Gain:
        """Mean paired difference of data dropout to another arm, and its interval.

        The 95 % interval is one of Student's t. With outer splits it is corrected for
        runs that share training samples (Nadeau, Bengio 2003,
        doi:10.1023/A:1024068626366). With `X_test` all runs share all samples: it
        covers other seeds and other test samples, by the variance between repetitions
        and between parts of `X_test` (degrees of freedom by Satterthwaite 1946,
        doi:10.2307/3002019), and is about X as it is, not about other training samples.

        Parameters
        ----------
        over : {"none", "random"}, default="none"
            The arm to compare with: no dropout, or the same with random samples.

        Returns
        -------
        mean : ndarray of shape (n_fractions,), dtype float64
            Mean over the runs.
        low, high : ndarray of shape (n_fractions,), dtype float64
            95 % interval; NaN for a single run or repetition.

        See Also
        --------
        summary : The same in words.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_datadrop import DropCurve
        >>> curve = DropCurve(
        ...     [0.1], np.array([[0.8], [0.9]]), random=np.array([[0.7], [0.6]]),
        ...     none=np.array([0.7, 0.8]), n_dropped=np.array([[9], [9]]),
        ...     n_train=np.array([90, 90]), n_test=np.array([50, 50]),
        ... )
        >>> mean, low, high = curve.gain(over="random")
        >>> mean.round(3), bool(low < 0 < high)
        (array([0.2]), True)
        """
        if over not in ("none", "random"):
            raise ValueError(f"over must be 'none' or 'random'; got {over!r}.")
        other = self.none[:, None] if over == "none" else self.random
        differences = self.dropout - other
        if not self.n_parts:
            return _gain_over_splits(differences, np.mean(self.n_test / self.n_train))
        shape = (-1, self.n_parts, differences.shape[1])
        return _gain_on_shared_samples(differences.reshape(shape))

    def summary(self) -> str:
        """Tell what was shown, and what samples with the same errors cannot show.

        "helps" stands where an interval lies above zero, "hurts" where it lies below,
        and "not shown" where it holds zero, or all runs agree exactly: then neither is
        known. For the probability of the given class it says "surer" and "less sure": a
        net without its hardest samples is surer, also where its predictions are no
        better.

        Returns
        -------
        str
            A table per score with a line per rule, that of the estimator first, and a
            few sentences on the samples scored on.

        See Also
        --------
        gain : The numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_datadrop import DropCurve
        >>> curve = DropCurve(
        ...     ["harmful"], np.array([[0.8], [0.9]]), random=np.array([[0.7], [0.6]]),
        ...     none=np.array([0.7, 0.8]), n_dropped=np.array([[9], [9]]),
        ...     n_train=np.array([90, 90]), n_test=np.array([50, 50]),
        ... )
        >>> print(curve.summary().splitlines()[0])
        gain in score (0.750 without dropout)
        """
        rules = [self._rule(column) for column in range(len(self.fractions))]
        width = max(map(len, rules))
        lines = []
        for curve in [self] if self.probability is None else [self, self.probability]:
            lines.append(
                f"gain in {curve.score} ({curve.none.mean():.3f} without dropout)"
            )
            words = _SURER if curve.score == PROBABILITY else _HELPS
            over_none, over_random = (
                _told(curve.gain(over), words) for over in ("none", "random")
            )
            heads = [("", "over no dropout", "over random samples")]
            for row in [*heads, *zip(rules, over_none, over_random, strict=True)]:
                lines.append(f"{row[0]:<{width}} {row[1]:<33} {row[2]}")
            lines.append("")
        caveats = [self._caveat()]
        if any(" surer" in line for line in lines):
            caveats.append(_ON_SURER)
        if self.score == MEDIAN_ERROR:
            caveats.append(_ON_MEDIAN)
        return "\n".join([*lines, *wrap(" ".join(caveats), 95)])

    def __str__(self) -> str:
        return self.summary()

    @property
    def shares(self) -> np.ndarray:
        """Share of the training samples that each rule dropped.

        With "weigh" and "mend" it is the share of those more likely harmful than not.

        Returns
        -------
        ndarray of shape (n_fractions,), dtype float64
            Mean over the runs.

        See Also
        --------
        DropCurve.summary : Tells them.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_datadrop import DropCurve
        >>> DropCurve(
        ...     [0.1], np.array([[0.8]]), random=np.array([[0.7]]),
        ...     none=np.array([0.7]), n_dropped=np.array([[9]]),
        ...     n_train=np.array([90]), n_test=np.array([50]),
        ... ).shares
        array([0.1])
        """
        shares: np.ndarray = np.mean(self.n_dropped / self.n_train[:, None], axis=0)
        return shares

    def _rule(self, column: int) -> str:
        rule = self.fractions[column]
        verb = {"weigh": "weighed down", "mend": "mended"}.get(str(rule), "dropped")
        return f"{rule} ({self.shares[column]:.1%} {verb})"

    def _caveat(self) -> str:
        """Tell what the samples scored on can show."""
        if self.n_parts:
            return "Scored on samples given as trusted."
        found = "Scored on samples of X, by the targets given"
        if np.isnan(self.share_harmful):
            return (
                f"{found}. How many of these are wrong could not be told. To know what "
                "right ones say, pass trusted X_test and y_test."
            )
        if not holds_errors(self):
            return f"{found}; under {SMALLEST_SHARE:.0%} of these look wrong."
        return (
            f"{found}, of which about {self.share_harmful:.0%} look wrong. "
            f"{self._effect_of_errors()} To know, pass trusted X_test and y_test."
        )

    def _effect_of_errors(self) -> str:
        if can_turn_round(self.score):
            return "They can turn this score round: it prefers nets that learned them."
        of_one_kind = (
            "Errors of one kind, such as a class or a unit taken for another, can hide "
            "a gain or turn it round: nets that learned them are scored as right."
        )
        if self.score != "accuracy" or self.n_classes < 2:
            return f"They can hide a gain. {of_one_kind}"
        left = 1 - self.share_harmful / (1 - 1 / self.n_classes)
        if left <= 0:
            return "So many can turn it round."
        return (
            "If they are wrong at random, right labels would show differences about "
            f"{1 / left:.3g} times as large, of the same sign. {of_one_kind}"
        )


def holds_errors(curve: DropCurve) -> bool:
    """Tell whether enough of the samples look wrong to be spoken of."""
    return curve.share_harmful >= SMALLEST_SHARE


def _told(gain: Gain, words: tuple[str, str]) -> list[str]:
    """Return each mean with its interval, and a word on it: of two, or "not shown"."""
    told = []
    for mean, low, high in zip(*gain, strict=True):
        if np.isnan(low):
            told.append(f"{mean:+.3f} (one run: not shown)")
            continue
        verdict = words[0] if low > 0 else words[1] if high < 0 else "not shown"
        if np.isclose(low, high, rtol=1e-9, atol=0):
            # Runs that differ by as many samples by chance tell nothing of the spread.
            verdict = "not shown"
        told.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] {verdict}")
    return told


def _gain_over_splits(values: np.ndarray, overlap: float) -> Gain:
    """Return the mean over runs, (n_runs, n_fractions), by the corrected t-test."""
    n_runs, mean = len(values), values.mean(axis=0)
    if n_runs < 2:
        return mean, *np.full((2, *mean.shape), np.nan)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n_runs - 1)
    reach = quantile * paired_standard_error(values, overlap)
    return mean, mean - reach, mean + reach


def _gain_on_shared_samples(values: np.ndarray) -> Gain:
    """Return the mean over seeds and parts of the test samples, which are crossed.

    `values` has shape (n_repeats, n_parts, n_fractions). The variance of the mean is
    that of the means by seed and that of the means by part, less what both hold of the
    interaction; it is at least either of them.
    """
    mean = values.mean(axis=(0, 1))
    if min(values.shape[:2]) < 2:
        return mean, *np.full((2, *mean.shape), np.nan)
    by_seed, by_part = values.mean(axis=1), values.mean(axis=0)
    rest = values - by_seed[:, None] - by_part + mean
    counts = np.array([len(by_seed), len(by_part)])
    dof = np.array([*(counts - 1), np.prod(counts - 1)])[:, None]
    squares = [by_seed.var(axis=0, ddof=1), by_part.var(axis=0, ddof=1)]
    squares.append((rest**2).sum(axis=(0, 1)) / dof[2])
    parts = np.array(squares) / np.array([*counts, np.prod(counts)])[:, None]
    variance = np.maximum(parts[0] + parts[1] - parts[2], parts[:2].max(axis=0))
    doubt = np.sum(parts**2 / dof, axis=0)
    freedom = np.divide(variance**2, doubt, out=np.ones_like(mean), where=doubt > 0)
    freedom = np.clip(freedom, dof[:2].min(), np.prod(counts) - 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variance)
    return mean, mean - reach, mean + reach
