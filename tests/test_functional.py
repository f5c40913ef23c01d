"""Pure functions of a fitted net against plain autograd."""

import copy

import numpy as np
import pytest
import torch
from conftest import MLP, PenalisedNet
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from sk_datadrop._derivatives import METHODS
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._samples import Samples


def fitted(net_class, criterion, **parameters):
    net = net_class(MLP, criterion=criterion, **parameters).initialize()
    net.module_.double()
    return net


def losses_of(functional, X, y, theta=None):
    theta = functional.theta if theta is None else theta
    return functional.natural_losses(functional.natural_outputs(theta, X), y)


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
def test_losses_of_classifiers(net_class, criterion, activation, reference, batch):
    X, y = batch
    net = fitted(net_class, criterion, module__activation=activation)
    functional = FunctionalNet(net)
    logits = net.module_.second(torch.tanh(net.module_.first(X)))
    expected = reference(logits, y, reduction="none")
    torch.testing.assert_close(losses_of(functional, X, y), expected)
    outputs = functional.outputs(functional.theta, X)
    assert torch.equal(outputs, net.module_(X))
    torch.testing.assert_close(functional.losses(outputs, y), expected)
    torch.testing.assert_close(functional.criterion_losses(outputs, y), expected)


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1 / 3), ("sum", 1.0)])
def test_losses_of_many_targets_reduce_as_the_criterion_does(reduction, factor, batch):
    X, _ = batch
    y = torch.ones(6, 3, dtype=torch.float64)
    net = fitted(NeuralNetRegressor, nn.MSELoss, criterion__reduction=reduction)
    functional = FunctionalNet(net)
    expected = ((net.module_(X) - y) ** 2).sum(1) * factor
    torch.testing.assert_close(losses_of(functional, X, y), expected)


def test_state_dict_replaces_the_weights(batch):
    X, _ = batch
    net = fitted(NeuralNetClassifier, nn.CrossEntropyLoss)
    state = {k: 2 * v for k, v in net.module_.state_dict().items()}
    functional = FunctionalNet(net, state)
    torch.testing.assert_close(functional.theta, 2 * FunctionalNet(net).theta)
    assert not torch.equal(functional.outputs(functional.theta, X), net.module_(X))


@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_batches_keep_the_order_of_the_samples(batch_size):
    functional = FunctionalNet(fitted(NeuralNetClassifier, nn.CrossEntropyLoss))
    X, y = np.arange(40.0).reshape(10, 4), np.arange(10)
    batches = list(functional.batches(Samples(X, y), batch_size))
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
    losses_of(functional, X, y, theta).sum().backward()
    assert len(list(functional.batches(Samples(X, y), batch_size=2))) == 3
    assert net.module_.training
    assert net.criterion_.reduction == "mean"
    assert all(p.grad is None for p in net.module_.parameters())
    for key, value in net.module_.state_dict().items():
        assert torch.equal(value, state[key])
    assert "iterator_valid__batch_size" not in vars(net)


def failing(error):
    def method(function, point, direction):
        raise error

    return method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_no_reason_to_fall_back(error, method, batch, monkeypatch):
    functional = FunctionalNet(fitted(NeuralNetClassifier, nn.CrossEntropyLoss))
    for name in METHODS:
        monkeypatch.setitem(METHODS, name, failing(NotImplementedError("no formula")))
    monkeypatch.setitem(METHODS, method, failing(error))
    with pytest.raises(RuntimeError, match="memory"):
        functional.jvp(batch[0], functional.theta)
    assert functional.derivative is None


def test_the_method_is_settled_once(batch, monkeypatch):
    functional = FunctionalNet(fitted(NeuralNetClassifier, nn.CrossEntropyLoss))
    tried = []

    def forward_mode(*args):
        tried.append(args)
        raise NotImplementedError("no formula")

    monkeypatch.setitem(METHODS, "forward mode", forward_mode)
    for _ in range(3):
        functional.jvp(batch[0], functional.theta)
    assert functional.derivative == "reverse over reverse"
    assert len(tried) == 1


def test_a_later_failure_does_not_change_the_method(batch, monkeypatch):
    functional = FunctionalNet(fitted(NeuralNetClassifier, nn.CrossEntropyLoss))
    functional.jvp(batch[0], functional.theta)
    monkeypatch.setitem(METHODS, "forward mode", failing(RuntimeError("this batch")))
    with pytest.raises(RuntimeError, match="this batch"):
        functional.jvp(batch[0], functional.theta)
    assert functional.derivative == "forward mode"


def test_derivatives_lost_in_rounding_are_no_contradiction(batch):
    """The net is sure of every sample."""
    net = NeuralNetClassifier(
        MLP, criterion=nn.NLLLoss, module__activation=nn.Softmax(-1)
    ).initialize()
    with torch.no_grad():
        net.module_.second.bias[0] = 40
    functional = FunctionalNet(net)
    functional.jvp(batch[0].float(), functional.theta)
    assert functional.derivative == "forward mode"


class AlwaysDrops(MLP):
    def forward(self, X):
        return super().forward(F.dropout(X, 0.5))


def test_random_outputs_are_refused(batch):
    net = NeuralNetClassifier(AlwaysDrops, criterion=nn.CrossEntropyLoss)
    functional = FunctionalNet(net.initialize())
    with pytest.raises(ValueError, match="deterministic in evaluation mode"):
        functional.jvp(batch[0].float(), functional.theta)


def test_losses_of_the_criterion_ignore_class_weights_and_smoothing(batch):
    X, y = batch
    weights = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64)
    net = fitted(
        NeuralNetClassifier,
        nn.CrossEntropyLoss,
        criterion__weight=weights,
        criterion__label_smoothing=0.2,
    )
    functional = FunctionalNet(net)
    outputs = functional.outputs(functional.theta, X)
    plain = F.cross_entropy(outputs, y, reduction="none")
    torch.testing.assert_close(functional.criterion_losses(outputs, y), plain)
    weighted = F.cross_entropy(
        outputs, y, weight=weights, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(
        functional.criterion_losses(outputs, y, weighted=True), weighted
    )
    torch.testing.assert_close(functional.losses(outputs, y), weighted)
    assert torch.equal(net.criterion_.weight, weights)


def test_a_penalty_in_get_loss_is_a_constant_of_the_training_loss_only(batch):
    penalised, plain = (
        FunctionalNet(fitted(net_class, nn.CrossEntropyLoss))
        for net_class in (PenalisedNet, NeuralNetClassifier)
    )
    X, y = batch
    theta = plain.theta.clone().requires_grad_()
    expected = losses_of(plain, X, y, theta)
    found = losses_of(penalised, X, y, theta)
    # It is that of the weights of the net, wherever the loss is asked for.
    penalty = 0.1 * penalised.theta.abs().sum()
    torch.testing.assert_close(found, expected + penalty)
    assert torch.equal(*(gradient(a, theta) for a in (found, expected)))
    for weighted in (False, True):
        found, expected = (
            net.criterion_losses(net.outputs(theta, X), y, weighted=weighted)
            for net in (penalised, plain)
        )
        assert torch.equal(found, expected)
        assert torch.equal(*(gradient(a, theta) for a in (found, expected)))


def gradient(losses, theta):
    return torch.autograd.grad(losses.sum(), theta, retain_graph=True)[0]


class ReshapesTargets(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred, y_true.reshape(y_pred.shape), *args, **kwargs)


class CallsTwice(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        y_true = y_true[:, None]
        first = super().get_loss(y_pred, y_true, *args, **kwargs)
        return first + super().get_loss(3 * y_pred, y_true, *args, **kwargs)


class CallsNone(NeuralNetRegressor):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        errors = (y_pred[:, 0] - y_true) ** 4
        return errors if self.criterion_.reduction == "none" else errors.mean()


class ReducesHalfway(NeuralNetRegressor):
    """Gives one loss per sample where the criterion gives one per output."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        y_pred = torch.cat([y_pred, 3 * y_pred], dim=1)
        y_true = y_true[:, None].expand_as(y_pred)
        losses = super().get_loss(y_pred, y_true, *args, **kwargs)
        return losses.sum(1) if losses.ndim else 2 * losses


@pytest.mark.parametrize(
    ("net_class", "formula"),
    [
        (ReshapesTargets, lambda z, y: (z - y) ** 2),
        (CallsTwice, lambda z, y: (z - y) ** 2 + (3 * z - y) ** 2),
        (CallsNone, lambda z, y: (z - y) ** 4),
        (ReducesHalfway, lambda z, y: (z - y) ** 2 + (3 * z - y) ** 2),
    ],
)
def test_get_loss_may_do_more_than_call_the_criterion(net_class, formula, batch):
    X, y = batch[0], torch.randn(6, dtype=torch.float64)
    net = fitted(net_class, nn.MSELoss, module__n_outputs=1)
    functional = FunctionalNet(net)
    outputs = functional.outputs(functional.theta, X)
    expected = formula(net.module_(X)[:, 0], y)
    torch.testing.assert_close(functional.losses(outputs, y), expected)
    for weighted in (False, True):
        found = functional.criterion_losses(outputs, y, weighted=weighted)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(net.get_loss(outputs, y), expected.mean())


def test_an_error_in_get_loss_leaves_the_criterion_in_place(batch):
    X, y = batch
    functional = FunctionalNet(
        fitted(NeuralNetClassifier, nn.CrossEntropyLoss, criterion__label_smoothing=0.2)
    )
    outputs = functional.outputs(functional.theta, X)
    expected = functional.losses(outputs, y)
    with pytest.raises(IndexError):
        functional.criterion_losses(outputs, y + 1)
    assert torch.equal(functional.losses(outputs, y), expected)


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
    samples = Samples(X, np.arange(10))
    batches = [X_batch for X_batch, _ in FunctionalNet(net).batches(samples)]
    assert torch.equal(torch.cat(batches), torch.as_tensor(X))


class IgnoresReduction(nn.MSELoss):
    def forward(self, outputs, y):
        return ((outputs - y) ** 2).mean()


def test_a_criterion_that_ignores_its_reduction_is_refused(batch):
    functional = FunctionalNet(fitted(NeuralNetRegressor, IgnoresReduction))
    with pytest.raises(ValueError, match="it must give one loss per sample"):
        losses_of(functional, batch[0], torch.zeros(6, 3))


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_targets_that_broadcast_are_refused(batch):
    net = fitted(NeuralNetRegressor, nn.MSELoss, module__n_outputs=1)
    with pytest.raises(ValueError, match="gives 6 losses per sample for outputs of"):
        losses_of(FunctionalNet(net), batch[0], torch.zeros(6))


def test_all_parameters_frozen_is_refused():
    net = fitted(NeuralNetClassifier, nn.CrossEntropyLoss)
    net.module_.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        FunctionalNet(net)


class ReturnsSeveral(MLP):
    """A dict, as language models return, with hidden values and a constant."""

    def forward(self, X):
        hidden = self.first(X)
        return {
            "logits": self.second(torch.tanh(hidden)),
            "loss": None,
            "hidden": (hidden, X.argmax(1)),
        }


class PicksLogits(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        hidden, largest = y_pred["hidden"]
        assert largest.dtype == torch.int64
        assert y_pred["loss"] is None
        logits = y_pred["logits"]
        loss = super().get_loss(logits, y_true, *args, **kwargs)
        each = hidden.square().mean(1)
        return loss + (each if loss.ndim else each.mean())


def test_modules_may_return_several_tensors_of_which_get_loss_makes_a_loss(batch):
    X, y = batch
    torch.manual_seed(0)
    net = PicksLogits(ReturnsSeveral, criterion=nn.CrossEntropyLoss).initialize()
    net.module_.double()
    functional = FunctionalNet(net)
    outputs = functional.outputs(functional.theta, X)
    assert functional.returns_several
    returned = net.module_(X)
    hidden = returned["hidden"][0]
    plain = F.cross_entropy(returned["logits"], y, reduction="none")
    found = losses_of(functional, X, y)
    torch.testing.assert_close(found, plain + hidden.square().mean(1))
    # What it adds to the criterion says nothing of the sample.
    torch.testing.assert_close(functional.criterion_losses(outputs, y), plain)
    ((given, targets),) = functional.given_to_criterion(outputs, y)
    torch.testing.assert_close(given, returned["logits"])
    assert targets is y
    # Along a direction, all of them are differentiated.
    direction = torch.randn(functional.theta.shape, dtype=torch.float64)
    _, along = functional.jvp(X, direction)
    step = 1e-6 * direction
    after, before = (
        functional.natural_outputs(functional.theta + s, X) for s in (step, -step)
    )
    torch.testing.assert_close(along, (after - before) / 2e-6, rtol=1e-5, atol=1e-7)


def test_modules_without_a_tensor_of_numbers_are_refused(batch):
    class Counts(MLP):
        def forward(self, X):
            return [super().forward(X).argmax(1)]

    net = NeuralNetClassifier(Counts, criterion=nn.CrossEntropyLoss).initialize()
    functional = FunctionalNet(net)
    with pytest.raises(ValueError, match="must return a tensor of real numbers.* list"):
        functional.outputs(functional.theta, batch[0].float())


def test_a_compiled_criterion_is_that_which_was_compiled(batch):
    options = {"criterion__label_smoothing": 0.2}
    plain = fitted(NeuralNetClassifier, nn.CrossEntropyLoss, **options)
    compiled = copy.deepcopy(plain)
    compiled.criterion_ = torch.compile(plain.criterion_)
    X, y = batch
    found, expected = map(FunctionalNet, (compiled, plain))
    outputs = expected.outputs(expected.theta, X)
    for net in (found, expected):
        net.theta = expected.theta
    assert torch.equal(
        found.criterion_losses(outputs, y), expected.criterion_losses(outputs, y)
    )
    assert torch.equal(found.losses(outputs, y), expected.losses(outputs, y))


def test_a_collate_that_reorders_samples_is_refused(batch):
    net = NeuralNetClassifier(
        MLP,
        criterion=nn.CrossEntropyLoss,
        iterator_valid__collate_fn=lambda samples: default_collate(samples[::-1]),
    ).initialize()
    X = batch[0].numpy()
    with pytest.raises(ValueError, match="changes the samples, their order"):
        next(FunctionalNet(net).batches(Samples(X, np.arange(len(X)) % 3)))


def test_a_sampler_for_validation_does_not_reorder_the_scores(batch):
    X, y = batch[0].numpy(), np.arange(len(batch[0])) % 3
    backwards = list(range(len(X)))[::-1]
    net = NeuralNetClassifier(
        MLP, criterion=nn.CrossEntropyLoss, iterator_valid__sampler=backwards
    ).initialize()
    [(_, found)] = FunctionalNet(net).batches(Samples(X, y), len(X))
    np.testing.assert_array_equal(found, y)
