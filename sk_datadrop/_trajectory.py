"""Influence through the whole training: differentiate it, step by step.

Where influence functions ask how the optimum moves, this asks how *this training*
would have ended: the derivative of the held-out objective by the weight of every
training row, through every step of the optimiser (Hara, Nitanda, Maehara 2019,
arXiv:1906.08473; Ilyas & Engstrom 2025, arXiv:2504.16430). The objective is one
number, so one pass backwards through the steps serves all rows.

The sign is that of `_influence`: minus the derivative, as removing a row takes its
weight from one to zero.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from skorch.hf import AccelerateMixin
from skorch.utils import to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from sk_datadrop._checks import check_positive
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import Influence, objective_gradients, split_groups
from sk_datadrop._objectives import class_codes, largest_change
from sk_datadrop._optimizers import (
    OPTIMIZERS,
    DifferentiableOptimizer,
    OptimizerState,
    expand_options,
    read_options,
    unsupported,
)
from sk_datadrop._solvers._base import ZERO_GRADIENT

LARGEST_DEVIATION = 0.01
"""Of a replayed stretch from the recorded one, relative to the way it goes."""


class Trajectory(BaseEstimator):
    """Score rows by replaying the training backwards.

    Exact for the training that took place, where influence functions need a
    minimum that training never reaches; but it sees only the rows trained on,
    holds the training's states in memory, and needs a training it can repeat:
    torch.optim.SGD, Adam or AdamW, any learning rate schedule, any number of
    parameter groups; no workers in the data loader, no random augmentation, no
    clipping of gradients.

    Batch statistics of batch normalisation are part of each step; the running
    statistics that the final net predicts with are held constant.

    Parameters
    ----------
    smoothing : float, default=100
        For Adam and AdamW: added under the square root of the backward pass,
        relative to the mean squared gradient. The step of a parameter whose
        gradient is close to zero is nearly discontinuous, and such parameters
        drown the rest: 0 gives the true derivative, and 100 predicted
        retraining best of all that was tried.
    max_memory : float, default=1e9
        Bytes for the recorded states of one training. Beyond, every other state
        is forgotten, as often as needed, and recomputed in the backward pass, which
        for this holds the states of one such gap at a time.

    See Also
    --------
    Views : Which epochs are scored.
    GaussNewton : Influence functions, the default.

    References
    ----------
    Hara, Nitanda, Maehara (2019). Data cleansing for models trained with SGD.
    arXiv:1906.08473

    Ilyas, Engstrom (2025). MAGIC: near-optimal data attribution for deep
    learning. arXiv:2504.16430

    Examples
    --------
    >>> from sk_datadrop import Trajectory
    >>> Trajectory(smoothing=1)
    Trajectory(smoothing=1)
    """

    def __init__(self, smoothing: float = 100.0, max_memory: float = 1e9) -> None:
        self.smoothing = smoothing
        self.max_memory = max_memory

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training.

        Raises
        ------
        ValueError
            If `smoothing` is negative, or `max_memory` not positive.

        See Also
        --------
        check_net : Whether a training can be replayed.

        Examples
        --------
        >>> from sk_datadrop import Trajectory
        >>> Trajectory(smoothing=-1).check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: smoothing must be a number from 0; got -1.
        """
        if not isinstance(self.smoothing, Real) or not self.smoothing >= 0:
            raise ValueError(
                f"smoothing must be a number from 0; got {self.smoothing!r}."
            )
        check_positive("max_memory", self.max_memory, " of bytes")

    def check_net(self, net) -> None:
        """Raise a ValueError if the training of an initialized net cannot be replayed.

        Called before any training. What random augmentation does cannot be seen
        beforehand; a replay that deviates from the training warns.

        Parameters
        ----------
        net : skorch.NeuralNet
            Initialized, with its optimizer.

        Raises
        ------
        ValueError
            If the optimiser is not one of SGD, Adam and AdamW or has options that are
            not covered, or the order of the rows cannot be seen.

        See Also
        --------
        check_parameters : Whether the parameters are in range.

        Examples
        --------
        >>> import torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import Trajectory
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     optimizer=torch.optim.Adam, verbose=0,
        ... ).initialize()
        >>> Trajectory().check_net(net)
        """
        reason = unsupported(net.optimizer_)
        if net.get_params_for("iterator_train").get("num_workers"):
            reason = (
                "its iterator_train__num_workers is not 0, so the order of the rows "
                "cannot be seen; set it to 0"
            )
        if net.get_params_for("iterator_train").get("collate_fn"):
            reason = (
                "its iterator_train__collate_fn may change the order of the rows; "
                "leave it out"
            )
        if isinstance(net, AccelerateMixin):
            reason = "its steps are taken by accelerate; take a net without it"
        if reason:
            raise ValueError(
                f"the training of this net cannot be replayed: {reason}, or leave "
                "engine=None for influence functions."
            )


@dataclass(frozen=True)
class Step:
    """What a step of the training depended on, besides the state.

    Attributes
    ----------
    rows : list of int
    options : dict
        Hyperparameters of the optimiser.
    rng_states : list of Tensor
        Of torch's generators: CPU, then the net's GPU if any. For dropout.
    """

    rows: list[int]
    options: dict
    rng_states: list[Tensor]


class TrajectoryRecorder(Callback):
    """Record the steps of a training and the states between them.

    Parameters
    ----------
    max_memory : float
        Bytes for the states.

    Attributes
    ----------
    steps_ : list of Step
    states_ : dict of int to OptimizerState
        By the number of steps taken; always holds the first.
    epoch_ends_ : list of int
        Number of steps taken by the end of each epoch.
    sizes_ : list of int
        Elements of each trainable parameter.
    optimizer_ : DifferentiableOptimizer
    collate_ : callable
        Makes a batch of rows.
    """

    def __init__(self, max_memory):
        self.max_memory = max_memory

    def on_train_begin(self, net, **kwargs):
        self.steps_, self.states_, self.epoch_ends_ = [], {}, []
        self.optimizer_ = OPTIMIZERS[type(net.optimizer_)]
        self.every_ = 1
        self.seen_ = []
        self.iterator_ = net.iterator_train
        vars(net)["iterator_train"] = partial(self._iterator, net.iterator_train)

    def on_train_end(self, net, **kwargs):
        vars(net)["iterator_train"] = self.iterator_
        self._remember(net)

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        if not training:
            return
        if not self.steps_:
            _materialise(net, batch)
        if len(self.steps_) % self.every_ == 0:
            self._remember(net)
        parameters = list(_trainable(net).values())
        self.sizes_ = [p.numel() for p in parameters]
        rows, self.seen_[:] = list(self.seen_), []
        options = read_options(net.optimizer_, parameters)
        self.steps_.append(Step(rows, options, _rng_states(net.device)))

    def on_epoch_end(self, net, **kwargs):
        self.epoch_ends_.append(len(self.steps_))

    def _iterator(self, original, dataset, **kwargs):
        loader = original(_Watched(dataset, self.seen_), **kwargs)
        self.collate_ = loader.collate_fn
        return loader

    def _remember(self, net):
        state = _read_state(net, self.optimizer_.slot_names, len(self.steps_))
        self.states_[state.n_steps] = state
        size = (1 + len(state.slots)) * state.theta.nbytes
        if len(self.states_) * size > self.max_memory:
            self.every_ *= 2
            self.states_ = {
                n: s for n, s in self.states_.items() if n % self.every_ == 0
            }


class _Watched(Dataset):
    """A data set that notes which rows are asked for."""

    def __init__(self, dataset, seen):
        self.dataset = dataset
        self.seen = seen

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, row):
        self.seen.append(int(row))
        return self.dataset[row]


def _materialise(net, batch) -> None:
    """Let lazy modules make their parameters, which the first step starts from."""
    training = net.module_.training
    net.module_.eval()
    with torch.no_grad():
        net.infer(to_tensor(batch[0], device=net.device))
    net.module_.train(training)


def _trainable(net) -> dict[str, Tensor]:
    return {k: p for k, p in net.module_.named_parameters() if p.requires_grad}


def _read_state(net, slot_names, n_steps: int) -> OptimizerState:
    parameters = list(_trainable(net).values())

    def slot(name):
        values = [net.optimizer_.state.get(p, {}).get(name) for p in parameters]
        return torch.cat(
            [
                (torch.zeros_like(p) if v is None else v).detach().reshape(-1)
                for p, v in zip(parameters, values, strict=True)
            ]
        )

    theta = torch.cat([p.detach().reshape(-1) for p in parameters])
    return OptimizerState(theta, tuple(map(slot, slot_names)), n_steps)


def _rng_states(device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device is not None and torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def trajectory_influences(
    net,
    checkpoints,
    train: tuple[Any, Any],
    held_out: tuple[Any, Any],
    *,
    recorder: TrajectoryRecorder,
    smoothing: float,
    objective,
    is_classification: bool,
    n_groups: int,
    seed: int,
    score_held_out: bool = False,
    on_product: Callable[[], object] = lambda: None,
) -> list[tuple[int, Influence]]:
    """Score the rows of `train` through the training of the net.

    Parameters
    ----------
    net : skorch.NeuralNet
        The trained net.
    checkpoints : list of Checkpoint
        The epochs whose held-out objective is differentiated: their mean is.
    train, held_out : tuple (X, y)
        Rows the net was trained on, and rows the objective is measured on.
    recorder : TrajectoryRecorder
        The training.
    smoothing : float
        See `Trajectory`.
    objective : {"bounded", "loss"} or callable
        See `resolve_objective`.
    is_classification : bool
        See `influence`.
    n_groups : int
        Number of random groups the held-out rows are split into; each gives
        one view.
    seed : int
        Splits the groups.
    score_held_out : bool, default=False
        For `influence_at_checkpoints`; here it makes no difference.
    on_product : callable
        Called after every step backwards.

    Returns
    -------
    list of tuple (epoch, Influence)
        One, with the last epoch. Held-out rows are never trained on and score NaN.
    """
    rng = np.random.default_rng(seed)
    codes = class_codes(held_out[1], is_classification=is_classification)
    groups = split_groups(codes, n_groups, rng)
    nets = {
        recorder.epoch_ends_[c.epoch - 1]: FunctionalNet(net, c.state_dict)
        for c in checkpoints
    }
    for at_checkpoint in nets.values():
        at_checkpoint.check_rows(*held_out)
    gradients = {
        n_steps: objective_gradients(
            at_checkpoint,
            held_out,
            groups,
            objective=objective,
            is_classification=is_classification,
            batch_size=None,
        )
        / len(checkpoints)
        for n_steps, at_checkpoint in nets.items()
    }
    if not any(gradient.any() for gradient in gradients.values()):
        warnings.warn(ZERO_GRADIENT, ConvergenceWarning, stacklevel=2)
    scores = trajectory_scores(
        FunctionalNet(net),
        recorder,
        *train,
        gradients,
        smoothing=smoothing,
        thetas={n_steps: n.theta for n_steps, n in nets.items()},
        on_step=on_product,
    )
    if not np.abs(scores).max() <= largest_change(objective):
        warnings.warn(
            f"the derivatives through the training grew to {np.abs(scores).max():.2g} "
            "and the rows are not scored: a small change of a row's weight would "
            "have led training elsewhere altogether. Lower the learning rate or the "
            "momentum, raise the smoothing of Trajectory, or use influence functions.",
            ConvergenceWarning,
            stacklevel=2,
        )
        scores = np.full_like(scores, np.nan)
    never = np.full((n_groups, len(held_out[0])), np.nan)
    return [(checkpoints[-1].epoch, Influence(scores, never, None, None))]


def trajectory_scores(
    net: FunctionalNet,
    recorder: TrajectoryRecorder,
    X,
    y,
    gradients: dict[int, Tensor],
    *,
    smoothing: float,
    thetas: Mapping[int, Tensor] = MappingProxyType({}),
    on_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Differentiate the final objective by the weight of every row, with a minus.

    Parameters
    ----------
    net : FunctionalNet
        The trained net; used up, as replaying changes its buffers.
    recorder : TrajectoryRecorder
        Its training.
    X, y : array-like of shape (n_samples, ...)
        The rows it was trained on.
    gradients : dict of int to Tensor of shape (n_parameters, n_columns)
        Gradients of objectives by the parameters, by the number of steps after
        which they are taken; those of several moments add up.
    smoothing : float
        See `Trajectory`.
    thetas : mapping of int to Tensor of shape (n_parameters,)
        Parameters known from elsewhere, by the number of steps taken; the replay is
        held against them too.
    on_step : callable
        Called after every step backwards.

    Returns
    -------
    ndarray of shape (n_columns, n_samples), dtype float64

    Raises
    ------
    ValueError
        If the steps, repeated, do not lead where the training went.
    """
    replay = _Replay(net, recorder, X, y, smoothing, thetas)
    last = max(gradients)
    n_columns = gradients[last].shape[1]
    scores = np.zeros((n_columns, len(X)))
    zero = torch.zeros_like(gradients[last])
    adjoint = _Adjoint(zero, tuple(zero for _ in recorder.optimizer_.slot_names))
    for n in reversed(range(last)):
        if n + 1 in gradients:
            adjoint = replace(adjoint, theta=adjoint.theta + gradients[n + 1])
        adjoint, row_derivatives = replay.step_back(n, adjoint)
        np.subtract.at(scores.T, recorder.steps_[n].rows, row_derivatives)
        on_step()
    return scores


@dataclass(frozen=True)
class _Adjoint:
    """Derivatives of the objectives by a state, (n_parameters, n_columns) each."""

    theta: Tensor
    slots: tuple[Tensor, ...]


class _Replay:
    """A recorded training, to be gone through backwards."""

    def __init__(self, net, recorder, X, y, smoothing, thetas):
        self.net = net
        self.thetas = {n: s.theta for n, s in recorder.states_.items()} | dict(thetas)
        self.recorder = recorder
        self.optimizer: DifferentiableOptimizer = recorder.optimizer_
        self.smoothing = smoothing
        self.dataset = net.dataset(X, y)
        self.states: dict[int, OptimizerState] = {}

    def step_back(self, n: int, adjoint: _Adjoint) -> tuple[_Adjoint, np.ndarray]:
        """Take the adjoint from after step n to before it.

        Returns
        -------
        adjoint : _Adjoint
        row_derivatives : ndarray of shape (n_rows_of_step, n_columns)
        """
        state = self._state_before(n)
        theta, weights, gradient = self._gradient(n, state, create_graph=True)
        after = self._step(n, state, gradient.detach(), smoothing=0.0)
        self._check(n + 1, after)
        leaves, slots = self._smoothed_step(n, state, gradient)
        columns = [
            self._column_back(theta, weights, gradient, leaves, slots, column, adjoint)
            for column in range(adjoint.theta.shape[1])
        ]
        thetas, derivatives, old_slots = zip(*columns, strict=True)
        return (
            _Adjoint(
                torch.stack(thetas, dim=1),
                tuple(torch.stack(s, dim=1) for s in zip(*old_slots, strict=True)),
            ),
            torch.stack(derivatives, dim=1).double().cpu().numpy(),
        )

    def _column_back(self, theta, weights, gradient, leaves, outputs, column, adjoint):
        pulled = [adjoint.theta[:, column], *(s[:, column] for s in adjoint.slots)]
        by_theta, by_gradient, *by_slots = torch.autograd.grad(
            outputs, leaves, pulled, retain_graph=True, materialize_grads=True
        )
        through_loss, by_weights = torch.autograd.grad(
            gradient,
            (theta, weights),
            by_gradient,
            retain_graph=True,
            materialize_grads=True,
        )
        return by_theta + through_loss, by_weights, by_slots

    @torch.enable_grad()
    def _gradient(self, n, state, *, create_graph):
        """Gradient of the loss of step n, as a function of theta and row weights."""
        step = self.recorder.steps_[n]
        batch = self.recorder.collate_([self.dataset[row] for row in step.rows])
        theta = state.theta.clone().requires_grad_()
        weights = torch.ones(len(step.rows), dtype=theta.dtype, device=theta.device)
        weights.requires_grad_()
        with _rng(step.rng_states, self.net.device):
            loss = self.net.training_loss(theta, *self.net.to_device(batch), weights)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=create_graph)
        return theta, weights, gradient

    def _step(self, n, state, gradient, *, smoothing):
        options = expand_options(
            self.recorder.steps_[n].options, self.recorder.sizes_, state.theta
        )
        return self.optimizer.step(state, gradient, options, smoothing)

    @torch.enable_grad()
    def _smoothed_step(self, n, state, gradient):
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


@contextmanager
def _rng(states: list[Tensor], device) -> Iterator[None]:
    """Put torch's generators into a recorded state for the time of the block."""
    devices = [torch.device(device)] if len(states) > 1 else []
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(states[0])
        if devices:
            torch.cuda.set_rng_state(states[1], devices[0])
        yield
