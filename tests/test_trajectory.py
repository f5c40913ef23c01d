"""Trajectory influence against real retraining with changed row weights."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    Lanczos,
    Trajectory,
    Views,
    _trajectory,
)
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._trajectory import TrajectoryRecorder, trajectory_scores
from sk_datadrop.nets import SmallCNN

N_ROWS = 24
CHECKED = range(4)


class Net(nn.Module):
    """Double precision, with dropout and, if asked, batch normalisation."""

    def __init__(self, batch_norm=False):
        super().__init__()
        norm = [nn.BatchNorm1d(6)] if batch_norm else []
        layers = [nn.Linear(4, 6), *norm, nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)]
        self.layers = nn.Sequential(*layers).double()

    def forward(self, X):
        return self.layers(X)


class WeightedNet(NeuralNetClassifier):
    """Weighs the loss of each training row; its first feature is its number."""

    row_weights = torch.ones(N_ROWS, dtype=torch.float64)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        if not training:
            return super().get_loss(y_pred, y_true, X=X, training=training)
        weight = self.criterion_.weight
        losses = F.cross_entropy(y_pred, y_true, weight=weight, reduction="none")
        total = (self.row_weights[X[:, 0].long()] * losses).sum()
        return total / (len(X) if weight is None else weight[y_true].sum())


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS + 10, 4))
    X[:, 0] = np.arange(len(X)) % N_ROWS
    y = rng.integers(0, 3, len(X))
    return X[:N_ROWS], y[:N_ROWS], torch.as_tensor(X[N_ROWS:]), y[N_ROWS:]


def train(rows, weights=None, recorder=None, net_class=WeightedNet, **options):
    recorders = [("recorder", recorder)] if recorder else []
    schedule = LRScheduler("ExponentialLR", gamma=0.9, step_every="batch")
    net = net_class(
        Net,
        criterion=nn.CrossEntropyLoss,
        max_epochs=3,
        batch_size=7,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        callbacks=[*recorders, ("schedule", schedule), *options.pop("callbacks", [])],
        **options,
    )
    if weights is not None:
        net.row_weights = torch.as_tensor(weights)
    torch.manual_seed(0)
    return net.fit(*rows[:2])


def objective_gradient(functional, rows):
    theta = functional.theta.clone().requires_grad_()
    outputs = functional.raw_outputs(theta, rows[2])
    loss = F.cross_entropy(outputs, torch.as_tensor(rows[3]))
    return torch.autograd.grad(loss, theta)[0]


def held_out_loss(net, rows):
    functional = FunctionalNet(net)
    outputs = functional.raw_outputs(functional.theta, rows[2])
    return float(F.cross_entropy(outputs, torch.as_tensor(rows[3])))


def score(net, recorder, rows, **options):
    gradient = objective_gradient(FunctionalNet(net), rows)[:, None]
    return trajectory_scores(
        FunctionalNet(net),
        recorder,
        *rows[:2],
        {len(recorder.steps_): gradient},
        **({"smoothing": 0.0} | options),
    )[0]


def retrained_effects(rows, **options):
    """Central differences of the final loss by row weights, with a minus."""
    effects = []
    for row in CHECKED:
        losses = []
        for change in (1e-4, -1e-4):
            weights = np.ones(N_ROWS)
            weights[row] += change
            losses.append(held_out_loss(train(rows, weights, **options), rows))
        effects.append(-(losses[0] - losses[1]) / 2e-4)
    return effects


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": torch.optim.SGD, "lr": 0.1},
        {
            "optimizer": torch.optim.SGD,
            "lr": 0.1,
            "optimizer__momentum": 0.9,
            "optimizer__nesterov": True,
            "optimizer__weight_decay": 0.01,
        },
        {"optimizer": torch.optim.Adam, "lr": 0.01, "optimizer__weight_decay": 0.1},
        {
            "optimizer": torch.optim.AdamW,
            "lr": 0.01,
            "optimizer__param_groups": [("layers.0.*", {"lr": 0.02})],
        },
        {"lr": 0.1, "criterion__weight": torch.tensor([0.2, 1.0, 5.0]).double()},
    ],
    ids=["SGD", "Nesterov", "Adam", "AdamW, two groups", "class weights"],
)
@pytest.mark.parametrize("max_memory", [1e9, 2e3], ids=["all states", "few states"])
def test_scores_are_the_derivatives_of_retraining(rows, options, max_memory):
    recorder = TrajectoryRecorder(max_memory)
    net = train(rows, recorder=recorder, **options)
    n_steps = len(recorder.steps_)
    assert (len(recorder.states_) == n_steps + 1) == (max_memory == 1e9)
    scores = score(net, recorder, rows)
    effects = retrained_effects(rows, **options)
    assert scores[list(CHECKED)] == pytest.approx(effects, rel=1e-5, abs=1e-9)


def test_objectives_of_several_epochs_add_up(rows):
    recorder = TrajectoryRecorder(1e9)
    net = train(rows, recorder=recorder, lr=0.1)
    gradient = objective_gradient(FunctionalNet(net), rows)[:, None]

    def scores(gradients):
        return trajectory_scores(
            FunctionalNet(net), recorder, *rows[:2], gradients, smoothing=0.0
        )

    early, late = recorder.epoch_ends_[0], recorder.epoch_ends_[2]
    assert (early, late) == (4, 12)
    both = scores({early: gradient, late: gradient})
    apart = scores({early: gradient}) + scores({late: gradient})
    np.testing.assert_allclose(both, apart)
    two_columns = scores({late: torch.cat([gradient, 2 * gradient], dim=1)})
    np.testing.assert_allclose(2 * two_columns[0], two_columns[1])


def test_batch_statistics_are_differentiated(rows):
    options = {"module__batch_norm": True, "lr": 0.1}
    recorder = TrajectoryRecorder(1e9)
    net = train(rows, recorder=recorder, **options)
    final = {k: v.clone() for k, v in net.module_.state_dict().items()}
    scores = score(net, recorder, rows)
    # The running statistics are constants of the objective: hold them.
    running = {k: v for k, v in final.items() if "running" in k}
    effects = []
    for row in CHECKED:
        losses = []
        for change in (1e-4, -1e-4):
            weights = np.ones(N_ROWS)
            weights[row] += change
            other = train(rows, weights, **options)
            other.module_.load_state_dict(other.module_.state_dict() | running)
            losses.append(held_out_loss(other, rows))
        effects.append(-(losses[0] - losses[1]) / 2e-4)
    assert scores[list(CHECKED)] == pytest.approx(effects, rel=1e-5, abs=1e-9)
    # The net itself is as it was.
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, final[name])


def test_what_the_recorder_does_not_see_is_noticed(rows):
    recorder = TrajectoryRecorder(1e9)
    clipping = [("clip", GradientNormClipping(0.01))]
    net = train(rows, recorder=recorder, lr=0.1, callbacks=clipping)
    with pytest.raises(ValueError, match=r"cannot be replayed: step 12 comes out"):
        score(net, recorder, rows)


def test_it_is_noticed_between_the_states_that_were_kept(classifier, blobs):
    clipping = [("clip", GradientNormClipping(0.05))]
    model = DataDropoutClassifier(
        classifier.set_params(callbacks=clipping, train_split=None),
        engine=Trajectory(max_memory=1),
        cv=3,
    )
    with pytest.raises(ValueError, match="cannot be replayed"):
        model.fit(*blobs)


def test_derivatives_that_explode_are_not_scores(classifier, blobs):
    net = classifier.set_params(
        optimizer=torch.optim.SGD, lr=2, optimizer__momentum=0.9, max_epochs=40
    )
    model = DataDropoutClassifier(
        net,
        engine=Trajectory(),
        views=Views(n_checkpoints=99, n_groups=1),
        cv=0.3,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning, match="the rows are not scored"):
        model.fit(*blobs)
    assert model.n_dropped_ == 0
    assert np.isnan(model.influence_).all()


def test_infinite_derivatives_are_not_scores(classifier, blobs, monkeypatch):
    infinite = np.full((1, 63), np.inf)
    monkeypatch.setattr(_trajectory, "trajectory_scores", lambda *_, **__: infinite)
    model = DataDropoutClassifier(
        classifier,
        engine=Trajectory(),
        objective="loss",
        views=Views(n_groups=1),
        cv=0.3,
    )
    with pytest.warns(ConvergenceWarning, match="the rows are not scored"):
        model.fit(*blobs)
    assert np.isnan(model.influence_).all()


def test_recording_changes_nothing(rows):
    recorded = train(rows, recorder=TrajectoryRecorder(1e9), lr=0.1)
    plain = train(rows, lr=0.1)
    assert recorded.iterator_train is torch.utils.data.DataLoader
    for name, value in plain.module_.state_dict().items():
        assert torch.equal(value, recorded.module_.state_dict()[name])


def test_estimator_finds_wrong_labels_through_the_trajectory(noisy_digits):
    X, y, flipped = noisy_digits
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=10,
        batch_size=32,
        iterator_train__shuffle=True,
    )
    model = DataDropoutClassifier(
        net, cv=3, engine=Trajectory(), random_state=0, drop_fraction=0.1
    ).fit(X, y)
    assert np.isnan(model.influence_per_view_).sum() == len(X)
    assert model.solver_results_ == []
    assert flipped[~model.sample_mask_].mean() > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": torch.optim.RMSprop}, "optimizer is RMSprop; use one of Adam"),
        ({"iterator_train__num_workers": 1}, "num_workers is not 0"),
        ({"iterator_train__collate_fn": list}, "collate_fn may change the order"),
    ],
)
def test_nets_that_cannot_be_replayed_are_refused(classifier, blobs, options, message):
    net = classifier.set_params(**options)
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(net, engine=Trajectory()).fit(*blobs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"smoothing": -1}, "smoothing must be a number from 0"),
        ({"max_memory": 0}, "max_memory must be a positive number"),
    ],
)
def test_parameters_out_of_range(classifier, blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, engine=Trajectory(**parameters)).fit(*blobs)


def test_engine_takes_no_solver(classifier, blobs):
    model = DataDropoutClassifier(classifier, engine=Trajectory(), solver=Lanczos())
    with pytest.raises(ValueError, match="uses neither curvature nor solver"):
        model.fit(*blobs)


def test_engine_must_be_one(classifier, blobs):
    with pytest.raises(TypeError, match="engine must be None or an instance of Traj"):
        DataDropoutClassifier(classifier, engine="trajectory").fit(*blobs)
