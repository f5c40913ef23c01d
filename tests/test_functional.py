"""Pure functions of a fitted net against plain autograd."""

import copy

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from sk_datadrop._derivatives import METHODS
from sk_datadrop._functional import FunctionalNet


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
    """Of a net sure of every row."""
    net = NeuralNetClassifier(
        MLP, criterion=nn.NLLLoss, module__activation=nn.Softmax(-1)
    ).initialize()
    with torch.no_grad():
        net.module_.second.bias[0] = 40
    functional = FunctionalNet(net)
    functional.jvp(batch[0].float(), functional.theta)
    assert functional.derivative == "forward mode"


def test_gradients_of_embeddings_are_not_scaled_by_batch():
    net = NeuralNetClassifier(
        nn.Embedding,
        criterion=nn.CrossEntropyLoss,
        module__num_embeddings=5,
        module__embedding_dim=3,
        module__scale_grad_by_freq=True,
    ).initialize()
    functional = FunctionalNet(net)
    theta = functional.theta.clone().requires_grad_()
    X, y = torch.tensor([2, 2, 4]), torch.tensor([0, 1, 2])
    losses = functional.row_losses(theta, X, y)
    together = torch.autograd.grad(losses.sum(), theta, retain_graph=True)[0]
    apart = [torch.autograd.grad(a, theta, retain_graph=True)[0] for a in losses]
    alone = torch.autograd.grad(functional.row_losses(theta, X[:1], y[:1]), theta)[0]
    torch.testing.assert_close(together, sum(apart))
    torch.testing.assert_close(apart[0], alone)
    assert net.module_.scale_grad_by_freq


class AlwaysDrops(MLP):
    def forward(self, X):
        return super().forward(F.dropout(X, 0.5))


def test_random_outputs_are_refused(batch):
    net = NeuralNetClassifier(AlwaysDrops, criterion=nn.CrossEntropyLoss)
    functional = FunctionalNet(net.initialize())
    with pytest.raises(ValueError, match="deterministic in evaluation mode"):
        functional.jvp(batch[0].float(), functional.theta)


class Detaches(MLP):
    """The first layer is out of reach, and on demand the second."""

    def __init__(self, everything=False, rare=False):
        super().__init__()
        self.everything, self.rare = everything, rare

    def forward(self, X):
        first = torch.tanh(self.first(X))
        if not (self.rare and X[0, 0] > 0):
            first = first.detach()
        out = self.second(first)
        return out.detach() if self.everything else out


def detaching(**options):
    net = NeuralNetClassifier(Detaches, criterion=nn.CrossEntropyLoss, **options)
    return FunctionalNet(net.initialize())


ROWS = np.array([[-1.0] * 4, [-1.0] * 4, [1.0] * 4], np.float32), np.array([0, 1, 2])


def test_parameters_out_of_reach_are_named():
    with pytest.warns(UserWarning, match=r"parameters first.weight, first.bias: they"):
        detaching().check_reached(*ROWS)


def test_parameters_that_one_batch_reaches_are_no_matter():
    detaching(module__rare=True).check_reached(*ROWS, batch_size=2)


def test_outputs_that_no_parameter_reaches_are_refused():
    with pytest.raises(ValueError, match="depend on none of its trainable"):
        detaching(module__everything=True).check_reached(*ROWS)


class ReportsCuDNN(MLP):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(1, 1)

    def forward(self, X):
        return super().forward(X) + float(torch.backends.cudnn.enabled)


def test_cudnn_is_off_for_recurrent_layers_and_on_again(batch):
    """It has no derivative of them in evaluation mode."""
    net = NeuralNetClassifier(ReportsCuDNN, criterion=nn.CrossEntropyLoss).initialize()
    before = torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    functional = FunctionalNet(net)
    X = batch[0].float()
    expected = net.module_(X) - float(before[0])
    torch.testing.assert_close(functional.raw_outputs(functional.theta, X), expected)
    after = torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    assert after == before


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


class Weighs(nn.MSELoss):
    """Has weights of targets, which torch knows nothing of."""

    def __init__(self, reduction="mean"):
        super().__init__(reduction=reduction)
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, outputs, y):
        return self.weight * super().forward(outputs, y)


def test_weights_of_a_criterion_of_the_user_stay(batch):
    functional = FunctionalNet(fitted(NeuralNetRegressor, Weighs))
    raw = functional.raw_outputs(functional.theta, batch[0])
    torch.testing.assert_close(
        functional.likelihoods_from_raw(raw, 0 * raw),
        (raw**2 * torch.tensor([1, 2, 3])).mean(1),
    )


class NeedsWeights(nn.CrossEntropyLoss):
    def forward(self, outputs, y):
        return self.weight[y] * F.cross_entropy(outputs, y, reduction=self.reduction)


def test_a_criterion_that_needs_its_weights_is_refused_before_training(batch):
    net = fitted(NeuralNetClassifier, NeedsWeights, criterion__weight=torch.ones(3))
    with pytest.raises(ValueError, match="NeedsWeights failed without class weights"):
        FunctionalNet(net).check_loss(*batch)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_unit_of_row_loss_is_one_over_the_sum_of_the_weights(reduction, batch):
    X, y = batch
    weights = torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64)
    net = fitted(
        NeuralNetClassifier,
        nn.CrossEntropyLoss,
        criterion__weight=weights,
        criterion__reduction=reduction,
    )
    functional = FunctionalNet(net)
    of_rows = torch.ones(6, requires_grad=True)
    loss = functional.training_loss(functional.theta, X, y, of_rows)
    rows = functional.row_losses(functional.theta, X, y)
    total = weights[y].sum() if reduction == "mean" else 1
    torch.testing.assert_close(
        torch.autograd.grad(loss, of_rows)[0].double(), rows / total, rtol=1e-5, atol=0
    )


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


def test_a_collate_that_reorders_rows_is_refused(batch):
    net = NeuralNetClassifier(
        MLP,
        criterion=nn.CrossEntropyLoss,
        iterator_valid__collate_fn=lambda rows: default_collate(rows[::-1]),
    ).initialize()
    X = batch[0].numpy()
    with pytest.raises(ValueError, match="changes the rows, their order"):
        next(FunctionalNet(net).batches(X, np.arange(len(X)) % 3))


def test_a_sampler_for_validation_does_not_reorder_the_scores(batch):
    X, y = batch[0].numpy(), np.arange(len(batch[0])) % 3
    backwards = list(range(len(X)))[::-1]
    net = NeuralNetClassifier(
        MLP, criterion=nn.CrossEntropyLoss, iterator_valid__sampler=backwards
    ).initialize()
    [(_, found)] = FunctionalNet(net).batches(X, y, len(X))
    np.testing.assert_array_equal(found, y)


class PenalisedNet(NeuralNetClassifier):
    """The usual way to add a penalty on the weights."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + 0.1 * sum(p.abs().sum() for p in self.module_.parameters())


def test_a_penalty_in_get_loss_is_a_constant(batch):
    penalised, plain = (
        FunctionalNet(fitted(net_class, nn.CrossEntropyLoss))
        for net_class in (PenalisedNet, NeuralNetClassifier)
    )
    X, y = batch
    penalty = 0.1 * penalised.theta.abs().sum()
    torch.testing.assert_close(
        penalised.row_losses(plain.theta, X, y),
        plain.row_losses(plain.theta, X, y) + penalty,
    )
