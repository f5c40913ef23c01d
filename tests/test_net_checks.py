"""Nets that cannot be trained or scored are refused, and told why.

Whole tables of nets that misbehave are in test_misbehaving_nets.
"""

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional as F

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._net_checks import (
    check_deterministic,
    check_loss,
    check_not_nan,
    warn_of_unused_parameters,
)
from sk_datadrop._probe import match_targets, probe_net
from sk_datadrop._reading import Reading
from sk_datadrop._samples import Samples

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
LABELS = np.arange(20) % 3
SAMPLES = Samples(X, LABELS)


def functional(module, **options):
    options = {"criterion": nn.CrossEntropyLoss} | options
    return FunctionalNet(NeuralNetClassifier(module, **options).initialize())


class AlwaysDrops(MLP):
    def forward(self, X):
        return super().forward(F.dropout(X, 0.5))


class RulesOutAClass(MLP):
    def forward(self, X):
        return super().forward(X) + torch.tensor([0.0, 0.0, -torch.inf])


class RulesOutAndDrops(RulesOutAClass, AlwaysDrops):
    """Draws what is left of the outputs."""


class CountsItsCalls(MLP):
    def forward(self, X):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        return super().forward(X) * self.n_calls


@pytest.mark.parametrize("module", [AlwaysDrops, RulesOutAndDrops, CountsItsCalls])
def test_outputs_that_differ_the_second_time_are_refused(module):
    with pytest.raises(ValueError, match="not deterministic in evaluation mode: the"):
        check_deterministic(functional(module), SAMPLES)


class HasNoNumberForOne(MLP):
    def forward(self, X):
        is_first = X.eq(torch.as_tensor(SAMPLES.X[0])).all(1, keepdim=True)
        return torch.where(is_first, torch.nan, super().forward(X))


def test_outputs_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="NaN for 1 of 16 samples among the first sam"):
        check_deterministic(functional(HasNoNumberForOne), SAMPLES)
    check_deterministic(functional(HasNoNumberForOne), SAMPLES[1:])


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 2)])
def test_samples_without_numbers_are_counted(shape):
    outputs = torch.zeros(shape)
    check_not_nan(outputs + torch.inf, "all")
    outputs[1:] = torch.nan
    with pytest.raises(ValueError, match="gives NaN for 2 of 3 samples among all"):
        check_not_nan(outputs, "all")


class Fails(MLP):
    def forward(self, X):
        if not self.training and len(X) <= self.first.out_features:
            raise RuntimeError("too few")
        return super().forward(X)


@pytest.mark.parametrize(
    ("n_hidden", "which"), [(1, "a single sample"), (16, "the samples")]
)
def test_nets_that_fail_in_evaluation_mode_are_refused(n_hidden, which):
    net = functional(Fails, module__n_hidden=n_hidden)
    message = f"failed on {which} in evaluation mode, with RuntimeError: too few"
    with pytest.raises(ValueError, match=message):
        check_deterministic(net, SAMPLES)


class RunsOutOfMemory(MLP):
    def forward(self, X):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_lack_of_memory_is_not_blamed_on_the_samples():
    net = NeuralNetClassifier(RunsOutOfMemory, criterion=nn.CrossEntropyLoss)
    with pytest.raises(torch.OutOfMemoryError):
        check_deterministic(FunctionalNet(net.initialize()), SAMPLES)
    with pytest.raises(torch.OutOfMemoryError):
        probe(net)


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, track_running_stats=False)
        self.linear = nn.Linear(8, 1)

    def forward(self, X):
        return self.linear(torch.tanh(self.norm(X)).flatten(1))


def test_batch_statistics_in_evaluation_mode_are_warned_of():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(16, 1, 8, generator=generator) * torch.arange(1, 17)[:, None, None]
    net = NeuralNetRegressor(BatchStatistics).initialize()
    with pytest.warns(UserWarning, match="depend on the samples beside it"):
        check_deterministic(FunctionalNet(net), Samples(X, torch.zeros(16, 1)))


def test_a_sample_that_comes_out_as_nothing_depends_on_no_other():
    X = torch.randn(16, 200, generator=torch.Generator().manual_seed(0))
    w = X[1] / X[1].norm()
    X[0] -= (X[0] @ w) * w
    net = NeuralNetRegressor(nn.Linear, module__in_features=200, module__out_features=1)
    net.initialize().module_.weight.data.copy_(w)
    net.module_.bias.data.zero_()
    assert abs(net.module_(X[:1]).item()) < 1e-5
    check_deterministic(FunctionalNet(net), Samples(X, torch.zeros(16, 1)))


def test_classes_that_are_ruled_out_are_no_change():
    check_deterministic(functional(RulesOutAClass), SAMPLES)


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


THREE = Samples(np.array([[-1.0] * 4, [-1.0] * 4, [1.0] * 4], np.float32), np.arange(3))


def test_parameters_out_of_reach_are_named():
    with pytest.warns(UserWarning, match=r"parameters first.weight, first.bias: they"):
        warn_of_unused_parameters(functional(Detaches), THREE)


def test_parameters_that_one_batch_reaches_are_no_matter():
    net = functional(Detaches, module__rare=True)
    with pytest.warns(UserWarning, match="first.weight"):
        warn_of_unused_parameters(net, THREE)
    warn_of_unused_parameters(net, THREE, batch_size=2)


def test_outputs_that_no_parameter_reaches_are_refused():
    net = functional(Detaches, module__everything=True)
    with pytest.raises(ValueError, match="depend on none of its trainable"):
        warn_of_unused_parameters(net, THREE)
    with pytest.raises(ValueError, match="no gradient of the training loss reaches"):
        check_loss(net, THREE)


class Pools(MLP):
    def forward(self, X):
        return super().forward(X).mean(0)


def test_outputs_must_be_one_entry_per_sample():
    message = r"outputs of shape \(3,\) for 2 samples. Have it return one entry per"
    with pytest.raises(ValueError, match=message):
        check_loss(functional(Pools), SAMPLES)


def test_targets_that_the_criterion_does_not_take_are_refused():
    message = (
        r"CrossEntropyLoss failed on outputs of shape \(2, 3\), torch.float32, and"
    )
    with pytest.raises(ValueError, match=message):
        check_loss(functional(MLP), Samples(X, LABELS + 5))


class NeedsWeights(nn.CrossEntropyLoss):
    def forward(self, outputs, y):
        return self.weight[y] * F.cross_entropy(outputs, y, reduction=self.reduction)


def test_a_criterion_that_needs_its_weights_is_refused():
    net = functional(MLP, criterion=NeedsWeights, criterion__weight=torch.ones(3))
    with pytest.raises(ValueError, match="NeedsWeights failed without class weights"):
        check_loss(net, SAMPLES)


def probe(net, n_classes=3):
    return probe_net(net, SAMPLES, n_classes=n_classes, seed=0)


def test_the_probe_is_an_untrained_clone_of_the_seed():
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss)
    state = torch.get_rng_state()
    (first, shape, reading, *_), (second, *_) = probe(net), probe(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert shape == ()
    assert reading == Reading("logits", n_classes=3, ignored=-100)
    assert not net.initialized_
    torch.testing.assert_close(
        first.module_.state_dict(), second.module_.state_dict(), rtol=0, atol=0
    )


class SetsTheNumberOfOutputs(Callback):
    def on_train_begin(self, net, X=None, y=None):
        net.set_params(module__n_outputs=len(np.unique(y)))


def test_callbacks_may_give_the_module_its_shape():
    net = NeuralNetClassifier(
        MLP,
        criterion=nn.CrossEntropyLoss,
        module__n_outputs=7,
        callbacks=[SetsTheNumberOfOutputs],
    )
    assert probe(net).reading.n_classes == 3


@pytest.mark.parametrize(
    ("net_class", "options", "n_classes", "message"),
    [
        (NeuralNetClassifier, {"module__n_hidden": "5"}, 3, "cannot be initialized"),
        (
            NeuralNetClassifier,
            {"module__n_inputs": 7},
            3,
            r"of shape \(4,\), with Runt",
        ),
        (NeuralNetClassifier, {}, 4, r"shape \(3,\) per sample, but y has 4 classes"),
        (NeuralNetRegressor, {}, None, r"shape \(3,\) per sample, the targets \(\)"),
        (
            NeuralNetClassifier,
            {"criterion__reduction": "none"},
            3,
            r"gives a loss of shape \(2,\) to train on; it must be one number",
        ),
        (
            NeuralNetBinaryClassifier,
            {"module__n_outputs": 1},
            3,
            r"needs two classes .*; got 3 classes",
        ),
        (
            NeuralNet,
            {"module": nn.LSTM, "module__input_size": 4, "module__hidden_size": 3},
            3,
            "the module returns a tuple of tensors, with which the loss failed",
        ),
    ],
)
def test_nets_that_do_not_suit_the_samples_are_refused(
    net_class, options, n_classes, message
):
    criterion = nn.MSELoss if n_classes is None else nn.CrossEntropyLoss
    net = net_class(**{"module": MLP, "criterion": criterion} | options)
    with pytest.raises(ValueError, match=message):
        probe(net, n_classes)


@pytest.mark.parametrize(
    ("shape", "given", "matched"),
    [
        ((), (), ()),
        ((), (1,), (1,)),
        ((1,), (1,), (1,)),
        ((2, 3), (2, 3), (2, 3)),
        ((), (2,), None),
        ((1,), (), None),
        ((2,), (2, 1), None),
    ],
)
def test_targets_are_brought_to_the_shape_of_the_outputs(shape, given, matched):
    if matched is None:
        message = "Give the module as many outputs as y has"
        with pytest.raises(ValueError, match=message):
            match_targets(shape, given, nn.MSELoss())
        assert match_targets(shape, given, Quantiles()) == shape
    else:
        assert match_targets(shape, given, nn.MSELoss()) == matched


class Quantiles(nn.Module):
    """A criterion of the user's, of several outputs for one target."""


class LogProbabilities(MLP):
    def forward(self, X):
        return super().forward(X).log_softmax(1)


@pytest.mark.parametrize(
    ("kind", "module", "message"),
    [
        (NeuralNetClassifier, MLP, "needs probabilities, .* End it with a softmax"),
        (NeuralNetClassifier, LogProbabilities, "needs probabilities, .* a softmax"),
        (NeuralNet, MLP, "needs log-probabilities; .* End it with a log_softmax"),
    ],
)
def test_logits_under_nll_are_refused(kind, module, message, blobs):
    net = kind(module, criterion=nn.NLLLoss)
    with pytest.raises(ValueError, match=f"under NLLLoss {kind.__name__} {message}"):
        probe_net(net, Samples(*blobs), n_classes=3, seed=0)


def test_log_probabilities_under_nll_are_not_refused(blobs):
    net = NeuralNet(LogProbabilities, criterion=nn.NLLLoss)
    probe_net(net, Samples(*blobs), n_classes=3, seed=0)


class ByHand(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return nn.functional.cross_entropy(y_pred, y_true)


class MeanOfAll(nn.CrossEntropyLoss):
    def forward(self, outputs, y):
        return super().forward(outputs, y).mean()


@pytest.mark.parametrize(
    ("kind", "criterion", "message"),
    [
        (ByHand, nn.CrossEntropyLoss, "get_loss of ByHand gives .* super().get_loss"),
        (NeuralNetClassifier, MeanOfAll, "criterion MeanOfAll gives losses of shape"),
    ],
)
def test_who_gives_no_losses_per_sample_is_named(kind, criterion, message, blobs):
    net = kind(MLP, criterion=criterion)
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
        probe_net(net, Samples(*blobs), n_classes=3, seed=0)
