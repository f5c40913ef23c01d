"""The two rounds: split, [train, score] per split, judge, choose, retrain.

The stages of ``fit``, as functions over a few values. The estimators, the selectors and
`drop_curve` are made of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import median_abs_deviation
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet

from sk_datadrop._auto import compare_candidates
from sk_datadrop._drop import drop_fewer, keep_mask
from sk_datadrop._engine import (
    Request,
    Scores,
    n_groups_of,
    score,
)
from sk_datadrop._evaluation import Evaluation, evaluate
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._judge import Evidence, Predictions, chance_of_harm
from sk_datadrop._lazy import shape_of
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._plan import Plan
from sk_datadrop._progress import SILENT, Progress
from sk_datadrop._ranks import device_of, from_first_process
from sk_datadrop._safeguards import (
    Course,
    DataDropoutWarning,
    Verdict,
    review,
    summary_of,
)
from sk_datadrop._samples import Samples
from sk_datadrop._schedule import (
    begin_training,
    run,
    work_of_scoring,
    works_of_round_one,
)
from sk_datadrop._training import (
    Training,
    check_predictions,
    prefix_errors,
    seeded,
    train,
    train_watched,
)
from sk_datadrop._treatment import Treatment, treat
from sk_datadrop._warnings import Heard, heard, issue
from sk_datadrop._weighing import WeightedIterator

MOST_LOG_CHANCES = 10_000_000
"""Log-probabilities of classes that are kept per split; a witness reads them."""


@dataclass(frozen=True)
class SplitResult:
    """Everything that came out of one split.

    The net as it stands at the end of its training; the influence of the training and
    held-out samples, per view; what the net made of them at the best epoch, and its
    weights then, if targets have many values; how the training went; the seconds of
    "round_one" (training) and "scoring"; and warnings, to be issued where the user sees
    them, whoever did the work.
    """

    net: NeuralNet
    scores: Scores
    train: Evaluation
    held_out: Evaluation
    best_state: dict[str, Any] | None
    course: Course
    seconds: dict[str, float]
    warnings: list[Heard]


@dataclass(frozen=True)
class Choice:
    """The samples to keep, (n_samples,), and how they take part in round 2.

    Also what "auto" compared, and how long it took.
    """

    keep: np.ndarray
    treatment: Treatment = field(default_factory=Treatment)
    cv_results: dict[str, np.ndarray] | None = None
    seconds: float = 0.0


class Refit(NamedTuple):
    """The net of round 2, and the seconds that it took."""

    net: NeuralNet
    seconds: float


def score_splits(plan: Plan, bar: Progress) -> list[SplitResult]:
    """Run round 1: train and score each split, side by side and from the cache."""
    n_splits = len(plan.splits)
    # A single split shares out the samples it scores instead.
    n_jobs = None if n_splits == 1 else plan.n_jobs
    calls = [(number,) for number in range(n_splits)]
    works = works_of_round_one(plan)
    return run(score_split, plan, calls, works, n_jobs=n_jobs, bar=bar, name="round 1")


def score_split(plan: Plan, number: int, bar: Progress = SILENT) -> SplitResult:
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
        on_product=bar.tick,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin_training(bar, plan, name, len(samples), len(held_out))
        start = perf_counter()
        training = train_watched(
            plan.net,
            samples,
            held_out,
            recipe,
            n_checkpoints=plan.engine.n_checkpoints,
            ends_early=plan.ends_early,
            progress=bar,
        )
        trained = perf_counter()
        bar.begin(f"{name}, scoring", work_of_scoring(plan))
        # Scoring draws from generators of its own; a net or an objective may draw from
        # the global ones.
        with seeded(recipe.seed, device_of(training.net)), prefix_errors(name):
            objective = HeldOutObjective(plan.objective, held_out, plan.reading)
            scores = score(plan.engine, training, samples, objective, request)
            on_train, on_held_out = evaluate_best(plan, training, samples, held_out)
        bar.step()
    return SplitResult(
        training.net,
        from_first_process(scores, training.net),
        on_train,
        on_held_out,
        _state_to_predict_with(training, on_train),
        _course(training, held_out, on_held_out),
        {"round_one": trained - start, "scoring": perf_counter() - trained},
        [heard(w) for w in caught],
    )


def _state_to_predict_with(
    training: Training, on_train: Evaluation
) -> dict[str, Any] | None:
    """Return the best weights if predictions are too large to be kept."""
    if on_train.log_proba is not None or on_train.residuals is not None:
        return None
    return training.checkpoints[-1].state_dict


def evaluate_best(
    plan: Plan, training: Training, samples: Samples, held_out: Samples
) -> tuple[Evaluation, Evaluation]:
    """Return what the net makes of both at its best epoch."""
    best = training.checkpoints[-1]
    net = FunctionalNet(training.net, best.state_dict)
    most_values = MOST_LOG_CHANCES // len(plan.samples)
    on_train = evaluate(net, samples, plan.reading, most_values=most_values)
    on_held_out = evaluate(
        net, held_out, plan.reading, on_train.mean_target, most_values=most_values
    )
    return on_train, on_held_out


def _course(training: Training, held_out: Samples, on_held_out: Evaluation) -> Course:
    """Return how a training went, beside a constant prediction."""
    gain = _gain_in_spread(on_held_out.residuals, held_out.y)
    return Course(
        np.array(training.held_out_losses),
        on_held_out.mean_loss,
        on_held_out.constant_loss,
        gain,
    )


def _gain_in_spread(residuals: np.ndarray | None, y: Any) -> float:
    """Return the share of the targets' variance that is gone from the residuals.

    By median absolute deviations, which gross errors do not change much.
    """
    if residuals is None:
        return 0.0
    left, spread = (
        median_abs_deviation(np.ravel(v)) for v in (residuals, np.asarray(y))
    )
    return float(1 - (left / spread) ** 2) if spread > 0 else 0.0


def gather(plan: Plan, results: Sequence[SplitResult]) -> Evidence:
    """Put what the splits found in the order of the samples."""
    n_splits, n_samples = len(results), len(plan.samples)
    views = [view for result in results for view in result.scores.views]
    split_of_view = np.array([view.split for view in views])
    influence = np.full((len(views), n_samples), np.nan)
    losses = np.full((n_splits, n_samples), np.nan)
    held_out = np.zeros((n_splits, n_samples), dtype=bool)
    residuals = np.full((n_splits, n_samples), np.nan)
    predictions, place_codes = [], None
    for number, (split, result) in enumerate(zip(plan.splits, results, strict=True)):
        parts = [(split.train, result.scores.train, result.train)]
        if len(split.held_out):
            parts.append((split.held_out, result.scores.held_out, result.held_out))
            held_out[number, split.held_out] = True
            if result.held_out.residuals is not None:
                residuals[number, split.held_out] = result.held_out.residuals
        for rows, scores, evaluation in parts:
            influence[np.ix_(split_of_view == number, rows)] = scores
            losses[number, rows] = evaluation.losses
            if evaluation.log_proba is not None:
                predictions.append(Predictions(number, rows, evaluation.log_proba))
            if evaluation.place_codes is not None:
                n_places = evaluation.place_codes.shape[1]
                if place_codes is None:
                    place_codes = np.full((n_samples, n_places), -1)
                place_codes[rows] = evaluation.place_codes
    return Evidence(
        influence,
        split_of_view,
        held_out,
        losses,
        predictions,
        plan.samples.codes,
        None if np.isnan(residuals).all() else residuals,
        place_codes,
        plan.reading is not None
        and plan.reading.is_binary
        and plan.samples.y.ndim == 2,
        plan.samples.y.ndim > 2,
    )


def judge(
    plan: Plan, results: Sequence[SplitResult], evidence: Evidence, *, stacklevel: int
) -> Verdict:
    """Tell how likely each sample does harm, and warn of what could not be known."""
    courses = [result.course for result in results]
    verdict = review(evidence, chance_of_harm(evidence), courses, plan.classes)
    for note in verdict.notes:
        warnings.warn(note, DataDropoutWarning, stacklevel=stacklevel + 1)
    # These were warned of before the trainings.
    verdict.notes[:0] = plan.notes
    return verdict


def choose(
    plan: Plan,
    results: Sequence[SplitResult],
    evidence: Evidence,
    verdict: Verdict,
    drop_fraction: str | float,
    on_harmful: str,
    bar: Progress,
) -> Choice:
    """Decide which samples to keep, and how much they count, with which targets."""
    nets = [(result.net, result.best_state) for result in results]
    treatment = treat(plan, evidence, verdict, nets, on_harmful)
    if on_harmful != "drop":
        return Choice(np.ones(len(plan.samples), dtype=bool), treatment)
    influence, chance = evidence.influence, verdict.harm_probability
    rule = "harmful" if drop_fraction == "auto" else drop_fraction
    keep = keep_mask(influence, chance, verdict.is_harmful, rule, plan.samples.codes)
    if drop_fraction != "auto":
        return Choice(keep, treatment)
    best = compare_candidates(plan, [net for net, _ in nets], evidence, keep, bar)
    keep = drop_fewer(keep, influence, chance, best.fraction)
    return Choice(keep, treatment, best.cv_results, best.seconds)


def retrain(
    plan: Plan, choice: Choice, bar: Progress, *, keeps_files: bool = True
) -> Refit:
    """Run round 2: train from scratch on the samples kept."""
    start = perf_counter()
    weights, targets, _ = choice.treatment
    kept = np.flatnonzero(choice.keep)
    rows = plan.rows_to_train(kept, len(choice.keep))
    samples = plan.samples if targets is None else plan.samples.with_targets(targets)
    iterator = None
    if weights is not None:
        iterator = partial(
            WeightedIterator, weights=weights[rows], same_steps=plan.same_steps
        )
    recipe = plan.recipe("round 2", rows, keeps_files=keeps_files)
    begin_training(bar, plan, recipe.name, len(rows))
    net = train(
        plan.net,
        samples[rows],
        recipe,
        validation=plan.refit_validation,
        iterator=iterator,
        progress=bar,
    )
    if plan.classes is not None and hasattr(net, "classes_inferred_"):
        # skorch takes every chance of a class for a class.
        net.classes_inferred_ = np.arange(len(plan.classes))
    check_predictions(net, plan.samples[kept], recipe.name)
    return Refit(net, perf_counter() - start)


def warn_of(results: Sequence[SplitResult], *, stacklevel: int) -> None:
    """Issue the warnings of all splits."""
    issue([h for r in results for h in r.warnings], stacklevel=stacklevel + 1)
    for result in results:
        for solved in result.scores.solver_results:
            if solved.message:
                message = solved.message
                warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel + 1)


def store(
    owner: Any,
    plan: Plan,
    results: Sequence[SplitResult],
    evidence: Evidence,
    verdict: Verdict,
    choice: Choice,
) -> None:
    """Set the fitted attributes of an estimator that do not depend on round 2."""
    codes, keep, influence = plan.samples.codes, choice.keep, evidence.influence
    owner.input_shape_ = shape_of(plan.samples.X)
    owner.aim_, owner.casting_ = plan.aim, tuple(plan.casting)
    if plan.classes is None or codes is None:
        owner.target_shape_ = plan.target_shape
        if plan.is_classification and plan.reading is not None:
            owner.classes_ = plan.reading.classes(plan.target_shape)
    else:
        owner.classes_ = plan.classes
        dropped = np.bincount(codes[~keep], minlength=len(plan.classes))
        owner.drop_rate_per_class_ = dropped / np.bincount(codes)
    owner.round_one_estimators_ = [result.net for result in results]
    owner.influence_per_view_ = evidence.influence_per_view
    owner.influence_ = influence
    owner.harm_probability_ = verdict.harm_probability
    owner.views_ = [view for result in results for view in result.scores.views]
    owner.solver_results_ = [s for r in results for s in r.scores.solver_results]
    owner.sample_mask_ = keep
    owner.sample_indices_ = np.flatnonzero(keep)
    owner.n_dropped_ = int(np.sum(~keep))
    _store_decision(owner, plan, results, verdict, choice)
    n_scored = np.sum(~np.isnan(influence))
    owner.drop_fraction_ = owner.n_dropped_ / max(n_scored, 1)
    owner.timings_ = {
        stage: sum(result.seconds[stage] for result in results)
        for stage in ("round_one", "scoring")
    }
    if choice.cv_results is not None:
        owner.cv_results_ = choice.cv_results
        owner.timings_["candidates"] = choice.seconds


def store_refit(owner: Any, refit: Refit) -> Any:
    """Set the fitted attributes that come of round 2, and return the estimator."""
    owner.estimator_ = refit.net
    owner.timings_["round_two"] = refit.seconds
    return owner


def _store_decision(
    owner: Any,
    plan: Plan,
    results: Sequence[SplitResult],
    verdict: Verdict,
    choice: Choice,
) -> None:
    courses = [result.course for result in results]
    on_harmful = getattr(owner, "on_harmful", "drop")
    owner.summary_ = summary_of(verdict, choice.keep, courses, on_harmful)
    owner.warnings_ = verdict.notes
    weights, _, suggestion = choice.treatment
    owner.sample_weight_ = choice.keep.astype(float) if weights is None else weights
    if suggestion is not None:
        targets, owner.suggestion_probability_ = suggestion
        owner.suggested_targets_ = (
            targets.reshape(len(targets), *plan.target_shape)
            if plan.classes is None
            else plan.classes[targets]
        )
