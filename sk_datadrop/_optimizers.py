"""The steps of torch's optimisers as differentiable functions of flat vectors.

torch's own steps work in place and cut the graph; these take the same parameters
and return new tensors. The tests hold them against torch.optim, step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class OptimizerState:
    """Everything a step changes.

    The parameters, and the memory of the optimiser: the momentum for SGD, the means of
    the gradient and of its square for Adam and AdamW; all of shape (n_parameters,).
    """

    theta: Tensor
    slots: tuple[Tensor, ...]
    n_steps: int


def sgd_step(
    state: OptimizerState,
    gradient: Tensor,
    options: dict[str, Any],
    _smoothing: float = 0.0,
) -> OptimizerState:
    """Return the state after a step of :class:`torch.optim.SGD`.

    Smoothing is not needed: the step is linear in the gradient, (n_parameters,).
    """
    gradient = gradient + options["weight_decay"] * state.theta
    (momentum,) = state.slots
    if state.n_steps == 0:
        momentum = gradient
    else:
        fresh = 1 - options["dampening"]
        momentum = options["momentum"] * momentum + fresh * gradient
    # Without momentum the slot holds the gradient itself, in groups too.
    step = (
        gradient + options["momentum"] * momentum if options["nesterov"] else momentum
    )
    theta = state.theta - options["lr"] * step
    return OptimizerState(theta, (momentum,), state.n_steps + 1)


def adam_step(
    state: OptimizerState, gradient: Tensor, options: dict[str, Any], smoothing: float
) -> OptimizerState:
    """Return the state after a step of Adam or AdamW.

    Kingma & Ba (2015), arXiv:1412.6980; with the option "decoupled" the weights decay
    apart from the gradient, as in Loshchilov & Hutter (2019), arXiv:1711.05101. Options
    are numbers or tensors (n_parameters,). Smoothing is added under the square root,
    relative to the mean squared gradient: the step of a parameter whose gradient has
    just passed through zero is otherwise next to discontinuous, its derivative noise.
    """
    theta, n_steps = state.theta, state.n_steps + 1
    if options["decoupled"]:
        theta = theta * (1 - options["lr"] * options["weight_decay"])
    else:
        gradient = gradient + options["weight_decay"] * theta
    first, second = state.slots
    first = options["beta1"] * first + (1 - options["beta1"]) * gradient
    second = options["beta2"] * second + (1 - options["beta2"]) * gradient**2
    unbiased = second / (1 - options["beta2"] ** n_steps)
    floor = smoothing * unbiased.detach().mean() + torch.finfo(theta.dtype).tiny
    scale = torch.sqrt(unbiased + floor) + options["eps"]
    step = first / (1 - options["beta1"] ** n_steps) / scale
    return OptimizerState(theta - options["lr"] * step, (first, second), n_steps)


@dataclass(frozen=True)
class DifferentiableOptimizer:
    """How to follow one optimiser of torch.

    By ``step(state, gradient, options, smoothing) -> OptimizerState``, and the names of
    its slots in the state of the torch optimiser.
    """

    step: Callable[..., OptimizerState]
    slot_names: tuple[str, ...]


_ADAM = DifferentiableOptimizer(adam_step, ("exp_avg", "exp_avg_sq"))
OPTIMIZERS: dict[type, DifferentiableOptimizer] = {
    torch.optim.SGD: DifferentiableOptimizer(sgd_step, ("momentum_buffer",)),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
}
"""Optimisers a trajectory can be replayed through. To add one: a step and a row."""


def read_options(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor]
) -> dict[str, Any]:
    """Return the options of the next step, for the parameters in the given order.

    An option is a number where all parameters share it, else a tuple with one for
    each. A parameter the optimiser does not hold has a learning rate of zero.
    """
    group_of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    rows = [_options_of(group_of.get(id(p)), optimizer) for p in parameters]
    return {key: _shared(tuple(row[key] for row in rows)) for key in rows[0]}


def expand_options(
    options: dict[str, Any], sizes: list[int], like: Tensor
) -> dict[str, Any]:
    """Turn options that differ between parameters into tensors (n_parameters,).

    `sizes` has the number of elements of each parameter.
    """
    repeats = torch.tensor(sizes, device=like.device)
    return {
        key: torch.tensor(
            value, dtype=like.dtype, device=like.device
        ).repeat_interleave(repeats)
        if isinstance(value, tuple)
        else value
        for key, value in options.items()
    }


def _options_of(
    group: dict[str, Any] | None, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    own = group or {**optimizer.param_groups[0], "lr": 0.0}
    keys = ("lr", "weight_decay", "eps", "momentum", "dampening", "nesterov")
    options = {key: own[key] for key in keys if key in own}
    if options.get("momentum") == 0:
        # Dampens the momentum; the gradient itself is the step without it.
        options["dampening"] = 0.0
    if "betas" in own:
        options["beta1"], options["beta2"] = own["betas"]
        options["decoupled"] = isinstance(optimizer, torch.optim.AdamW) or own.get(
            "decoupled_weight_decay", False
        )
    return {k: v if isinstance(v, bool) else float(v) for k, v in options.items()}


def _shared(values: tuple[Any, ...]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def unsupported(optimizer: torch.optim.Optimizer) -> str | None:
    """Say why the steps of an optimiser cannot be followed, or return None."""
    if type(optimizer) not in OPTIMIZERS:
        known = ", ".join(sorted(cls.__name__ for cls in OPTIMIZERS))
        return f"its optimizer is {type(optimizer).__name__}; use one of {known}"
    for group in optimizer.param_groups:
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                return f"its optimizer has {option}=True; leave that out"
    for flag in ("nesterov", "decoupled_weight_decay"):
        if len({group.get(flag) for group in optimizer.param_groups}) > 1:
            return f"the parameter groups of its optimizer disagree about {flag}"
    return None
