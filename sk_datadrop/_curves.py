"""Did dropping help? The same net, retrained after data dropout, at random, on all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from time import perf_counter
from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, check_random_state, check_scalar, indexable

from sk_datadrop._drop import check_drop_fraction, paired_standard_error
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._lazy import with_own_targets
from sk_datadrop._parallel import n_processes, run_all
from sk_datadrop._plan import cut, make_plan
from sk_datadrop._progress import SILENT, Progress
from sk_datadrop._schedule import work_of_fit
from sk_datadrop._two_rounds import (
    Choice,
    choose,
    gather,
    judge,
    retrain,
    score_splits,
    store,
    store_refit,
    warn_of,
)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class DropCurve:
    """Result of :func:`drop_curve`.

    One column per fraction, one row per run, that is, repetition and outer split. The
    arms of a run share samples, seed and number of samples dropped.

    Parameters
    ----------
    fractions : list of float or str
        As asked for.
    dropout, random : ndarray of shape (n_runs, n_fractions), dtype float64
        Scores after data dropout, or a random drop of as many samples of each class.
    none : ndarray of shape (n_runs,), dtype float64
        Scores after training on all samples.
    n_dropped : ndarray of shape (n_runs, n_fractions), dtype int64
        Number of samples dropped.
    n_train, n_test : ndarray of shape (n_runs,), dtype int64
        Number of samples trained and scored on.

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

    def gain(self, over: str = "none") -> tuple[np.ndarray, ...]:
        """Mean paired difference of data dropout to another arm, and its interval.

        Each run gives one difference: its arms share their samples and their seed.

        Parameters
        ----------
        over : {"none", "random"}, default="none"
            The arm to compare with: no dropout, or a random drop of as many samples.

        Returns
        -------
        mean : ndarray of shape (n_fractions,), dtype float64
            Mean over the runs.
        low, high : ndarray of shape (n_fractions,), dtype float64
            95 % interval of Student's t, corrected for runs that share training samples
            (Nadeau, Bengio 2003, doi:10.1023/A:1024068626366); NaN for a single run.

        See Also
        --------
        drop_curve : Measures the curve.

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
        return _interval(self.dropout - other, np.mean(self.n_test / self.n_train))


def _interval(values: np.ndarray, overlap: float) -> tuple[np.ndarray, ...]:
    """Return the mean over the runs, and its interval by the corrected t-test."""
    n_runs, mean = len(values), values.mean(axis=0)
    if n_runs < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n_runs - 1)
    reach = quantile * paired_standard_error(values, overlap)
    return mean, mean - reach, mean + reach


def drop_curve(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    fractions: Sequence[str | float] = (0.05, 0.1, 0.2, 0.3, 0.4),
    n_repeats: int = 3,
    cv: Any = 3,
    scoring: Any = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    **params: Any,
) -> DropCurve:
    """Measure whether dropping helps, beside a random drop and none.

    In each run the samples of one outer split are held out from everything. On the
    rest round 1 is run once, and for every fraction two nets are retrained with another
    seed: one without the samples most likely to do harm, one without as many samples at
    random, of the same classes. One more is trained on all samples. All are scored on
    the samples of the outer split, which neither scored nor chose anything. A run costs
    the trainings of round 1 and ``2 * n_fractions + 1``, and those of "auto".

    Parameters
    ----------
    estimator : DataDropoutClassifier or DataDropoutRegressor
        Not fitted; its `drop_fraction` plays no part.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples and targets, as for ``fit``. Where targets are wrong, so are those
        scored on: this lowers all scores alike, and makes differences smaller.
    fractions : sequence of float or str, default=(0.05, 0.1, 0.2, 0.3, 0.4)
        Values for `drop_fraction`, one after the other.
    n_repeats : int, default=3
        How often to go through the outer splits, with fresh seeds.
    cv : int, cross-validation generator or iterable, default=3
        Outer splits, drawn once: all repetitions share them. An int does not shuffle;
        use ``KFold(3, shuffle=True)`` for samples in an order that matters.
    scoring : str, callable or None, default=None
        As in scikit-learn; None uses the score of the estimator.
    random_state : int, RandomState instance or None, default=None
        Seeds everything.
    n_jobs : int or None, default=None
        Number of joblib worker processes, each with a run. Does not change the result.
    **params : dict
        As for ``fit``. ``groups`` goes to this `cv` and that of the estimator.

    Returns
    -------
    DropCurve
        Scores of all runs and arms.

    See Also
    --------
    DropCurveDisplay : Draws it.

    Examples
    --------
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor, drop_curve
    >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, cv=2)
    >>> curve = drop_curve(model, X, y, fractions=[0.1], n_repeats=1, random_state=0)
    >>> curve.dropout.shape
    (3, 1)
    """
    if not isinstance(estimator, DataDropoutClassifier | DataDropoutRegressor):
        raise TypeError(
            "estimator must be a DataDropoutClassifier or DataDropoutRegressor; got "
            f"{estimator!r}."
        )
    if isinstance(fractions, str):
        raise ValueError(
            "fractions must be a sequence, each item a number in [0, 1), 'harmful' or "
            f"'auto'; got {fractions!r}. Pass [{fractions!r}]."
        )
    for fraction in fractions:
        check_drop_fraction(fraction)
    if not len(fractions):
        raise ValueError(f"fractions must not be empty; got {fractions!r}.")
    check_scalar(n_repeats, "n_repeats", Integral, min_val=1)
    X, y = with_own_targets(X, y)
    if y is None:
        raise ValueError("y is missing: only a data set has its own targets. Pass y.")
    X, y = indexable(X, y)
    rng = check_random_state(random_state)
    scorer = check_scoring(estimator, scoring)
    splitter = check_cv(cv, y, classifier=is_classifier(estimator))
    groups = {"groups": params["groups"]} if "groups" in params else {}
    splits = list(splitter.split(X, y, **groups)) * n_repeats
    seeds = [int(rng.randint(2**31 - 1)) for _ in splits]
    shared = _Shared(clone(estimator), fractions, scorer, params)
    calls = [(shared, *drawn, X, y) for drawn in zip(splits, seeds, strict=True)]
    runs = _runs(shared, calls, n_jobs)
    columns = zip(*(runs[number] for number in range(len(splits))), strict=True)
    return DropCurve(list(fractions), *map(np.array, columns))


@dataclass(frozen=True)
class _Shared:
    """What all runs share."""

    estimator: Any
    fractions: Sequence[str | float]
    scorer: Callable[..., float]
    params: dict[str, Any]


def _runs(
    shared: _Shared, calls: list[tuple[Any, ...]], n_jobs: int | None
) -> dict[int, Any]:
    """Make all runs, under one bar, and return them by their positions."""
    start, runs = perf_counter(), {}
    net, verbose = shared.estimator.estimator, shared.estimator.verbose
    with Progress(verbose, len(calls), "run") as bar:
        is_here = n_processes(n_jobs) < 2
        run = partial(_run, bar=bar) if is_here else _run
        for number, result in run_all(run, calls, n_jobs=n_jobs, net=net):
            runs[number] = result
            if not is_here:
                bar.count_part()
    if verbose:
        print(f"measured {len(calls)} runs; took {perf_counter() - start:,.1f} s")
    return runs


def _run(
    shared: _Shared, split: Any, seed: int, X: Any, y: Any, bar: Progress = SILENT
) -> tuple[Any, ...]:
    """Return one row of each array of `DropCurve`."""
    (train, test), fractions = split, shared.fractions
    # "auto" asks more of the splits, which is checked before any training.
    rule = "auto" if "auto" in fractions else 0
    model = clone(shared.estimator).set_params(random_state=seed, drop_fraction=rule)
    if "on_harmful" in model.get_params(deep=False):
        model.set_params(on_harmful="drop")
    rng = np.random.default_rng(seed)
    plan = make_plan(
        model,
        _safe_indexing(X, train),
        _safe_indexing(y, train),
        None,
        None,
        {name: cut(value, train, len(X)) for name, value in shared.params.items()},
        is_classification=is_classifier(model),
    )
    with bar.part(work_of_fit(plan, n_refits=2 * len(fractions) + 1)):
        results = score_splits(plan, bar)
        bar.hide()
        warn_of(results, stacklevel=2)
        evidence = gather(plan, results)
        verdict = judge(plan, results, evidence, stacklevel=2)
        # The samples dropped may have been chosen for the initial weights of round 1,
        # and must prove themselves with others.
        fresh = replace(plan, seed=int(rng.integers(2**31)))

        def scored(choice: Choice) -> float:
            refit = retrain(fresh, choice, bar, keeps_files=False)
            store(model, plan, results, evidence, verdict, choice)
            fitted = store_refit(model, refit)
            held_out = _safe_indexing(X, test), _safe_indexing(y, test)
            return float(shared.scorer(fitted, *held_out))

        none = scored(Choice(np.ones(len(train), dtype=bool)))
        masks = [
            choose(plan, results, evidence, verdict, f, "drop", bar).keep
            for f in fractions
        ]
        dropout = [none if m.all() else scored(Choice(m)) for m in masks]
        codes = plan.samples.codes
        random = [
            none if m.all() else scored(Choice(_shuffled(m, codes, rng))) for m in masks
        ]
    n_dropped = [np.sum(~mask) for mask in masks]
    return dropout, random, none, n_dropped, len(train), len(test)


def _shuffled(
    mask: np.ndarray, codes: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return a mask that drops as many samples of each class, but at random."""
    codes = np.zeros(len(mask), dtype=int) if codes is None else codes
    shuffled = np.empty_like(mask)
    for code in np.unique(codes):
        of_class = codes == code
        shuffled[of_class] = rng.permutation(mask[of_class])
    return shuffled
