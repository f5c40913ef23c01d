"""influence_scores on nets that were trained elsewhere."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MLP
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    Dense,
    GaussNewton,
    Views,
    influence_scores,
)
from sk_datadrop.nets import SmallCNN

EXACT = {"curvature": GaussNewton(n_samples=None), "solver": Dense()}


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
    found, expected = (influence_scores(net, *split(blobs), **EXACT) for net in nets)
    np.testing.assert_allclose(found.influence, expected.influence, rtol=1e-4)


def test_a_module_scores_as_its_skorch_net(trained, blobs):
    reference = influence_scores(trained, *split(blobs), **EXACT)
    tensors = [torch.as_tensor(a) for a in split(blobs)]
    for loss in (
        nn.CrossEntropyLoss(),
        Wrapped(),
        lambda outputs, y: F.cross_entropy(outputs, y, reduction="none"),
    ):
        result = influence_scores(trained.module_, *tensors, loss=loss, **EXACT)
        np.testing.assert_allclose(result.influence, reference.influence, rtol=1e-4)


def test_estimator_scores_with_the_same_numbers(classifier, blobs):
    X, y, X_val, y_val = split(blobs)
    classifier.set_params(lr=0.005)  # the last epoch is the best, and scored
    model = DataDropoutClassifier(
        classifier, views=Views(n_groups=1), random_state=0, **EXACT
    )
    model.fit(X, y, X_val=X_val, y_val=y_val)
    checkpoint_epoch = model.views_[0].epoch
    net = model.round_one_estimators_[0]
    assert checkpoint_epoch == len(net.history)
    result = influence_scores(net, X, y, X_val, y_val, **EXACT)
    np.testing.assert_allclose(result.influence, model.influence_, rtol=1e-3, atol=1e-7)


def test_regression_takes_the_scale_from_the_held_out_rows(regressor, plane):
    X, y = plane
    wrong = y[:, None].copy()
    wrong[:5] += 20
    net = regressor.set_params(train_split=None).fit(X, wrong)
    result = influence_scores(net, X, wrong, X, y[:, None], **EXACT)
    assert set(np.argsort(result.influence)[:5]) == set(range(5))


def test_checkpoints_and_groups_are_views(trained, blobs):
    early = copy.deepcopy(trained.module_.state_dict())
    trained.partial_fit(*split(blobs)[:2])
    late = copy.deepcopy(trained.module_.state_dict())
    options = {**EXACT, "n_groups": 2, "random_state": 0}
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


def test_batch_size_and_row_order_do_not_matter(trained, blobs):
    X, y, X_val, y_val = split(blobs)
    reference = influence_scores(trained, X, y, X_val, y_val, **EXACT).influence
    result = influence_scores(trained, X, y, X_val, y_val, batch_size=7, **EXACT)
    np.testing.assert_allclose(result.influence, reference, rtol=1e-4, atol=1e-9)
    order = np.random.default_rng(0).permutation(60)
    shuffled = influence_scores(trained, X[order], y[order], X_val, y_val, **EXACT)
    np.testing.assert_allclose(
        shuffled.influence, reference[order], rtol=1e-4, atol=1e-9
    )


def test_lower_precision_ranks_alike(trained, blobs):
    rows = (*blobs, *blobs)
    full = influence_scores(trained, *rows, random_state=0).influence
    low = influence_scores(trained, *rows, autocast="bfloat16", random_state=0)
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


def line(n_rows=40):
    """A fitted line and rows with large integer targets, the first of them wrong."""
    X = torch.linspace(-1, 1, n_rows)[:, None]
    y = (100 * X).round().long() + 200
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(100.0)
        module.bias.fill_(200.0)
    wrong = y.clone()
    wrong[0] += 300
    return module, X, wrong, X, y + (torch.arange(n_rows) % 3 - 1)[:, None]


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
    module, *rows = line()
    if axes == 1:
        rows[1::2] = rows[1][:, 0], rows[3][:, 0]
        if isinstance(loss, nn.Module):
            module = nn.Sequential(module, nn.Flatten(0))
    rows[1] = rows[1] + 5
    result = influence_scores(module, *rows, loss=loss)
    floats = [rows[0], rows[1].float(), rows[2], rows[3].float()]
    expected = influence_scores(module, *floats, loss=loss)
    np.testing.assert_allclose(result.influence, expected.influence, rtol=1e-5)
    assert np.abs(result.influence).max() > 1e-3


def test_losses_that_mix_rows_by_broadcasting_are_refused():
    module, X, y, X_val, y_val = line()
    with pytest.raises(ValueError, match="rows are mixed up by broadcasting"):
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
    expected = influence_scores(trained, X, y, X_val, y_val, **EXACT).influence
    series = pd.Series(y, index=np.random.default_rng(0).permutation(60))
    for labels in (y.tolist(), series):
        found = influence_scores(trained, X, labels, X_val, y_val, **EXACT)
        np.testing.assert_array_equal(found.influence, expected)


def test_what_could_not_be_solved_is_said():
    module, *rows = line()
    rows = [values.float() for values in rows]
    with pytest.warns(ConvergenceWarning, match="not positive definite"):
        result = influence_scores(module, *rows, loss=nn.L1Loss())
    assert np.isnan(result.influence).all()


@pytest.mark.parametrize(
    ("net", "options", "error", "message"),
    [
        ("a net", {}, TypeError, "must be a trained skorch net or torch module"),
        (MLP(), {}, TypeError, "a plain module needs the loss it was trained with"),
        (
            NeuralNetClassifier(MLP),
            {},
            Exception,
            "is not trained. Call its fit first",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "objective": "other"},
            ValueError,
            "objective must be 'bounded', 'loss' or a callable",
        ),
        (
            MLP(),
            {"loss": lambda outputs, y: F.cross_entropy(outputs, y)},
            ValueError,
            "must give one loss per row",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "checkpoints": []},
            ValueError,
            "checkpoints is empty",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "autocast": "float32"},
            ValueError,
            "autocast must be None",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "n_groups": 0},
            ValueError,
            "n_groups must be a positive integer",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "n_groups": True},
            ValueError,
            "n_groups must be a positive integer; got True",
        ),
        (
            MLP(),
            {"loss": nn.CrossEntropyLoss(), "n_groups": 91},
            ValueError,
            "n_groups must be at most the number of held-out rows",
        ),
    ],
)
def test_bad_input(blobs, net, options, error, message):
    with pytest.raises(error, match=message):
        influence_scores(net, *split(blobs), **options)


def test_a_skorch_net_takes_no_other_loss(trained, blobs):
    with pytest.raises(TypeError, match="own criterion.*got loss='nonsense'"):
        influence_scores(trained, *split(blobs), loss="nonsense")


def test_lengths_must_agree(trained, blobs):
    X, y, X_val, y_val = split(blobs)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        influence_scores(trained, X[1:], y, X_val, y_val)
    with pytest.raises(ValueError, match=r"X_val holds 1 row\(s\)"):
        influence_scores(trained, X, y, X_val[:1], y_val[:1])
