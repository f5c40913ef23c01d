"""Influence of training rows on the held-out objective.

THE sign convention, here and everywhere: ``influence[i]`` is the predicted
*increase of the held-out objective if row i were removed* from training.
Positive is helpful, negative is harmful: drop the negative.

With s = (A + shift I)^-1 grad(held-out objective), A the curvature of the mean
training loss over n rows and g_i the gradient of the loss of row i::

    influence[i] = <s, g_i> / n

Removing row i moves the optimum by (A + shift I)^-1 g_i / n to first order
(Koh & Liang 2017, arXiv:1703.04730). One system is solved, and <s, g_i> is the
derivative of the loss of row i along s: one forward-mode pass gives it for all
rows, and no gradient of a single row is ever formed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sk_datadrop._curvature import Curvature
from sk_datadrop._functional import FunctionalNet, check_not_nan
from sk_datadrop._objectives import (
    RowObjective,
    class_codes,
    largest_change,
    row_objective,
    row_scales,
    row_weights,
)
from sk_datadrop._solvers import Solver, SolverResult
from sk_datadrop._workers import n_processes, run_all


@dataclass(frozen=True)
class Influence:
    """Influences seen from one net, one row of scores per held-out group.

    Attributes
    ----------
    train : ndarray of shape (n_groups, n_train), dtype float64
        Influence of the rows the net was trained on.
    held_out : ndarray of shape (n_groups, n_held_out), dtype float64
        Influence of the held-out rows, were they trained on: each measured on
        groups it is not in, NaN where no such group is left, or the first order goes
        beyond what the objective can change by.
    solver_result : SolverResult or None
        None where nothing was solved.
    derivative : str or None
        How the outputs were differentiated along directions, in all products and
        scores: "forward mode", "reverse over reverse" or "finite differences". The
        first two are exact, the second takes about twice as long. None where they
        were not.
    """

    train: np.ndarray
    held_out: np.ndarray
    solver_result: SolverResult | None
    derivative: str | None


def influence(
    net: FunctionalNet,
    train: tuple[Any, Any],
    held_out: tuple[Any, Any],
    *,
    objective,
    is_classification: bool,
    curvature: Curvature,
    solver: Solver,
    n_groups: int,
    random_state: np.random.Generator,
    score_held_out: bool = True,
    batch_size: int | None = None,
    autocast: str | None = None,
    n_jobs: int | None = None,
    on_product: Callable[[], object] = lambda: None,
) -> Influence:
    """Score the rows of `train`, and of `held_out`, by their influence.

    Parameters
    ----------
    net : FunctionalNet
        The fitted net.
    train, held_out : tuple (X, y)
        Rows the net was trained on, and rows the objective is measured on.
    objective : {"bounded", "loss"} or callable
        See `resolve_objective`.
    is_classification : bool
        Whether the targets are classes: `row_scales` and `row_weights` tell what
        "bounded" makes of it.
    curvature : Curvature
    solver : Solver
    n_groups : int
        Number of random groups the held-out rows are split into; each gives
        one view. With 1 the objective is the mean of all.
    random_state : numpy.random.Generator
        Splits the groups and draws the rows of the curvature.
    score_held_out : bool, default=True
        Whether to score the held-out rows too.
    batch_size : int or None, default=None
        Rows per forward pass; no influence on the result beyond rounding.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision of the pass over the rows that are scored.
    n_jobs : int or None, default=None
        Processes that share this pass.
    on_product : callable
        Called after every curvature product.

    Returns
    -------
    Influence
    """
    net.check_rows(*train)
    net.check_reached(*train, batch_size)
    # Two halves at least where held-out rows are scored, so that they are scored by
    # others: a row's own gradient would always call it helpful.
    n_parts = max(n_groups, 2) if score_held_out else n_groups
    codes = class_codes(held_out[1], is_classification=is_classification)
    groups = split_groups(codes, n_parts, random_state)
    gradients = objective_gradients(
        net,
        held_out,
        groups,
        objective=objective,
        is_classification=is_classification,
        batch_size=batch_size,
    )
    operator = curvature.operator(
        net, *train, random_state=random_state, on_product=on_product
    )
    result = solver.solve(operator, gradients)
    directions = result.solution / len(train[0])
    views = directions.mean(1, keepdim=True) if n_groups == 1 else directions
    scorer = partial(
        _shared_row_scores,
        net,
        batch_size=batch_size,
        autocast=autocast,
        n_jobs=n_jobs,
    )
    if score_held_out:
        of_held_out = _held_out_scores(scorer, held_out, groups, directions, n_groups)
        # What no row can do: the net has never seen these, and their gradients may be
        # far too large for a first order.
        of_held_out[np.abs(of_held_out) > largest_change(objective)] = np.nan
    else:
        of_held_out = np.full((n_groups, len(held_out[0])), np.nan)
    return Influence(
        train=_scored(scorer(*train, views), views),
        held_out=of_held_out,
        solver_result=result,
        derivative=net.derivative,
    )


def _scored(scores: np.ndarray, directions: Tensor) -> np.ndarray:
    """Set what is not finite to NaN, "not scored", and warn of it."""
    bad = ~np.isfinite(scores).all(axis=0)
    if bad.any() and directions.isfinite().all():
        warnings.warn(
            f"{bad.sum()} of {len(bad)} training rows are not scored: the derivatives "
            "of their losses are NaN or too large. Look at the rows whose influence "
            "is NaN, and scale X and y.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return np.where(bad, np.nan, scores)


def influence_at_checkpoints(
    net, checkpoints, train, held_out, *, seed: int, **options
) -> list[tuple[int, Influence]]:
    """Score at each checkpoint of a net, with the same groups and curvature rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        The trained net.
    checkpoints : list of Checkpoint
        Weights to score at.
    train, held_out : tuple (X, y)
    seed : int
    **options
        Passed on to `influence`.

    Returns
    -------
    list of tuple (epoch, Influence)
    """
    return [
        (
            checkpoint.epoch,
            influence(
                FunctionalNet(net, checkpoint.state_dict),
                train,
                held_out,
                random_state=np.random.default_rng(seed),
                **options,
            ),
        )
        for checkpoint in checkpoints
    ]


def split_groups(codes, n_groups: int, random_state) -> np.ndarray:
    """Give every row a group number at random.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), dtype int
        See `class_codes`.
    n_groups : int
    random_state : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n_samples,), dtype int64
        Of groups of equal size, with the same share of each class: a row of a rare
        class needs others of its class in the groups that score it.
    """
    order = random_state.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    groups = np.empty(len(codes), dtype=np.int64)
    groups[order] = np.arange(len(codes)) % n_groups
    return groups


def objective_gradients(
    net: FunctionalNet,
    held_out: tuple[Any, Any],
    groups,
    *,
    objective,
    is_classification,
    batch_size,
) -> Tensor:
    """Gradients of the held-out objective of each group, (n_parameters, n_groups)."""
    X, y = held_out
    values = row_objective(net, objective)
    weights = row_weights(objective, y, is_classification=is_classification)
    scales = row_scales(
        net, objective, X, y, is_classification=is_classification, batch_size=batch_size
    )
    gradients = []
    for group in range(groups.max() + 1):
        rows = groups == group
        gradients.append(
            _objective_gradient(
                net, X[rows], y[rows], values, scales[rows], weights[rows], batch_size
            )
        )
    stacked = torch.stack(gradients, dim=1)
    if not stacked.isfinite().all():
        _check_objective_finite(net, X, y, values, scales, batch_size)
    return stacked


@torch.no_grad()
def _check_objective_finite(net, X, y, values: RowObjective, scales, batch_size):
    """Raise a ValueError if there are rows to blame for a gradient that is NaN."""
    n_bad = n_done = 0
    for Xb, yb in net.batches(X, y, batch_size):
        check_not_nan(net.raw_outputs(net.theta, Xb), "those held out")
        of_rows = values(net.theta, Xb, yb, scales[n_done:][: len(yb)])
        n_bad += int((~of_rows.isfinite()).sum())
        n_done += len(yb)
    if n_bad:
        raise ValueError(
            f"the held-out objective is NaN or infinite for {n_bad} of {n_done} "
            "held-out rows. Check objective and criterion on these rows, scale X and "
            "y, or lower the learning rate."
        )


def _take(rows: tuple[Any, Any], selected) -> tuple[Any, Any]:
    X, y = rows
    return X[selected], y[selected]


@torch.enable_grad()
def _objective_gradient(
    net: FunctionalNet, X, y, values: RowObjective, scales, weights, batch_size
) -> Tensor:
    """Gradient of the weighted mean objective of the rows, shape (n_parameters,)."""
    total = torch.zeros_like(net.theta)
    shares = torch.as_tensor(weights / weights.sum()).to(total)
    n_done = 0
    for Xb, yb in net.batches(X, y, batch_size):
        theta = net.theta.clone().requires_grad_()
        of_rows = values(theta, Xb, yb, scales[n_done:][: len(yb)])
        if not of_rows.requires_grad:
            raise ValueError(
                "the held-out objective does not follow the parameters: no gradient "
                "reaches them. Give objective something smooth in the outputs, "
                "without argmax, comparison, rounding or `detach`."
            )
        mean = of_rows @ shares[n_done:][: len(yb)].to(of_rows)
        total += torch.autograd.grad(mean, theta)[0]
        n_done += len(yb)
    return total


def check_autocast(autocast) -> None:
    """Raise a ValueError unless `autocast` is known."""
    if autocast not in (None, "bfloat16", "float16"):
        raise ValueError(
            f"autocast must be None, 'bfloat16' or 'float16'; got {autocast!r}."
        )


def _shared_row_scores(
    net: FunctionalNet, X, y, directions: Tensor, *, batch_size, autocast, n_jobs
) -> np.ndarray:
    """`row_scores` by several processes, in the very batches of one."""
    n_rows = net.rows_per_batch(batch_size)
    starts = np.arange(0, len(X), n_rows if n_rows > 0 else len(X))
    shards = np.array_split(starts, min(n_processes(n_jobs), len(starts)))
    ends = [shard[0] for shard in shards[1:]] + [len(X)]
    calls = (
        {
            "net": net,
            "X": X[shard[0] : end],
            "y": y[shard[0] : end],
            "directions": directions,
            "batch_size": batch_size,
            "autocast": autocast,
        }
        for shard, end in zip(shards, ends, strict=True)
    )
    n_jobs = n_jobs if len(shards) > 1 else None
    return np.concatenate(
        list(run_all(row_scores, calls, n_jobs=n_jobs, net=net.skorch_net)), axis=1
    )


def row_scores(
    net: FunctionalNet,
    X,
    y,
    directions: Tensor,
    batch_size: int | None = None,
    autocast: str | None = None,
) -> np.ndarray:
    """Differentiate the loss of each row along directions, in one pass over the rows.

    Parameters
    ----------
    net : FunctionalNet
    X, y : array-like of shape (n_samples, ...)
    directions : Tensor of shape (n_parameters, n_directions)
    batch_size : int or None, default=None
        Rows at a time.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs.

    Returns
    -------
    ndarray of shape (n_directions, n_samples), dtype float64
    """
    dtype = None if autocast is None else getattr(torch, autocast)
    scores = []
    for Xb, yb in net.batches(X, y, batch_size):
        along = _batch_scores(net, Xb, yb, directions, dtype)
        if dtype is not None and not along.isfinite().all():
            # float16 ends at 65,504. NaN would say that a row was not scored.
            along = _batch_scores(net, Xb, yb, directions, None)
        if not along.isfinite().all():
            with torch.no_grad():
                check_not_nan(net.raw_outputs(net.theta, Xb), "those to score")
        scores.append(along)
    return torch.cat(scores, dim=1).double().cpu().numpy()


def _batch_scores(net: FunctionalNet, X, y, directions: Tensor, autocast) -> Tensor:
    """By the chain rule, so that only outputs are differentiated along directions."""
    along = []
    for direction in directions.T:
        outputs, derivative = net.jvp(X, direction, autocast)
        products = _output_gradients(net, outputs, y) * derivative
        along.append(products.reshape(len(products), -1).sum(1))
    return torch.stack(along)


@torch.enable_grad()
def _output_gradients(net: FunctionalNet, outputs: Tensor, y) -> Tensor:
    """Gradient of each row's loss by its outputs, of the shape of the outputs."""
    outputs = outputs.detach().requires_grad_()
    return torch.autograd.grad(net.losses(outputs, y).sum(), outputs)[0]


def _held_out_scores(scorer, held_out, groups, directions, n_groups):
    """Scores of held-out rows by the groups they are not in."""
    scores = np.full((n_groups, len(groups)), np.nan)
    for g in range(directions.shape[1]):
        own = groups == g
        if n_groups == 1:
            views, others = slice(None), directions[:, [1 - g]]
        else:
            views = np.arange(n_groups) != g
            others = directions[:, torch.as_tensor(views)]
        scores[np.ix_(np.arange(n_groups)[views], own)] = scorer(
            *_take(held_out, own), others
        )
    return scores
