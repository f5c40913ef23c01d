"""Did dropping help? The same net, retrained after data dropout, at random, on all."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils import check_random_state, check_scalar, indexable

from sk_datadrop._arms import Compared, Rule, Run, Trusted, run_once
from sk_datadrop._default_scores import can_turn_round, default_scores
from sk_datadrop._drop import check_drop_fraction, check_on_harmful
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._gains import DropCurve, holds_errors
from sk_datadrop._lazy import with_own_targets
from sk_datadrop._parallel import n_processes, run_all
from sk_datadrop._plan import make_plan
from sk_datadrop._progress import Progress
from sk_datadrop._safeguards import DataDropoutWarning
from sk_datadrop._training import prefix_errors

MOST_PARTS = 10
SMALLEST_PART = 10
"""Samples in a part of `X_test`; the variance between parts is measured."""


def drop_curve(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    X_test: Any = None,
    y_test: Any = None,
    fractions: Sequence[Rule] = (0.1, 0.3),
    n_repeats: int | None = None,
    cv: Any = None,
    scoring: Any = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    **params: Any,
) -> DropCurve:
    """Measure whether dropping helps, beside the same at random and no dropout.

    In each run round 1 is run once. For every rule two nets are then retrained with
    another seed: one as the rule says, and one with as many samples of the same classes
    dropped at random. One more is trained on all samples. The first rule is that of the
    estimator. All nets are scored on samples that neither scored nor chose anything:
    `X_test`, or those of an outer split, held out from everything. A run costs the
    trainings of round 1 and ``2 * n_rules + 1``, and those of "auto".

    Parameters
    ----------
    estimator : DataDropoutClassifier or DataDropoutRegressor
        Not fitted. Its own `drop_fraction` and `on_harmful` are the first rule.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples and targets, as for ``fit``.
    X_test, y_test : array-like of shape (n_test, ...), Dataset or None, default=None
        Samples whose targets you trust, to score on. Every run then trains on all of
        X, with another seed. None holds out parts of X: where targets are wrong, so are
        those scored on. `DropCurve.summary` says what these cannot show.
    fractions : sequence of float or str, default=(0.1, 0.3)
        Rules to compare besides that of the estimator: values for `drop_fraction`, and
        "weigh" or "mend". Empty for that of the estimator only. The random arm of
        "weigh" draws by the same weights, given to other samples of the class; that of
        "mend" drops as many samples as were mended, as mending at random would make
        right targets wrong.
    n_repeats : int or None, default=None
        How often to go through the outer splits, or to train on X, with fresh seeds.
        None is 3, or 5 with `X_test`.
    cv : int, cross-validation generator, iterable or None, default=None
        Outer splits, drawn once: all repetitions share them. None is 3; an int does
        not shuffle. Use ``KFold(3, shuffle=True)`` for samples in an order that
        matters. Not together with `X_test`.
    scoring : str, callable or None, default=None
        As in scikit-learn. None is the accuracy, of many classes per sample that of
        the labels, tags or pixels, beside which `DropCurve.probability` has the mean
        probability of the given class. For other targets it is one minus the median
        absolute error over that of the best constant. Wrong labels at random make
        differences in these smaller and do not turn them round, as they do with log
        loss; gross errors hardly change a median.
    random_state : int, RandomState instance or None, default=None
        Seeds everything.
    n_jobs : int or None, default=None
        Number of joblib worker processes, each with a run. Results are the same if each
        has as many threads; workers share the cores.
    **params : dict
        As for ``fit``. ``groups`` goes to this `cv` and that of the estimator.

    Returns
    -------
    DropCurve
        Scores of all runs and arms. ``print`` it.

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
    >>> curve.fractions, curve.dropout.shape
    (['harmful', 0.1], (3, 2))
    """
    rules = _checked_rules(estimator, fractions)
    if n_repeats is not None:
        check_scalar(n_repeats, "n_repeats", Integral, min_val=1)
    X, y = with_own_targets(X, y)
    if y is None:
        raise ValueError("y is missing: only a data set has its own targets. Pass y.")
    X, y = indexable(X, y)
    rng = check_random_state(random_state)
    scorers = default_scores(estimator)
    if scoring is not None:
        name = getattr(scoring, "__name__", str(scoring))
        scorers = {name: check_scoring(estimator, scoring)}
    trusted = _checked_trusted(estimator, X, y, X_test, y_test, params, rng)
    splits = _outer_splits(estimator, X, y, trusted, cv, n_repeats, params)
    seeds = [int(rng.randint(2**31 - 1)) for _ in splits]
    compared = Compared(clone(estimator), rules, scorers, params)
    drawn = zip(splits, seeds, strict=True)
    calls = [(compared, *of_run, X, y, trusted) for of_run in drawn]
    curve = _gathered(compared, _runs(compared, calls, n_jobs), trusted)
    _warn_of_score(curve)
    if estimator.verbose:
        print(curve)
    return curve


def _runs(
    compared: Compared, calls: list[tuple[Any, ...]], n_jobs: int | None
) -> list[Run]:
    """Make all runs, under one bar."""
    start, runs = perf_counter(), {}
    net, verbose = compared.estimator.estimator, compared.estimator.verbose
    with Progress(verbose, len(calls), "run") as bar:
        is_here = n_processes(n_jobs) < 2
        run = partial(run_once, bar=bar) if is_here else run_once
        if not is_here:
            bar.show_parts()
        for number, result in run_all(run, calls, n_jobs=n_jobs, net=net):
            runs[number] = result
            if not is_here:
                bar.count_part()
    if verbose:
        print(f"measured {len(calls)} runs; took {perf_counter() - start:,.1f} s")
    return [runs[number] for number in range(len(calls))]


def _outer_splits(
    estimator: Any,
    X: Any,
    y: Any,
    trusted: Trusted | None,
    cv: Any,
    n_repeats: int | None,
    params: dict[str, Any],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the samples of X that each run trains on, and is scored on."""
    if trusted is None:
        is_classification = is_classifier(estimator)
        splitter = check_cv(3 if cv is None else cv, y, classifier=is_classification)
        groups = {"groups": params["groups"]} if "groups" in params else {}
        return list(splitter.split(X, y, **groups)) * (n_repeats or 3)
    if cv is not None:
        raise ValueError(
            "cv holds out samples of X to score on, and X_test is there for that. "
            "Leave out cv, or X_test and y_test."
        )
    return [(np.arange(len(y)), np.arange(0))] * (n_repeats or 5)


def _checked_rules(estimator: Any, fractions: Sequence[Rule]) -> list[Rule]:
    """Return the rule of the estimator, and others; each once."""
    if not isinstance(estimator, DataDropoutClassifier | DataDropoutRegressor):
        raise TypeError(
            "estimator must be a DataDropoutClassifier or DataDropoutRegressor; got "
            f"{estimator!r}."
        )
    if isinstance(fractions, str) or not np.iterable(fractions):
        raise ValueError(
            "fractions must be a sequence, each item a number in [0, 1), 'harmful', "
            f"'auto', 'weigh' or 'mend'; got {fractions!r}. Pass [{fractions!r}]."
        )
    drop_fraction, on_harmful = estimator.drop_fraction, estimator.on_harmful
    check_drop_fraction(drop_fraction)
    check_on_harmful(on_harmful, drop_fraction)
    rules: list[Rule] = []
    for rule in (drop_fraction if on_harmful == "drop" else on_harmful, *fractions):
        if rule not in ("weigh", "mend"):
            check_drop_fraction(rule)
        if rule not in rules:
            rules.append(rule if isinstance(rule, str) else float(rule))
    return rules


def _checked_trusted(
    estimator: Any,
    X: Any,
    y: Any,
    X_test: Any,
    y_test: Any,
    params: dict[str, Any],
    rng: np.random.RandomState,
) -> Trusted | None:
    """Return the samples to score on, if there are any, compared with those of X.

    Raises a ValueError if they are not of the same kind.
    """
    if X_test is None and y_test is None:
        return None
    if X_test is not None:
        with prefix_errors("X_test"):
            X_test, y_test = with_own_targets(X_test, y_test)
    try:
        # A fit would check them in the same way.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule = {"drop_fraction": "harmful", "on_harmful": "drop"}
            make_plan(
                clone(estimator).set_params(**rule, memory=None, random_state=0),
                X,
                y,
                X_test,
                y_test,
                params,
                is_classification=is_classifier(estimator),
            )
    except ValueError as error:
        message = str(error).replace("X_val", "X_test").replace("y_val", "y_test")
        raise ValueError(message) from error
    n_parts = int(np.clip(len(y_test) // SMALLEST_PART, 2, MOST_PARTS))
    options = {"n_splits": n_parts, "shuffle": True, "random_state": rng}
    splitter, labels = KFold(**options), None
    if is_classifier(estimator) and np.ndim(y_test) == 1:
        labels = np.asarray(y_test)
        if np.unique(labels, return_counts=True)[1].min() >= n_parts:
            splitter = StratifiedKFold(**options)
    parts = [part for _, part in splitter.split(np.zeros(len(y_test)), labels)]
    X_test, y_test = indexable(X_test, y_test)
    return Trusted(X_test, y_test, parts)


def _gathered(
    compared: Compared, runs: Sequence[Run], trusted: Trusted | None
) -> DropCurve:
    """Put together what the runs measured."""
    columns = zip(*(row for run in runs for row in run.rows), strict=True)
    dropout, random, none, n_dropped, n_train, n_test = map(np.array, columns)
    shares = np.array([run.share_harmful for run in runs])
    told = shares[~np.isnan(shares)]
    share_harmful = float(told.mean()) if 2 * len(told) >= len(runs) else float("nan")
    first, *others = [
        DropCurve(
            compared.rules,
            dropout[..., number],
            random[..., number],
            none[..., number],
            n_dropped,
            n_train,
            n_test,
            n_parts=0 if trusted is None else len(trusted.parts),
            score=name,
            share_harmful=share_harmful,
            n_classes=runs[0].n_classes,
        )
        for number, name in enumerate(compared.scorers)
    ]
    known = [curve for curve in others if not np.isnan(curve.none).any()]
    return replace(first, probability=known[0] if known else None)


def _warn_of_score(curve: DropCurve) -> None:
    """Warn of a score whose order the errors found can reverse."""
    if curve.n_parts or not holds_errors(curve) or not can_turn_round(curve.score):
        return
    warnings.warn(
        f"the samples scored on carry the same errors as those trained on (about "
        f"{curve.share_harmful:.0%} look wrong), and these can turn {curve.score} "
        "round: it prefers nets that have learned the errors. Leave scoring out, or "
        "pass samples that you trust: X_test and y_test.",
        DataDropoutWarning,
        stacklevel=3,
    )
