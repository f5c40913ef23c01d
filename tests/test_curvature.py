"""Curvature products against explicit Jacobians and Hessians, in float64."""

import weakref

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.autograd.functional import hessian, jacobian

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    GaussNewton,
    Hessian,
    InfluenceFunctions,
)
from sk_datadrop._curvature import (
    _tensor_scale,
    check_curvature,
    curvature_operator,
)
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._samples import Samples

N_SAMPLES = 11


class OldStyleSquare(torch.autograd.Function):
    """The style that torch.func refuses: one forward that also fills the context."""

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
    X = rng.normal(size=(N_SAMPLES, 4))
    y = {
        "labels": rng.integers(3, size=N_SAMPLES),
        "binary": rng.integers(2, size=(N_SAMPLES, 3)).astype(float),
        "real": rng.normal(size=(N_SAMPLES, 3)),
    }[kind]
    return FunctionalNet(net), Samples(X, y)


def operator_of(curvature, functional, samples, on_product=lambda: None, **parameters):
    return curvature_operator(
        curvature(**parameters),
        functional,
        samples,
        random_state=np.random.default_rng(0),
        on_product=on_product,
    )


def matrix_of(curvature, functional, samples, **parameters):
    operator = operator_of(curvature, functional, samples, **parameters)
    identity = torch.eye(operator.size, dtype=torch.float64)
    return torch.stack([operator.product(v) for v in identity])


def scale_of(curvature, functional, samples, **parameters):
    parameters["scaling"] = "tensor"
    return operator_of(curvature, functional, samples, **parameters).scale


def tensors(samples):
    return torch.as_tensor(samples.X), torch.as_tensor(samples.y)


def explicit_gauss_newton(functional, samples):
    total = 0.0
    for x, y in zip(*tensors(samples), strict=True):
        z = functional.natural_outputs(functional.theta, x[None])[0]
        J = jacobian(
            lambda t, x=x: functional.natural_outputs(t, x[None])[0], functional.theta
        )
        H = hessian(lambda z, y=y: functional.natural_losses(z[None], y[None])[0], z)
        total = total + J.T @ H @ J
    return total / len(samples)


def explicit_hessian(functional, samples):
    X, y = tensors(samples)

    def loss(theta):
        return functional.natural_losses(functional.natural_outputs(theta, X), y).mean()

    return hessian(loss, functional.theta)


EXPLICIT = {GaussNewton: explicit_gauss_newton, Hessian: explicit_hessian}
every_curvature = pytest.mark.parametrize("curvature", EXPLICIT)


@every_curvature
@pytest.mark.parametrize("case", CASES)
def test_products_against_explicit_matrices(curvature, case):
    functional, samples = make(case)
    A = matrix_of(curvature, functional, samples)
    torch.testing.assert_close(A, EXPLICIT[curvature](functional, samples))


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
    _, samples = make("cross-entropy")
    torch.testing.assert_close(
        matrix_of(Hessian, FunctionalNet(net), samples),
        matrix_of(GaussNewton, FunctionalNet(net), samples),
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
    _, samples = make("mse")
    assert not matrix_of(Hessian, FunctionalNet(net), samples).any()


def test_hessian_products_do_not_run_the_net_again(monkeypatch):
    functional, samples = make("mse")
    operator = operator_of(Hessian, functional, samples)
    expected = explicit_hessian(functional, samples)
    monkeypatch.setattr(functional, "outputs", None)
    for v in torch.randn(2, operator.size, dtype=torch.float64):
        torch.testing.assert_close(operator.product(v), expected @ v)


@every_curvature
def test_products_are_counted_and_leave_no_graph(curvature):
    calls = []
    functional, samples = make("mse")
    operator = operator_of(
        curvature, functional, samples, on_product=lambda: calls.append(1)
    )
    calls.clear()
    for _ in range(3):
        assert not operator.product(functional.theta).requires_grad
    assert len(calls) == 3


def test_nll_of_softmax_is_the_fisher_information_of_cross_entropy():
    functional, samples = make("cross-entropy")
    reference = matrix_of(GaussNewton, functional, samples)
    log_softmax = matrix_of(GaussNewton, *make("nll of log-softmax"))
    torch.testing.assert_close(log_softmax, reference)
    # skorch adds the machine epsilon inside the logarithm.
    torch.testing.assert_close(
        matrix_of(GaussNewton, *make("nll of softmax")), reference, rtol=1e-6, atol=1e-9
    )


@every_curvature
@pytest.mark.parametrize("max_memory", [1, 1000, 2000, 4000])
def test_memory_does_not_matter(curvature, max_memory):
    functional, samples = make("cross-entropy")
    torch.testing.assert_close(
        matrix_of(curvature, functional, samples, max_memory=max_memory),
        matrix_of(curvature, functional, samples),
    )


class CountsSamples(MLP):
    """Adds up the samples that run through it."""

    n_samples = 0

    def forward(self, X):
        CountsSamples.n_samples += len(X)
        return super().forward(X)


@every_curvature
def test_graphs_that_do_not_fit_are_made_anew(curvature):
    net = NeuralNetClassifier(CountsSamples, criterion=nn.CrossEntropyLoss)
    net.initialize().module_.double()
    functional = FunctionalNet(net)
    samples = make("cross-entropy")[1][np.tile(np.arange(N_SAMPLES), 60)]
    # The search for a method of differentiation is not of interest.
    functional.jvp(tensors(samples)[0][:2], functional.theta)

    def samples_of_a_product(max_memory):
        operator = operator_of(
            curvature, functional, samples, n_samples=None, max_memory=max_memory
        )
        CountsSamples.n_samples = 0
        operator.product(functional.theta)
        return CountsSamples.n_samples

    without_graphs = 660 if curvature is GaussNewton else 0
    assert samples_of_a_product(1e9) == without_graphs
    assert samples_of_a_product(1) == without_graphs + 660
    between = samples_of_a_product(3e4)
    assert without_graphs < between < without_graphs + 660


@every_curvature
def test_subsample_is_a_mean_over_some_of_the_samples(curvature):
    functional, samples = make("mse")
    drawn = np.sort(np.random.default_rng(0).choice(N_SAMPLES, 5, replace=False))
    torch.testing.assert_close(
        matrix_of(curvature, functional, samples, n_samples=5),
        EXPLICIT[curvature](functional, samples[drawn]),
    )


@every_curvature
@pytest.mark.parametrize("case", CASES)
def test_scale_is_the_size_of_the_curvature_of_each_tensor(curvature, case):
    functional, samples = make(case)
    signs = np.random.default_rng(0).choice([-1, 1], len(functional.theta))
    along_signs = EXPLICIT[curvature](functional, samples) @ torch.as_tensor(signs).to(
        functional.theta
    )
    sizes = [4 * 5, 5, 5 * 3, 3]
    expected = torch.cat(
        [(v @ v / len(v)).sqrt().expand(len(v)) for v in along_signs.split(sizes)]
    )
    scale = scale_of(curvature, functional, samples)
    torch.testing.assert_close(scale, expected / expected.mean())
    assert operator_of(curvature, functional, samples, scaling=None).scale == 1.0


@every_curvature
def test_scale_does_not_depend_on_batches_or_the_order_of_the_samples(curvature):
    functional, samples = make("cross-entropy")
    expected = scale_of(curvature, functional, samples)
    order = np.random.default_rng(1).permutation(N_SAMPLES)
    shuffled = scale_of(curvature, functional, samples[order], max_memory=1)
    torch.testing.assert_close(shuffled, expected)


def test_scale_of_tensors_without_curvature():
    functional, samples = make("mse")
    functional.theta[:40] = 0  # all but the last bias
    scale = scale_of(GaussNewton, functional, samples)
    assert (scale > 0).all()
    # Only the last bias moves the outputs.
    assert scale[:40].unique().numel() == 1
    assert scale[40] / scale[0] > 100
    assert (_tensor_scale(functional, torch.zeros_like) == 1).all()


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_scale_does_not_depend_on_the_size_of_a_bias(size):
    """A bias that is next to zero has as much curvature as any other."""
    net = NeuralNetRegressor(nn.Linear, module__in_features=3, module__out_features=1)
    net.initialize().module_.double()
    net.module_.bias.data.fill_(size)
    X = np.random.default_rng(0).normal(size=(2000, 3))
    samples = Samples(X, X.sum(1, keepdims=True))
    scale = scale_of(GaussNewton, FunctionalNet(net), samples)
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=0.2, atol=0)


@every_curvature
@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"scaling": "layer"}, ValueError, "'tensor' or None; got 'layer'"),
        ({"damping": 0.0}, ValueError, "damping == 0.0, must be > 0"),
        ({"damping": "0.1"}, TypeError, "damping must be an instance of float"),
        ({"n_samples": 0}, ValueError, "n_samples == 0, must be >= 1"),
        ({"n_samples": 2.0}, TypeError, "n_samples must be an instance of int"),
        ({"max_memory": 0}, ValueError, "max_memory == 0, must be > 0"),
    ],
)
def test_parameters_out_of_range(curvature, parameters, error, message):
    with pytest.raises(error, match=message):
        check_curvature(curvature(**parameters))


@every_curvature
def test_parameters_in_range(curvature):
    check_curvature(curvature())
    check_curvature(curvature(damping=2, scaling="tensor", n_samples=1, max_memory=1))
    check_curvature(curvature(n_samples=None))


class Pinball(nn.Module):
    """Quantile loss of the 0.8 quantile."""

    reduction = "mean"

    def forward(self, outputs, y):
        losses = torch.maximum(0.8 * (y - outputs), 0.2 * (outputs - y))
        return losses if self.reduction == "none" else losses.mean()


class TestLossesWithoutSecondDerivative:
    def functional(self, criterion, targets="mse"):
        torch.manual_seed(0)
        kind = NeuralNetRegressor if targets == "mse" else NeuralNetClassifier
        net = kind(MLP, criterion=criterion).initialize()
        net.module_.double()
        return FunctionalNet(net), make(targets)[1]

    def jacobian(self, functional, samples):
        X, _ = tensors(samples)
        function = lambda theta: functional.outputs(theta, X)  # noqa: E731
        return jacobian(function, functional.theta).reshape(N_SAMPLES * 3, -1)

    def test_of_absolute_errors_it_is_that_of_laplace(self):
        """Minus the log-likelihood is |r| / b, and Fisher's information 1 / b^2."""
        functional, samples = self.functional(nn.L1Loss)
        J = self.jacobian(functional, samples)
        X, y = tensors(samples)
        errors = (functional.outputs(functional.theta, X) - y).abs().mean(1)
        expected = J.T @ J / (3 * errors.median() * N_SAMPLES)
        found = matrix_of(GaussNewton, functional, samples)
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize(
        ("criterion", "targets"),
        [(Pinball, "mse"), (nn.MultiMarginLoss, "cross-entropy")],
    )
    def test_it_is_as_large_as_the_loss_says(self, criterion, targets):
        functional, samples = self.functional(criterion, targets)
        J = self.jacobian(functional, samples)
        found = matrix_of(GaussNewton, functional, samples)
        size = found.trace() / (J.T @ J).trace()
        torch.testing.assert_close(found, size * J.T @ J)
        assert 0.01 < float(size) < 1

    def test_nothing_stands_for_the_curvature_of_a_saturated_net(self):
        functional, samples = self.functional(nn.CrossEntropyLoss, "cross-entropy")
        functional.theta = functional.theta * 1e6
        assert not matrix_of(GaussNewton, functional, samples).any()

    def test_a_few_samples_with_curvature_are_enough(self):
        functional, samples = self.functional(
            lambda: nn.HuberLoss(delta=1e-3), targets="mse"
        )
        X, y = tensors(samples)
        y[-1] = functional.outputs(functional.theta, X)[-1].detach() + 1e-4
        samples = Samples(samples.X, y.numpy())
        last = Samples(samples.X[-1:], samples.y[-1:])
        torch.testing.assert_close(
            matrix_of(GaussNewton, functional, samples) * N_SAMPLES,
            matrix_of(GaussNewton, functional, last),
        )


@pytest.mark.parametrize("criterion", [nn.L1Loss, Pinball])
def test_wrong_targets_are_found_by_absolute_errors(criterion, regressor):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)).astype(np.float32)
    y = X[:, 0] - X[:, 1] + 0.1 * rng.normal(size=200).astype(np.float32)
    y[:20] += 6
    regressor.set_params(criterion=criterion, max_epochs=20, module__n_hidden=20)
    model = DataDropoutRegressor(regressor, random_state=0).fit(X, y)
    assert (~model.sample_mask_[:20]).sum() >= 18
    assert model.n_dropped_ <= 24
    assert not np.isnan(model.influence_).any()


def test_wrong_labels_are_found_by_margins(classifier, blobs):
    X, y = blobs
    y = np.where(np.arange(90) < 15, (y + 1) % 3, y)
    classifier.set_params(criterion=nn.MultiMarginLoss, max_epochs=10)
    model = DataDropoutClassifier(classifier, random_state=0).fit(X, y)
    assert (~model.sample_mask_[:15]).sum() >= 10
    assert model.n_dropped_ <= 20


def test_a_hessian_that_torch_does_not_have_is_refused(classifier, blobs, trainings):
    classifier.set_params(criterion=nn.MultiMarginLoss)
    engine = InfluenceFunctions(curvature=Hessian())
    message = "second derivative of the loss, .* MultiMarginLoss. Choose GaussNewton"
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, engine=engine).fit(*blobs)
    assert trainings == []


@every_curvature
def test_graphs_are_freed_with_their_products(curvature):
    """A saved output that kept its own history would keep the graph for ever."""
    outputs = []

    class Watched(nn.ReLU):
        def forward(self, X):
            result = super().forward(X)
            outputs.append(weakref.ref(result))
            return result

    net = NeuralNetRegressor(MLP, module__n_outputs=2).initialize()
    net.module_.activation = Watched()
    X = np.random.default_rng(0).normal(size=(N_SAMPLES, 4)).astype(np.float32)
    samples = Samples(X, X[:, :2])
    operator = operator_of(curvature, FunctionalNet(net), samples)
    operator.product(torch.ones(operator.size))
    del operator
    assert outputs
    assert not any(output() is not None for output in outputs)
