"""Gauss-Newton products against explicit Jacobians and Hessians, in float64."""

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.autograd.functional import hessian, jacobian

from sk_datadrop import GaussNewton
from sk_datadrop._functional import FunctionalNet

N_ROWS = 11

CASES = {
    "cross-entropy": (NeuralNetClassifier, nn.CrossEntropyLoss, {}, "labels"),
    "nll of softmax": (
        NeuralNetClassifier,
        nn.NLLLoss,
        {"module__activation": nn.Softmax(-1)},
        "labels",
    ),
    "nll of log-softmax": (
        NeuralNet,
        nn.NLLLoss,
        {"module__activation": nn.LogSoftmax(-1)},
        "labels",
    ),
    "bce with logits": (NeuralNet, nn.BCEWithLogitsLoss, {}, "binary"),
    "mse": (NeuralNetRegressor, nn.MSELoss, {}, "real"),
    "huber": (NeuralNetRegressor, nn.HuberLoss, {"criterion__delta": 0.5}, "real"),
}


def make(case):
    net_class, criterion, parameters, kind = CASES[case]
    torch.manual_seed(0)
    net = net_class(MLP, criterion=criterion, **parameters).initialize()
    net.module_.double()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 4))
    y = {
        "labels": rng.integers(3, size=N_ROWS),
        "binary": rng.integers(2, size=(N_ROWS, 3)).astype(float),
        "real": rng.normal(size=(N_ROWS, 3)),
    }[kind]
    return FunctionalNet(net), X, y


def matrix_of(functional, X, y, **parameters):
    operator = GaussNewton(**parameters).operator(
        functional, X, y, random_state=np.random.default_rng(0)
    )
    identity = torch.eye(operator.size, dtype=torch.float64)
    return torch.stack([operator.product(v) for v in identity])


def explicit_matrix(functional, X, y):
    total = 0.0
    for x_row, y_row in zip(torch.as_tensor(X), torch.as_tensor(y), strict=True):
        x_row, y_row = x_row[None], y_row[None]
        z = functional.outputs(functional.theta, x_row)
        J = jacobian(lambda t, x=x_row: functional.outputs(t, x)[0], functional.theta)
        H = hessian(lambda z, y=y_row: functional.losses(z[None], y)[0], z[0])
        total = total + J.T @ H @ J
    return total / len(X)


@pytest.mark.parametrize("case", CASES)
def test_products_against_explicit_jacobians(case):
    functional, X, y = make(case)
    A = matrix_of(functional, X, y)
    torch.testing.assert_close(A, explicit_matrix(functional, X, y))
    assert torch.linalg.eigvalsh(A)[0] > -1e-12


def test_nll_of_softmax_is_the_fisher_information_of_cross_entropy():
    functional, X, y = make("cross-entropy")
    reference = matrix_of(functional, X, y)
    torch.testing.assert_close(matrix_of(*make("nll of log-softmax")), reference)
    # skorch adds the machine epsilon inside the logarithm.
    torch.testing.assert_close(
        matrix_of(*make("nll of softmax")), reference, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_batch_size_does_not_matter(batch_size):
    functional, X, y = make("cross-entropy")
    torch.testing.assert_close(
        matrix_of(functional, X, y, batch_size=batch_size),
        matrix_of(functional, X, y),
    )


def test_subsample_is_a_mean_over_some_of_the_rows():
    functional, X, y = make("mse")
    rows = np.sort(np.random.default_rng(0).choice(N_ROWS, 5, replace=False))
    torch.testing.assert_close(
        matrix_of(functional, X, y, n_samples=5),
        explicit_matrix(functional, X[rows], y[rows]),
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"damping": 0.0}, "damping must be a positive number"),
        ({"damping": "0.1"}, "damping must be a positive number"),
        ({"n_samples": 0}, "n_samples must be a positive integer"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    functional, X, y = make("mse")
    with pytest.raises(ValueError, match=message):
        matrix_of(functional, X, y, **parameters)
