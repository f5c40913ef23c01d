"""Is dropping worth it? The splits of round 1, trained again without some rows.

What `drop_fraction="auto"` decides by. The rows that a split held out compare its net
with one trained again, from the same initial weights, without some of the rows. In
deciding which rows go nothing is measured on them: those views are left out.
"""

from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from sk_datadrop._drop import keep_mask
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objectives import (
    mean_objective,
    row_scales,
    row_weights,
)
from sk_datadrop._ranks import agreed
from sk_datadrop._round_one import Scoring
from sk_datadrop._rounds import named, train
from sk_datadrop._splits import Split


class Trial(NamedTuple):
    """What came out of a training without some rows.

    `objective` is the mean over the rows held out, `seconds` that of the work.
    """

    objective: float
    seconds: float


def check_trial_splits(splits: list[Split], *, score_held_out: bool) -> None:
    """Raise a ValueError unless there are rows to compare on, and to leave out.

    Every split must hold out rows of its own, and train on some that others score.

    Parameters
    ----------
    splits : list of Split
    score_held_out : bool
        Whether splits also score the rows that they hold out.
    """
    held_out = np.concatenate([split.held_out for split in splits])
    if len(splits) < 2 or len(np.unique(held_out)) < len(held_out):
        raise ValueError(
            "drop_fraction='auto' compares on rows that had no say, and for this needs "
            "at least two splits that hold out different rows; got "
            f"{len(splits)} split(s) that hold out {len(np.unique(held_out))} rows in "
            f"{len(held_out)} places. Use cv=5 or another number of folds, and neither "
            "X_val nor random splits."
        )
    for number, split in enumerate(splits):
        others = splits[:number] + splits[number + 1 :]
        scored = [s.train for s in others]
        scored += [s.held_out for s in others if score_held_out]
        if not np.isin(split.train, np.concatenate(scored)).any():
            raise ValueError(
                "drop_fraction='auto' trains each split without rows that other splits "
                f"found harmful; got none that score a row which split {number + 1} "
                "trains on. Let the splits share rows; with engine=Trajectory(), which "
                "scores no held-out rows, this takes three folds."
            )


def kept_in_trial(
    number: int, split: Split, views, split_of_view, fraction: float, labels
) -> np.ndarray:
    """Rows that a split is trained on again.

    Parameters
    ----------
    number : int
        Of the split.
    split : Split
        Of the split.
    views : ndarray of shape (n_views, n_samples)
    split_of_view : ndarray of shape (n_views,), dtype int
    fraction : float in [0, 1)
        Share of its training rows to leave out.
    labels : ndarray of shape (n_samples,) or None

    Returns
    -------
    ndarray of shape (n_kept,), dtype int
    """
    others = split_of_view != number
    of_train = views[others][:, split.train]
    labels = None if labels is None else labels[split.train]
    return split.train[keep_mask(of_train, split_of_view[others], fraction, labels)]


def scales_of(net, held_out: tuple[Any, Any], scoring: Scoring) -> np.ndarray:
    """Scales of the objective, by the net of round 1.

    Parameters
    ----------
    net : skorch.NeuralNet
    held_out : tuple (X, y)
    scoring : Scoring

    Returns
    -------
    ndarray of shape (n_held_out,)
    """
    return row_scales(
        FunctionalNet(net),
        scoring.objective,
        *held_out,
        is_classification=scoring.is_classification,
    )


def held_out_objective(
    net, held_out: tuple[Any, Any], scales: np.ndarray, scoring: Scoring
) -> float:
    """Mean objective of a trained net.

    Parameters
    ----------
    net : skorch.NeuralNet
    held_out : tuple (X, y)
    scales : ndarray of shape (n_held_out,)
        See `scales_of`.
    scoring : Scoring

    Returns
    -------
    float
    """
    weights = row_weights(
        scoring.objective, held_out[1], is_classification=scoring.is_classification
    )
    objective = mean_objective(
        FunctionalNet(net), scoring.objective, *held_out, scales, weights
    )
    return agreed(objective, net)


def run_trial(
    estimator,
    rows: tuple[Any, Any],
    held_out: tuple[Any, Any],
    *,
    key: str,
    split: Split,
    scales: np.ndarray,
    seed: int,
    scoring: Scoring,
    fit_params: dict,
    name: str,
    verbose: int = 0,
) -> Trial:
    """Train a clone and measure it on the rows held out.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Cloned, never fitted.
    rows, held_out : tuple (X, y)
        Held-out rows serve the callbacks of the net, as they do in round 1.
    key : str
        See `round_key`. Tells joblib one problem from another.
    split : Split
        Which rows these are, for joblib.
    scales : ndarray of shape (n_held_out,)
        See `scales_of`.
    seed : int
        That of the split.
    scoring : Scoring
    fit_params : dict
        For the net's ``fit``.
    name : str
        What messages call the training.
    verbose : int, default=0
        Verbosity of the net.

    Returns
    -------
    Trial
    """
    start = perf_counter()
    net = train(
        estimator,
        *rows,
        validation=held_out,
        seed=seed,
        fit_params=fit_params,
        name=name,
        verbose=verbose,
    )
    with named(name):
        objective = held_out_objective(net, held_out, scales, scoring)
    return Trial(objective, perf_counter() - start)


NOT_IN_THE_KEY_OF_A_TRIAL = [
    "estimator",
    "rows",
    "held_out",
    "scoring",
    "name",
    "verbose",
]
"""Arguments of `run_trial` that `key` stands for, or that change no number."""
