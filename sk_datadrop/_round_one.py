"""One split of round 1: train on some rows, score all by those held out."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from skorch import NeuralNet

from sk_datadrop._curvature import Curvature, GaussNewton
from sk_datadrop._influence import influence_at_checkpoints
from sk_datadrop._ranks import agreed, device_of
from sk_datadrop._rounds import named, seeded, train_round
from sk_datadrop._solvers import Lanczos, Solver
from sk_datadrop._splits import Split
from sk_datadrop._trajectory import (
    Trajectory,
    TrajectoryRecorder,
    trajectory_influences,
)
from sk_datadrop._views import RoundScores, score_round


@dataclass(frozen=True)
class Scoring:
    """How the rows of a split are scored: parameters of the estimators."""

    objective: Any
    is_classification: bool
    engine: Trajectory | None
    curvature: Curvature | None
    solver: Solver | None
    autocast: str | None
    n_checkpoints: int
    n_groups: int

    def recorder(self) -> TrajectoryRecorder | None:
        """Return a callback that has to see the training, if any."""
        return (
            None if self.engine is None else TrajectoryRecorder(self.engine.max_memory)
        )

    def scorer(self, recorder: TrajectoryRecorder | None, n_jobs=None) -> Callable:
        """Return the function that scores a training."""
        if self.engine is not None and recorder is not None:
            return partial(
                trajectory_influences,
                recorder=recorder,
                smoothing=self.engine.smoothing,
            )
        return partial(
            influence_at_checkpoints,
            curvature=GaussNewton() if self.curvature is None else self.curvature,
            solver=Lanczos() if self.solver is None else self.solver,
            autocast=self.autocast,
            n_jobs=n_jobs,
        )


@dataclass(frozen=True)
class RoundOne:
    """What came out of one split.

    Attributes
    ----------
    net : skorch.NeuralNet
        As it stands at the end of its training.
    scores : RoundScores
    seconds : dict of str to float
        Spent in "round_one" (training) and "scoring".
    warnings : list of tuple (message, category)
        To be issued where the user sees them, whoever did the work.
    """

    net: NeuralNet
    scores: RoundScores
    seconds: dict[str, float]
    warnings: list[tuple[str, type[Warning]]]


def run_round_one(
    estimator,
    train: tuple[Any, Any],
    held_out: tuple[Any, Any],
    *,
    key: str,
    split: Split,
    number: int,
    score_held_out: bool,
    seed: int,
    scoring: Scoring,
    fit_params: dict,
    name: str,
    verbose: int = 0,
    n_jobs: int | None = None,
    on_stage: Callable[[str], object] = lambda description: None,
    on_product: Callable[[], object] = lambda: None,
) -> RoundOne:
    """Train a clone and score the rows.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Cloned, never fitted.
    train, held_out : tuple (X, y)
    key : str
        See `round_key`. Tells joblib one problem from another.
    split : Split
        Which rows these are, for joblib.
    number : int
        Number of the split, from 0.
    score_held_out : bool
    seed : int
        Of the training, and of all draws in scoring.
    scoring : Scoring
    fit_params : dict
        For the net's ``fit``.
    name : str
        What messages call the split.
    verbose : int, default=0
        Verbosity of the net.
    n_jobs : int or None, default=None
        Processes to score in.
    on_stage, on_product : callable
        Called at the start of each stage with what it is, and after every product.

    Returns
    -------
    RoundOne
    """
    recorder = scoring.recorder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_stage(f"{name}: training")
        start = perf_counter()
        net, checkpoints = train_round(
            estimator,
            *train,
            held_out,
            n_checkpoints=scoring.n_checkpoints,
            seed=seed,
            callbacks=[] if recorder is None else [recorder],
            fit_params=fit_params,
            name=name,
            verbose=verbose,
        )
        trained = perf_counter()
        on_stage(f"{name}: scoring")
        # Scoring draws from generators of its own; a net or an objective may draw from
        # the global ones.
        with seeded(seed, device_of(net)), named(name):
            scores = score_round(
                scoring.scorer(recorder, n_jobs),
                number,
                net,
                checkpoints,
                train,
                held_out,
                n_groups=scoring.n_groups,
                seed=seed,
                objective=scoring.objective,
                is_classification=scoring.is_classification,
                score_held_out=score_held_out,
                on_product=on_product,
            )
    return RoundOne(
        net,
        agreed(scores, net),
        {"round_one": trained - start, "scoring": perf_counter() - trained},
        [(str(w.message), w.category) for w in caught],
    )


NOT_IN_THE_KEY = [
    "estimator",
    "train",
    "held_out",
    "scoring",
    "name",
    "verbose",
    "n_jobs",
    "on_stage",
    "on_product",
]
"""Arguments of `run_round_one` that `key` stands for, or that change no number."""
