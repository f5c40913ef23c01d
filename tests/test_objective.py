"""Held-out objectives against their formulas."""

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objectives import (
    class_codes,
    mean_objective,
    resolve_objective,
    row_scales,
    row_weights,
)

LOSSES = torch.tensor([0.1, 0.5, 3.0, 50.0])
ONES = torch.ones(4)


def test_bounded_is_one_minus_the_probability_of_the_true_class():
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    probabilities = logits.softmax(1)[torch.arange(4), y]
    measure = resolve_objective("bounded")
    torch.testing.assert_close(measure(losses, logits, y, ONES), 1 - probabilities)
    torch.testing.assert_close(
        measure(losses, logits, y, 2 * ONES), 1 - probabilities.sqrt()
    )


@pytest.fixture
def slope():
    """A net whose squared errors on targets of zero are the squares of its inputs."""
    net = NeuralNetRegressor(nn.Linear, module__in_features=1, module__out_features=1)
    net.initialize()
    with torch.no_grad():
        net.module_.weight.fill_(1)
        net.module_.bias.fill_(0)
    return FunctionalNet(net)


@pytest.mark.parametrize("unit", [1, 1e6])
def test_regression_levels_off_at_three_deviations_in_any_unit(slope, unit):
    X, y = unit * np.array([[1], [3], [-2], [5]], np.float32), np.zeros((4, 1))
    scales = row_scales(
        slope, "bounded", X, y.astype(np.float32), is_classification=False, batch_size=3
    )
    np.testing.assert_allclose(scales, 2.985**2 * (4 + 9) / 2 * unit**2, rtol=1e-6)


def test_bounded_survives_a_median_of_zero(slope):
    X = np.array([[0], [0], [0], [1]], np.float32)
    scales = row_scales(slope, "bounded", X, 0 * X, is_classification=False)
    values = resolve_objective("bounded")(
        torch.tensor([0.0, 0.0, 0.0, 1.0]), None, None, torch.as_tensor(scales)
    )
    np.testing.assert_array_equal(values, [0.0, 0.0, 0.0, 1.0])


def test_scale_is_the_median_loss_of_a_class_the_net_hardly_knows():
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    with torch.no_grad():
        net.module_.second.bias.copy_(torch.tensor([3.0, 0.0, -3.0]))
    X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    y = np.repeat([0, 2, 5], 4) % 3  # classes 0 and 2
    functional = FunctionalNet(net)
    losses = -np.log(net.predict_proba(X)[np.arange(12), y])
    scales = row_scales(functional, "bounded", X, y, is_classification=True)
    rare = np.median(losses[y == 2])
    assert rare > 4
    assert losses[y == 0].max() < 1
    np.testing.assert_allclose(scales, np.where(y == 2, rare, 1), rtol=1e-5)
    np.testing.assert_array_equal(
        row_scales(functional, "loss", X, y, is_classification=True), np.ones(12)
    )
    values = 1 - np.exp(-losses / scales)
    weights = row_weights("bounded", y, is_classification=True)
    found = mean_objective(functional, "bounded", X, y, scales, weights)
    expected = (values[y == 0].mean() + values[y == 2].mean()) / 2
    assert found == pytest.approx(expected, rel=1e-5)


def test_classes_weigh_the_same():
    y = ["b", "a", "b", "b"]
    np.testing.assert_array_equal(class_codes(y, is_classification=True), [1, 0, 1, 1])
    weights = row_weights("bounded", y, is_classification=True)
    np.testing.assert_allclose(weights, [1 / 3, 1, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(row_weights("loss", y, is_classification=True), ONES)
    column = torch.tensor([[1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(
        class_codes(column, is_classification=True), [1, 0, 1]
    )


@pytest.mark.parametrize(
    ("y", "is_classification"),
    [
        ([1.0, 2.0], False),
        (torch.ones(2, dtype=torch.bfloat16), False),
        (torch.eye(2, dtype=torch.bfloat16), True),
        (np.array([0.0, 0.9]), True),
    ],
    ids=["real", "a dtype numpy lacks", "2-D", "probabilities"],
)
def test_targets_that_are_no_classes_weigh_the_same(y, is_classification):
    weights = row_weights("bounded", y, is_classification=is_classification)
    np.testing.assert_array_equal(weights, [0.5, 0.5])


def test_loss_is_the_loss():
    assert resolve_objective("loss")(LOSSES, None, None, ONES) is LOSSES


def test_callable_gets_outputs_and_targets():
    outputs, y = torch.arange(4.0), torch.ones(4)
    values = resolve_objective(lambda z, t: (z - t).abs())(LOSSES, outputs, y, ONES)
    assert torch.equal(values, torch.tensor([1.0, 0.0, 1.0, 2.0]))


@pytest.mark.parametrize("result", [torch.tensor(1.0), torch.zeros(4, 1), 3.0])
def test_callable_must_return_one_value_per_row(result):
    measure = resolve_objective(lambda outputs, y: result)
    with pytest.raises(ValueError, match=r"objective must return .* shape \(4,\)"):
        measure(LOSSES, LOSSES, LOSSES, ONES)


def test_bounded_refuses_losses_below_zero():
    net = NeuralNetRegressor(MLP, module__n_outputs=1, criterion=BelowZero)
    X = np.zeros((3, 4), np.float32)
    with pytest.raises(
        ValueError, match="needs a training loss that is never negative; got -1"
    ):
        row_scales(
            FunctionalNet(net.initialize()),
            "bounded",
            X,
            X[:, :1],
            is_classification=False,
        )


class BelowZero(nn.MSELoss):
    def forward(self, outputs, y):
        return 0 * super().forward(outputs, y) - 1
