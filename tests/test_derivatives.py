"""Ways to differentiate along a direction, against Jacobians and each other."""

import pytest
import torch
from conftest import MLP
from torch import nn

from sk_datadrop._derivatives import METHODS, measured_graphs, pullback
from sk_datadrop.nets import DnCNN, SmallCNN


def flat_function(module, X):
    """Outputs of a module as a function of one vector, and its parameters as one."""
    parameters = dict(module.named_parameters())

    def outputs(theta):
        pieces = theta.split([p.numel() for p in parameters.values()])
        weights = {
            k: t.view_as(p)
            for (k, p), t in zip(parameters.items(), pieces, strict=True)
        }
        out = torch.func.functional_call(module, weights, (X,))
        return (out if isinstance(out, torch.Tensor) else out[0]).reshape(-1)

    theta = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    return outputs, theta


@pytest.mark.parametrize(
    ("method", "rtol"), list(zip(METHODS, [1e-10, 1e-10, 1e-6], strict=True))
)
@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.LSTM(4, 3)])
def test_methods_against_the_jacobian(layer, method, rtol):
    torch.manual_seed(0)
    outputs, theta = flat_function(
        layer.double(), torch.randn(2, 5, 4, dtype=torch.float64)
    )
    v = torch.randn_like(theta)
    expected = torch.autograd.functional.jacobian(outputs, theta) @ v
    value, found = METHODS[method](outputs, theta, v)
    torch.testing.assert_close(value, outputs(theta))
    assert (found - expected).norm() <= rtol * expected.norm()
    assert not METHODS[method](outputs, theta, torch.zeros_like(v))[1].any()


@pytest.mark.parametrize("method", METHODS)
def test_methods_on_a_constant(method):
    point = torch.randn(3)
    value, found = METHODS[method](lambda theta: torch.ones(2), point, torch.ones(3))
    assert torch.equal(value, torch.ones(2))
    assert torch.equal(found, torch.zeros(2))


def test_pullbacks_against_the_jacobian():
    torch.manual_seed(0)
    outputs, theta = flat_function(MLP().double(), torch.randn(6, 4).double())
    value, transpose = pullback(outputs, theta)
    assert torch.equal(value, outputs(theta))
    assert not value.requires_grad
    J = torch.autograd.functional.jacobian(outputs, theta)
    for u in torch.randn(2, len(value), dtype=torch.float64):
        torch.testing.assert_close(transpose(u), J.T @ u)


def test_the_pullback_of_a_constant_is_zero():
    value, transpose = pullback(lambda theta: torch.ones(2), torch.randn(3))
    assert torch.equal(value, torch.ones(2))
    assert torch.equal(transpose(torch.ones(2)), torch.zeros(3))


def test_the_memory_of_graphs_is_that_of_their_tensors_without_the_parameters():
    theta = torch.randn(1000)
    with measured_graphs(theta) as n_bytes:
        assert n_bytes() == 0
        _, transpose = pullback(lambda theta: (theta[:8] * theta[8:16]).exp(), theta)
        # The factors are views of theta, and the exponential keeps its result.
        assert n_bytes() == 8 * 4
    theta.exp().requires_grad_().exp()
    assert n_bytes() == 8 * 4
    assert transpose(torch.ones(8)).shape == (1000,)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 0.01), ("float64", 1e-5)])
@pytest.mark.parametrize("make", [MLP, SmallCNN, DnCNN])
def test_finite_differences_along_gradients(make, dtype, rtol, scale):
    """Kinks are covered too, whatever the length of the direction."""
    torch.manual_seed(0)
    dtype = getattr(torch, dtype)
    X = torch.randn(16, 4) if make is MLP else torch.randn(16, 1, 12, 12)
    module = make()
    module(X)
    outputs, theta = flat_function(module.to(dtype), X.to(dtype))
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(outputs(leaf).square().sum(), leaf)
    exact = METHODS["forward mode"](outputs, theta, scale * gradient)[1]
    found = METHODS["finite differences"](outputs, theta, scale * gradient)[1]
    assert (found - exact).norm() <= rtol * exact.norm()
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.9999


def test_finite_differences_of_outputs_that_are_zero():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    outputs, theta = flat_function(layer, torch.randn(2, 4))
    v = torch.randn_like(theta)
    torch.testing.assert_close(
        METHODS["finite differences"](outputs, theta, v)[1],
        METHODS["forward mode"](outputs, theta, v)[1],
    )
