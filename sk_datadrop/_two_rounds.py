"""The two rounds: split, [train, score] per split, choose, retrain.

The stages of ``fit``, as functions over a few values. The estimators, the selectors and
`drop_curve` are made of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet

from sk_datadrop._auto import compare_candidates
from sk_datadrop._drop import drop_fewer, keep_mask, mean_influence
from sk_datadrop._engine import (
    Request,
    Scores,
    View,
    n_groups_of,
    recorders,
    score,
)
from sk_datadrop._functional import Evaluation, FunctionalNet
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._plan import Plan
from sk_datadrop._ranks import device_of, from_first_process
from sk_datadrop._schedule import SILENT, run
from sk_datadrop._training import (
    check_predictions,
    prefix_errors,
    seeded,
    train,
    train_watched,
)


@dataclass(frozen=True)
class SplitResult:
    """Everything that came out of one split.

    The net as it stands at the end of its training; the influence of the training and
    held-out samples, per view; their losses and outputs at the best epoch; the seconds
    of "round_one" (training) and "scoring"; and warnings, (message, category), to be
    issued where the user sees them, whoever did the work.
    """

    net: NeuralNet
    scores: Scores
    train: Evaluation
    held_out: Evaluation
    seconds: dict[str, float]
    warnings: list[tuple[str, type[Warning]]]


@dataclass(frozen=True)
class Evidence:
    """The findings of all splits about the samples.

    `influence_per_view`, (n_views, n_samples), is NaN where a view did not score a
    sample.
    """

    influence_per_view: np.ndarray
    views: list[View]

    @property
    def influence(self) -> np.ndarray:
        """Mean over the views, shape (n_samples,)."""
        return mean_influence(self.influence_per_view)

    @property
    def split_of_view(self) -> np.ndarray:
        """Number of the split of each view, shape (n_views,)."""
        return np.array([view.split for view in self.views])


@dataclass(frozen=True)
class Choice:
    """The samples to keep, (n_samples,); what "auto" compared, and how long it took."""

    keep: np.ndarray
    cv_results: dict[str, np.ndarray] | None = None
    seconds: float = 0.0


class Refit(NamedTuple):
    """The net of round 2, and the seconds that it took."""

    net: NeuralNet
    seconds: float


def score_splits(plan: Plan, bar: Any) -> list[SplitResult]:
    """Run round 1: train and score each split, side by side and from the cache."""
    n_splits = len(plan.splits)
    # A single split shares out the samples it scores instead.
    n_jobs = None if n_splits == 1 else plan.n_jobs
    calls = [(number,) for number in range(n_splits)]
    return run(score_split, plan, calls, n_jobs=n_jobs, bar=bar)


def score_split(plan: Plan, number: int, bar: Any = SILENT) -> SplitResult:
    """Train a clone on the samples of a split, and score them all."""
    split, n_splits = plan.splits[number], len(plan.splits)
    samples, held_out = plan.samples[split.train], plan.held_out(number)
    name = f"round 1, split {number + 1} of {n_splits}"
    recipe = plan.recipe(name, split.train, number)
    request = Request(
        seed=recipe.seed,
        n_groups=n_groups_of(plan.engine, n_splits, len(held_out)),
        number=number,
        score_held_out=plan.validation is None,
        n_jobs=plan.n_jobs if n_splits == 1 else None,
        on_product=bar.refresh,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bar.set_description(f"{name}: training")
        start = perf_counter()
        training = train_watched(
            plan.net,
            samples,
            held_out,
            recipe,
            n_checkpoints=plan.engine.n_checkpoints,
            callbacks=recorders(plan.engine),
        )
        trained = perf_counter()
        bar.set_description(f"{name}: scoring")
        # Scoring draws from generators of its own; a net or an objective may draw from
        # the global ones.
        with seeded(recipe.seed, device_of(training.net)), prefix_errors(name):
            objective = HeldOutObjective(plan.objective, held_out)
            scores = score(plan.engine, training, samples, objective, request)
            best = training.checkpoints[training.best]
            net = FunctionalNet(training.net, best.state_dict)
            evaluations = net.evaluate(samples), net.evaluate(held_out)
    return SplitResult(
        training.net,
        from_first_process(scores, training.net),
        *evaluations,
        {"round_one": trained - start, "scoring": perf_counter() - trained},
        [(str(w.message), w.category) for w in caught],
    )


def gather(plan: Plan, results: Sequence[SplitResult]) -> Evidence:
    """Put what the splits found in the order of the samples."""
    per_view = []
    for split, result in zip(plan.splits, results, strict=True):
        scores = result.scores
        influence = np.full((len(scores.views), len(plan.samples)), np.nan)
        influence[:, split.train] = scores.train
        if len(split.held_out):
            influence[:, split.held_out] = scores.held_out
        per_view.append(influence)
    views = [view for result in results for view in result.scores.views]
    return Evidence(np.concatenate(per_view), views)


def choose(
    plan: Plan,
    results: Sequence[SplitResult],
    evidence: Evidence,
    drop_fraction: str | float,
    bar: Any,
) -> Choice:
    """Decide which samples to keep."""
    per_view, split_of_view = evidence.influence_per_view, evidence.split_of_view
    rule = "harmful" if drop_fraction == "auto" else drop_fraction
    keep = keep_mask(per_view, split_of_view, rule, plan.samples.codes)
    if drop_fraction != "auto":
        return Choice(keep)
    nets = [result.net for result in results]
    best = compare_candidates(plan, nets, per_view, split_of_view, keep, bar)
    keep = drop_fewer(keep, evidence.influence, best.fraction)
    return Choice(keep, best.cv_results, best.seconds)


def retrain(plan: Plan, keep: np.ndarray, bar: Any) -> Refit:
    """Run round 2: train from scratch on the samples kept."""
    start = perf_counter()
    bar.set_description("round 2: retraining on the kept samples")
    kept = np.flatnonzero(keep)
    samples = plan.samples[kept]
    recipe = plan.recipe("round 2", kept)
    net = train(plan.net, samples, recipe, validation=plan.refit_validation)
    check_predictions(net, samples.X, recipe.name)
    bar.update()
    return Refit(net, perf_counter() - start)


def warn_of(results: Sequence[SplitResult], *, stacklevel: int) -> None:
    """Issue the warnings of all splits."""
    heard = [warning for result in results for warning in result.warnings]
    for result in results:
        messages = [s.message for s in result.scores.solver_results]
        heard += [(message, ConvergenceWarning) for message in messages if message]
    for message, category in heard:
        warnings.warn(message, category, stacklevel=stacklevel + 1)


def store(
    owner: Any,
    plan: Plan,
    results: Sequence[SplitResult],
    evidence: Evidence,
    choice: Choice,
    refit: Refit | None = None,
) -> Any:
    """Set the fitted attributes of an estimator, and return it."""
    codes, keep, influence = plan.samples.codes, choice.keep, evidence.influence
    owner.input_shape_ = plan.samples.X.shape[1:]
    if plan.classes is None or codes is None:
        owner.target_shape_ = plan.target_shape
    else:
        owner.classes_ = plan.classes
        dropped = np.bincount(codes[~keep], minlength=len(plan.classes))
        owner.drop_rate_per_class_ = dropped / np.bincount(codes)
    owner.round_one_estimators_ = [result.net for result in results]
    owner.influence_per_view_ = evidence.influence_per_view
    owner.influence_ = influence
    owner.views_ = evidence.views
    owner.solver_results_ = [s for r in results for s in r.scores.solver_results]
    owner.sample_mask_ = keep
    owner.sample_indices_ = np.flatnonzero(keep)
    owner.n_dropped_ = int(np.sum(~keep))
    n_scored = np.sum(~np.isnan(influence))
    owner.drop_fraction_ = owner.n_dropped_ / max(n_scored, 1)
    owner.timings_ = {
        stage: sum(result.seconds[stage] for result in results)
        for stage in ("round_one", "scoring")
    }
    if choice.cv_results is not None:
        owner.cv_results_ = choice.cv_results
        owner.timings_["candidates"] = choice.seconds
    if refit is not None:
        owner.estimator_ = refit.net
        owner.timings_["round_two"] = refit.seconds
    return owner
