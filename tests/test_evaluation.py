"""Losses and predictions of a net, against plain torch."""

import numpy as np
import pytest
import torch
from conftest import MLP, PenalisedNet
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_datadrop._evaluation import evaluate
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._reading import Reading, reading_of_known
from sk_datadrop._samples import Samples

LOGITS = Reading("logits", n_classes=3)


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 2, 0, 1, 2])
    return Samples(rng.normal(size=(6, 4)).astype(np.float32), y, codes=y)


def functional(net_class, criterion, module=MLP, **options):
    torch.manual_seed(0)
    return FunctionalNet(net_class(module, criterion=criterion, **options).initialize())


def test_classes_are_measured_by_the_criterion_without_weights_and_penalties(samples):
    net = functional(
        PenalisedNet,
        nn.CrossEntropyLoss,
        criterion__label_smoothing=0.2,
        criterion__weight=torch.tensor([1.0, 5.0, 9.0]),
    )
    logits = net.skorch_net.module_(torch.as_tensor(samples.X)).detach()
    found = evaluate(net, samples, LOGITS)
    expected = F.cross_entropy(logits, torch.as_tensor(samples.y), reduction="none")
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    np.testing.assert_allclose(found.log_proba, logits.log_softmax(1), rtol=1e-5)
    assert found.log_proba.dtype == np.float32
    np.testing.assert_allclose(found.mean_target, np.full((3, 1), 1 / 3))


def test_the_constant_predicts_the_shares_of_classes(samples):
    net = functional(NeuralNetClassifier, nn.CrossEntropyLoss)
    shares = np.array([[0.5], [0.3], [0.2]])
    found = evaluate(net, samples, LOGITS, shares)
    expected = -np.log(shares[samples.y]).mean()
    assert found.constant_loss == pytest.approx(expected, rel=1e-6)


def test_images_are_compared_with_a_constant():
    net = functional(
        NeuralNetRegressor,
        nn.MSELoss,
        nn.Conv2d,
        module__in_channels=1,
        module__out_channels=1,
        module__kernel_size=1,
        batch_size=4,
    )
    X, constant = torch.randn(6, 1, 2, 2), torch.randn(1, 2, 2)
    found = evaluate(net, Samples(X, X), None, constant.numpy())
    assert found.log_proba is None
    assert found.residuals is None
    expected = ((net.skorch_net.module_(X) - X) ** 2).mean((1, 2, 3)).detach()
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    np.testing.assert_allclose(found.mean_target, X.mean(0), rtol=1e-5)
    assert found.constant_loss == pytest.approx(float(((constant - X) ** 2).mean()))


def test_counts_have_no_residuals_of_one_size():
    net = functional(NeuralNetRegressor, nn.PoissonNLLLoss, module__n_outputs=1)
    X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = evaluate(net, Samples(X, np.ones((6, 1), np.float32)), None)
    assert found.residuals is None
    assert (found.losses >= 0).all()


class Labels(nn.Linear):
    def __init__(self):
        super().__init__(4, 5)


def test_labels_have_shares_and_chances_of_their_own():
    net = functional(NeuralNet, nn.BCEWithLogitsLoss, Labels)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8, 4)).astype(np.float32)
    y = rng.integers(0, 2, (8, 5)).astype(np.float32)
    reading = Reading("logits", is_binary=True, has_columns=True)
    found = evaluate(net, Samples(X, y), reading, most_values=10)
    logits = net.skorch_net.module_(torch.as_tensor(X)).detach()
    assert found.log_proba.shape == (8, 2, 5)
    np.testing.assert_allclose(
        np.exp(found.log_proba[:, 1]), torch.sigmoid(logits), rtol=1e-5
    )
    np.testing.assert_allclose(found.mean_target, [1 - y.mean(0), y.mean(0)], rtol=1e-6)
    expected = F.binary_cross_entropy_with_logits(
        logits, torch.as_tensor(y), reduction="none"
    ).mean(1)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    # Too many of them are not kept.
    assert evaluate(net, Samples(X, y), reading, most_values=9).log_proba is None


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 21)

    def forward(self, X):
        return self.linear(X).reshape(len(X), 3, 7)


def test_places_that_are_ignored_do_not_count():
    net = functional(NeuralNet, nn.CrossEntropyLoss, Tagger)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 4)).astype(np.float32)
    y = rng.integers(0, 3, (4, 7))
    y[:, 5:] = y[2] = -100
    found = evaluate(net, Samples(X, y), LOGITS, np.full((3, 1), 1 / 3))
    logits = net.skorch_net.module_(torch.as_tensor(X)).detach()
    each = F.cross_entropy(logits, torch.as_tensor(y), reduction="none").numpy()
    expected = np.where(np.arange(4) == 2, np.nan, each[:, :5].mean(1))
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    counts = np.bincount(y[y >= 0], minlength=3)
    np.testing.assert_allclose(found.mean_target[:, 0], counts / counts.sum())
    assert found.constant_loss == pytest.approx(3 / 4 * np.log(3), rel=1e-5)


def test_no_samples_have_no_losses():
    net = functional(NeuralNetClassifier, nn.CrossEntropyLoss)
    none = Samples(np.empty((0, 4)), np.empty(0, dtype=int))
    found = evaluate(net, none, LOGITS)
    assert found.losses.shape == (0,)
    assert found.log_proba is None
    assert np.isnan(found.constant_loss)


def test_of_many_pixels_some_are_kept():
    class Pixels(nn.Conv2d):
        def __init__(self):
            super().__init__(1, 3, 1)

    net = functional(NeuralNet, nn.CrossEntropyLoss, Pixels)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4, 1, 6, 6)).astype(np.float32)
    y = rng.integers(0, 3, (4, 6, 6))
    found = evaluate(net, Samples(X, y), LOGITS, most_values=54)
    assert found.log_proba.shape == (4, 3, 18)
    np.testing.assert_array_equal(found.place_codes, y.reshape(4, 36)[:, ::2])


def test_weights_of_positives_are_taken_out_of_the_chances():
    weight = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    net = functional(
        NeuralNet, nn.BCEWithLogitsLoss, Labels, criterion__pos_weight=weight
    )
    X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    y = np.zeros((8, 5), np.float32)
    reading = reading_of_known(net.skorch_net.criterion_)
    found = evaluate(net, Samples(X, y), reading, most_values=10)
    logits = net.skorch_net.module_(torch.as_tensor(X)).detach() - weight.log()
    np.testing.assert_allclose(
        np.exp(found.log_proba[:, 1]), torch.sigmoid(logits), rtol=1e-5
    )
    assert found.mean_loss == pytest.approx(found.losses.mean(), rel=1e-5)
