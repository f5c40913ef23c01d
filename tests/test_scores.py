"""influence_scores on nets that were trained elsewhere."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MLP
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from skorch import NeuralNet, NeuralNetClassifier
from skorch.exceptions import NotInitializedError
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    Dense,
    GaussNewton,
    Hessian,
    InfluenceFunctions,
    influence_scores,
)
from sk_datadrop.nets import SmallCNN

EXACT = InfluenceFunctions(curvature=GaussNewton(n_samples=None), solver=Dense())


def split(blobs):
    X, y = blobs
    return X[:60], y[:60].astype(np.int64), X[60:], y[60:].astype(np.int64)


@pytest.fixture
def trained(classifier, blobs):
    torch.manual_seed(0)
    return classifier.fit(*split(blobs)[:2])


class Wrapped(nn.Module):
    """A criterion of the user that torch does not know."""

    reduction = "mean"

    def forward(self, outputs, y):
        return F.cross_entropy(outputs, y, reduction=self.reduction)


@pytest.mark.parametrize("net_class", [NeuralNet, NeuralNetClassifier])
def test_a_criterion_of_the_user_scores_as_that_of_torch(net_class, blobs):
    nets = []
    for criterion in (Wrapped, nn.CrossEntropyLoss):
        torch.manual_seed(0)
        nets.append(net_class(MLP, criterion=criterion, verbose=0).initialize())
    found, expected = (
        influence_scores(net, *split(blobs), engine=EXACT) for net in nets
    )
    np.testing.assert_allclose(found.influence, expected.influence, rtol=1e-4)


def test_a_module_scores_as_its_skorch_net(trained, blobs):
    reference = influence_scores(trained, *split(blobs), engine=EXACT)
    tensors = [torch.as_tensor(a) for a in split(blobs)]
    for loss in (
        nn.CrossEntropyLoss(),
        Wrapped(),
        lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"),
    ):
        result = influence_scores(trained.module_, *tensors, loss=loss, engine=EXACT)
        np.testing.assert_allclose(
            result.influence, reference.influence, rtol=1e-4, atol=1e-8
        )


def test_estimator_scores_with_the_same_numbers(classifier, blobs):
    X, y, X_val, y_val = split(blobs)
    classifier.set_params(lr=0.005)  # the last epoch is the best, and scored
    engine = clone(EXACT).set_params(n_groups=1)
    model = DataDropoutClassifier(classifier, engine=engine, random_state=0)
    model.fit(X, y, X_val=X_val, y_val=y_val)
    checkpoint_epoch = model.views_[0].epoch
    net = model.round_one_estimators_[0]
    assert checkpoint_epoch == len(net.history)
    result = influence_scores(net, X, y, X_val, y_val, engine=EXACT)
    np.testing.assert_allclose(result.influence, model.influence_, rtol=1e-3, atol=1e-7)


def test_regression_takes_the_scale_from_the_held_out_samples(regressor, plane):
    X, y = plane
    wrong = y[:, None].copy()
    wrong[:5] += 20
    net = regressor.set_params(train_split=None).fit(X, wrong)
    result = influence_scores(net, X, wrong, X, y[:, None], engine=EXACT)
    assert set(np.argsort(result.influence)[:5]) == set(range(5))


def test_checkpoints_and_groups_are_views(trained, blobs):
    early = copy.deepcopy(trained.module_.state_dict())
    trained.partial_fit(*split(blobs)[:2])
    late = copy.deepcopy(trained.module_.state_dict())
    engine = clone(EXACT).set_params(n_groups=2)
    options = {"engine": engine, "random_state": 0}
    result = influence_scores(
        trained, *split(blobs), checkpoints=[early, late], **options
    )
    assert result.influence_per_view.shape == (4, 60)
    assert len(result.solver_results) == 2
    assert result.seconds > 0
    assert result.derivative == "forward mode"
    np.testing.assert_allclose(result.influence, result.influence_per_view.mean(0))
    last = influence_scores(trained, *split(blobs), **options)
    np.testing.assert_allclose(result.influence_per_view[2:], last.influence_per_view)


def test_net_is_left_as_found(blobs):
    X, y, X_val, y_val = split(blobs)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    module[0].weight.requires_grad_(False)
    module[1].eval()
    module[2].bias.grad = torch.ones(3)
    before = copy.deepcopy(module)
    random_state = torch.get_rng_state()
    influence_scores(module, X, y, X_val, y_val, loss=nn.CrossEntropyLoss())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before.state_dict()[name])
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert torch.equal(module[2].bias.grad, torch.ones(3))
    assert not module[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


def test_batch_size_and_order_of_samples_do_not_matter(trained, blobs):
    X, y, X_val, y_val = split(blobs)
    reference = influence_scores(trained, X, y, X_val, y_val, engine=EXACT).influence
    result = influence_scores(trained, X, y, X_val, y_val, batch_size=7, engine=EXACT)
    np.testing.assert_allclose(result.influence, reference, rtol=1e-4, atol=1e-8)
    order = np.random.default_rng(0).permutation(60)
    shuffled = influence_scores(trained, X[order], y[order], X_val, y_val, engine=EXACT)
    np.testing.assert_allclose(
        shuffled.influence, reference[order], rtol=1e-4, atol=1e-8
    )


def test_lower_precision_ranks_alike(trained, blobs):
    samples = (*blobs, *blobs)
    full = influence_scores(trained, *samples, random_state=0).influence
    engine = InfluenceFunctions(autocast="bfloat16")
    low = influence_scores(trained, *samples, engine=engine, random_state=0)
    assert not np.array_equal(low.influence, full)
    assert np.corrcoef(low.influence, full)[0, 1] > 0.999


def test_images_and_a_plain_convolutional_module(noisy_digits):
    X, y, flipped = noisy_digits
    torch.manual_seed(0)
    module = SmallCNN(channels=(8, 8), n_hidden=16)
    tensors = torch.as_tensor(X), torch.as_tensor(y)
    module(tensors[0][:2])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(module(tensors[0][:400]), tensors[1][:400]).backward()
        optimizer.step()
    result = influence_scores(
        module, X[:400], y[:400], X[400:], y[400:], loss=nn.CrossEntropyLoss()
    )
    assert roc_auc_score(~flipped[:400], result.influence) > 0.75


def line(n_samples=40):
    """A fitted line and samples with large integer targets, the first of them wrong."""
    X = torch.linspace(-1, 1, n_samples)[:, None]
    y = (100 * X).round().long() + 200
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(100.0)
        module.bias.fill_(200.0)
    wrong = y.clone()
    wrong[0] += 300
    return module, X, wrong, X, y + (torch.arange(n_samples) % 3 - 1)[:, None]


# In torch 2.6 MSELoss has no gradient for integer targets. With so large a beta
# SmoothL1Loss is the same but for a factor.
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(
    "loss",
    [
        nn.SmoothL1Loss(beta=1000),
        lambda out, y: (out.reshape(len(out)) - y.reshape(len(y))).square(),
    ],
)
def test_integer_targets_of_a_regression_are_not_classes(loss, axes):
    module, *samples = line()
    if axes == 1:
        samples[1::2] = samples[1][:, 0], samples[3][:, 0]
        if isinstance(loss, nn.Module):
            module = nn.Sequential(module, nn.Flatten(0))
    samples[1] = samples[1] + 5
    result = influence_scores(module, *samples, loss=loss)
    floats = [values.float() for values in samples]
    expected = influence_scores(module, *floats, loss=loss)
    np.testing.assert_allclose(result.influence, expected.influence, rtol=1e-5)
    assert np.abs(result.influence).max() > 1e-3


def test_losses_that_mix_samples_by_broadcasting_are_refused():
    module, X, y, X_val, y_val = line()
    with pytest.raises(ValueError, match="samples are mixed up by broadcasting"):
        influence_scores(
            module,
            X,
            y[:, 0].float(),
            X_val,
            y_val[:, 0].float(),
            loss=lambda out, y: (out - y) ** 2,
        )


def test_lists_and_series_are_taken_by_position(trained, blobs):
    X, y, X_val, y_val = split(blobs)
    expected = influence_scores(trained, X, y, X_val, y_val, engine=EXACT).influence
    series = pd.Series(y, index=np.random.default_rng(0).permutation(60))
    for labels in (y.tolist(), series):
        found = influence_scores(trained, X, labels, X_val, y_val, engine=EXACT)
        np.testing.assert_array_equal(found.influence, expected)


def test_what_could_not_be_solved_is_said():
    module, *samples = line()
    samples = [values.float() for values in samples]

    def concave(outputs, y):
        return -(outputs - y).square().flatten(1).mean(1)

    options = {"loss": concave, "objective": "loss"}
    engine = InfluenceFunctions(curvature=Hessian())
    with pytest.warns(ConvergenceWarning, match="not positive definite"):
        result = influence_scores(module, *samples, engine=engine, **options)
    assert np.isnan(result.influence).all()


def test_the_engine_may_have_groups_and_no_checkpoints(trained, blobs):
    """Checkpoints are those given, and None makes one group of a split."""
    plain = influence_scores(trained, *split(blobs), random_state=0)
    engine = InfluenceFunctions(n_checkpoints=3, n_groups=1)
    same = influence_scores(trained, *split(blobs), engine=engine, random_state=0)
    np.testing.assert_array_equal(plain.influence_per_view, same.influence_per_view)
    assert plain.influence_per_view.shape == (1, 60)


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [
        ("a net", TypeError, "must be a trained skorch net or torch module; got str"),
        (MLP(), TypeError, "a plain module needs the loss it was trained with"),
        (NeuralNetClassifier(MLP), NotInitializedError, "is not trained. Call its fit"),
    ],
)
def test_nets_that_cannot_be_scored(blobs, net, error, message):
    with pytest.raises(error, match=message):
        influence_scores(net, *split(blobs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "other"}, "objective must be 'bounded', 'loss' or a callable"),
        (
            {"loss": lambda outputs, y: F.cross_entropy(outputs, y)},
            "must give one loss per sample",
        ),
        ({"checkpoints": []}, "checkpoints is empty"),
        (
            {"checkpoints": [{}]},
            r"(?s)checkpoints must be a list of state dicts.*Missing",
        ),
        (
            {"engine": InfluenceFunctions(autocast="float32")},
            "autocast must be None, 'bfloat16' or 'float16'; got 'float32'",
        ),
        (
            {"engine": InfluenceFunctions(n_groups=0)},
            "n_groups == 0, must be >= 1",
        ),
        (
            {"engine": InfluenceFunctions(n_groups=31)},
            r"at most the number of held-out samples \(30\); got 31",
        ),
    ],
)
def test_options_out_of_range(blobs, options, message):
    with pytest.raises(ValueError, match=message):
        influence_scores(
            MLP(), *split(blobs), **({"loss": nn.CrossEntropyLoss()} | options)
        )


@pytest.mark.parametrize("engine", [GaussNewton(), "influence", InfluenceFunctions])
def test_other_engines_are_refused(trained, blobs, engine):
    with pytest.raises(TypeError, match="engine must be InfluenceFunctions.* got"):
        influence_scores(trained, *split(blobs), engine=engine)


def test_a_skorch_net_takes_no_other_loss(trained, blobs):
    with pytest.raises(TypeError, match="own criterion.*got loss='nonsense'"):
        influence_scores(trained, *split(blobs), loss="nonsense")


@pytest.mark.parametrize("double", [np.float64, torch.float64])
def test_double_precision_is_taken_as_fit_does(trained, blobs, double):
    X, y, X_val, y_val = split(blobs)
    single = influence_scores(trained, X, y, X_val, y_val)
    if double is torch.float64:
        X, X_val = torch.as_tensor(X).double(), torch.as_tensor(X_val).double()
    else:
        X, X_val = X.astype(double), X_val.astype(double)
    result = influence_scores(trained, X, y, X_val, y_val)
    np.testing.assert_array_equal(result.influence, single.influence)


def test_real_targets_are_taken_in_double_precision_too():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 1))
    net = nn.Linear(2, 1)
    pairs = (X[:20], y[:20], X[20:], y[20:])
    single = [values.astype(np.float32) for values in pairs]
    results = [influence_scores(net, *p, loss=nn.MSELoss()) for p in (pairs, single)]
    np.testing.assert_array_equal(*(result.influence for result in results))
    doubled = influence_scores(net.double(), *single, loss=nn.MSELoss())
    np.testing.assert_allclose(doubled.influence, results[0].influence, rtol=1e-3)


def test_lengths_must_agree(trained, blobs):
    X, y, X_val, y_val = split(blobs)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        influence_scores(trained, X[1:], y, X_val, y_val)
    with pytest.raises(ValueError, match=r"X_val holds 1 sample\(s\)"):
        influence_scores(trained, X, y, X_val[:1], y_val[:1])
    with pytest.raises(ValueError, match="X holds no samples"):
        influence_scores(trained, X[:0], y[:0], X_val, y_val)
