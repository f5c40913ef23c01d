"""The rule "auto": is dropping worth it? Splits, trained again without some samples.

The samples that a split held out compare its net with one trained again, from the same
initial weights, without some of the samples. Nothing that was measured on them takes
part in deciding which samples go: those views are left out.
"""

from time import perf_counter
from typing import NamedTuple

import numpy as np
from skorch import NeuralNet

from sk_datadrop._drop import candidate_fractions, keep_mask, one_standard_error
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._judge import Evidence, chance_of_harm
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._plan import Plan
from sk_datadrop._progress import SILENT, Progress
from sk_datadrop._ranks import from_first_process
from sk_datadrop._schedule import begin_training, run, work_of_training
from sk_datadrop._training import prefix_errors, train


class Comparison(NamedTuple):
    """The share of the scored samples that is best dropped, and what was compared.

    `cv_results` has "drop_fraction" of shape (n_fractions,), and "objective" of shape
    (n_splits, n_fractions) on the held-out samples, lower being better.
    """

    fraction: float
    cv_results: dict[str, np.ndarray]
    seconds: float


class Candidate(NamedTuple):
    """The result of a training without some samples.

    `objective` is the mean over the held-out samples, `seconds` the time of the work.
    """

    objective: float
    seconds: float


def compare_candidates(
    plan: Plan,
    nets: list[NeuralNet],
    evidence: Evidence,
    keep: np.ndarray,
    bar: Progress,
) -> Comparison:
    """Train again without some samples, and compare on those that had no say.

    `nets` are those of round 1, and `keep` marks what "harmful" keeps.
    """
    fractions = candidate_fractions(keep, evidence.influence)
    objectives = np.empty((len(nets), len(fractions)))
    calls, works = [], []
    for number, net in enumerate(nets):
        functional = FunctionalNet(net)
        objective = HeldOutObjective(
            plan.objective, plan.held_out(number), plan.reading
        )
        objective = objective.scaled_by(functional)
        objectives[number, 0] = from_first_process(objective.mean(functional), net)
        if len(fractions) > 1:
            others = evidence.without_split(number)
            chance = chance_of_harm(others)
        for fraction in fractions[1:]:
            kept = kept_for_candidate(
                plan, number, others.influence, chance, float(fraction)
            )
            # Told to whoever trains, so that the cache tells them apart.
            rows = plan.rows_to_train(kept, len(plan.splits[number].train))
            given = (float(fraction), rows, objective.scales, objective.lowest)
            calls.append((number, *given))
            works.append(work_of_training(plan, len(rows), len(plan.held_out(number))))
    candidates = run(
        train_candidate, plan, calls, works, n_jobs=plan.n_jobs, bar=bar, name="auto"
    )
    measured = np.array([candidate.objective for candidate in candidates])
    objectives[:, 1:] = measured.reshape(len(nets), -1)
    overlap = np.mean([len(s.held_out) / len(s.train) for s in plan.splits])
    best = one_standard_error(objectives, float(overlap))
    return Comparison(
        float(fractions[best]),
        {"drop_fraction": fractions, "objective": objectives},
        sum(candidate.seconds for candidate in candidates),
    )


def kept_for_candidate(
    plan: Plan,
    number: int,
    influence: np.ndarray,
    harm_probability: np.ndarray,
    fraction: float,
) -> np.ndarray:
    """Return the positions of the samples that a split is trained on again.

    Influence and chance are those by the other splits, and `fraction` is the share of
    its training samples to leave out.
    """
    train: np.ndarray = plan.splits[number].train
    codes = plan.samples.codes
    mask = keep_mask(
        influence[train],
        harm_probability[train],
        np.zeros(len(train), dtype=bool),
        fraction,
        None if codes is None else codes[train],
    )
    return np.asarray(train[mask])


def train_candidate(
    plan: Plan,
    number: int,
    fraction: float,
    rows: np.ndarray,
    scales: np.ndarray,
    lowest: float = 0.0,
    bar: Progress = SILENT,
) -> Candidate:
    """Train a clone on the samples at some positions, and measure it on those held out.

    Scales and lowest loss of the objective are those by the net of round 1; `fraction`,
    the share that is left out, is for messages.
    """
    start = perf_counter()
    name = f"round 1, split {number + 1}, without {fraction:.1%} of the samples"
    recipe = plan.recipe(name, rows, number)
    # The held-out samples serve the callbacks of the net, as they do in round 1.
    held_out = plan.held_out(number)
    begin_training(bar, plan, name, len(rows), len(held_out))
    samples = plan.samples[rows]
    net = train(plan.net, samples, recipe, validation=held_out, progress=bar)
    objective = HeldOutObjective(plan.objective, held_out, plan.reading, scales, lowest)
    with prefix_errors(name):
        mean = from_first_process(objective.mean(FunctionalNet(net)), net)
    return Candidate(mean, perf_counter() - start)
