"""Differentiable optimiser steps against torch.optim, and their derivatives."""

import pytest
import torch

from sk_datadrop._optimizers import (
    OPTIMIZERS,
    OptimizerState,
    adam_step,
    expand_options,
    read_options,
    unsupported,
)

# One line per way to set an optimiser up.
SETTINGS = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (torch.optim.SGD, {"lr": 0.1, "dampening": 0.3}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
]


def make_parameters():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 2)
    ]


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


def follow(optimizer_class, groups, n_steps=5):
    """Take steps with torch and with the differentiable twin."""
    parameters = make_parameters()
    optimizer = optimizer_class(groups(parameters))
    twin = OPTIMIZERS[optimizer_class]
    theta = flat(parameters).clone()
    slots = tuple(torch.zeros_like(theta) for _ in twin.slot_names)
    state = OptimizerState(theta, slots, 0)
    for n in range(n_steps):
        gradient = torch.cos(n + 3 * state.theta)
        options = expand_options(
            read_options(optimizer, parameters), [p.numel() for p in parameters], theta
        )
        state = twin.step(state, gradient, options, 0.0)
        for p in parameters:
            p.grad = torch.cos(n + 3 * p)
        optimizer.step()
    return parameters, optimizer, state


@pytest.mark.parametrize(("optimizer_class", "options"), SETTINGS)
def test_steps_are_those_of_torch(optimizer_class, options):
    parameters, optimizer, state = follow(
        optimizer_class, lambda ps: [{"params": ps, **options}]
    )
    torch.testing.assert_close(state.theta, flat(parameters))
    assert state.n_steps == 5
    for name, slot in zip(
        OPTIMIZERS[optimizer_class].slot_names, state.slots, strict=True
    ):
        values = [optimizer.state[p].get(name) for p in parameters]
        if optimizer_class is torch.optim.SGD and "momentum" not in options:
            assert values == [None, None]
        else:
            torch.testing.assert_close(slot, flat(values))


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_each_group_of_parameters_has_its_own_options(optimizer_class):
    options = [{"lr": 0.1, "weight_decay": 0.1}, {"lr": 0.02, "weight_decay": 0.0}]
    parameters, _, state = follow(
        optimizer_class,
        lambda ps: [{"params": [p], **o} for p, o in zip(ps, options, strict=True)],
    )
    torch.testing.assert_close(state.theta, flat(parameters))


def test_a_parameter_without_optimizer_stays():
    parameters, _, state = follow(
        torch.optim.AdamW, lambda ps: [{"params": ps[:1], "weight_decay": 0.1}]
    )
    torch.testing.assert_close(state.theta, flat(parameters))
    torch.testing.assert_close(parameters[1], make_parameters()[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_adam_has_the_derivative_of_its_first_step_even_at_zero(smoothing):
    """The step -lr g / (sqrt(g^2 + smoothing mean(g^2)) + eps), at g = 0 and 1."""
    theta = torch.zeros(2, dtype=torch.float64)
    gradient = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    lr, eps = 0.1, 1e-3
    options = {"lr": lr, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.99}
    options |= {"eps": eps, "decoupled": False}
    state = OptimizerState(theta, (theta, theta), 0)
    after = adam_step(state, gradient, options, smoothing)
    (derivative,) = torch.autograd.grad(after.theta.sum(), gradient)
    floor = smoothing * 0.5
    root = (1 + floor) ** 0.5
    expected = [
        -lr / (floor**0.5 + eps),
        -lr * (root + eps - 1 / root) / (root + eps) ** 2,
    ]
    assert derivative.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer_class", "options", "reason"),
    [
        (torch.optim.RMSprop, {}, "RMSprop; use one of Adam, AdamW, SGD"),
        (torch.optim.Adam, {"amsgrad": True}, "amsgrad=True; leave that out"),
        (torch.optim.SGD, {"maximize": True}, "maximize=True; leave that out"),
    ],
)
def test_what_cannot_be_followed(optimizer_class, options, reason):
    assert reason in unsupported(optimizer_class(make_parameters(), **options))


@pytest.mark.parametrize(
    ("optimizer_class", "flag"),
    [(torch.optim.SGD, "nesterov"), (torch.optim.Adam, "decoupled_weight_decay")],
)
def test_groups_that_disagree_cannot_be_followed(optimizer_class, flag):
    first, second = make_parameters()
    groups = [{"params": [first], flag: True}, {"params": [second]}]
    options = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
    optimizer = optimizer_class(groups, **options)
    assert f"disagree about {flag}" in unsupported(optimizer)


@pytest.mark.parametrize(("optimizer_class", "options"), SETTINGS)
def test_what_can_be_followed(optimizer_class, options):
    assert unsupported(optimizer_class(make_parameters(), **options)) is None
