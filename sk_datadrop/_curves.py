"""Did dropping help? The same net, retrained after data dropout, at random, on all."""

import copy
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, check_random_state, indexable

from sk_datadrop._checks import check_count, check_kind
from sk_datadrop._drop import check_drop_fraction, paired_standard_error
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._rows import as_rows, with_own_targets
from sk_datadrop._validation import rows_of
from sk_datadrop._workers import run_all

CONFIDENCE = 0.95


@dataclass(frozen=True)
class DropCurve:
    """What :func:`drop_curve` measured.

    One column per fraction, one row per repetition and outer split: the two share
    their rows, their seed and the number of rows dropped, so they are compared in
    pairs.

    Parameters
    ----------
    fractions : list, each item a float in [0, 1), "negative" or "auto"
        As asked for.
    dropout : ndarray of shape (n_runs, n_fractions), dtype float64
        Scores after data dropout.
    random : ndarray of shape (n_runs, n_fractions), dtype float64
        Scores after a random drop of as many rows, of each class for a classifier.
    none : ndarray of shape (n_runs,), dtype float64
        Scores after training on all rows.
    n_dropped : ndarray of shape (n_runs, n_fractions), dtype int64
        Rows dropped.
    n_train, n_test : ndarray of shape (n_runs,), dtype int64
        Rows trained and scored on.

    See Also
    --------
    drop_curve : Measures it.
    DropCurveDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import DropCurve
    >>> curve = DropCurve(
    ...     fractions=[0.1],
    ...     dropout=np.array([[0.8], [0.9]]),
    ...     random=np.array([[0.7], [0.6]]),
    ...     none=np.array([0.7, 0.8]),
    ...     n_dropped=np.array([[10], [10]]),
    ...     n_train=np.array([100, 100]),
    ...     n_test=np.array([50, 50]),
    ... )
    >>> curve.gain("none")[0]
    array([0.1])
    """

    fractions: list
    dropout: np.ndarray
    random: np.ndarray
    none: np.ndarray
    n_dropped: np.ndarray
    n_train: np.ndarray
    n_test: np.ndarray

    def gain(self, over="none") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean paired difference of data dropout to another arm, and its interval.

        Runs are compared in pairs: the arms of a run share their rows and their seed.

        Parameters
        ----------
        over : {"none", "random"}, default="none"
            The arm to compare with: no dropout, or a random drop of as many rows.

        Returns
        -------
        mean : ndarray of shape (n_fractions,), dtype float64
            Mean over the runs.
        low : ndarray of shape (n_fractions,), dtype float64
            Lower end of the 95 % interval of Student's t over the runs, corrected for
            runs that share training rows [1]_; NaN for a single run.
        high : ndarray of shape (n_fractions,), dtype float64
            Upper end.

        Raises
        ------
        ValueError
            If `over` is something else.

        See Also
        --------
        drop_curve : Measures the curve.

        References
        ----------
        .. [1] Nadeau, Bengio (2003). Inference for the generalization error.
           doi:10.1023/A:1024068626366

        Examples
        --------
        >>> import numpy as np
        >>> from sk_datadrop import DropCurve
        >>> curve = DropCurve(
        ...     fractions=[0.1],
        ...     dropout=np.array([[0.8], [0.9]]),
        ...     random=np.array([[0.7], [0.6]]),
        ...     none=np.array([0.7, 0.8]),
        ...     n_dropped=np.array([[10], [10]]),
        ...     n_train=np.array([100, 100]),
        ...     n_test=np.array([50, 50]),
        ... )
        >>> mean, low, high = curve.gain(over="random")
        >>> mean.round(3), bool(low < 0 < high)
        (array([0.2]), True)
        """
        if over not in ("none", "random"):
            raise ValueError(f"over must be 'none' or 'random'; got {over!r}.")
        other = self.none[:, None] if over == "none" else self.random
        return _interval(self.dropout - other, np.mean(self.n_test / self.n_train))


def _interval(values, overlap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the rows, and its interval by the corrected resampled t-test."""
    n_runs, mean = len(values), values.mean(axis=0)
    if n_runs < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n_runs - 1)
    reach = quantile * paired_standard_error(values, overlap)
    return mean, mean - reach, mean + reach


def drop_curve(
    estimator,
    X,
    y=None,
    *,
    fractions=(0.05, 0.1, 0.2, 0.3, 0.4),
    n_repeats=3,
    cv=3,
    scoring=None,
    random_state=None,
    n_jobs=None,
    **params,
) -> DropCurve:
    """Measure whether dropping helps, beside a random drop and none.

    In each run the rows of one outer split are held out from everything. On the rest
    round 1 is run once, and for every fraction two nets are retrained with another
    seed: one without the rows of lowest influence, one without as many rows at
    random, of the same classes. One more is trained on all rows. All are scored on
    the rows of the outer split, which neither scored nor chose anything. A run costs
    the trainings of round 1 and ``2 * n_fractions + 1``, and those of "auto".

    Parameters
    ----------
    estimator : DataDropoutClassifier or DataDropoutRegressor
        Not fitted; its `drop_fraction` plays no part.
    X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
        Rows, as for ``fit``.
    y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
        Targets, as for ``fit``. Where some are wrong, those scored on are too: this
        lowers all scores alike, and makes differences smaller.
    fractions : sequence, each item a float in [0, 1), "negative" or "auto", \
            default=(0.05, 0.1, 0.2, 0.3, 0.4)
        What to set `drop_fraction` to, one after the other.
    n_repeats : int, default=3
        How often to go through the outer splits, with fresh seeds.
    cv : int, cross-validation generator or iterable, default=3
        Outer splits, drawn once: all repetitions share them. An int does not shuffle:
        for rows in an order that matters take ``KFold(3, shuffle=True)``, or
        ``StratifiedKFold``, of scikit-learn.
    scoring : str, callable or None, default=None
        As in scikit-learn; None takes the score of the estimator.
    random_state : int, RandomState instance or None, default=None
        Seeds everything.
    n_jobs : int or None, default=None
        Runs at a time, by processes of joblib's. Under its backend of threads, one.
        The result is the same.
    **params : dict
        As for ``fit``, arrays of n_samples rows cut as X is. ``groups`` goes to the
        ``split`` of both `cv`, this one and that of the estimator.

    Returns
    -------
    DropCurve
        Scores of all runs and arms.

    Raises
    ------
    TypeError
        If `estimator` is of another kind.
    ValueError
        If a fraction or the number of repetitions is out of range.

    See Also
    --------
    DropCurveDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutRegressor, drop_curve
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(120, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> y[:12] += 30
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ...     lr=0.1, max_epochs=20,
    ... )
    >>> curve = drop_curve(
    ...     DataDropoutRegressor(net, cv=2), X, y, fractions=[0.1], n_repeats=1,
    ...     scoring="neg_median_absolute_error", random_state=0,
    ... )
    >>> curve.dropout.shape
    (3, 1)
    """
    check_kind("estimator", estimator, DataDropoutClassifier, DataDropoutRegressor)
    if isinstance(fractions, str):
        raise ValueError(
            "fractions must be a sequence, each item a number in [0, 1), 'negative' or "
            f"'auto'; got {fractions!r}. Pass [{fractions!r}]."
        )
    for fraction in fractions:
        check_drop_fraction(fraction)
    if not len(fractions):
        raise ValueError(f"fractions must not be empty; got {fractions!r}.")
    check_count("n_repeats", n_repeats)
    if (data := as_rows(X)) is not None:
        X, y = with_own_targets(data, y)
    if y is None:
        raise ValueError(
            "y is missing: only a data set has targets of its own. Pass y."
        )
    X, y = indexable(X, y)
    rng = check_random_state(random_state)
    scorer = check_scoring(estimator, scoring)
    splitter = check_cv(cv, y, classifier=is_classifier(estimator))
    groups = {"groups": params["groups"]} if "groups" in params else {}
    splits = list(splitter.split(X, y, **groups))
    calls = [
        {
            "estimator": estimator,
            "X": X,
            "y": y,
            "train": train,
            "test": test,
            "fractions": fractions,
            "scorer": scorer,
            "params": params,
            "seed": int(rng.randint(2**31 - 1)),
        }
        for train, test in splits * n_repeats
    ]
    runs = run_all(_run, calls, n_jobs=n_jobs, net=estimator.estimator)
    return DropCurve(list(fractions), *map(np.array, zip(*runs, strict=True)))


def _run(estimator, X, y, train, test, fractions, scorer, params, seed) -> tuple:
    """One run: a row of each array of `DropCurve`."""
    # "auto" asks more of the splits, which is checked before any training.
    rule = "auto" if "auto" in fractions else 0
    model = clone(estimator).set_params(random_state=seed, drop_fraction=rule)
    rows = _safe_indexing(X, train), _safe_indexing(y, train)
    test_rows = _safe_indexing(X, test), _safe_indexing(y, test)
    params = {name: rows_of(value, train, len(X)) for name, value in params.items()}
    rng = np.random.default_rng(seed)
    problem = model._problem(*rows, None, None, params)
    with model._progress_bar(len(problem.splits) + 2 * len(fractions) + 1) as bar:
        rounds = model._round_one(problem, bar)
        model._collect_influence(rounds, problem)
        # Another seed than round 1 had: the rows dropped may have been chosen for its
        # initial weights, and must prove themselves with others.
        fresh = replace(problem, seed=int(rng.integers(2**31)))

        def kept_by(fraction) -> np.ndarray:
            decided = copy.copy(model)
            decided.drop_fraction = fraction
            decided._decide(rounds, problem, bar)
            return decided.sample_mask_

        def score(kept) -> float:
            fitted = copy.copy(model)
            fitted.sample_mask_, fitted.sample_indices_ = kept, np.flatnonzero(kept)
            fitted._retrain(fresh, bar)
            return float(scorer(fitted, *test_rows))

        labels = problem.targets.labels
        none = score(np.ones(len(train), dtype=bool))
        masks = list(map(kept_by, fractions))
        dropout = [none if mask.all() else score(mask) for mask in masks]
        random = [
            none if mask.all() else score(_shuffled(mask, labels, rng))
            for mask in masks
        ]
    n_dropped = [np.sum(~mask) for mask in masks]
    return dropout, random, none, n_dropped, len(train), len(test)


def _shuffled(mask, labels, rng) -> np.ndarray:
    """As many rows dropped as in `mask`, of each class, but at random."""
    labels = np.zeros(len(mask), dtype=int) if labels is None else labels
    shuffled = np.empty_like(mask)
    for label in np.unique(labels):
        of_class = labels == label
        shuffled[of_class] = rng.permutation(mask[of_class])
    return shuffled
