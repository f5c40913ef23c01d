"""One run of a drop curve: round 1 once, and round 2 for every arm."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils import _safe_indexing

from sk_datadrop._default_scores import Scorer
from sk_datadrop._judge import Evidence
from sk_datadrop._plan import Plan, cut, make_plan
from sk_datadrop._progress import SILENT, Progress
from sk_datadrop._safeguards import HARMFUL, SMALLEST_POWER, Verdict
from sk_datadrop._schedule import work_of_fit
from sk_datadrop._treatment import Treatment
from sk_datadrop._two_rounds import (
    Choice,
    SplitResult,
    choose,
    gather,
    judge,
    retrain,
    score_splits,
    store,
    store_refit,
    warn_of,
)

Rule = str | float
"""A value of `drop_fraction`, "weigh" or "mend"."""


class Trusted(NamedTuple):
    """Samples to score on, never trained on, and the parts that they are scored in."""

    X: Any
    y: Any
    parts: list[np.ndarray]


@dataclass(frozen=True)
class Compared:
    """Rules for an estimator, and the scores by name that they are compared by."""

    estimator: Any
    rules: list[Rule]
    scorers: dict[str, Scorer]
    params: dict[str, Any]


class Run(NamedTuple):
    """Result of a run: rows of the arrays of `DropCurve`, one per part.

    Scores have one more axis, for each of the scorers. Also the share of the training
    samples that are more likely harmful than not, NaN if the run could not tell, and
    the number of classes, 0 unless a sample has one of them.
    """

    rows: list[tuple[Any, ...]]
    share_harmful: float
    n_classes: int


@dataclass
class _Arms:
    """Round 1, done once, and the arms that are trained after it."""

    model: Any
    plan: Plan
    results: list[SplitResult]
    evidence: Evidence
    verdict: Verdict
    rng: np.random.Generator
    bar: Progress
    fresh: Plan = field(init=False)

    def __post_init__(self) -> None:
        # The samples dropped may have been chosen for the initial weights of round 1,
        # and must prove themselves with others.
        self.fresh = replace(self.plan, seed=int(self.rng.integers(2**31)))

    @property
    def found(self) -> tuple[Plan, list[SplitResult], Evidence, Verdict]:
        """Round 1, from its plan to what was judged."""
        return self.plan, self.results, self.evidence, self.verdict

    def fitted(self, choice: Choice) -> Any:
        """Return the estimator, retrained as it was chosen."""
        refit = retrain(self.fresh, choice, self.bar, keeps_files=False)
        store(self.model, *self.found, choice)
        return store_refit(self.model, refit)

    def chosen_by(self, rule: Rule) -> tuple[Choice, Choice, int]:
        """Return what a rule makes of the samples, the same at random, and of how many.

        Weights go to other samples of the class. Where targets are mended, as many
        samples are dropped: mended at random, right ones would become wrong.
        """
        decision = decision_of(rule)
        _decide(self.model, decision)
        choice = choose(*self.found, *decision, self.bar)
        codes = self.plan.samples.codes
        weights, targets, _ = choice.treatment
        treated = ~choice.keep
        if weights is not None or targets is not None:
            treated = self.verdict.is_harmful
        if weights is not None:
            control = Treatment(_shuffled(weights, codes, self.rng))
            return choice, replace(choice, treatment=control), int(treated.sum())
        kept = _shuffled(~treated, codes, self.rng)
        return choice, Choice(kept), int(treated.sum())


def run_once(
    compared: Compared,
    split: Any,
    seed: int,
    X: Any,
    y: Any,
    trusted: Trusted | None,
    bar: Progress = SILENT,
) -> Run:
    """Train all arms once, and score them on samples held out, or trusted ones."""
    (train, test), rules = split, compared.rules
    source, parts = (
        ((X, y), [test]) if trusted is None else (trusted[:2], trusted.parts)
    )
    tests = [[_safe_indexing(of, part) for of in source] for part in parts]
    model, plan = _prepared(compared, train, seed, X, y)
    with bar.part(work_of_fit(plan, n_refits=2 * len(rules) + 1)):
        results = score_splits(plan, bar)
        bar.hide()
        warn_of(results, stacklevel=2)
        evidence = gather(plan, results)
        verdict = judge(plan, results, evidence, stacklevel=2)
        rng = np.random.default_rng(seed)
        arms = _Arms(model, plan, results, evidence, verdict, rng, bar)

        def scored(choice: Choice) -> list[list[float]]:
            fitted, scorers = arms.fitted(choice), compared.scorers.values()
            return [
                [float(s(fitted, *held_out)) for s in scorers] for held_out in tests
            ]

        none = scored(Choice(np.ones(len(train), dtype=bool)))
        dropout, random, n_dropped = [], [], []
        for rule in rules:
            choice, control, n_treated = arms.chosen_by(rule)
            dropout.append(scored(choice) if n_treated else none)
            random.append(scored(control) if n_treated else none)
            n_dropped.append(n_treated)
    by_part = [np.swapaxes(arm, 0, 1) for arm in (dropout, random)]
    counts = [(n_dropped, len(train), len(part)) for part in parts]
    rows = [(*row[:3], *row[3]) for row in zip(*by_part, none, counts, strict=True)]
    n_classes = 0 if plan.classes is None else len(plan.classes)
    return Run(rows, _share_harmful(verdict), n_classes)


def _share_harmful(verdict: Verdict) -> float:
    """Return the share of samples that are more likely harmful than not.

    NaN where none of those may be acted on, or where few would have been found.
    """
    suspected = np.nan_to_num(verdict.harm_probability) > HARMFUL
    can_tell = verdict.power >= SMALLEST_POWER
    if suspected.any():
        can_tell = bool(verdict.is_harmful.any())
    return float(suspected.mean()) if can_tell else float("nan")


def _prepared(
    compared: Compared, train: np.ndarray, seed: int, X: Any, y: Any
) -> tuple[Any, Plan]:
    """Return the estimator for a run, and the plan of its round 1."""
    # "auto" asks more of the splits, and "weigh" of the net: checked before training.
    asking = [rule for rule in ("auto", "weigh") if rule in compared.rules]
    asks_most = asking[0] if asking else "harmful"
    model = clone(compared.estimator).set_params(random_state=seed)
    _decide(model, decision_of(asks_most))
    return model, make_plan(
        model,
        _safe_indexing(X, train),
        _safe_indexing(y, train),
        None,
        None,
        {name: cut(value, train, len(y)) for name, value in compared.params.items()},
        is_classification=is_classifier(model),
    )


def decision_of(rule: Rule) -> tuple[Rule, str]:
    """Return the `drop_fraction` and the `on_harmful` of a rule."""
    if rule in ("weigh", "mend"):
        return "harmful", str(rule)
    return rule, "drop"


def _decide(model: Any, decision: tuple[Rule, str]) -> None:
    drop_fraction, on_harmful = decision
    model.set_params(drop_fraction=drop_fraction, on_harmful=on_harmful)


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
