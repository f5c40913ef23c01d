"""What a drop curve measured: gains, their intervals, and what they mean in words."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from sk_datadrop._default_scores import can_turn_round
from sk_datadrop._drop import paired_standard_error

CONFIDENCE = 0.95

NAMES = {"weigh": "weighed down", "mend": "mended"}


class _Gain(NamedTuple):
    """A mean over the runs and its interval, (n_fractions,)."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


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
        Share of the training samples that are more likely harmful than not.
    n_classes : int, default=0
        Number of classes, 0 unless each sample has one of them.

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

    def gain(self, over: str = "none") -> tuple[np.ndarray, ...]:
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

        A gain is shown if its interval lies above zero. Where the interval holds zero,
        nothing is shown, neither that dropping helps nor that it does not.

        Returns
        -------
        str
            A line per rule, that of the estimator first, and one on the samples
            scored on.

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
        >>> print(curve.summary().split(";")[0])
        'harmful' (10.0% dropped): +0.100 [+0.100, +0.100] in score, shown to help
        """
        gains = [_Gain(*self.gain(over)) for over in ("none", "random")]
        lines = [self._line(column, *gains) for column in range(len(self.fractions))]
        return "\n".join([*lines, self._caveat()])

    def __str__(self) -> str:
        return self.summary()

    @property
    def shares(self) -> np.ndarray:
        """Share of the training samples dropped or treated by each rule.

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

    def _line(self, column: int, over_none: _Gain, over_random: _Gain) -> str:
        rule, share = self.fractions[column], self.shares[column]
        verb = NAMES.get(str(rule), "dropped")
        if not self.n_dropped[:, column].any():
            return f"{rule!r}: no sample {verb}, so that there is nothing to compare"
        gain, other = (_told(g, column) for g in (over_none, over_random))
        return (
            f"{rule!r} ({share:.1%} {verb}): {gain} in {self.score}, "
            f"{_verdict(over_none, column)}; over random samples {other}, "
            f"{_verdict(over_random, column)}"
        )

    def _caveat(self) -> str:
        """Tell what the samples scored on can show."""
        none = f"Without dropout {self.score} is {self.none.mean():.3f}"
        if self.n_parts:
            return f"{none}, on samples given as trusted."
        found = f"{none}, on samples of X held out, with the targets given"
        if not self.share_harmful:
            return f"{found}; none of these was found to be wrong."
        return (
            f"{found}, of which about {self.share_harmful:.0%} look wrong. "
            f"{self._effect_of_errors()} To know, pass trusted X_test and y_test."
        )

    def _effect_of_errors(self) -> str:
        if can_turn_round(self.score):
            return "They can turn this score round: it prefers nets that learned them."
        of_one_kind = (
            "Errors of one kind, such as a class taken for another, can hide a gain or "
            "turn it round: nets that have learned them are scored as right."
        )
        if self.score != "accuracy" or self.n_classes < 2:
            return f"They can hide a gain. {of_one_kind}"
        left = 1 - self.share_harmful / (1 - 1 / self.n_classes)
        if left <= 0:
            return "So many can turn accuracy round."
        return (
            "If they are wrong at random, right labels would show differences about "
            f"{1 / left:.2g} times as large, of the same sign. {of_one_kind}"
        )


def _told(gain: _Gain, column: int) -> str:
    mean, low, high = (values[column] for values in gain)
    return f"{mean:+.3f}" if np.isnan(low) else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _verdict(gain: _Gain, column: int) -> str:
    if np.isnan(gain.low[column]):
        return "which a single run cannot show"
    if gain.low[column] > 0:
        return "shown to help"
    return "shown to hurt" if gain.high[column] < 0 else "not shown to help"


def _gain_over_splits(values: np.ndarray, overlap: float) -> _Gain:
    """Return the mean over runs, (n_runs, n_fractions), by the corrected t-test."""
    n_runs, mean = len(values), values.mean(axis=0)
    if n_runs < 2:
        return _Gain(mean, *np.full((2, *mean.shape), np.nan))
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n_runs - 1)
    reach = quantile * paired_standard_error(values, overlap)
    return _Gain(mean, mean - reach, mean + reach)


def _gain_on_shared_samples(values: np.ndarray) -> _Gain:
    """Return the mean over seeds and parts of the test samples, which are crossed.

    `values` has shape (n_repeats, n_parts, n_fractions). The variance of the mean is
    that of the means by seed and that of the means by part, less what both hold of the
    interaction; it is at least either of them.
    """
    mean = values.mean(axis=(0, 1))
    if min(values.shape[:2]) < 2:
        return _Gain(mean, *np.full((2, *mean.shape), np.nan))
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
    return _Gain(mean, mean - reach, mean + reach)
