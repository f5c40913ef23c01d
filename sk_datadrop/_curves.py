"""Did dropping help? The same net, retrained after data dropout, at random, on all."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils import _safe_indexing, check_random_state, check_scalar, indexable

from sk_datadrop._default_scores import Scorer, can_turn_round, default_score
from sk_datadrop._drop import check_drop_fraction
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._gains import DropCurve
from sk_datadrop._lazy import with_own_targets
from sk_datadrop._parallel import run_all
from sk_datadrop._plan import cut, make_plan
from sk_datadrop._safeguards import DataDropoutWarning, Verdict
from sk_datadrop._schedule import progress_bar
from sk_datadrop._treatment import Treatment
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

MOST_PARTS = 10
SMALLEST_PART = 20
"""Of `X_test`, between which the variance is measured."""

Rule = str | float


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
        the labels, tags or pixels; for other targets it is one minus the median
        absolute error over that of the best constant. Wrong labels at random make
        differences in accuracy smaller and do not change their sign, as they do with
        log loss; gross errors hardly change a median.
    random_state : int, RandomState instance or None, default=None
        Seeds everything.
    n_jobs : int or None, default=None
        Number of joblib worker processes, each with a run. Does not change the result.
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
    name, scorer = default_score(estimator)
    if scoring is not None:
        scorer = check_scoring(estimator, scoring)
        name = getattr(scoring, "__name__", str(scoring))
    trusted = _checked_trusted(estimator, X, y, X_test, y_test, params, rng)
    splits = _outer_splits(estimator, X, y, trusted, cv, n_repeats, params)
    seeds = [int(rng.randint(2**31 - 1)) for _ in splits]
    shared = _Shared(clone(estimator), rules, scorer, params)
    drawn = zip(splits, seeds, strict=True)
    calls = [(shared, *of_run, X, y, trusted) for of_run in drawn]
    done = dict(run_all(_run, calls, n_jobs=n_jobs, net=estimator.estimator))
    runs = [done[number] for number in range(len(calls))]
    curve = _gathered(rules, runs, name, trusted)
    _warn_of_score(curve)
    if estimator.verbose:
        print(curve)
    return curve


class _Trusted(NamedTuple):
    """Samples to score on, never trained on, and the parts that they are scored in."""

    X: Any
    y: Any
    parts: list[np.ndarray]


@dataclass(frozen=True)
class _Shared:
    """What all runs share."""

    estimator: Any
    rules: Sequence[Rule]
    scorer: Scorer
    params: dict[str, Any]


class _Run(NamedTuple):
    """What came out of a run: rows of the arrays of `DropCurve`, one per part.

    Also the share of the training samples that are more likely harmful than not, and
    the number of classes, 0 unless a sample has one of them.
    """

    rows: list[tuple[Any, ...]]
    share_harmful: float
    n_classes: int


def _outer_splits(
    estimator: Any,
    X: Any,
    y: Any,
    trusted: _Trusted | None,
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
    return [(np.arange(len(X)), np.arange(0))] * (n_repeats or 5)


def _checked_rules(estimator: Any, fractions: Sequence[Rule]) -> list[Rule]:
    """Return the rule of the estimator, and others; each once."""
    if not isinstance(estimator, DataDropoutClassifier | DataDropoutRegressor):
        raise TypeError(
            "estimator must be a DataDropoutClassifier or DataDropoutRegressor; got "
            f"{estimator!r}."
        )
    if isinstance(fractions, str):
        raise ValueError(
            "fractions must be a sequence, each item a number in [0, 1), 'harmful', "
            f"'auto', 'weigh' or 'mend'; got {fractions!r}. Pass [{fractions!r}]."
        )
    own = estimator.on_harmful
    rules = [estimator.drop_fraction if own == "drop" else own]
    for rule in fractions:
        if rule not in ("weigh", "mend"):
            check_drop_fraction(rule)
        if rule not in rules:
            rules.append(rule)
    return rules


def _checked_trusted(
    estimator: Any,
    X: Any,
    y: Any,
    X_test: Any,
    y_test: Any,
    params: dict[str, Any],
    rng: np.random.RandomState,
) -> _Trusted | None:
    """Return the samples to score on, if there are any, compared with those of X.

    Raises a ValueError if they are not of the same kind.
    """
    if X_test is None and y_test is None:
        return None
    if X_test is not None:
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
        message = message.replace(
            "and let cv hold", "and let the cv of drop_curve hold"
        )
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
    return _Trusted(X_test, y_test, parts)


def _run(
    shared: _Shared, split: Any, seed: int, X: Any, y: Any, trusted: _Trusted | None
) -> _Run:
    """Train and score all arms once."""
    (train, test), rules = split, shared.rules
    source, parts = (
        ((X, y), [test]) if trusted is None else (trusted[:2], trusted.parts)
    )
    tests = [[_safe_indexing(of, part) for of in source] for part in parts]
    # "auto" asks more of the splits, and "weigh" of the net: checked before training.
    model = clone(shared.estimator).set_params(random_state=seed, **_first_rule(rules))
    rng = np.random.default_rng(seed)
    plan = make_plan(
        model,
        _safe_indexing(X, train),
        _safe_indexing(y, train),
        None,
        None,
        {name: cut(value, train, len(y)) for name, value in shared.params.items()},
        is_classification=is_classifier(model),
    )
    n_trainings = len(plan.splits) + 2 * len(rules) + 1
    with progress_bar(n_trainings, model.verbose) as bar:
        results = score_splits(plan, bar)
        warn_of(results, stacklevel=2)
        evidence = gather(plan, results)
        verdict = judge(plan, results, evidence, stacklevel=2)
        # The samples dropped may have been chosen for the initial weights of round 1,
        # and must prove themselves with others.
        fresh = replace(plan, seed=int(rng.integers(2**31)))

        def scored(choice: Choice) -> list[float]:
            refit = retrain(fresh, choice, bar, keeps_files=False)
            store(model, plan, results, evidence, verdict, choice)
            fitted = store_refit(model, refit)
            return [float(shared.scorer(fitted, *held_out)) for held_out in tests]

        none = scored(Choice(np.ones(len(train), dtype=bool)))
        dropout, random, n_dropped = [], [], []
        for rule in rules:
            model.set_params(**_as_parameters(rule))
            decision = model.drop_fraction, model.on_harmful
            choice = choose(plan, results, evidence, verdict, *decision, bar)
            control = _at_random(choice, rule, verdict, plan.samples.codes, rng)
            is_idle = control is None
            dropout.append(none if is_idle else scored(choice))
            random.append(none if control is None else scored(control))
            harmful = verdict.is_harmful if choice.keep.all() else ~choice.keep
            n_dropped.append(0 if is_idle else int(harmful.sum()))
    scores = zip(np.transpose(dropout), np.transpose(random), none, strict=True)
    counts = [(n_dropped, len(train), len(part)) for part in parts]
    rows = [(*of_part, *n) for of_part, n in zip(scores, counts, strict=True)]
    n_classes = 0 if plan.classes is None else len(plan.classes)
    return _Run(rows, float(np.mean(verdict.is_harmful)), n_classes)


def _as_parameters(rule: Rule) -> dict[str, Any]:
    """Return the parameters of an estimator that follows a rule."""
    if rule in ("weigh", "mend"):
        return {"drop_fraction": "harmful", "on_harmful": rule}
    return {"drop_fraction": rule, "on_harmful": "drop"}


def _first_rule(rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the parameters of the rule that asks most of what comes before it."""
    asking = [rule for rule in ("auto", "weigh") if rule in rules]
    return _as_parameters(asking[0] if asking else "harmful")


def _at_random(
    choice: Choice,
    rule: Rule,
    verdict: Verdict,
    codes: np.ndarray | None,
    rng: np.random.Generator,
) -> Choice | None:
    """Return the same with random samples of the same classes; None if nothing is done.

    Weights go to other samples. Where targets are mended, as many samples are dropped:
    mended at random, right ones would become wrong.
    """
    weights, targets, _ = choice.treatment
    everyone = np.ones(len(choice.keep), dtype=bool)
    if weights is not None:
        return Choice(everyone, Treatment(_shuffled(weights, codes, rng)))
    mask = ~verdict.is_harmful if targets is not None else choice.keep
    return None if mask.all() else Choice(_shuffled(mask, codes, rng))


def _shuffled(
    values: np.ndarray, codes: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Return the values of the samples, (n_samples,), shuffled within each class."""
    codes = np.zeros(len(values), dtype=int) if codes is None else codes
    shuffled = np.empty_like(values)
    for code in np.unique(codes):
        of_class = codes == code
        shuffled[of_class] = rng.permutation(values[of_class])
    return shuffled


def _gathered(
    rules: list[Rule], runs: Sequence[_Run], name: str, trusted: _Trusted | None
) -> DropCurve:
    """Put together what the runs measured."""
    columns = zip(*(row for run in runs for row in run.rows), strict=True)
    dropout, random, none, n_dropped, n_train, n_test = map(np.array, columns)
    return DropCurve(
        rules,
        dropout,
        random,
        none,
        n_dropped,
        n_train,
        n_test,
        n_parts=0 if trusted is None else len(trusted.parts),
        score=name,
        share_harmful=float(np.mean([run.share_harmful for run in runs])),
        n_classes=runs[0].n_classes,
    )


def _warn_of_score(curve: DropCurve) -> None:
    """Warn of a score whose order the errors found can reverse."""
    if curve.n_parts or not curve.share_harmful or not can_turn_round(curve.score):
        return
    warnings.warn(
        f"the samples scored on carry the same errors as those trained on (about "
        f"{curve.share_harmful:.0%} look wrong), and these can turn {curve.score} "
        "round: it prefers nets that have learned the errors. Leave scoring out, or "
        "pass samples that you trust: X_test and y_test.",
        DataDropoutWarning,
        stacklevel=3,
    )
