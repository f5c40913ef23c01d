"""Influence against true refits without a sample, and against dense algebra."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MLP
from scipy.optimize import minimize
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn
from torch.nn import functional as F

from sk_datadrop import DataDropoutRegressor, Dense, GaussNewton, Lanczos
from sk_datadrop._engine import Request, split_groups
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import influence
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._reading import Reading
from sk_datadrop._samples import Samples, class_codes

N_TRAIN, N_HELD_OUT, N_FEATURES = 150, 40, 5
EXACT = GaussNewton(damping=0.1, scaling=None, n_samples=None)
DENSE = Dense()


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


def labelled(X, y):
    return Samples(X, y, class_codes(y))


def score(
    net,
    train,
    held_out,
    kind="loss",
    reading=None,
    *,
    curvature=EXACT,
    solver=DENSE,
    autocast=None,
    seed=0,
    **request,
):
    return influence(
        FunctionalNet(net),
        train,
        HeldOutObjective(kind, held_out, reading),
        curvature=curvature,
        solver=solver,
        autocast=autocast,
        request=Request(seed=seed, **request),
    )


def make_regression():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TRAIN + N_HELD_OUT, N_FEATURES))
    # The held-out samples follow another plane, so that the gradient of the
    # objective is far from zero and the effect of a sample close to linear.
    coefficients = rng.normal(size=(N_FEATURES, 1))
    planes = np.where(np.arange(len(X))[:, None] < N_TRAIN, 0.0, 0.5)
    y = X @ coefficients + planes * X.sum(1, keepdims=True)
    y += 0.5 * rng.normal(size=(len(X), 1))
    return Samples(X[:N_TRAIN], y[:N_TRAIN]), Samples(X[N_TRAIN:], y[N_TRAIN:])


def make_classification():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_TRAIN + N_HELD_OUT, N_FEATURES))
    y = np.argmax(X @ rng.normal(size=(N_FEATURES, 3)), axis=1)
    y[:15] = (y[:15] + 1) % 3  # wrong labels
    return labelled(X[:N_TRAIN], y[:N_TRAIN]), labelled(X[N_TRAIN:], y[N_TRAIN:])


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


@pytest.mark.parametrize("kind", ["loss", "bounded"])
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
def test_sign_and_size_against_refits_without_each_sample(
    kind, net_class, criterion, data, refit, losses
):
    """Positive = removing the sample raises the held-out objective."""
    train, held_out = data()
    ridge = 0.02
    weights = np.full(N_TRAIN, 1 / N_TRAIN)
    W = refit(train.X, train.y, weights, ridge)
    has_classes = criterion is nn.CrossEntropyLoss
    known = losses(W, held_out.X, held_out.y)
    scale = 1.0 if has_classes else 2.985**2 * np.median(known)

    def measure(W):
        values = losses(W, held_out.X, held_out.y)
        if kind == "loss":
            return values.mean()
        values = 1 - np.exp(-values / scale)
        if not has_classes:
            return values.mean()
        return np.mean([values[held_out.y == c].mean() for c in range(3)])

    effects = []
    for number in range(N_TRAIN):
        without = weights.copy()
        without[number] = 0
        W_without = refit(train.X, train.y, without, ridge)
        effects.append(measure(W_without) - measure(W))

    net = linear_net(net_class, criterion, W)
    reading = Reading("logits", n_classes=3) if has_classes else None
    top = score(net, train, held_out, kind, reading).solver_result.top_eigenvalue
    curvature = GaussNewton(ridge / top, scaling=None, n_samples=None)
    scores = score(net, train, held_out, kind, reading, curvature=curvature).train[0]
    assert np.corrcoef(scores, effects)[0, 1] >= 0.98
    slope = scores @ effects / (scores @ scores)
    assert 0.8 < slope < 1.25
    harmful = np.argsort(scores)[:3]
    assert np.all(np.array(effects)[harmful] < 0)


@pytest.fixture
def scored():
    """A net in float64, its training samples and those held out."""
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    net.module_.double()
    rng = np.random.default_rng(0)
    train = labelled(rng.normal(size=(20, 4)), rng.integers(3, size=20))
    held_out = labelled(rng.normal(size=(12, 4)), rng.integers(3, size=12))
    return net, train, held_out


def flat_gradient(value, module):
    gradients = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in gradients])


def gradients_by_hand(net, samples):
    """Gradient of the cross entropy of each sample, (n_samples, n_parameters)."""
    logits = net.module_(torch.as_tensor(samples.X))
    losses = F.cross_entropy(logits, torch.as_tensor(samples.y), reduction="none")
    return torch.stack([flat_gradient(loss, net.module_) for loss in losses])


def directions_by_hand(net, train, held_out, damping=0.1):
    """Damped inverse Fisher information times the gradient of the mean loss, by n."""
    fisher = 0.0
    for logits in net.module_(torch.as_tensor(train.X)):
        J = torch.stack([flat_gradient(z, net.module_) for z in logits])
        p = logits.detach().softmax(0)
        fisher = fisher + J.T @ (p.diag() - p.outer(p)) @ J / len(train)
    shift = damping * torch.linalg.eigvalsh(fisher)[-1]
    gradient = gradients_by_hand(net, held_out).mean(0)
    damped = fisher + shift * torch.eye(len(fisher), dtype=fisher.dtype)
    return torch.linalg.solve(damped, gradient) / len(train)


def influence_by_hand(net, samples, train, groups):
    """Influence of samples on the loss of groups, (n_groups, n_samples)."""
    directions = [directions_by_hand(net, train, group) for group in groups]
    return (gradients_by_hand(net, samples) @ torch.stack(directions, 1)).T.numpy()


@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_held_out_samples_are_scored_by_all_groups_but_their_own(scored, n_groups):
    net, train, held_out = scored
    result = score(*scored, n_groups=n_groups, seed=7)
    groups = split_groups(held_out.codes, n_groups, np.random.default_rng(7))
    own = groups == np.arange(n_groups)[:, None]
    np.testing.assert_array_equal(np.isnan(result.held_out), own)
    parts = [held_out[mask] for mask in own]
    expected = influence_by_hand(net, held_out, train, parts)
    np.testing.assert_allclose(result.held_out[~own], expected[~own], rtol=1e-9)
    expected = influence_by_hand(net, train, train, parts)
    np.testing.assert_allclose(result.train, expected, rtol=1e-9)


def test_a_single_view_scores_held_out_samples_by_the_half_they_are_not_in(scored):
    net, train, held_out = scored
    result = score(*scored, n_groups=1, seed=7)
    is_second = split_groups(held_out.codes, 2, np.random.default_rng(7)) == 1
    halves = [held_out[~is_second], held_out[is_second]]
    by_first, by_second = influence_by_hand(net, held_out, train, halves)
    expected = np.where(is_second, by_first, by_second)
    np.testing.assert_allclose(result.held_out, expected[None], rtol=1e-9)
    # Samples that were trained on have no part in the objective: both halves count.
    expected = influence_by_hand(net, train, train, halves).mean(0, keepdims=True)
    np.testing.assert_allclose(result.train, expected, rtol=1e-9)


def test_held_out_samples_can_be_left_unscored(scored):
    net, train, held_out = scored
    held_out = held_out[:11]
    result = score(net, train, held_out, score_held_out=False)
    assert result.held_out.shape == (1, 11)
    assert np.isnan(result.held_out).all()
    # All are one group, whose mean is not that of two unequal halves.
    expected = influence_by_hand(net, train, train, [held_out])
    np.testing.assert_allclose(result.train, expected, rtol=1e-9)


def test_scores_follow_the_unit_of_an_objective_without_bounds(scored):
    def in_another_unit(outputs, y):
        return 1e6 * F.cross_entropy(outputs, y, reduction="none")

    expected, result = score(*scored), score(*scored, in_another_unit)
    assert np.abs(result.held_out).max() > 1
    np.testing.assert_allclose(result.train, 1e6 * expected.train, rtol=1e-9)
    np.testing.assert_allclose(result.held_out, 1e6 * expected.held_out, rtol=1e-9)


def test_infinite_scores_of_held_out_samples_are_none():
    train, held_out = make_regression()
    net = linear_net(NeuralNetRegressor, nn.MSELoss, np.ones((1, N_FEATURES)))
    X = held_out.X.copy()
    X[0] = 1e200
    result = score(
        net, train, Samples(X, held_out.y), lambda outputs, y: outputs[:, 0].sigmoid()
    )
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.held_out)), [0])
    assert np.isfinite(result.held_out[:, 1:]).all()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_does_not_matter(scored, batch_size):
    reference = score(*scored)
    result = score(*scored, batch_size=batch_size)
    np.testing.assert_allclose(result.train, reference.train, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(result.held_out, reference.held_out, rtol=1e-9)


def test_order_of_the_samples_does_not_matter(scored):
    net, train, held_out = scored
    order = np.random.default_rng(1).permutation(20)
    shuffled = score(net, train[order], held_out)
    reference = score(net, train, held_out)
    np.testing.assert_allclose(shuffled.train, reference.train[:, order], rtol=1e-9)


def test_duplicated_samples_get_the_same_score(scored):
    net, train, held_out = scored
    doubled = score(net, train[np.repeat(np.arange(20), 2)], held_out)
    reference = score(net, train, held_out)
    np.testing.assert_allclose(doubled.train[:, ::2], doubled.train[:, 1::2])
    np.testing.assert_allclose(2 * doubled.train[:, ::2], reference.train, rtol=1e-9)


def single(samples):
    return replace(samples, X=samples.X.astype(np.float32))


def test_float32_agrees_with_float64(scored):
    net, train, held_out = scored
    reference = score(net, train, held_out, solver=Lanczos(max_iter=50, tol=1e-6))
    net.module_.float()
    solver = Lanczos(max_iter=50, tol=1e-4)
    result = score(net, single(train), single(held_out), solver=solver)
    scale = np.abs(reference.train).max()
    np.testing.assert_allclose(result.train, reference.train, rtol=0, atol=1e-3 * scale)


def test_the_state_the_net_was_left_in_does_not_matter(scored):
    _, train, held_out = scored
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


@pytest.mark.parametrize("scaling", [None, "tensor"])
def test_every_product_is_counted(scored, scaling):
    """The scale of the tensors takes one that is not the solver's."""
    calls = []
    result = score(
        *scored,
        solver=Lanczos(),
        curvature=GaussNewton(scaling=scaling),
        on_product=lambda: calls.append(1),
    )
    assert len(calls) == result.solver_result.n_iter + (scaling is not None) > 1


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_scores_in_lower_precision_rank_alike(scored, autocast):
    net, train, held_out = scored
    net.module_.float()
    train, held_out = single(train), single(held_out)
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


def test_samples_beyond_float16_are_scored_in_full_precision():
    torch.manual_seed(0)
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss).initialize()
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(3, size=20)
    X[3] *= 1e6
    samples = labelled(X, y)
    result = score(net, samples, samples[4:], autocast="float16")
    expected = score(net, samples, samples[4:])
    np.testing.assert_allclose(result.train, expected.train, rtol=1e-5)


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
    samples = labelled(X, rng.integers(3, size=20))
    reference, result = (
        score(net, samples[:12], samples[12:], autocast=a) for a in (None, "bfloat16")
    )
    assert not np.array_equal(result.train, reference.train)
    assert np.corrcoef(result.train.ravel(), reference.train.ravel())[0, 1] > 0.999


def test_held_out_scores_beyond_what_a_bounded_objective_can_change_are_none():
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
    share = 1 / 200
    model = DataDropoutRegressor(net, drop_fraction=share, random_state=0).fit(X, y)
    views = model.influence_per_view_
    of_outlier = np.isnan(views[:, outlier])
    assert of_outlier.sum() == 1
    assert not np.isnan(np.delete(views, outlier, axis=1)).any()
    assert (views[~of_outlier, outlier] < 0).all()
    np.testing.assert_array_equal(np.flatnonzero(~model.sample_mask_), [outlier])
