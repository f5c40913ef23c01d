"""Copies of a criterion: one loss per sample, and without class weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sk_datadrop._criteria import recorded, without_reduction, without_weights

OUTPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Delegates(nn.Module):
    """A criterion of the user's, whose reduction is that of another."""

    def __init__(self):
        super().__init__()
        self.inner = nn.CrossEntropyLoss()

    @property
    def reduction(self):
        return self.inner.reduction

    @reduction.setter
    def reduction(self, value):
        self.inner.reduction = value

    def forward(self, outputs, y):
        return self.inner(outputs, y)


@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, Delegates])
def test_the_copy_gives_one_loss_per_sample(make):
    criterion = make()
    reduction, copied = without_reduction(criterion)
    assert reduction == criterion.reduction == "mean"
    expected = F.cross_entropy(OUTPUTS, LABELS, reduction="none")
    torch.testing.assert_close(copied(OUTPUTS, LABELS), expected)
    torch.testing.assert_close(criterion(OUTPUTS, LABELS), expected.mean())


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_reduction_is_told(reduction):
    found, copied = without_reduction(nn.MSELoss(reduction=reduction))
    assert found == reduction
    assert copied(OUTPUTS, OUTPUTS).shape == OUTPUTS.shape


class NoReduction(nn.Module):
    def forward(self, outputs, y):
        return ((outputs - y) ** 2).mean()


class OtherReduction(NoReduction):
    reduction = "batchmean"


@pytest.mark.parametrize(
    ("criterion", "reduction"), [(NoReduction, "None"), (OtherReduction, "'batchmean'")]
)
def test_a_criterion_without_losses_per_sample_is_refused(criterion, reduction):
    message = f"{criterion.__name__} has no losses per sample: its reduction is "
    with pytest.raises(ValueError, match=message + reduction):
        without_reduction(criterion())


def test_the_copy_has_no_class_weights_and_no_smoothing():
    weight = torch.tensor([1.0, 2.0, 50.0])
    criterion = nn.CrossEntropyLoss(weight, label_smoothing=0.2)
    plain = without_weights(criterion)
    assert torch.equal(plain(OUTPUTS, LABELS), F.cross_entropy(OUTPUTS, LABELS))
    assert torch.equal(criterion.weight, weight)
    assert criterion.label_smoothing == 0.2


def test_the_copy_has_no_weights_of_positives():
    criterion = nn.BCEWithLogitsLoss(
        weight=torch.tensor([3.0]), pos_weight=torch.tensor([1.0, 2.0, 50.0])
    )
    y = F.one_hot(LABELS, 3).float()
    expected = F.binary_cross_entropy_with_logits(OUTPUTS, y)
    assert torch.equal(without_weights(criterion)(OUTPUTS, y), expected)


class Weighs(nn.MSELoss):
    """Has weights of targets, which torch knows nothing of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, outputs, y):
        return (self.weight * (outputs - y) ** 2).mean()


def test_weights_of_a_criterion_of_the_user_stay():
    criterion = Weighs()
    found = without_weights(criterion)(OUTPUTS, 0 * OUTPUTS)
    assert torch.equal(found, criterion(OUTPUTS, 0 * OUTPUTS))


def test_losses_are_recorded_within_the_block_only():
    criterion = nn.CrossEntropyLoss()
    criterion(OUTPUTS, LABELS)
    with recorded(criterion) as calls:
        losses = [criterion(OUTPUTS, LABELS), criterion(-OUTPUTS, target=LABELS)]
    criterion(OUTPUTS, LABELS)
    assert len(calls) == 2
    assert all(a.result is b for a, b in zip(calls, losses, strict=True))
    assert calls[0].arguments[0] is OUTPUTS
    assert all(call.arguments[1] is LABELS for call in calls)


def test_nothing_is_recorded_after_an_error():
    criterion = nn.CrossEntropyLoss()
    with pytest.raises(ZeroDivisionError), recorded(criterion) as given:
        raise ZeroDivisionError
    criterion(OUTPUTS, LABELS)
    assert given == []


def test_a_function_is_not_recorded():
    with recorded(F.cross_entropy) as given:
        F.cross_entropy(OUTPUTS, LABELS)
    assert given == []
