"""Influence against true refits without a row, and against per-row autograd."""

import copy

import numpy as np
import pytest
import torch
from conftest import MLP
from scipy.optimize import minimize
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_datadrop import DataDropoutRegressor, Dense, GaussNewton, Lanczos
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import influence, objective_gradients, split_groups

N_TRAIN, N_HELD_OUT, N_FEATURES = 150, 40, 5


def linear_net(net_class, criterion, weights):
    net = net_class(
        nn.Linear,
        criterion=criterion,
        module__in_features=N_FEATURES,
        module__out_features=len(weights),
        module__bias=False,
    ).initialize()
    net.module_.double()
    with torch.no_grad():
        net.module_.weight.copy_(torch.as_tensor(weights))
    return net


def score(net, train, held_out, **options):
    defaults = {
        "objective": "loss",
        "is_classification": True,
        "curvature": GaussNewton(n_samples=None),
        "solver": Dense(),
        "n_groups": 1,
        "random_state": np.random.default_rng(0),
    }
    return influence(FunctionalNet(net), train, held_out, **(defaults | options))


def make_regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TRAIN + N_HELD_OUT, N_FEATURES))
    # The held-out rows follow another plane, so that the gradient of the
    # objective is far from zero and the effect of a row close to linear.
    coefficients = rng.normal(size=(N_FEATURES, 1))
    planes = np.where(np.arange(len(X))[:, None] < N_TRAIN, 0.0, 0.5)
    y = X @ coefficients + planes * X.sum(1, keepdims=True)
    y += 0.5 * rng.normal(size=(len(X), 1))
    return (X[:N_TRAIN], y[:N_TRAIN]), (X[N_TRAIN:], y[N_TRAIN:])


def make_classification():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TRAIN + N_HELD_OUT, N_FEATURES))
    y = np.argmax(X @ rng.normal(size=(N_FEATURES, 3)), axis=1)
    y[:15] = (y[:15] + 1) % 3  # wrong labels
    return (X[:N_TRAIN], y[:N_TRAIN]), (X[N_TRAIN:], y[N_TRAIN:])


def refit_ridge(X, y, weights, ridge):
    A = 2 * X.T @ (weights[:, None] * X) + ridge * np.eye(N_FEATURES)
    return np.linalg.solve(A, 2 * X.T @ (weights[:, None] * y)).T


def refit_softmax(X, y, weights, ridge):
    X, y, weights = (torch.as_tensor(a) for a in (X, y, weights))

    def objective(flat):
        W = torch.tensor(flat.reshape(3, N_FEATURES), requires_grad=True)
        losses = F.cross_entropy(X @ W.T, y, reduction="none")
        total = weights @ losses + ridge / 2 * W.square().sum()
        total.backward()
        return total.item(), W.grad.numpy().ravel()

    start = np.zeros(3 * N_FEATURES)
    return minimize(
        objective, start, jac=True, method="BFGS", options={"gtol": 1e-9}
    ).x.reshape(3, N_FEATURES)


def squared_error(W, X, y):
    return ((X @ W.T - y) ** 2).mean(1)


def cross_entropy(W, X, y):
    logits = torch.as_tensor(X @ W.T)
    return F.cross_entropy(logits, torch.as_tensor(y), reduction="none").numpy()


@pytest.mark.parametrize("objective", ["loss", "bounded"])
@pytest.mark.parametrize(
    ("net_class", "criterion", "data", "refit", "losses"),
    [
        (
            NeuralNetRegressor,
            nn.MSELoss,
            make_regression,
            refit_ridge,
            squared_error,
        ),
        (
            NeuralNetClassifier,
            nn.CrossEntropyLoss,
            make_classification,
            refit_softmax,
            cross_entropy,
        ),
    ],
    ids=["ridge", "softmax"],
)
def test_sign_and_size_against_refits_without_each_row(
    objective, net_class, criterion, data, refit, losses
):
    """Positive = removing the row raises the held-out objective."""
    train, held_out = data()
    ridge = 0.02
    weights = np.full(N_TRAIN, 1 / N_TRAIN)
    W = refit(*train, weights, ridge)
    is_classification = criterion is nn.CrossEntropyLoss
    scale = 1.0 if is_classification else 2.985**2 * np.median(losses(W, *held_out))

    def measure(W):
        values = losses(W, *held_out)
        if objective == "loss":
            return values.mean()
        values = 1 - np.exp(-values / scale)
        if not is_classification:
            return values.mean()
        return np.mean([values[held_out[1] == c].mean() for c in range(3)])

    effects = []
    for row in range(N_TRAIN):
        without = weights.copy()
        without[row] = 0
        effects.append(measure(refit(*train, without, ridge)) - measure(W))

    net = linear_net(net_class, criterion, W)
    options = {"objective": objective, "is_classification": is_classification}
    top = score(net, train, held_out, **options).solver_result.top_eigenvalue
    curvature = GaussNewton(damping=ridge / top, n_samples=None)
    scores = score(net, train, held_out, curvature=curvature, **options).train[0]
    assert np.corrcoef(scores, effects)[0, 1] >= 0.98
    slope = scores @ effects / (scores @ scores)
    assert 0.8 < slope < 1.25
    harmful = np.argsort(scores)[:3]
    assert np.all(np.array(effects)[harmful] < 0)


@pytest.fixture
def scored():
    """A net on float64 rows, and the scores of every train and held-out row."""
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    net.module_.double()
    rng = np.random.default_rng(0)
    train = rng.normal(size=(20, 4)), rng.integers(3, size=20)
    held_out = rng.normal(size=(12, 4)), rng.integers(3, size=12)
    return net, train, held_out


def test_scores_against_gradients_of_single_rows(scored):
    net, train, held_out = scored
    result = score(net, train, held_out, n_groups=3, objective="bounded")
    functional = FunctionalNet(net)
    gradients = []
    for X_row, y_row in zip(*(torch.as_tensor(a) for a in train), strict=True):
        theta = functional.theta.clone().requires_grad_()
        loss = functional.row_losses(theta, X_row[None], y_row[None]).sum()
        gradients.append(torch.autograd.grad(loss, theta)[0])
    expected = torch.stack(gradients) @ result.solver_result.solution / 20
    np.testing.assert_allclose(result.train, expected.T, rtol=1e-9, atol=1e-14)


def test_classes_weigh_the_same_in_the_bounded_objective(scored):
    net, _, (X, y) = scored
    X, y = X[:9], np.repeat([0, 1, 2], [6, 2, 1])
    functional = FunctionalNet(net)
    rows = torch.as_tensor(X), torch.as_tensor(y)
    known = functional.raw_outputs(functional.theta, rows[0]).softmax(1).detach()
    losses = -known[torch.arange(9), rows[1]].log().numpy()
    power = [1 / max(1, np.median(losses[y == c])) for c in range(3)]
    assert min(power) < 1
    expected = []
    for take_mean in [
        lambda p: torch.stack(
            [1 - (p[y == c] ** power[c]).mean() for c in range(3)]
        ).mean(),
        lambda p: -p.log().mean(),
    ]:
        theta = functional.theta.clone().requires_grad_()
        raw = functional.raw_outputs(theta, rows[0])
        probabilities = raw.softmax(1)[torch.arange(9), rows[1]]
        expected.append(torch.autograd.grad(take_mean(probabilities), theta)[0])
    for objective, gradient in zip(["bounded", "loss"], expected, strict=True):
        [found] = objective_gradients(
            functional,
            (X, y),
            np.zeros(9, dtype=int),
            objective=objective,
            is_classification=True,
            batch_size=4,
        ).T
        torch.testing.assert_close(found, gradient)


def test_groups_share_every_class():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 9, 4]))
    groups = split_groups(codes, 4, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(np.bincount(groups)), [15, 16, 16, 16])
    for code, n_rows in enumerate([50, 9, 4]):
        counts = np.bincount(groups[codes == code], minlength=4)
        assert counts.min() == n_rows // 4
        assert counts.max() <= n_rows // 4 + 1
    assert not np.array_equal(groups, split_groups(codes, 4, np.random.default_rng(2)))


def test_one_group_is_the_mean_of_two(scored):
    pooled = score(*scored, n_groups=1)
    halves = score(*scored, n_groups=2)
    np.testing.assert_allclose(pooled.train[0], halves.train.mean(0))
    np.testing.assert_allclose(pooled.held_out[0], np.nanmean(halves.held_out, 0))


def test_a_held_out_row_is_not_scored_by_its_own_group(scored):
    net, train, held_out = scored
    result = score(net, train, held_out, n_groups=3)
    assert np.all(np.isnan(result.held_out).sum(axis=0) == 1)
    # Trained on or held out: the same formula for the same row.
    twin = score(net, train, (held_out[0], held_out[1]), n_groups=3)
    np.testing.assert_array_equal(result.held_out, twin.held_out)


def test_held_out_rows_are_scored_like_training_rows(scored):
    net, train, held_out = scored
    result = score(net, train, held_out, n_groups=2)
    functional = FunctionalNet(net)
    X_row, y_row = torch.as_tensor(held_out[0][:1]), torch.as_tensor(held_out[1][:1])
    theta = functional.theta.clone().requires_grad_()
    loss = functional.row_losses(theta, X_row, y_row).sum()
    gradient = torch.autograd.grad(loss, theta)[0]
    products = (gradient @ result.solver_result.solution / 20).numpy()
    column = result.held_out[:, 0]
    seen = ~np.isnan(column)
    np.testing.assert_allclose(column[seen], products[seen], rtol=1e-9)


def test_infinite_scores_of_held_out_rows_are_none():
    train, (X, y) = make_regression()
    net = linear_net(NeuralNetRegressor, nn.MSELoss, np.ones((1, N_FEATURES)))
    X = X.copy()
    X[0] = 1e200
    result = score(
        net,
        train,
        (X, y),
        objective=lambda outputs, y: outputs[:, 0].sigmoid(),
        is_classification=False,
    )
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.held_out)), [0])
    assert np.isfinite(result.held_out[:, 1:]).all()


def test_held_out_rows_can_be_left_unscored(scored):
    assert np.isnan(score(*scored, score_held_out=False).held_out).all()


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_batch_size_does_not_matter(scored, batch_size):
    reference = score(*scored)
    result = score(*scored, batch_size=batch_size)
    np.testing.assert_allclose(result.train, reference.train, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(result.held_out, reference.held_out, rtol=1e-9)


def test_order_of_the_rows_does_not_matter(scored):
    net, train, held_out = scored
    order = np.random.default_rng(1).permutation(20)
    shuffled = score(net, (train[0][order], train[1][order]), held_out)
    reference = score(net, train, held_out)
    np.testing.assert_allclose(shuffled.train, reference.train[:, order], rtol=1e-9)


def test_duplicated_rows_get_the_same_score(scored):
    net, (X, y), held_out = scored
    doubled = score(net, (np.repeat(X, 2, 0), np.repeat(y, 2)), held_out)
    reference = score(net, (X, y), held_out)
    np.testing.assert_allclose(doubled.train[:, ::2], doubled.train[:, 1::2])
    np.testing.assert_allclose(2 * doubled.train[:, ::2], reference.train, rtol=1e-9)


def test_float32_agrees_with_float64(scored):
    net, train, held_out = scored
    reference = score(net, train, held_out, solver=Lanczos(max_iter=50, tol=1e-6))
    single = copy.deepcopy(net)
    single.module_.float()
    result = score(
        single,
        (train[0].astype(np.float32), train[1]),
        (held_out[0].astype(np.float32), held_out[1]),
        solver=Lanczos(max_iter=50, tol=1e-4),
    )
    scale = np.abs(reference.train).max()
    np.testing.assert_allclose(result.train, reference.train, atol=1e-3 * scale)


def test_the_state_the_net_was_left_in_does_not_matter(scored):
    net, train, held_out = scored
    torch.manual_seed(0)
    net = NeuralNetClassifier(
        nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        ),
        criterion=nn.CrossEntropyLoss,
    ).initialize()
    net.module_.double()
    net.module_.eval()
    reference = score(net, train, held_out)
    net.module_.train()
    before = copy.deepcopy(net.module_.state_dict())
    rng_state = torch.get_rng_state()
    result = score(net, train, held_out)
    np.testing.assert_array_equal(result.train, reference.train)
    assert net.module_.training
    assert torch.equal(torch.get_rng_state(), rng_state)
    for key, value in net.module_.state_dict().items():
        assert torch.equal(value, before[key])


def test_every_product_is_counted(scored):
    calls = []
    result = score(*scored, solver=Lanczos(), on_product=lambda: calls.append(1))
    assert len(calls) == result.solver_result.n_iter > 0


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_scores_in_lower_precision_rank_alike(scored, autocast):
    net, train, held_out = scored
    net.module_.float()
    train, held_out = ((X.astype(np.float32), y) for X, y in ((train), (held_out)))
    reference = score(net, train, held_out)
    result = score(net, train, held_out, autocast=autocast)
    for found, expected in [
        (result.train, reference.train),
        (result.held_out, reference.held_out),
    ]:
        assert found.dtype == np.float64
        assert not np.array_equal(found, expected)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    # Gradient and curvature keep the full precision.
    torch.testing.assert_close(
        result.solver_result.solution, reference.solver_result.solution, rtol=0, atol=0
    )


def test_rows_beyond_float16_are_scored_in_full_precision():
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(3, size=20)
    X[3] *= 1e6
    rows = (X, y), (X[4:], y[4:])
    result = score(net, *rows, autocast="float16")
    np.testing.assert_allclose(result.train, score(net, *rows).train, rtol=1e-5)


def test_lower_precision_with_batch_norm():
    torch.manual_seed(0)
    layers = (
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        *(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)),
    )
    net = NeuralNetClassifier(
        nn.Sequential(*layers), criterion=nn.CrossEntropyLoss
    ).initialize()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 1, 8, 8)).astype(np.float32)
    rows = (X[:12], rng.integers(3, size=12)), (X[12:], rng.integers(3, size=8))
    reference, result = (score(net, *rows, autocast=a) for a in (None, "bfloat16"))
    assert not np.array_equal(result.train, reference.train)
    assert np.corrcoef(result.train.ravel(), reference.train.ravel())[0, 1] > 0.999


def test_what_no_row_can_do_to_a_bounded_objective_is_not_believed():
    """An exactly fitted plane, and one gross outlier in the split that held it out."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, 2.0, 3.0]
    outlier = rng.permutation(200)[0]
    y[outlier] += 30
    net = NeuralNetRegressor(
        nn.Linear,
        module__in_features=3,
        module__out_features=1,
        lr=0.1,
        max_epochs=30,
        batch_size=20,
        verbose=0,
    )
    model = DataDropoutRegressor(net, random_state=0).fit(X, y)
    assert np.isnan(model.influence_per_view_[:, outlier]).sum() == 1
    np.testing.assert_array_equal(np.flatnonzero(~model.sample_mask_), [outlier])
