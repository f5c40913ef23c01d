"""Influence of training samples on the held-out objective.

The sign convention, here and everywhere: ``influence[i]`` is the predicted
*increase of the held-out objective if sample i were removed* from training.
Positive is helpful, negative is harmful.

With s = (A + shift I)^-1 grad(held-out objective), A the curvature of the mean
training loss over n samples and g_i the gradient of the loss of sample i::

    influence[i] = <s, g_i> / n

Removing sample i moves the optimum by (A + shift I)^-1 g_i / n to first order
(Koh & Liang 2017, arXiv:1703.04730). One system is solved, and <s, g_i> is the
derivative of the loss of sample i along s: one forward-mode pass gives it for all
samples, and no gradient of a single sample is ever formed.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sk_datadrop._curvature import (
    Curvature,
    GaussNewton,
    check_curvature,
    check_loss_suits,
    curvature_operator,
)
from sk_datadrop._engine import Engine, Request, Scores, View, split_groups
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._net_checks import (
    check_deterministic,
    check_not_nan,
    warn_of_unused_parameters,
)
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._parallel import n_processes, run_all
from sk_datadrop._samples import Samples
from sk_datadrop._solvers import Lanczos, Solver, SolverResult, check_solver, solve
from sk_datadrop._training import Training

SampleScorer = Callable[[Samples, Tensor], np.ndarray]
"""(samples, directions) -> scores of shape (n_directions, n_samples)."""


class InfluenceFunctions(Engine):
    """Score samples by influence functions, at the best epoch of each split.

    One damped system is solved per split, with the gradient of the held-out objective.

    Parameters
    ----------
    curvature : GaussNewton, Hessian or None, default=None
        Curvature of the training loss. None uses ``GaussNewton()``.
    solver : Lanczos, CG, LiSSA, Arnoldi, Dense or None, default=None
        Solver of the damped system. None uses ``Lanczos()``.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision of the net while it scores the samples, with torch.autocast. The
        gradient of the objective and the curvature keep full precision. It is faster on
        hardware that supports it; the rank correlation with full precision was 0.9994
        or more.
    n_checkpoints : int, default=1
        Number of epochs scored in each split: the epoch of the lowest held-out training
        loss, and others that are spread evenly up to it. Each is a view, and costs as
        much as the first. Their mean predicts retraining better; 3 is a good number.
    n_groups : int or None, default=None
        Number of random groups of the held-out samples. Each is a view, and costs a
        pass over the samples. None uses 1 with three splits or more, because agreement
        between splits is the better evidence, and 8 otherwise.

    See Also
    --------
    DataDropoutClassifier : Uses it as `engine`.

    References
    ----------
    Koh, Liang (2017). Understanding black-box predictions via influence
    functions. arXiv:1703.04730

    Examples
    --------
    >>> from sk_datadrop import GaussNewton, InfluenceFunctions
    >>> InfluenceFunctions(curvature=GaussNewton(damping=0.2), n_checkpoints=3)
    InfluenceFunctions(curvature=GaussNewton(damping=0.2), n_checkpoints=3)
    """

    def __init__(
        self,
        curvature: Curvature | None = None,
        solver: Solver | None = None,
        autocast: str | None = None,
        n_checkpoints: int = 1,
        n_groups: int | None = None,
    ) -> None:
        self.curvature = curvature
        self.solver = solver
        self.autocast = autocast
        self.n_checkpoints = n_checkpoints
        self.n_groups = n_groups

    def _check_parameters(self) -> None:
        if self.autocast not in (None, "bfloat16", "float16"):
            raise ValueError(
                "autocast must be None, 'bfloat16' or 'float16'; got "
                f"{self.autocast!r}."
            )
        if not isinstance(self.curvature, Curvature | None):
            raise TypeError(
                "curvature must be GaussNewton(...), Hessian(...) or None; got "
                f"{self.curvature!r}."
            )
        if not isinstance(self.solver, Solver | None):
            raise TypeError(
                "solver must be an instance such as Lanczos(...), or None; got "
                f"{self.solver!r}."
            )
        if self.curvature is not None:
            check_curvature(self.curvature)
        if self.solver is not None:
            check_solver(self.solver)

    def _check_net(self, net: FunctionalNet, samples: Samples) -> None:
        check_loss_suits(self.curvature or GaussNewton(), net, samples)

    def _score(
        self,
        training: Training,
        train: Samples,
        objective: HeldOutObjective,
        request: Request,
    ) -> Scores:
        """Score at each checkpoint, with the same groups and curvature samples."""
        influences = [
            influence(
                FunctionalNet(training.net, checkpoint.state_dict),
                train,
                objective,
                curvature=self.curvature or GaussNewton(),
                solver=self.solver or Lanczos(),
                autocast=self.autocast,
                request=request,
            )
            for checkpoint in training.checkpoints
        ]
        return Scores(
            train=np.concatenate([i.train for i in influences]),
            held_out=np.concatenate([i.held_out for i in influences]),
            views=[
                View(request.number, checkpoint.epoch, group)
                for checkpoint in training.checkpoints
                for group in range(request.n_groups)
            ],
            # Without the solutions: vectors as long as the net, that nobody reads.
            solver_results=[
                replace(i.solver_result, solution=None) for i in influences
            ],
            derivative=influences[0].derivative,
        )


@dataclass(frozen=True)
class Influence:
    """Influence measured on one net, with a view per group; fields as in `Scores`."""

    train: np.ndarray
    held_out: np.ndarray
    solver_result: SolverResult
    derivative: str | None


def influence(
    net: FunctionalNet,
    train: Samples,
    objective: HeldOutObjective,
    *,
    curvature: Curvature,
    solver: Solver,
    request: Request,
    autocast: str | None = None,
) -> Influence:
    """Score samples by their influence on the held-out objective."""
    check_deterministic(net, train)
    warn_of_unused_parameters(net, train, request.batch_size)
    rng = np.random.default_rng(request.seed)
    # Two halves at least where held-out samples are scored, so that they are scored by
    # others: a sample's own gradient would always call it helpful. One view is then
    # the mean of both.
    n_groups = request.n_groups
    n_parts = max(n_groups, 2) if request.score_held_out else n_groups
    groups = split_groups(objective.codes, n_parts, rng)
    objective = objective.scaled_by(net, request.batch_size)
    gradients = objective.gradients(net, groups, request.batch_size)
    operator = curvature_operator(
        curvature, net, train, random_state=rng, on_product=request.on_product
    )
    result = solve(solver, operator, gradients)
    directions = result.solution / len(train)
    views = directions.mean(1, keepdim=True) if n_groups == 1 else directions
    if request.batch_size is None and net.samples_per_batch(None) > 0:
        n_samples = max(net.samples_per_batch(None), operator.n_at_a_time)
        request = replace(request, batch_size=n_samples)
    scorer = partial(shared_sample_scores, net, autocast=autocast, request=request)
    of_held_out = np.full((n_groups, len(groups)), np.nan)
    if request.score_held_out:
        of_held_out = _held_out_scores(
            scorer, objective.samples, groups, directions, n_groups
        )
        # The net has never seen these samples: their gradients may be far too large
        # for a first order, which then predicts what no sample can do.
        of_held_out[np.abs(of_held_out) > objective.largest_change] = np.nan
    return Influence(
        train=_finite(scorer(train, views), views),
        held_out=of_held_out,
        solver_result=result,
        derivative=net.derivative,
    )


def _held_out_scores(
    scorer: SampleScorer,
    held_out: Samples,
    groups: np.ndarray,
    directions: Tensor,
    n_groups: int,
) -> np.ndarray:
    """Score held-out samples by the groups they are not in."""
    scores = np.full((n_groups, len(groups)), np.nan)
    for group in range(directions.shape[1]):
        own = groups == group
        if n_groups == 1:
            views, others = np.ones(1, dtype=bool), directions[:, [1 - group]]
        else:
            views = np.arange(n_groups) != group
            others = directions[:, torch.as_tensor(views)]
        scores[np.ix_(views, own)] = scorer(held_out[own], others)
    return scores


def _finite(scores: np.ndarray, directions: Tensor) -> np.ndarray:
    """Set what is not finite to NaN, "not scored", and warn of it."""
    bad = ~np.isfinite(scores).all(axis=0)
    if bad.any() and directions.isfinite().all():
        warnings.warn(
            f"{bad.sum()} of {len(bad)} training samples are not scored: the "
            "derivatives of their losses are NaN or too large. Look at the samples "
            "whose influence is NaN, and scale X and y.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return np.where(bad, np.nan, scores)


def shared_sample_scores(
    net: FunctionalNet,
    samples: Samples,
    directions: Tensor,
    *,
    autocast: str | None,
    request: Request,
) -> np.ndarray:
    """Share `sample_scores` among processes, in the same batches as one would use."""
    n_samples = net.samples_per_batch(request.batch_size)
    starts = np.arange(0, len(samples), n_samples if n_samples > 0 else len(samples))
    shards = np.array_split(starts, min(n_processes(request.n_jobs), len(starts)))
    ends = [shard[0] for shard in shards[1:]] + [len(samples)]
    calls = (
        (net, samples[shard[0] : end], directions, request.batch_size, autocast)
        for shard, end in zip(shards, ends, strict=True)
    )
    n_jobs = request.n_jobs if len(shards) > 1 else None
    scores = dict(run_all(_shard_scores, calls, n_jobs=n_jobs, net=net.skorch_net))
    return np.concatenate([scores[number] for number in range(len(shards))], axis=1)


def _shard_scores(net: FunctionalNet, samples: Samples, *options: Any) -> np.ndarray:
    # Large arrays come to workers as read-only memory maps, of which torch warns; what
    # is cut by indices is a copy.
    if any(isinstance(part, np.memmap) for part in samples.parts()):
        samples = samples[np.arange(len(samples))]
    return sample_scores(net, samples, *options)


def sample_scores(
    net: FunctionalNet,
    samples: Samples,
    directions: Tensor,
    batch_size: int | None = None,
    autocast: str | None = None,
) -> np.ndarray:
    """Differentiate the loss of each sample along directions, in one pass.

    Directions are of shape (n_parameters, n_directions), scores of shape
    (n_directions, n_samples). The net runs in the precision that `autocast` names.
    """
    dtype = None if autocast is None else getattr(torch, autocast)
    scores = []
    for X, y in net.batches(samples, batch_size):
        along = _batch_scores(net, X, y, directions, dtype)
        if dtype is not None and not along.isfinite().all():
            # float16 ends at 65,504. NaN would say that a sample was not scored.
            along = _batch_scores(net, X, y, directions, None)
        if not along.isfinite().all():
            with torch.no_grad():
                check_not_nan(net.outputs(net.theta, X), "those to score")
        scores.append(along)
    return torch.cat(scores, dim=1).double().cpu().numpy()


def _batch_scores(
    net: FunctionalNet,
    X: Tensor,
    y: Tensor,
    directions: Tensor,
    autocast: torch.dtype | None,
) -> Tensor:
    """Apply the chain rule: only outputs are differentiated along directions."""
    along = []
    for direction in directions.T:
        outputs, derivative = net.jvp(X, direction, autocast)
        products = _output_gradients(net, outputs, y) * derivative
        along.append(products.reshape(len(products), -1).sum(1))
    return torch.stack(along)


@torch.enable_grad()
def _output_gradients(net: FunctionalNet, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each sample's loss by its natural outputs."""
    outputs = outputs.detach().requires_grad_()
    losses = net.natural_losses(outputs, y)
    return torch.autograd.grad(losses.sum(), outputs)[0]
