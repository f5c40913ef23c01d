"""Curvature products against explicit Jacobians and Hessians, in float64."""

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.autograd.functional import hessian, jacobian

from sk_datadrop import GaussNewton, Hessian
from sk_datadrop._functional import FunctionalNet

N_ROWS = 11


class OldStyleSquare(torch.autograd.Function):
    """Of the style that torch.func refuses: one forward that also fills the context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class OldStyleMSE(nn.MSELoss):
    def forward(self, outputs, y):
        losses = OldStyleSquare.apply(outputs - y)
        return losses if self.reduction == "none" else losses.mean()


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
    "mse by hand": (NeuralNetRegressor, OldStyleMSE, {}, "real"),
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


def operator_of(curvature, functional, X, y, **parameters):
    return curvature(**parameters).operator(
        functional, X, y, random_state=np.random.default_rng(0)
    )


def matrix_of(curvature, functional, X, y, **parameters):
    operator = operator_of(curvature, functional, X, y, **parameters)
    identity = torch.eye(operator.size, dtype=torch.float64)
    return torch.stack([operator.product(v) for v in identity])


def scale_of(curvature, functional, X, y, **parameters):
    parameters["scaling"] = "tensor"
    return operator_of(curvature, functional, X, y, **parameters).scale


def explicit_gauss_newton(functional, X, y):
    total = 0.0
    for x_row, y_row in zip(torch.as_tensor(X), torch.as_tensor(y), strict=True):
        x_row, y_row = x_row[None], y_row[None]
        z = functional.outputs(functional.theta, x_row)
        J = jacobian(lambda t, x=x_row: functional.outputs(t, x)[0], functional.theta)
        H = hessian(lambda z, y=y_row: functional.losses(z[None], y)[0], z[0])
        total = total + J.T @ H @ J
    return total / len(X)


def explicit_hessian(functional, X, y):
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    return hessian(
        lambda theta: functional.row_losses(theta, X, y).mean(), functional.theta
    )


EXPLICIT = {GaussNewton: explicit_gauss_newton, Hessian: explicit_hessian}
every_curvature = pytest.mark.parametrize("curvature", EXPLICIT)


@every_curvature
@pytest.mark.parametrize("case", CASES)
def test_products_against_explicit_matrices(curvature, case):
    functional, X, y = make(case)
    A = matrix_of(curvature, functional, X, y)
    torch.testing.assert_close(A, EXPLICIT[curvature](functional, X, y))


@pytest.mark.parametrize("case", CASES)
def test_gauss_newton_is_positive_semi_definite(case):
    assert torch.linalg.eigvalsh(matrix_of(GaussNewton, *make(case)))[0] > -1e-12


def test_hessian_of_an_untrained_net_is_indefinite():
    eigenvalues = torch.linalg.eigvalsh(matrix_of(Hessian, *make("cross-entropy")))
    assert eigenvalues[0] < -1e-3 < 1e-3 < eigenvalues[-1]


def test_hessian_is_gauss_newton_where_outputs_are_linear():
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        nn.Linear,
        module__in_features=4,
        module__out_features=3,
        criterion=nn.CrossEntropyLoss,
    ).initialize()
    net.module_.double()
    _, X, y = make("cross-entropy")
    torch.testing.assert_close(
        matrix_of(Hessian, FunctionalNet(net), X, y),
        matrix_of(GaussNewton, FunctionalNet(net), X, y),
    )


def test_hessian_of_a_loss_without_curvature_is_zero():
    torch.manual_seed(0)
    net = NeuralNetRegressor(
        nn.Linear,
        module__in_features=4,
        module__out_features=3,
        criterion=nn.L1Loss,
    ).initialize()
    net.module_.double()
    _, X, y = make("mse")
    assert not matrix_of(Hessian, FunctionalNet(net), X, y).any()


def test_hessian_products_do_not_run_the_net_again(monkeypatch):
    functional, X, y = make("mse")
    operator = operator_of(Hessian, functional, X, y)
    expected = explicit_hessian(functional, X, y)
    monkeypatch.setattr(functional, "raw_outputs", None)
    for v in torch.randn(2, operator.size, dtype=torch.float64):
        torch.testing.assert_close(operator.product(v), expected @ v)


@every_curvature
def test_products_are_counted_and_leave_no_graph(curvature):
    calls = []
    functional, X, y = make("mse")
    operator = curvature().operator(
        functional,
        X,
        y,
        random_state=np.random.default_rng(0),
        on_product=lambda: calls.append(1),
    )
    for _ in range(3):
        assert not operator.product(functional.theta).requires_grad
    assert len(calls) == 3


def test_nll_of_softmax_is_the_fisher_information_of_cross_entropy():
    functional, X, y = make("cross-entropy")
    reference = matrix_of(GaussNewton, functional, X, y)
    log_softmax = matrix_of(GaussNewton, *make("nll of log-softmax"))
    torch.testing.assert_close(log_softmax, reference)
    # skorch adds the machine epsilon inside the logarithm.
    torch.testing.assert_close(
        matrix_of(GaussNewton, *make("nll of softmax")), reference, rtol=1e-6, atol=1e-9
    )


@every_curvature
@pytest.mark.parametrize("max_memory", [1, 1000, 2000, 4000])
def test_memory_does_not_matter(curvature, max_memory):
    functional, X, y = make("cross-entropy")
    torch.testing.assert_close(
        matrix_of(curvature, functional, X, y, max_memory=max_memory),
        matrix_of(curvature, functional, X, y),
    )


@every_curvature
def test_graphs_that_do_not_fit_are_made_anew(curvature, monkeypatch):
    functional, X, y = make("cross-entropy")
    X, y = np.tile(X, (60, 1)), np.tile(y, 60)
    sizes = []
    original = functional.outputs

    def outputs(theta, X):
        sizes.append(len(X))
        return original(theta, X)

    monkeypatch.setattr(functional, "outputs", outputs)
    # What _derivatives spends on finding its method is not of interest.
    functional.jvp(torch.as_tensor(X[:2]), functional.theta)

    def rows_through_a_graph(max_memory):
        operator = operator_of(
            curvature, functional, X, y, n_samples=None, max_memory=max_memory
        )
        sizes.clear()
        operator.product(functional.theta)
        return sum(sizes)

    without_graphs = 660 if curvature is GaussNewton else 0
    assert rows_through_a_graph(1e9) == without_graphs
    assert rows_through_a_graph(1) == without_graphs + 660
    between = rows_through_a_graph(3e4)
    assert without_graphs < between < without_graphs + 660


@every_curvature
def test_subsample_is_a_mean_over_some_of_the_rows(curvature):
    functional, X, y = make("mse")
    rows = np.sort(np.random.default_rng(0).choice(N_ROWS, 5, replace=False))
    torch.testing.assert_close(
        matrix_of(curvature, functional, X, y, n_samples=5),
        EXPLICIT[curvature](functional, X[rows], y[rows]),
    )


@every_curvature
@pytest.mark.parametrize("case", CASES)
def test_scale_is_the_size_of_the_curvature_of_each_tensor(curvature, case):
    functional, X, y = make(case)
    along_theta = EXPLICIT[curvature](functional, X, y) @ functional.theta
    sizes = [4 * 5, 5, 5 * 3, 3]
    expected = torch.cat(
        [(v @ v / len(v)).sqrt().expand(len(v)) for v in along_theta.split(sizes)]
    )
    scale = scale_of(curvature, functional, X, y)
    torch.testing.assert_close(scale, expected / expected.mean())
    assert operator_of(curvature, functional, X, y).scale == 1.0


@every_curvature
def test_scale_does_not_depend_on_batches_or_the_order_of_the_rows(curvature):
    functional, X, y = make("cross-entropy")
    expected = scale_of(curvature, functional, X, y)
    order = np.random.default_rng(1).permutation(N_ROWS)
    shuffled = scale_of(curvature, functional, X[order], y[order], max_memory=1)
    torch.testing.assert_close(shuffled, expected)


@every_curvature
def test_scale_of_tensors_without_curvature(curvature):
    functional, X, y = make("mse")
    functional.theta[:25] = 0  # the first layer, so that the second sees zeros only
    functional.theta[25:40] = 0
    scale = scale_of(curvature, functional, X, y)
    assert (scale > 0).all()
    # Only the last bias moves the outputs.
    assert scale[:40].unique().numel() == 1
    assert scale[40] / scale[0] > 100
    functional.theta[:] = 0
    assert (scale_of(curvature, functional, X, y) == 1).all()


@every_curvature
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scaling": "layer"}, "scaling must be 'tensor' or None; got 'layer'"),
        ({"damping": 0.0}, "damping must be a positive number"),
        ({"damping": "0.1"}, "damping must be a positive number"),
        ({"n_samples": 0}, "n_samples must be a positive integer"),
        ({"n_samples": True}, "n_samples must be a positive integer; got True"),
        ({"max_memory": 0}, "max_memory must be a positive number of bytes"),
    ],
)
def test_parameters_out_of_range(curvature, parameters, message):
    functional, X, y = make("mse")
    with pytest.raises(ValueError, match=message):
        matrix_of(curvature, functional, X, y, **parameters)
