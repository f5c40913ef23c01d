"""Nets, criteria, objectives and steps that misbehave: refused, warned of, or harmless.

Nothing may be wrong without a word.
"""

import re

import numpy as np
import pytest
import torch
from fits import (
    Net,
    check_error,
    check_predictions,
    check_same_again,
    fit,
    small_classifier,
    small_regressor,
    table,
)
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    InfluenceFunctions,
    influence_scores,
)

ONE_SPLIT = {"cv": 0.5, "random_state": 0}
ENGINE = InfluenceFunctions(n_groups=1)
every_kind = pytest.mark.parametrize(
    "is_classifier", [True, False], ids=["classifier", "regressor"]
)


def model_and_targets(is_classifier, y, real, **options):
    if is_classifier:
        return DataDropoutClassifier(small_classifier(3, 2, **options), **ONE_SPLIT), y
    return DataDropoutRegressor(small_regressor(3, **options), **ONE_SPLIT), real


# Nets.


class FaultyNet(Net):
    """Misbehaves as `fault` says."""

    def __init__(self, n_inputs, n_outputs, fault=None):
        super().__init__(n_inputs, n_outputs)
        self.norm = nn.BatchNorm1d(4) if "batch norm" in str(fault) else nn.Identity()
        self.fault, self.n_steps = fault, 0
        if fault == "frozen layer":
            self.first.requires_grad_(False)
        if fault == "frozen":
            self.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if self.fault == "batch norm in training mode":
            self.norm.train()
        return self

    def forward(self, X):
        self.n_steps += self.training
        if self.fault == "changes its input":
            X.mul_(0.5)
        if self.fault == "changes its parameters":
            with torch.no_grad():
                self.first.weight.mul_(0.9)
        X = self.first(X.reshape(len(X), -1))
        if self.fault == "detached layer":
            X = X.detach()
        outputs = self.second(torch.tanh(self.norm(X)))
        return FAULTS.get(self.fault, lambda net, out: out)(self, outputs)


def in_evaluation(change):
    return lambda net, out: out if net.training else change(net, out)


def late(change):
    return lambda net, out: change(net, out) if net.n_steps > 1 else out


def nan(net, out):
    return out * torch.nan


def nan_for_one_sample(net, out):
    lowest = out.detach().sum(1, keepdim=True)
    return torch.where(lowest == lowest.min(), torch.nan, out)


def noise(net, out):
    return out + 0.1 * torch.randn_like(out)


FAULTS = {
    "NaN": nan,
    "NaN in evaluation": in_evaluation(nan),
    "NaN after a step": late(nan),
    "NaN in evaluation after a step": in_evaluation(late(nan)),
    "NaN for one sample": in_evaluation(nan_for_one_sample),
    "infinity in evaluation": in_evaluation(lambda net, out: out + torch.inf),
    "noise": noise,
    "noise in evaluation": in_evaluation(noise),
    "noise after a step": in_evaluation(late(noise)),
    "dropout in evaluation": lambda net, out: F.dropout(out, 0.5),
    "other samples": lambda net, out: out - 0.5 * out.mean(0),
    "tuple": lambda net, out: (out, out),
    "dict": lambda net, out: {"out": out},
    "detached": lambda net, out: out.detach(),
    "integers": lambda net, out: out.long(),
    "one sample too few": lambda net, out: out[1:],
    "one sample too few, late": late(lambda net, out: out[1:]),
    "fails late": late(lambda net, out: out @ torch.ones(7)),
    "no samples": lambda net, out: out.mean(0),
    "one output too many": lambda net, out: torch.cat([out, out[:, :1]], 1),
    "constant": lambda net, out: 0 * out,
    "float64": lambda net, out: out.double(),
}

REFUSED = {
    "NaN": "NaN for 2 of 2 samples",
    "NaN in evaluation": "NaN for 2 of 2 samples",
    "NaN after a step": "the training loss became nan",
    "NaN in evaluation after a step": "evaluation mode the net gives NaN",
    "NaN for one sample": "NaN for 1 of 2 samples",
    "infinity in evaluation": "objective is NaN or infinite for 8 of 8 held-out",
    "noise": "not deterministic in evaluation mode",
    "noise in evaluation": "not deterministic in evaluation mode",
    "noise after a step": "not deterministic in evaluation mode",
    "dropout in evaluation": "not deterministic in evaluation mode",
    "tuple": "returns a tuple of tensors, with which the loss failed",
    "dict": "returns a dict of tensors, with which the loss failed",
    "detached": "no gradient of the training loss",
    "integers": r"no gradient of the training loss|criterion \w+ failed on outputs",
    "one sample too few": r"outputs of shape \(1, \d\) for 2 samples",
    "one sample too few, late": r"^round 1, split 1 of 1: .*\(7\).*\(8\)",
    "fails late": "^round 1, split 1 of 1: the net or its criterion: size mismatch",
    "no samples": "outputs (have|of) shape|has one output per sample",
    "one output too many": r"outputs have shape \(\d,\) per sample",
    "frozen": "no trainable parameter",
    "changes its parameters": "in evaluation mode, with RuntimeError",
    "batch norm in training mode": "failed on a single sample in evaluation mode",
}
WARNED = {
    "other samples": "depend on the samples beside it",
    "constant": "the gradient of the held-out objective is zero",
    "detached layer": "no output depends on the parameters first.weight",
}
FINE = ["float64", "frozen layer", "batch norm", "changes its input", None]


def outcome_of_net(fault, is_classifier):
    """Fit a faulty net; the global generator must not move."""
    X, y = table(0)
    model, y = model_and_targets(
        is_classifier,
        y,
        X @ np.array([1, -2, 3], dtype=np.float32),
        module=FaultyNet,
        module__fault=fault,
        batch_size=16,
    )
    before = torch.get_rng_state()
    error, warned = fit(model.set_params(engine=ENGINE), X, y)
    assert torch.equal(before, torch.get_rng_state())
    return model, X, y, error, warned


@every_kind
@pytest.mark.parametrize("fault", REFUSED)
def test_nets_that_are_refused(fault, is_classifier):
    model, _, _, error, _ = outcome_of_net(fault, is_classifier)
    assert re.search(REFUSED[fault], str(error)), repr(error)
    assert not hasattr(model, "estimator_")


@every_kind
@pytest.mark.parametrize("fault", WARNED)
def test_nets_that_are_warned_of(fault, is_classifier):
    model, X, y, error, warned = outcome_of_net(fault, is_classifier)
    assert error is None, error
    check_predictions(model, X, y)
    assert any(WARNED[fault] in message for message in warned)


@every_kind
@pytest.mark.parametrize("fault", FINE)
def test_nets_that_are_no_matter(fault, is_classifier):
    model, X, y, error, _ = outcome_of_net(fault, is_classifier)
    if fault == "float64" and not is_classifier and "expected Double" in str(error):
        pytest.skip("older versions of torch do not measure float64 by float32")
    assert error is None, error
    check_predictions(model, X, y)
    check_same_again(model, X, y)


class BlowsUp(Net):
    """Returns infinity once it has trained on more samples than round 1 has."""

    def forward(self, X):
        n_samples = len(X)
        outputs = super().forward(X)
        self.n_largest = max(getattr(self, "n_largest", 0), self.training * n_samples)
        blown_up = not self.training and self.n_largest > 12
        return outputs + torch.inf if blown_up else outputs


def test_a_last_net_that_predicts_no_numbers_is_refused():
    X, y = table(5)
    net = small_classifier(3, 2, module=BlowsUp, batch_size=16)
    model = DataDropoutClassifier(net, **ONE_SPLIT, engine=ENGINE, drop_fraction=0.0)
    error, _ = fit(model, X, y)
    assert re.search("round 2: .* for 16 of the 16 samples it was tr", str(error))
    assert not hasattr(model, "estimator_")


# Criteria.


class FaultyCriterion(nn.CrossEntropyLoss):
    """Misbehaves as `fault` says."""

    def __init__(self, fault=None, reduction="mean"):
        super().__init__(reduction=reduction)
        self.fault = fault

    def forward(self, outputs, y):
        if self.fault == "ignores reduction":
            return F.cross_entropy(outputs, y)
        losses = super().forward(outputs, y)
        per_sample = self.reduction == "none"
        return {
            "negative": lambda: losses - 5,
            "detached": lambda: losses.detach(),
            "zero": lambda: 0 * losses,
            "NaN": lambda: losses * torch.nan,
            "NaN by sample": lambda: losses * torch.nan if per_sample else losses,
            "float64": lambda: losses.double(),
            "fails": lambda: losses @ torch.ones(7),
            "two per sample": lambda: losses.repeat(2) if per_sample else losses,
        }[self.fault]()


REFUSED_CRITERIA = {
    "ignores reduction": "must give one loss per sample",
    "detached": "no gradient of the training loss",
    "NaN": "FaultyCriterion gives a loss of NaN for the first samples",
    "NaN by sample": "FaultyCriterion gives a loss of NaN for the first samples",
    "fails": "criterion FaultyCriterion failed on outputs of shape",
    "two per sample": "it must give one loss per sample",
}


def outcome_of_criterion(fault):
    X, y = table(0)
    net = small_classifier(3, 2, criterion=FaultyCriterion, criterion__fault=fault)
    model = DataDropoutClassifier(net, **ONE_SPLIT, engine=ENGINE)
    return model, X, y, *fit(model, X, y)


@pytest.mark.parametrize("fault", REFUSED_CRITERIA)
def test_criteria_that_are_refused(fault):
    *_, error, _ = outcome_of_criterion(fault)
    assert re.search(REFUSED_CRITERIA[fault], str(error)), repr(error)


@pytest.mark.parametrize("fault", ["zero", "negative", "float64"])
def test_criteria_that_are_not(fault):
    model, X, y, error, _ = outcome_of_criterion(fault)
    assert error is None, error
    check_predictions(model, X, y)


# Objectives.

REFUSED_OBJECTIVES = {
    "one number": (lambda out, y: out.mean(), "tensor of shape"),
    "numpy": (lambda out, y: out.detach().numpy()[:, 0], "tensor of shape"),
    "outputs": (lambda out, y: out, "tensor of shape"),
    "NaN": (lambda out, y: out[:, 0] * torch.nan, "objective is NaN or infinite"),
    "overflow": (lambda out, y: out[:, 0] * 1e38 * 1e9, "objective is NaN or inf"),
    "detached": (lambda out, y: out[:, 0].detach(), "does not follow the parameters"),
    "accuracy": (lambda out, y: (out.argmax(1) == y).float(), "does not follow"),
    "constant": (lambda out, y: torch.ones(len(out)), "does not follow the param"),
}
FINE_OBJECTIVES = {
    "float64": lambda out, y: out[:, 0].double(),
    "negative": lambda out, y: -(out[:, 0] ** 2),
    "in place": lambda out, y: out.mul_(2)[:, 0],
    "random": lambda out, y: out[:, 0] * torch.rand(len(out)),
}


def with_objective(objective):
    return DataDropoutClassifier(
        small_classifier(3, 2), objective=objective, engine=ENGINE, **ONE_SPLIT
    )


@pytest.mark.parametrize("name", REFUSED_OBJECTIVES)
def test_objectives_that_are_refused(name):
    objective, message = REFUSED_OBJECTIVES[name]
    error, _ = fit(with_objective(objective), *table(3))
    assert re.search(message, str(error)), repr(error)


@pytest.mark.parametrize("name", FINE_OBJECTIVES)
def test_objectives_that_are_no_matter(name):
    model, (X, y) = with_objective(FINE_OBJECTIVES[name]), table(3)
    error, _ = fit(model, X, y)
    assert error is None, error
    check_same_again(model, X, y)


# Steps.


def outcome_of_steps(lr, is_classifier, max_epochs):
    X, y = table(1)
    model, y = model_and_targets(
        is_classifier, y, X[:, 0], lr=lr, max_epochs=max_epochs
    )
    return model, X, y, *fit(model.set_params(engine=ENGINE), X, y)


@every_kind
@pytest.mark.parametrize("lr", [0.0, 1e-30, 1e-3, 1.0, 1e2])
def test_learning_rates_that_are_no_matter(lr, is_classifier):
    model, X, y, error, _ = outcome_of_steps(lr, is_classifier, 2)
    assert error is None, error
    check_predictions(model, X, y)


@every_kind
@pytest.mark.parametrize(
    ("lr", "max_epochs", "message"),
    [
        (-0.1, 1, "cannot be initialized: Invalid learning rate: -0.1"),
        (np.nan, 1, "split 1 of 1: in evaluation mode the net gives NaN for 8 of 8"),
        (np.nan, 2, "split 1 of 1: the training loss became nan in epoch 2"),
        (np.inf, 1, "split 1 of 1: in evaluation mode the net gives NaN for 8 of 8"),
        (np.inf, 2, "split 1 of 1: the training loss became nan in epoch 2"),
    ],
)
def test_learning_rates_that_are_none(lr, max_epochs, message, is_classifier):
    *_, error, _ = outcome_of_steps(lr, is_classifier, max_epochs)
    assert re.search(message, str(error)), repr(error)


@pytest.mark.parametrize(
    ("max_epochs", "message"),
    [
        (1, "split 1 of 1: the held-out objective is NaN or infinite for 8 of 8"),
        (2, "split 1 of 1: the training loss became inf in epoch 2"),
    ],
)
def test_steps_beyond_float32_are_refused(max_epochs, message):
    *_, error, _ = outcome_of_steps(1e30, False, max_epochs)
    assert re.search(message, str(error)), repr(error)


def test_a_net_far_beyond_rounding_is_not_scored_by_influence_functions():
    """Nothing is left of a change of the parameters."""
    *_, error, _ = outcome_of_steps(1e30, True, 2)
    assert re.search("split 1 of 1: the net cannot be differentiated", str(error))


def test_a_saturated_net_is_not_scored_by_influence_functions():
    """Only rounding is left of its curvature."""
    model, X, y, error, warned = outcome_of_steps(1e6, True, 2)
    assert error is None, error
    check_predictions(model, X, y)
    assert any("not positive definite" in message for message in warned)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 8, 16, 100])
def test_batches_of_one_sample(batch_size, has_norm, drop_last):
    X, y = table(2)
    net = small_classifier(
        3,
        2,
        module=FaultyNet,
        module__fault="batch norm" if has_norm else None,
        batch_size=batch_size,
        iterator_train__drop_last=drop_last,
    )
    model = DataDropoutClassifier(net, **ONE_SPLIT, engine=ENGINE, drop_fraction=0.0)
    error, _ = fit(model, X, y)
    if drop_last and batch_size > 8:
        assert "the net saw no batch" in str(error)
    elif has_norm and (batch_size == 1 or (8 % batch_size == 1 and not drop_last)):
        assert re.search("(?s)split 1 of 1: .*drop_last=True", str(error))
    elif has_norm and len(X) % batch_size == 1 and not drop_last:
        assert re.search("(?s)round 2: .*drop_last=True", str(error))
    else:
        assert error is None, error
        check_predictions(model, X, y)


# A net that is given.

SAMPLES_REFUSED = {
    "a feature less": (lambda X, y: (X[:, :2], y), "failed on the samples"),
    "class 5": (lambda X, y: (X, y + 5), "CrossEntropyLoss failed on outputs"),
    "labels float": (lambda X, y: (X, y.float()), "CrossEntropyLoss failed on outp"),
    "NaN": (lambda X, y: (X * torch.nan, y), "the net gives NaN for 16 of 16"),
    "huge": (lambda X, y: (X * 3e38, y), "the net gives NaN for . of 16 samples"),
    "no samples": (lambda X, y: (X[:0], y[:0]), "X(_val)? holds no samples"),
    "no y": (lambda X, y: (X, None), "y(_val)? holds no samples; got None"),
    "lengths": (lambda X, y: (X, y[1:]), "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("are_held_out", [False, True])
@pytest.mark.parametrize("name", SAMPLES_REFUSED)
def test_samples_that_a_given_net_refuses(name, are_held_out):
    spoil, message = SAMPLES_REFUSED[name]
    samples = [tuple(map(torch.as_tensor, table(seed))) for seed in (0, 1)]
    samples[are_held_out] = spoil(*samples[are_held_out])
    torch.manual_seed(0)
    net, loss = nn.Linear(3, 2), nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match=message) as caught:
        influence_scores(net, *samples[0], *samples[1], loss=loss)
    check_error(caught.value)


@pytest.mark.parametrize("checkpoints", [[{}], {"weight": 1}])
def test_checkpoints_that_are_no_state_dicts(checkpoints):
    X, y = map(torch.as_tensor, table(0))
    net, loss = nn.Linear(3, 2), nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="checkpoints must be a list of state dicts"):
        influence_scores(net, X, y, X, y, loss=loss, checkpoints=checkpoints)
