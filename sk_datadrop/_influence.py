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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._curvature import Curvature
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objectives import resolve_objective
from sk_datadrop._solvers import Solver, SolverResult


@dataclass(frozen=True)
class Influence:
    """Influences seen from one net, one row of scores per held-out group.

    Attributes
    ----------
    train : ndarray of shape (n_groups, n_train), dtype float64
        Influence of the rows the net was trained on.
    held_out : ndarray of shape (n_groups, n_held_out), dtype float64
        Influence of the held-out rows, were they trained on: each measured on
        groups it is not in, NaN where no such group is left.
    solver_result : SolverResult
    derivative : {"forward mode", "reverse over reverse", "finite differences"}
        How the outputs were differentiated along directions, in all products and
        scores. The first two are exact, the second takes about twice as long.
    """

    train: np.ndarray
    held_out: np.ndarray
    solver_result: SolverResult
    derivative: str | None


def influence(
    net: FunctionalNet,
    train: tuple[Any, Any],
    held_out: tuple[Any, Any],
    *,
    objective,
    is_likelihood: bool,
    curvature: Curvature,
    solver: Solver,
    n_groups: int,
    random_state: np.random.Generator,
    score_held_out: bool = True,
    batch_size: int | None = None,
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
    is_likelihood : bool
        Whether the training loss is a negative log-likelihood with scale 1, as
        for classification; else "bounded" takes its scale from the held-out rows.
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
    on_product : callable
        Called after every curvature product.

    Returns
    -------
    Influence
    """
    net.check_reached(*train, batch_size)
    # Two halves at least, so that a held-out row is scored by rows other than
    # itself: its own gradient would always call it helpful.
    groups = random_state.permutation(len(held_out[0])) % max(n_groups, 2)
    reference = None if is_likelihood else _losses(net, *held_out, batch_size)
    measure = resolve_objective(objective, reference)
    losses = net.losses_from_raw if objective == "loss" else net.likelihoods_from_raw
    gradients = [
        _objective_gradient(
            net, *_take(held_out, groups == g), losses, measure, batch_size
        )
        for g in range(max(n_groups, 2))
    ]
    operator = curvature.operator(
        net, *train, random_state=random_state, on_product=on_product
    )
    result = solver.solve(operator, torch.stack(gradients, dim=1))
    directions = result.solution / len(train[0])
    views = directions.mean(1, keepdim=True) if n_groups == 1 else directions
    return Influence(
        train=_scores(net, *train, views, batch_size),
        held_out=_held_out_scores(
            net, held_out, groups, directions, n_groups, batch_size
        )
        if score_held_out
        else np.full((n_groups, len(held_out[0])), np.nan),
        solver_result=result,
        derivative=net.derivative,
    )


def _take(rows: tuple[Any, Any], selected) -> tuple[Any, Any]:
    X, y = rows
    return X[selected], y[selected]


def _losses(net: FunctionalNet, X, y, batch_size) -> Tensor:
    with torch.no_grad():
        batches = net.batches(X, y, batch_size)
        return torch.cat([net.row_losses(net.theta, Xb, yb) for Xb, yb in batches])


@torch.enable_grad()
def _objective_gradient(
    net: FunctionalNet, X, y, losses, measure, batch_size
) -> Tensor:
    """Gradient of the mean objective of the rows, shape (n_parameters,)."""
    total = torch.zeros_like(net.theta)
    for Xb, yb in net.batches(X, y, batch_size):
        theta = net.theta.clone().requires_grad_()
        raw = net.raw_outputs(theta, Xb)
        values = measure(losses(raw, yb), raw, yb)
        total += torch.autograd.grad(values.sum(), theta)[0]
    return total / len(X)


def _scores(net: FunctionalNet, X, y, directions: Tensor, batch_size) -> np.ndarray:
    """Differentiate each row's loss along each column, (n_columns, n_rows)."""
    scores = [
        _batch_scores(net, Xb, yb, directions)
        for Xb, yb in net.batches(X, y, batch_size)
    ]
    return torch.cat(scores, dim=1).double().cpu().numpy()


@torch.enable_grad()
def _batch_scores(net: FunctionalNet, X, y, directions: Tensor) -> Tensor:
    """By the chain rule, so that only outputs are differentiated along directions."""
    with torch.no_grad():
        outputs = net.outputs(net.theta, X)
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(net.losses(outputs, y).sum(), outputs)
    along = [gradient * net.directional_derivative(X, v) for v in directions.T]
    return torch.stack([a.reshape(len(a), -1).sum(1) for a in along])


def _held_out_scores(net, held_out, groups, directions, n_groups, batch_size):
    """Scores of held-out rows by the groups they are not in."""
    scores = np.full((n_groups, len(groups)), np.nan)
    for g in range(directions.shape[1]):
        own = groups == g
        if n_groups == 1:
            views, others = slice(None), directions[:, [1 - g]]
        else:
            views = np.arange(n_groups) != g
            others = directions[:, torch.as_tensor(views)]
        scores[np.ix_(np.arange(n_groups)[views], own)] = _scores(
            net, *_take(held_out, own), others, batch_size
        )
    return scores
