"""Held-out objectives against their formulas."""

import numpy as np
import pytest
import torch

from sk_datadrop._objectives import class_codes, resolve_objective, row_weights

LOSSES = torch.tensor([0.1, 0.5, 3.0, 50.0])


def test_bounded_is_one_minus_the_probability_of_the_true_class():
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    values = resolve_objective("bounded", None)(losses, logits, y)
    torch.testing.assert_close(values, 1 - logits.softmax(1)[torch.arange(4), y])


def test_bounded_takes_its_scale_from_the_reference():
    values = resolve_objective("bounded", LOSSES)(LOSSES, None, None)
    # torch's median is the lower of the two in the middle.
    torch.testing.assert_close(values, 1 - torch.exp(-LOSSES / (2.985**2 * 0.5)))


def test_bounded_does_not_see_the_unit_of_the_targets():
    values = resolve_objective("bounded", LOSSES)(LOSSES, None, None)
    scaled = resolve_objective("bounded", 1e6 * LOSSES)(1e6 * LOSSES, None, None)
    torch.testing.assert_close(values, scaled)


def test_bounded_survives_a_median_of_zero():
    losses = torch.tensor([0.0, 0.0, 0.0, 1.0])
    values = resolve_objective("bounded", losses)(losses, None, None)
    assert torch.equal(values, torch.tensor([0.0, 0.0, 0.0, 1.0]))


def test_classes_weigh_the_same():
    codes = class_codes(["b", "a", "b", "b"], is_likelihood=True)
    np.testing.assert_array_equal(codes, [1, 0, 1, 1])
    np.testing.assert_allclose(row_weights("bounded", codes), [1 / 3, 1, 1 / 3, 1 / 3])
    np.testing.assert_array_equal(row_weights("loss", codes), np.ones(4))
    column = torch.tensor([[1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(class_codes(column, is_likelihood=True), [1, 0, 1])


@pytest.mark.parametrize(
    ("y", "is_likelihood"),
    [
        ([1.0, 2.0], False),
        (torch.ones(2, dtype=torch.bfloat16), False),
        (torch.eye(2, dtype=torch.bfloat16), True),
        (np.array([0.0, 0.9]), True),
    ],
    ids=["real", "a dtype numpy lacks", "2-D", "probabilities"],
)
def test_targets_that_are_no_classes_weigh_the_same(y, is_likelihood):
    codes = class_codes(y, is_likelihood=is_likelihood)
    np.testing.assert_array_equal(row_weights("bounded", codes), [0.5, 0.5])


def test_loss_is_the_loss():
    assert resolve_objective("loss", None)(LOSSES, None, None) is LOSSES


def test_callable_gets_outputs_and_targets():
    outputs, y = torch.arange(4.0), torch.ones(4)
    values = resolve_objective(lambda z, t: (z - t).abs(), None)(LOSSES, outputs, y)
    assert torch.equal(values, torch.tensor([1.0, 0.0, 1.0, 2.0]))


@pytest.mark.parametrize("result", [torch.tensor(1.0), torch.zeros(4, 1), 3.0])
def test_callable_must_return_one_value_per_row(result):
    measure = resolve_objective(lambda outputs, y: result, None)
    with pytest.raises(ValueError, match=r"objective must return .* shape \(4,\)"):
        measure(LOSSES, LOSSES, LOSSES)


def test_bounded_refuses_losses_below_zero():
    with pytest.raises(
        ValueError, match="needs a training loss that is never negative"
    ):
        resolve_objective("bounded", torch.tensor([-1.0, 2.0]))
