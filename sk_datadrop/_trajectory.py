"""Influence through the whole training: differentiate it, step by step.

Where influence functions ask how the optimum moves, this asks how *this training*
would have ended: the derivative of the held-out objective by the weight of every
training sample, through every step of the optimiser (Hara, Nitanda, Maehara 2019,
arXiv:1906.08473; Ilyas & Engstrom 2025, arXiv:2504.16430). The objective is one
number, so one pass backwards through the steps serves all samples.

The sign is that of `_influence`: minus the derivative, as removing a sample takes its
weight from one to zero.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.hf import AccelerateMixin
from torch import Tensor

from sk_datadrop._curvature import check_positive
from sk_datadrop._engine import Engine, Request, Scores, View, split_groups
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._lazy import DatasetRows
from sk_datadrop._net_checks import check_deterministic
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._optimizers import (
    DifferentiableOptimizer,
    OptimizerState,
    expand_options,
    unsupported,
)
from sk_datadrop._recording import TrajectoryRecorder, generators_at
from sk_datadrop._samples import Samples
from sk_datadrop._solvers import ZERO_GRADIENT
from sk_datadrop._training import Training

LARGEST_DEVIATION = 0.01
"""Deviation of a replayed stretch from the recorded one, relative to its length."""


class Trajectory(Engine):
    """Score samples by replaying the training backwards.

    Exact for the training that took place, where influence functions need a minimum
    that training never reaches; but it sees only the samples trained on, holds the
    training's states in memory, and needs a training it can repeat: torch.optim.SGD,
    Adam or AdamW; no workers in the data loader, no random augmentation, no clipping
    of gradients. Batch statistics of batch normalisation are part of each step; the
    running statistics that the final net predicts with are held constant.

    Parameters
    ----------
    smoothing : float, default=100
        For Adam and AdamW: added under the square root of the backward pass, relative
        to the mean squared gradient. The step of a parameter whose gradient is close to
        zero is nearly discontinuous, and such parameters drown the rest: 0 gives the
        true derivative, and 100 predicted retraining best of all that was tried.
    max_memory : float, default=1e9
        Bytes for the recorded states of one training. Beyond, every other state
        is forgotten, as often as needed, and recomputed in the backward pass, which
        for this holds the states of one such gap at a time.
    n_checkpoints : int, default=1
        Number of epochs whose held-out objective is scored: that of the lowest
        held-out training loss and its neighbours. Their mean makes one view.
    n_groups : int or None, default=None
        Number of random groups of the held-out samples, each a view, as in
        :class:`InfluenceFunctions`.

    See Also
    --------
    InfluenceFunctions : The default engine.

    References
    ----------
    Hara, Nitanda, Maehara (2019), arXiv:1906.08473; Ilyas & Engstrom (2025),
    arXiv:2504.16430.

    Examples
    --------
    >>> from sk_datadrop import Trajectory
    >>> Trajectory(smoothing=1)
    Trajectory(smoothing=1)
    """

    scores_held_out: ClassVar[bool] = False

    def __init__(
        self,
        smoothing: float = 100.0,
        max_memory: float = 1e9,
        n_checkpoints: int = 1,
        n_groups: int | None = None,
    ) -> None:
        self.smoothing = smoothing
        self.max_memory = max_memory
        self.n_checkpoints = n_checkpoints
        self.n_groups = n_groups

    def _check_parameters(self) -> None:
        check_positive("max_memory", self.max_memory)
        check_scalar(self.smoothing, "smoothing", Real, min_val=0)
        if self.smoothing:
            check_positive("smoothing", self.smoothing)

    def _check_net(self, net: NeuralNet, samples: Samples) -> None:
        """Raise a ValueError if the training of a net cannot be replayed.

        Random augmentation within a data set cannot be seen beforehand; a replay that
        deviates from the training raises an error.
        """
        reason = unsupported(net.optimizer_)
        if net.get_params_for("iterator_train").get("num_workers"):
            reason = (
                "its iterator_train__num_workers is not 0, so the order of the samples "
                "cannot be seen; set it to 0"
            )
        if net.get_params_for("iterator_train").get("collate_fn"):
            reason = (
                "its iterator_train__collate_fn may change the order of the samples; "
                "leave it out"
            )
        if isinstance(net, AccelerateMixin):
            reason = "its steps are taken by accelerate; use a net without it"
        if isinstance(samples.X, DatasetRows) and samples.X.augmented is not None:
            reason = "its samples are augmented; leave augmented out of DatasetRows"
        if reason:
            raise ValueError(
                f"the training of this net cannot be replayed: {reason}, or leave "
                "engine=None for influence functions."
            )

    def _recorders(self) -> list[Callback]:
        return [TrajectoryRecorder(self.max_memory)]

    def _score(
        self,
        training: Training,
        train: Samples,
        objective: HeldOutObjective,
        request: Request,
    ) -> Scores:
        """Score samples through the training; held-out samples score NaN."""
        (recorder,) = training.callbacks
        assert isinstance(recorder, TrajectoryRecorder)
        rng, n_groups = np.random.default_rng(request.seed), request.n_groups
        groups = split_groups(objective.codes, n_groups, rng)
        nets = {
            recorder.epoch_ends_[c.epoch - 1]: FunctionalNet(training.net, c.state_dict)
            for c in training.checkpoints
        }
        for net in nets.values():
            check_deterministic(net, objective.samples)
        # The objective is the mean over the checkpoints.
        gradients = {
            n_steps: objective.scaled_by(net).gradients(net, groups) / len(nets)
            for n_steps, net in nets.items()
        }
        if not any(gradient.any() for gradient in gradients.values()):
            warnings.warn(ZERO_GRADIENT, ConvergenceWarning, stacklevel=2)
        scores = trajectory_scores(
            FunctionalNet(training.net),
            recorder,
            train,
            gradients,
            smoothing=self.smoothing,
            thetas={n_steps: net.theta for n_steps, net in nets.items()},
            on_step=request.on_product,
        )
        epoch = training.checkpoints[-1].epoch
        return Scores(
            train=_believable(scores, objective.largest_change),
            held_out=np.full((n_groups, len(objective.samples)), np.nan),
            views=[View(request.number, epoch, group) for group in range(n_groups)],
            solver_results=[],
        )


def _believable(scores: np.ndarray, largest_change: float) -> np.ndarray:
    """Set scores to NaN, and warn, if any goes beyond what a sample can do."""
    largest = np.abs(scores).max()
    if largest <= largest_change:
        return scores
    warnings.warn(
        f"the derivatives through the training grew to {largest:.2g} and the samples "
        "are not scored: a small change of a sample's weight would have led training "
        "elsewhere altogether. Lower the learning rate or the momentum, raise the "
        "smoothing of Trajectory, or use influence functions.",
        ConvergenceWarning,
        stacklevel=3,
    )
    return np.full_like(scores, np.nan)


def trajectory_scores(
    net: FunctionalNet,
    recorder: TrajectoryRecorder,
    samples: Samples,
    gradients: dict[int, Tensor],
    *,
    smoothing: float,
    thetas: Mapping[int, Tensor] = MappingProxyType({}),
    on_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Differentiate the final objective by the weight of every sample, with a minus.

    Returns an array of shape (n_columns, n_samples). The net is used up, as replaying
    changes its buffers.

    Parameters
    ----------
    net, recorder, samples
        The trained net, its training, and the samples it was trained on.
    gradients : dict of int to Tensor of shape (n_parameters, n_columns)
        Gradients of objectives by the parameters, by the number of steps after
        which they are taken; those of several moments add up.
    smoothing : float
        See `Trajectory`.
    thetas : mapping of int to Tensor of shape (n_parameters,)
        Parameters known from elsewhere, by the number of steps taken; the replay is
        held against them too, and a ValueError says where it deviates.
    on_step : callable
        Called after every step backwards.
    """
    replay = _Replay(net, recorder, samples, smoothing, thetas)
    last = max(gradients)
    n_columns = gradients[last].shape[1]
    scores = np.zeros((n_columns, len(samples)))
    zero = torch.zeros_like(gradients[last])
    adjoint = _Adjoint(zero, tuple(zero for _ in recorder.optimizer_.slot_names))
    for n in reversed(range(last)):
        if n + 1 in gradients:
            adjoint = replace(adjoint, theta=adjoint.theta + gradients[n + 1])
        adjoint, derivatives = replay.step_back(n, adjoint)
        np.subtract.at(scores.T, recorder.steps_[n].samples, derivatives)
        on_step()
    return scores


@dataclass(frozen=True)
class _Adjoint:
    """Derivatives of the objectives by a state, (n_parameters, n_columns) each."""

    theta: Tensor
    slots: tuple[Tensor, ...]


class _Replay:
    """A recorded training, replayed backwards."""

    def __init__(
        self,
        net: FunctionalNet,
        recorder: TrajectoryRecorder,
        samples: Samples,
        smoothing: float,
        thetas: Mapping[int, Tensor],
    ) -> None:
        self.net = net
        self.thetas = {n: s.theta for n, s in recorder.states_.items()} | dict(thetas)
        self.recorder = recorder
        self.optimizer: DifferentiableOptimizer = recorder.optimizer_
        self.smoothing = smoothing
        self.dataset = net.dataset(samples)
        self.states: dict[int, OptimizerState] = {}

    def step_back(self, n: int, adjoint: _Adjoint) -> tuple[_Adjoint, np.ndarray]:
        """Take the adjoint from after step n to before it.

        Also return the derivatives by the weights, (n_samples_of_step, n_columns).
        """
        state = self._state_before(n)
        theta, weights, gradient = self._gradient(n, state, create_graph=True)
        after = self._step(n, state, gradient.detach(), smoothing=0.0)
        self._check(n + 1, after)
        leaves, slots = self._smoothed_step(n, state, gradient)
        adjoints = (adjoint.theta, *adjoint.slots)
        columns = [
            self._column_back(
                (theta, weights), gradient, leaves, slots, [a[:, k] for a in adjoints]
            )
            for k in range(adjoint.theta.shape[1])
        ]
        thetas, derivatives, old_slots = zip(*columns, strict=True)
        return (
            _Adjoint(
                torch.stack(thetas, dim=1),
                tuple(torch.stack(s, dim=1) for s in zip(*old_slots, strict=True)),
            ),
            torch.stack(derivatives, dim=1).double().cpu().numpy(),
        )

    def _column_back(
        self,
        inputs: tuple[Tensor, Tensor],
        gradient: Tensor,
        leaves: list[Tensor],
        outputs: list[Tensor],
        pulled: list[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the adjoint of one column before a step, and its row derivatives."""
        by_theta, by_gradient, *by_slots = torch.autograd.grad(
            outputs, leaves, pulled, retain_graph=True, materialize_grads=True
        )
        through_loss, by_weights = torch.autograd.grad(
            gradient,
            inputs,
            by_gradient,
            retain_graph=True,
            materialize_grads=True,
        )
        return by_theta + through_loss, by_weights, by_slots

    @torch.enable_grad()
    def _gradient(
        self, n: int, state: OptimizerState, *, create_graph: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return theta, sample weights, and the gradient of the loss of step n."""
        step = self.recorder.steps_[n]
        batch = self.recorder.collate_(
            [self.dataset[number] for number in step.samples]
        )
        theta = state.theta.clone().requires_grad_()
        weights = torch.ones(len(step.samples), dtype=theta.dtype, device=theta.device)
        weights.requires_grad_()
        with generators_at(step.rng_states, self.net.device):
            loss = self.net.training_loss(theta, *self.net.to_device(batch), weights)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=create_graph)
        return theta, weights, gradient

    def _step(
        self, n: int, state: OptimizerState, gradient: Tensor, *, smoothing: float
    ) -> OptimizerState:
        options = expand_options(
            self.recorder.steps_[n].options, self.recorder.sizes_, state.theta
        )
        return self.optimizer.step(state, gradient, options, smoothing)

    @torch.enable_grad()
    def _smoothed_step(
        self, n: int, state: OptimizerState, gradient: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [
            tensor.detach().clone().requires_grad_()
            for tensor in (state.theta, gradient, *state.slots)
        ]
        theta, gradient, *slots = leaves
        before = OptimizerState(theta, tuple(slots), state.n_steps)
        after = self._step(n, before, gradient, smoothing=self.smoothing)
        return leaves, [after.theta, *after.slots]

    def _state_before(self, n: int) -> OptimizerState:
        recorded = self.recorder.states_
        if n in recorded:
            return recorded[n]
        if n not in self.states:
            self._recompute(max(k for k in recorded if k < n), n)
        return self.states.pop(n)

    def _recompute(self, start: int, stop: int) -> None:
        state = self.recorder.states_[start]
        self.states.clear()
        for n in range(start, stop):
            gradient = self._gradient(n, state, create_graph=False)[2]
            state = self._step(n, state, gradient, smoothing=0.0)
            self.states[n + 1] = state

    def _check(self, n: int, state: OptimizerState) -> None:
        if n not in self.thetas:
            return
        start = max(k for k in self.recorder.states_ if k < n)
        way = torch.linalg.norm(self.thetas[n] - self.thetas[start])
        deviation = torch.linalg.norm(self.thetas[n] - state.theta)
        if not deviation <= LARGEST_DEVIATION * way:
            raise ValueError(
                f"the training cannot be replayed: step {n} comes out "
                f"{float(deviation / way):.1%} off. Something besides the loss and the "
                "optimizer takes part in it, such as clipped gradients, random "
                "augmentation or accumulated steps. Leave it out, or leave "
                "engine=None for influence functions."
            )
