"""The meaning of outputs to a criterion, and the chances that follow from them."""

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._probe import read_outputs
from sk_datadrop._reading import (
    Reading,
    find_reading,
    mean_over_places,
    reading_of_known,
    surprise,
)
from sk_datadrop._samples import Samples

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(8, 3, generator=GENERATOR)
LABELS = torch.arange(8) % 3
PLACES = torch.randn(8, 5, generator=GENERATOR)
TWO = (torch.arange(40).reshape(8, 5) % 3 == 0).float()


def focal(z, y):
    surprise = F.cross_entropy(z, y, reduction="none")
    return (1 - torch.exp(-surprise)) ** 2 * surprise


def generalised_cross_entropy(z, y):
    return (1 - z.softmax(1).gather(1, y[:, None])[:, 0] ** 0.7) / 0.7


def margins(z, y):
    """Hinges over differences of scores, as MultiMarginLoss has them."""
    right = z.gather(1, y[:, None])
    return (1 + z - right).clamp_min(0).sum(1) - 1


def of_probabilities(p, y):
    return -(torch.log(p.gather(1, y[:, None])[:, 0] + 1e-6) ** 2)


def of_log_probabilities(log_p, y):
    return torch.expm1(-log_p.gather(1, y[:, None])[:, 0])


def brier(z, y):
    return (z - F.one_hot(y, z.shape[1])).square().mean(1)


@pytest.mark.parametrize(
    ("criterion", "outputs", "scale"),
    [
        (focal, LOGITS, "logits"),
        (generalised_cross_entropy, LOGITS, "logits"),
        (margins, LOGITS, "logits"),
        (of_probabilities, LOGITS.softmax(1), "probabilities"),
        (of_log_probabilities, LOGITS.log_softmax(1), "log-probabilities"),
    ],
)
def test_what_criteria_of_several_classes_are_given(criterion, outputs, scale):
    found = find_reading(nn.Module(), criterion, outputs, LABELS)
    assert found == Reading(scale)
    chances = found.log_chances(outputs).exp()
    torch.testing.assert_close(chances, LOGITS.softmax(1), rtol=1e-4, atol=1e-5)


def test_squares_of_differences_to_classes_do_not_tell():
    assert find_reading(nn.Module(), brier, LOGITS, LABELS) is None


def binary_focal(z, y, weight=0.25):
    surprise = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    share = y * weight + (1 - y) * (1 - weight)
    return share * (1 - torch.exp(-surprise)) ** 2 * surprise


def focal_of_probabilities(p, y):
    right = y * p + (1 - y) * (1 - p)
    return -((1 - right) ** 2) * torch.log(right)


def squares(z, y):
    return (z - y).square()


def asymmetric(z, y):
    p = torch.sigmoid(z)
    return -y * torch.log(p) - (1 - y) * p**4 * torch.log(1 - p)


@pytest.mark.parametrize(
    ("criterion", "scale"),
    [
        (binary_focal, "logits"),
        (lambda z, y: binary_focal(z, y).mean(1), "logits"),
        (focal_of_probabilities, "probabilities"),
        (squares, "probabilities"),
        (asymmetric, None),
    ],
    ids=["focal", "mean of a sample", "of probabilities", "squares", "asymmetric"],
)
def test_what_criteria_of_two_classes_are_given(criterion, scale):
    found = find_reading(nn.Module(), criterion, torch.sigmoid(PLACES), TWO)
    assert found == (scale and Reading(scale, is_binary=True))


@pytest.mark.parametrize(
    ("criterion", "outputs", "targets"),
    [
        (nn.CrossEntropyLoss, LOGITS, LABELS),
        (nn.NLLLoss, LOGITS.log_softmax(1), LABELS),
        (nn.BCEWithLogitsLoss, PLACES, TWO),
        (nn.BCELoss, torch.sigmoid(PLACES), TWO),
        (nn.SoftMarginLoss, PLACES, 2 * TWO - 1),
    ],
)
def test_the_loss_of_likelihoods_is_what_their_chances_say(criterion, outputs, targets):
    reading = reading_of_known(criterion())
    log_chances = reading.log_chances(outputs)
    given = reading.given(targets, log_chances)
    losses = criterion(reduction="none")(outputs, targets).reshape(8, -1).mean(1)
    shape = (8, log_chances.shape[1], -1)
    found = surprise(log_chances.reshape(shape), given.reshape(shape))
    torch.testing.assert_close(found, losses, rtol=1e-5, atol=1e-6)


def test_subclasses_and_compiled_criteria_are_known():
    class Mine(nn.CrossEntropyLoss):
        pass

    expected = Reading("logits", ignored=7)
    assert reading_of_known(Mine(ignore_index=7)) == expected
    assert reading_of_known(torch.compile(Mine(ignore_index=7))) == expected
    assert reading_of_known(nn.MSELoss()) is None


@pytest.mark.parametrize("scale", ["logits", "probabilities", "log-probabilities"])
def test_outputs_for_chances_give_these_back(scale):
    chances = torch.tensor([0.5, 0.3, 0.2])
    reading = Reading(scale)
    outputs = reading.outputs_for(chances).expand(4, 3)
    torch.testing.assert_close(reading.log_chances(outputs).exp()[0], chances)
    if scale != "log-probabilities":
        two = Reading(scale, is_binary=True)
        outputs = two.outputs_for(torch.tensor([0.9, 0.1])).expand(4)
        expected = torch.tensor([0.9, 0.1])
        torch.testing.assert_close(two.log_chances(outputs).exp()[0], expected)


def test_places_without_a_class_have_nothing_given():
    reading = Reading("logits", n_classes=3, ignored=2)
    targets = np.array([[0, 1, 2], [-100, 9, 1]])
    np.testing.assert_array_equal(reading.codes(targets), [[0, 1, -1], [-1, -1, 1]])
    two = Reading("logits", is_binary=True)
    of_two = np.array([[0.0, 1.0, -1.0], [0.7, np.nan, 2.0]])
    np.testing.assert_array_equal(two.codes(of_two), [[0, 1, -1], [1, -1, -1]])
    soft = np.array([[0.1, 0.2, 0.7]], dtype=np.float32)
    np.testing.assert_array_equal(Reading("logits", n_classes=3).codes(soft), [[2]])


def test_the_mean_is_over_places_that_have_a_class():
    counts = torch.tensor([[1.0, 1, 0], [0.0, 0, 0]])
    values = torch.tensor([[2.0, 4, 9], [9.0, 9, 9]])
    assert mean_over_places(values, counts).tolist() == [3.0, 0.0]


def test_of_probabilities_as_targets_it_is_the_divergence():
    chances = torch.tensor([[[0.2], [0.8]], [[0.5], [0.5]]])
    given = torch.tensor([[[0.2], [0.8]], [[0.0], [1.0]]])
    found = surprise(chances.log(), given)
    expected = F.kl_div(chances.log(), given, reduction="none").sum((1, 2))
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)
    assert found[0].abs() < 1e-7


class OfUser(nn.Module):
    def __init__(self, function=None, reduction="mean"):
        super().__init__()
        self.function, self.reduction = function, reduction

    def forward(self, outputs, y):
        losses = self.function(outputs, y)
        return losses if self.reduction == "none" else losses.mean()


def functional(function, module=MLP, net_class=NeuralNetClassifier, **options):
    torch.manual_seed(0)
    net = net_class(
        module, criterion=OfUser, criterion__function=function, **options
    ).initialize()
    return FunctionalNet(net)


def samples_of(targets):
    return Samples(np.ones((len(targets), 4), np.float32), np.asarray(targets))


def test_a_nonlinearity_of_the_net_tells_what_outputs_mean():
    net = functional(brier, predict_nonlinearity=torch.nn.Softmax(1))
    reading = read_outputs(net, samples_of(LABELS), True)
    assert reading.nonlinearity is net.skorch_net.predict_nonlinearity
    outputs = net.outputs(net.theta, torch.ones(8, 4))
    log_chances, given = net.chances(outputs, LABELS, reading)
    torch.testing.assert_close(log_chances[:, :, 0].exp(), outputs.softmax(1))
    assert torch.equal(given[:, :, 0].argmax(1), LABELS)


def test_otherwise_losses_are_taken_for_likelihoods_and_that_is_said():
    net = functional(brier)
    with pytest.warns(UserWarning, match="how criterion OfUser reads .* is unknown"):
        reading = read_outputs(net, samples_of(LABELS), True)
    outputs = net.outputs(net.theta, torch.ones(8, 4))
    losses = [brier(outputs, torch.full_like(LABELS, c)) for c in range(3)]
    expected = (-torch.stack(losses, dim=1)).log_softmax(1)
    log_chances, _ = net.chances(outputs, LABELS, reading)
    torch.testing.assert_close(log_chances[:, :, 0], expected)


def infinite(z, y):
    return brier(z, y) / (y == 0)


def test_criteria_that_say_nothing_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"OfUser does not tell .* predict_nonlinear"):
        read_outputs(functional(infinite), samples_of(LABELS), True)


class Five(nn.Linear):
    def __init__(self):
        super().__init__(4, 5)


def test_of_two_classes_the_range_of_the_outputs_tells_at_last():
    net = functional(asymmetric, Five, NeuralNet)
    reading = read_outputs(net, samples_of(TWO.numpy()), True)
    assert reading == Reading("logits", is_binary=True, has_columns=True)
    within = functional(asymmetric, nn.Sequential(Five(), nn.Sigmoid()), NeuralNet)
    reading = read_outputs(within, samples_of(TWO.numpy()), True)
    assert reading == Reading("probabilities", is_binary=True, has_columns=True)


@pytest.mark.parametrize(
    ("function", "y", "expected"),
    [
        (
            binary_focal,
            TWO.numpy(),
            Reading("logits", is_binary=True, has_columns=True),
        ),
        (binary_focal, TWO.numpy() / 2, None),
        (squares, TWO.numpy(), None),
    ],
    ids=["classes", "no classes", "squares"],
)
def test_real_targets_are_classes_only_if_they_are_two_and_logits_say_so(
    function, y, expected
):
    net = functional(function, Five, NeuralNet)
    assert read_outputs(net, samples_of(y), False) == expected
