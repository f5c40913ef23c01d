"""Held-out objectives against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MLP, PenalisedNet
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_datadrop import influence_scores
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objective import HeldOutObjective, check_objective
from sk_datadrop._reading import Reading
from sk_datadrop._samples import Samples


def classifier(net_class=NeuralNetClassifier, **parameters):
    torch.manual_seed(0)
    net = net_class(MLP, criterion=nn.CrossEntropyLoss, **parameters).initialize()
    net.module_.double()
    return net


@pytest.fixture
def samples():
    """Nine samples of three classes."""
    X, y = np.random.default_rng(0).normal(size=(9, 4)), np.repeat([0, 1, 2], [6, 2, 1])
    return Samples(X, y, codes=y)


LOGITS = Reading("logits", n_classes=3)


def values_of(objective, net):
    functional = FunctionalNet(net)
    X, y = (torch.as_tensor(a) for a in (objective.samples.X, objective.samples.y))
    return objective.values(functional, functional.theta, X, y)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_bounded_is_one_minus_the_probability_of_the_given_class(samples, scale):
    net = classifier()
    probabilities = net.module_(torch.as_tensor(samples.X)).softmax(1)
    known = probabilities[torch.arange(9), torch.as_tensor(samples.y)]
    objective = HeldOutObjective("bounded", samples, LOGITS, np.full(3, scale))
    found = values_of(objective, net)
    torch.testing.assert_close(found, 1 - known ** (1 / scale))


def test_loss_is_the_training_loss_with_class_weights_and_smoothing(samples):
    weight = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64)
    net = classifier(criterion__weight=weight, criterion__label_smoothing=0.2)
    logits = net.module_(torch.as_tensor(samples.X))
    expected = F.cross_entropy(
        logits,
        torch.as_tensor(samples.y),
        weight=weight,
        label_smoothing=0.2,
        reduction="none",
    )
    found = values_of(HeldOutObjective("loss", samples), net)
    torch.testing.assert_close(found, expected)
    plain = F.cross_entropy(logits, torch.as_tensor(samples.y), reduction="none")
    found = values_of(HeldOutObjective("bounded", samples, LOGITS), net)
    torch.testing.assert_close(found, 1 - torch.exp(-plain))


def test_a_callable_gets_outputs_and_targets(samples):
    net = classifier()
    logits = net.module_(torch.as_tensor(samples.X))
    found = values_of(HeldOutObjective(lambda z, y: z[:, 0] - y, samples), net)
    torch.testing.assert_close(found, logits[:, 0] - torch.as_tensor(samples.y))


@pytest.mark.parametrize("result", [torch.tensor(1.0), torch.zeros(9, 1), 3.0])
def test_a_callable_must_return_one_value_per_sample(samples, result):
    objective = HeldOutObjective(lambda outputs, y: result, samples)
    with pytest.raises(ValueError, match=r"objective must return .* shape \(9,\)"):
        values_of(objective, classifier())


@pytest.fixture
def slope():
    """A net whose squared errors on targets of zero are the squares of its inputs."""
    net = NeuralNetRegressor(nn.Linear, module__in_features=1, module__out_features=1)
    net.initialize()
    with torch.no_grad():
        net.module_.weight.fill_(1)
        net.module_.bias.fill_(0)
    return net


@pytest.mark.parametrize("unit", [1, 1e6])
def test_regression_levels_off_at_three_deviations_in_any_unit(slope, unit):
    X = unit * np.array([[1], [3], [-2], [5]], np.float32)
    objective = HeldOutObjective("bounded", Samples(X, 0 * X))
    scales = objective.scaled_by(FunctionalNet(slope), batch_size=3).scales
    np.testing.assert_allclose(scales, 2.985**2 * (4 + 9) / 2 * unit**2, rtol=1e-6)


def test_bounded_survives_a_median_of_zero(slope):
    X = np.array([[0], [0], [0], [1]], np.float32)
    objective = HeldOutObjective("bounded", Samples(X, 0 * X))
    objective = objective.scaled_by(FunctionalNet(slope))
    values = values_of(objective, slope).detach()
    np.testing.assert_array_equal(values, [0.0, 0.0, 0.0, 1.0])
    assert objective.mean(FunctionalNet(slope)) == 0.25


def test_the_scale_is_the_median_loss_of_a_class_the_net_hardly_knows():
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    with torch.no_grad():
        net.module_.second.bias.copy_(torch.tensor([3.0, 0.0, -3.0]))
    X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    y = np.repeat([0, 2], [4, 8])
    objective = HeldOutObjective("bounded", Samples(X, y, codes=y), LOGITS)
    functional = FunctionalNet(net)
    losses = -np.log(net.predict_proba(X)[np.arange(12), y])
    rare = np.median(losses[y == 2])
    assert rare > 4
    assert losses[y == 0].max() < 1
    scaled = objective.scaled_by(functional, batch_size=5)
    np.testing.assert_allclose(scaled.scales, [1, 1, rare], rtol=1e-5)
    values = 1 - np.exp(-losses / scaled.scales[y])
    expected = (values[y == 0].mean() + values[y == 2].mean()) / 2
    assert scaled.mean(functional) == pytest.approx(expected, rel=1e-5)
    loss = replace(objective, kind="loss").scaled_by(functional)
    np.testing.assert_array_equal(loss.scales, [1])
    assert loss.mean(functional) == pytest.approx(losses.mean(), rel=1e-5)


def test_classes_weigh_the_same_and_those_not_held_out_do_not_matter():
    samples = Samples(np.zeros(4), np.zeros(4), codes=np.array([7, 2, 7, 7]))
    objective = HeldOutObjective("bounded", samples)
    np.testing.assert_array_equal(objective.codes, [1, 0, 1, 1])
    np.testing.assert_allclose(objective.weights, [1 / 3, 1, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(replace(objective, kind="loss").weights, np.ones(4))


@pytest.mark.parametrize("codes", [None, np.zeros(2, dtype=int)])
def test_targets_that_are_no_classes_weigh_the_same(codes):
    objective = HeldOutObjective("bounded", Samples(np.zeros(2), [3.0, 4.0], codes))
    np.testing.assert_array_equal(objective.codes, [0, 0])
    np.testing.assert_array_equal(objective.weights, [0.5, 0.5])


def flat_gradient(value, module):
    gradients = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in gradients])


@pytest.mark.parametrize("batch_size", [4, None])
def test_classes_weigh_the_same_in_the_gradient_of_the_bounded_objective(
    samples, batch_size
):
    net, y = classifier(), samples.y
    probabilities = net.module_(torch.as_tensor(samples.X)).softmax(1)
    known = probabilities[torch.arange(9), torch.as_tensor(y)]
    medians = [np.median(-known.detach().log().numpy()[y == c]) for c in range(3)]
    power = torch.as_tensor([1 / max(1, median) for median in medians])[y]
    assert power.min() < 1
    by_class = [(1 - known**power)[y == c].mean() for c in range(3)]
    for kind, mean in (
        ("bounded", torch.stack(by_class).mean()),
        ("loss", -known.log().mean()),
    ):
        functional = FunctionalNet(net)
        objective = HeldOutObjective(kind, samples, LOGITS)
        objective = objective.scaled_by(functional, batch_size)
        found = objective.gradients(functional, np.zeros(9, dtype=int), batch_size)
        torch.testing.assert_close(found[:, 0], flat_gradient(mean, net.module_))


def test_each_group_has_a_gradient_of_its_own(samples):
    net = classifier()
    probabilities = net.module_(torch.as_tensor(samples.X)).softmax(1)
    values = 1 - probabilities[torch.arange(9), torch.as_tensor(samples.y)]
    groups = np.array([0, 1, 0, 1, 0, 1, 1, 0, 0])
    objective = HeldOutObjective("bounded", samples, LOGITS, np.ones(3))
    found = objective.gradients(FunctionalNet(net), groups, batch_size=2)
    # A sample weighs one over the number of its class, among all that are held out.
    weights = 1 / torch.tensor([6.0] * 6 + [2.0] * 2 + [1.0], dtype=torch.float64)
    for group in (0, 1):
        own = torch.as_tensor(groups == group)
        mean = (values * weights)[own].sum() / weights[own].sum()
        torch.testing.assert_close(found[:, group], flat_gradient(mean, net.module_))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            lambda outputs, y: outputs[:, 0] / (y != 1) * (y != 1),
            "objective is NaN or infinite for 2 of 9 held-out samples",
        ),
        (lambda outputs, y: outputs[:, 0].detach(), "does not follow the parameters"),
        (lambda outputs, y: (outputs.argmax(1) == y).float(), "does not follow the p"),
    ],
    ids=["NaN", "detached", "accuracy"],
)
def test_objectives_without_a_gradient_are_refused(samples, kind, message):
    objective = HeldOutObjective(kind, samples)
    with pytest.raises(ValueError, match=message):
        objective.gradients(FunctionalNet(classifier()), np.zeros(9, int), batch_size=2)


def test_nets_that_give_no_numbers_are_blamed_before_the_objective(samples):
    net = classifier()
    X = np.where(np.arange(9)[:, None] < 4, np.nan, samples.X)
    objective = HeldOutObjective("loss", replace(samples, X=X))
    message = "the net gives NaN for 4 of 9 samples among those held out"
    with pytest.raises(ValueError, match=message):
        objective.gradients(FunctionalNet(net), np.zeros(9, dtype=int))


def test_a_mean_that_is_no_number_is_refused(samples):
    objective = HeldOutObjective(lambda outputs, y: outputs[:, 0] + torch.inf, samples)
    with pytest.raises(ValueError, match="objective of the trained net is inf"):
        objective.mean(FunctionalNet(classifier()))


@pytest.mark.parametrize("kind", ["accuracy", None, 1])
def test_unknown_objectives_are_refused(kind):
    with pytest.raises(ValueError, match=f"objective must be .*; got {kind!r}"):
        check_objective(kind)


@pytest.mark.parametrize("kind", ["bounded", "loss", torch.add])
def test_known_objectives_are_not_refused(kind):
    check_objective(kind)


class Density(nn.MSELoss):
    """Minus the logarithm of a density of spread 0.1, up to a constant."""

    shift = -100.0

    def forward(self, outputs, y):
        return 50 * super().forward(outputs, y) + self.shift


class Unshifted(Density):
    shift = 0.0


def test_losses_below_zero_count_from_the_lowest():
    """Gradients keep their ratios, and so do the influences."""
    X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    samples = Samples(X, X[:, :1].copy())
    found = []
    for criterion in (Density, Unshifted):
        torch.manual_seed(0)
        net = NeuralNetRegressor(MLP, module__n_outputs=1, criterion=criterion)
        functional = FunctionalNet(net.initialize())
        objective = HeldOutObjective("bounded", samples).scaled_by(functional)
        assert 0 < objective.mean(functional) < 1
        found.append(objective)
        losses = functional.criterion_losses(
            functional.outputs(functional.theta, torch.as_tensor(X)),
            torch.as_tensor(samples.y),
        )
        assert objective.lowest == pytest.approx(min(float(losses.min()), 0))
    assert found[0].lowest < -50
    assert found[1].lowest == 0


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("log_input", [True, False])
def test_poisson_losses_are_half_the_deviance(full, log_input):
    """They are zero where the prediction is the target, and positive elsewhere."""
    net = NeuralNetRegressor(
        MLP,
        module__n_outputs=1,
        criterion=nn.PoissonNLLLoss,
        criterion__full=full,
        criterion__log_input=log_input,
    )
    functional = FunctionalNet(net.initialize())
    y = torch.tensor([0.0, 1.0, 2.0, 7.0, 90.0])[:, None]
    rates = torch.tensor([0.5, 2.0, 1.0, 9.0, 60.0])[:, None]
    deviance = 2 * (torch.xlogy(y, y / rates) - (y - rates))
    for rate, expected in ((rates, deviance / 2), (y + 1e-9, torch.zeros_like(y))):
        outputs = rate.log() if log_input else rate
        found = functional.criterion_losses(outputs, y)[:, None]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bounded", "loss"])
def test_a_penalty_on_the_weights_has_no_part_in_the_objective(samples, kind):
    scales, values, gradients, means = [], [], [], []
    for net_class in (PenalisedNet, NeuralNetClassifier):
        net = classifier(net_class)
        functional = FunctionalNet(net)
        objective = HeldOutObjective(kind, samples, LOGITS).scaled_by(functional)
        scales.append(objective.scales)
        values.append(values_of(objective, net))
        gradients.append(objective.gradients(functional, np.arange(9) % 2))
        means.append(objective.mean(functional))
    np.testing.assert_array_equal(*scales)
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert means[0] == means[1]


@pytest.mark.parametrize("kind", ["bounded", "loss"])
def test_a_penalty_on_the_weights_does_not_change_the_scores(blobs, kind):
    X, y = blobs
    torch.manual_seed(0)
    penalised = PenalisedNet(
        MLP, criterion=nn.CrossEntropyLoss, lr=0.1, train_split=None, verbose=0
    ).fit(X[:60], y[:60])
    plain = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    plain.module_.load_state_dict(penalised.module_.state_dict())
    found, expected = (
        influence_scores(
            net, X[:60], y[:60], X[60:], y[60:], objective=kind, random_state=0
        )
        for net in (penalised, plain)
    )
    np.testing.assert_array_equal(found.influence, expected.influence)


def of_places(outputs, y, reading, scales=None, criterion=nn.BCEWithLogitsLoss):
    """Return the objective of outputs that a net gives as they come in."""
    net = NeuralNetRegressor(Passes, criterion=criterion).initialize()
    samples = Samples(np.asarray(outputs), np.asarray(y))
    objective = HeldOutObjective("bounded", samples, reading, scales)
    return objective, FunctionalNet(net), values_of(objective, net).detach().numpy()


class Passes(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, X):
        return self.scale * X


def test_of_labels_it_is_the_mean_over_them():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    y = rng.integers(0, 2, (6, 4)).astype(np.float32)
    found = of_places(logits, y, Reading("logits", is_binary=True))[2]
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found, (y * (1 - p) + (1 - y) * p).mean(1), rtol=1e-5)


def test_of_pixels_it_is_the_mean_over_those_that_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3, 2, 2)).astype(np.float32)
    y = rng.integers(0, 3, (5, 2, 2))
    y[0, 0], y[1] = -100, -100
    scales = np.array([1.0, 2.0, 1.0])
    found = of_places(logits, y, LOGITS, scales, criterion=nn.CrossEntropyLoss)[2]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    known = np.take_along_axis(p, np.maximum(y, 0)[:, None], axis=1)[:, 0]
    values = 1 - known ** (1 / scales[np.maximum(y, 0)])
    np.testing.assert_allclose(found[0], values[0, 1].mean(), rtol=1e-5)
    assert found[1] == 0
    np.testing.assert_allclose(found[2:], values[2:].mean((1, 2)), rtol=1e-5)


def test_scales_of_places_are_medians_over_all_places_of_a_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3, 8)).astype(np.float32)
    logits[:, 2] -= 6
    y = rng.integers(0, 3, (5, 8))
    objective, net, _ = of_places(logits, y, LOGITS, criterion=nn.CrossEntropyLoss)
    surprise = np.log(np.exp(logits).sum(1)) - np.take_along_axis(
        logits, y[:, None], axis=1
    ).squeeze(1)
    expected = [max(1, np.median(surprise[y == c])) for c in range(3)]
    assert expected[2] > 5
    scaled = objective.scaled_by(net, batch_size=2)
    np.testing.assert_allclose(scaled.scales, expected, rtol=1e-5)


def test_of_probabilities_as_targets_it_is_bounded_divergence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    y = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    found = of_places(logits, y, LOGITS, criterion=nn.CrossEntropyLoss)[2]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    divergence = (y * np.log(y / p)).sum(1)
    np.testing.assert_allclose(found, 1 - np.exp(-divergence), rtol=1e-3, atol=1e-6)
    # Lowest, and zero, where chances are those given.
    of_same = of_places(np.log(y), y, LOGITS, criterion=nn.CrossEntropyLoss)[2]
    np.testing.assert_allclose(of_same, 0, atol=1e-6)
