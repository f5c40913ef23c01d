"""Pure functions of a fitted net against plain autograd."""

import copy

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_datadrop._functional import FunctionalNet, directional_derivative


def fitted(net_class, criterion, **parameters):
    net = net_class(MLP, criterion=criterion, **parameters).initialize()
    net.module_.double()
    return net


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return X, torch.tensor([0, 1, 2, 0, 1, 2])


def test_theta_holds_the_trainable_parameters_in_order():
    net = fitted(NeuralNetClassifier, nn.CrossEntropyLoss)
    net.module_.first.bias.requires_grad_(False)
    functional = FunctionalNet(net)
    expected = [
        p.detach().reshape(-1)
        for name, p in net.module_.named_parameters()
        if name != "first.bias"
    ]
    torch.testing.assert_close(functional.theta, torch.cat(expected))


@pytest.mark.parametrize(
    ("net_class", "criterion", "activation", "reference"),
    [
        (NeuralNetClassifier, nn.CrossEntropyLoss, None, F.cross_entropy),
        (NeuralNetClassifier, nn.NLLLoss, nn.Softmax(-1), F.cross_entropy),
        (NeuralNet, nn.NLLLoss, nn.LogSoftmax(-1), F.cross_entropy),
    ],
)
def test_row_losses_of_classifiers(net_class, criterion, activation, reference, batch):
    X, y = batch
    net = fitted(net_class, criterion, module__activation=activation)
    functional = FunctionalNet(net)
    logits = net.module_.second(torch.tanh(net.module_.first(X)))
    losses = functional.row_losses(functional.theta, X, y)
    torch.testing.assert_close(losses, reference(logits, y, reduction="none"))


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1 / 3), ("sum", 1.0)])
def test_row_losses_of_many_targets_reduce_as_the_criterion_does(
    reduction, factor, batch
):
    X, _ = batch
    y = torch.ones(6, 3, dtype=torch.float64)
    net = fitted(NeuralNetRegressor, nn.MSELoss, criterion__reduction=reduction)
    functional = FunctionalNet(net)
    expected = ((net.module_(X) - y) ** 2).sum(1) * factor
    torch.testing.assert_close(functional.row_losses(functional.theta, X, y), expected)


def test_state_dict_replaces_the_weights(batch):
    X, _ = batch
    net = fitted(NeuralNetClassifier, nn.CrossEntropyLoss)
    state = {k: 2 * v for k, v in net.module_.state_dict().items()}
    functional = FunctionalNet(net, state)
    torch.testing.assert_close(functional.theta, 2 * FunctionalNet(net).theta)
    assert not torch.equal(functional.raw_outputs(functional.theta, X), net.module_(X))


@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_batches_keep_the_order_of_the_rows(batch_size):
    functional = FunctionalNet(fitted(NeuralNetClassifier, nn.CrossEntropyLoss))
    X, y = np.arange(40.0).reshape(10, 4), np.arange(10)
    batches = list(functional.batches(X, y, batch_size))
    assert torch.equal(torch.cat([b[0] for b in batches]), torch.as_tensor(X))
    assert torch.equal(torch.cat([b[1] for b in batches]), torch.as_tensor(y))
    assert len(batches[0][0]) == min(batch_size or 128, 10)


def test_the_net_is_left_as_found(batch):
    X, y = batch
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)),
        criterion=nn.CrossEntropyLoss,
    ).initialize()
    net.module_.double().train()
    state = copy.deepcopy(net.module_.state_dict())
    functional = FunctionalNet(net)
    theta = functional.theta.clone().requires_grad_()
    functional.row_losses(theta, X, y).sum().backward()
    assert net.module_.training
    assert net.criterion_.reduction == "mean"
    assert all(p.grad is None for p in net.module_.parameters())
    for key, value in net.module_.state_dict().items():
        assert torch.equal(value, state[key])
    assert "iterator_valid__batch_size" not in vars(net)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.LSTM(4, 3)])
def test_directional_derivative_against_the_jacobian(layer):
    layer = layer.double()
    parameters = dict(layer.named_parameters())
    X = torch.randn(2, 5, 4, dtype=torch.float64)

    def outputs(theta):
        pieces = theta.split([p.numel() for p in parameters.values()])
        weights = {
            k: t.view_as(p)
            for (k, p), t in zip(parameters.items(), pieces, strict=True)
        }
        out = torch.func.functional_call(layer, weights, (X,))
        return (out if isinstance(out, torch.Tensor) else out[0]).reshape(-1)

    theta = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    v = torch.randn_like(theta)
    jacobian = torch.autograd.functional.jacobian(outputs, theta)
    torch.testing.assert_close(directional_derivative(outputs, theta, v), jacobian @ v)


def test_likelihoods_ignore_class_weights_and_smoothing(batch):
    X, y = batch
    weights = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64)
    net = fitted(
        NeuralNetClassifier,
        nn.CrossEntropyLoss,
        criterion__weight=weights,
        criterion__label_smoothing=0.2,
    )
    functional = FunctionalNet(net)
    raw = functional.raw_outputs(functional.theta, X)
    plain = F.cross_entropy(raw, y, reduction="none")
    torch.testing.assert_close(functional.likelihoods_from_raw(raw, y), plain)
    weighted = F.cross_entropy(
        raw, y, weight=weights, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(functional.losses_from_raw(raw, y), weighted)
    assert torch.equal(net.criterion_.weight, weights)


def test_attention_can_be_differentiated_twice():
    net = NeuralNetClassifier(
        nn.TransformerEncoderLayer,
        criterion=nn.MSELoss,
        module__d_model=4,
        module__nhead=2,
        module__dim_feedforward=8,
        module__batch_first=True,
    ).initialize()
    functional = FunctionalNet(net)
    X = torch.randn(3, 5, 4)
    v = torch.randn_like(functional.theta)

    def losses(theta):
        return functional.row_losses(theta, X, torch.zeros_like(X))

    step = 1e-3
    along = directional_derivative(losses, functional.theta, v)
    difference = losses(functional.theta + step * v) - losses(
        functional.theta - step * v
    )
    torch.testing.assert_close(along, difference / (2 * step), rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:You set iterator_valid__shuffle=True")
def test_a_shuffling_iterator_does_not_shuffle_the_scores():
    net = fitted(
        NeuralNetClassifier,
        nn.CrossEntropyLoss,
        iterator_valid__shuffle=True,
        iterator_valid__drop_last=True,
        iterator_valid__batch_size=4,
    )
    X = np.arange(40.0).reshape(10, 4)
    batches = [Xb for Xb, _ in FunctionalNet(net).batches(X, np.arange(10))]
    assert torch.equal(torch.cat(batches), torch.as_tensor(X))


class NoReduction(nn.Module):
    def forward(self, outputs, y):
        return ((outputs - y) ** 2).mean()


class IgnoresReduction(NoReduction):
    reduction = "mean"


def test_criterion_without_reduction_is_refused():
    with pytest.raises(ValueError, match="NoReduction has no per-row losses"):
        FunctionalNet(fitted(NeuralNetRegressor, NoReduction))


def test_criterion_that_ignores_reduction_is_refused(batch):
    X, _ = batch
    functional = FunctionalNet(fitted(NeuralNetRegressor, IgnoresReduction))
    with pytest.raises(ValueError, match="it must give one loss per row"):
        functional.row_losses(functional.theta, X, torch.zeros(6, 3))


def test_all_parameters_frozen_is_refused():
    net = fitted(NeuralNetClassifier, nn.CrossEntropyLoss)
    net.module_.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        FunctionalNet(net)


def test_module_with_several_outputs_is_refused(batch):
    net = NeuralNet(nn.LSTM, nn.MSELoss, module__input_size=4, module__hidden_size=2)
    functional = FunctionalNet(net.initialize())
    with pytest.raises(ValueError, match="must return one tensor"):
        functional.raw_outputs(functional.theta, batch[0].float())
