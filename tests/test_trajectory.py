"""Trajectory influence against real retraining with changed weights of samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from skorch.hf import AccelerateMixin
from torch import nn
from torch.nn import functional as F

from sk_datadrop import DataDropoutClassifier, Trajectory
from sk_datadrop._engine import Request, recorders
from sk_datadrop._engine import score as engine_score
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train_watched
from sk_datadrop._trajectory import TrajectoryRecorder, trajectory_scores
from sk_datadrop.nets import SmallCNN

N_SAMPLES = 24
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
    """Weighs the loss of each training sample; its first feature is its number."""

    weights_of_samples = torch.ones(N_SAMPLES, dtype=torch.float64)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        if not training:
            return super().get_loss(y_pred, y_true, X=X, training=training)
        weight = self.criterion_.weight
        losses = F.cross_entropy(y_pred, y_true, weight=weight, reduction="none")
        total = (self.weights_of_samples[X[:, 0].long()] * losses).sum()
        return total / (len(X) if weight is None else weight[y_true].sum())


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_SAMPLES, 4))
    X[:, 0] = np.arange(N_SAMPLES)
    return Samples(X, rng.integers(0, 3, N_SAMPLES))


@pytest.fixture
def held_out():
    rng = np.random.default_rng(1)
    return Samples(rng.normal(size=(10, 4)), rng.integers(0, 3, 10))


def train(samples, weights=None, recorder=None, **options):
    recorders = [("recorder", recorder)] if recorder else []
    schedule = LRScheduler("ExponentialLR", gamma=0.9, step_every="batch")
    net = WeightedNet(
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
        net.weights_of_samples = torch.as_tensor(weights)
    torch.manual_seed(0)
    return net.fit(samples.X, samples.y)


def mean_loss(functional, theta, held_out):
    outputs = functional.outputs(theta, torch.as_tensor(held_out.X))
    return F.cross_entropy(outputs, torch.as_tensor(held_out.y))


def objective_gradient(net, held_out):
    functional = FunctionalNet(net)
    theta = functional.theta.clone().requires_grad_()
    loss = mean_loss(functional, theta, held_out)
    return torch.autograd.grad(loss, theta)[0][:, None]


def score(net, recorder, samples, gradients, **options):
    options = {"smoothing": 0.0} | options
    return trajectory_scores(
        FunctionalNet(net), recorder, samples, gradients, **options
    )


def final_scores(net, recorder, samples, held_out):
    gradient = objective_gradient(net, held_out)
    return score(net, recorder, samples, {len(recorder.steps_): gradient})[0]


def retrained_effects(samples, held_out, buffers=None, **options):
    """Central differences of the final loss by weights of samples, with a minus."""
    effects = []
    for number in CHECKED:
        losses = []
        for change in (1e-4, -1e-4):
            weights = np.ones(N_SAMPLES)
            weights[number] += change
            net = train(samples, weights, **options)
            net.module_.load_state_dict(buffers or {}, strict=False)
            functional = FunctionalNet(net)
            losses.append(float(mean_loss(functional, functional.theta, held_out)))
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
def test_scores_are_the_derivatives_of_retraining(
    samples, held_out, options, max_memory
):
    recorder = TrajectoryRecorder(max_memory)
    net = train(samples, recorder=recorder, **options)
    n_steps = len(recorder.steps_)
    assert (len(recorder.states_) == n_steps + 1) == (max_memory == 1e9)
    scores = final_scores(net, recorder, samples, held_out)
    effects = retrained_effects(samples, held_out, **options)
    assert scores[list(CHECKED)] == pytest.approx(effects, rel=1e-5, abs=1e-9)


def test_objectives_of_several_epochs_add_up(samples, held_out):
    recorder = TrajectoryRecorder(1e9)
    net = train(samples, recorder=recorder, lr=0.1)
    gradient = objective_gradient(net, held_out)
    early, late = recorder.epoch_ends_[0], recorder.epoch_ends_[2]
    assert (early, late) == (4, 12)
    both = score(net, recorder, samples, {early: gradient, late: gradient})
    early_alone = score(net, recorder, samples, {early: gradient})
    late_alone = score(net, recorder, samples, {late: gradient})
    np.testing.assert_allclose(both, early_alone + late_alone)
    assert not np.allclose(early_alone, late_alone)
    two_columns = torch.cat([gradient, 2 * gradient], dim=1)
    scores = score(net, recorder, samples, {late: two_columns})
    np.testing.assert_allclose(scores, [late_alone[0], 2 * late_alone[0]])


@pytest.mark.parametrize("objective", ["bounded", "loss"])
def test_scores_of_several_checkpoints_are_their_mean(samples, held_out, objective):
    engine = Trajectory(n_checkpoints=3, n_groups=1)
    training = train_watched(
        NeuralNetClassifier(
            Net, criterion=nn.CrossEntropyLoss, lr=0.1, max_epochs=5, batch_size=7
        ),
        samples,
        held_out,
        Recipe("training", seed=0),
        n_checkpoints=3,
        callbacks=recorders(engine),
    )

    def scores(checkpoints):
        return engine_score(
            engine,
            replace(training, checkpoints=checkpoints),
            samples,
            HeldOutObjective(objective, held_out),
            Request(seed=0),
        ).train

    assert len(training.checkpoints) > 1
    apart = [scores([checkpoint]) for checkpoint in training.checkpoints]
    np.testing.assert_allclose(scores(training.checkpoints), np.mean(apart, axis=0))


def test_batch_statistics_are_differentiated(samples, held_out):
    options = {"module__batch_norm": True, "lr": 0.1}
    recorder = TrajectoryRecorder(1e9)
    net = train(samples, recorder=recorder, **options)
    final = {k: v.clone() for k, v in net.module_.state_dict().items()}
    scores = final_scores(net, recorder, samples, held_out)
    # The running statistics are constants of the objective: hold them.
    running = {k: v for k, v in final.items() if "running" in k}
    effects = retrained_effects(samples, held_out, running, **options)
    assert scores[list(CHECKED)] == pytest.approx(effects, rel=1e-5, abs=1e-9)
    # The net itself is as it was.
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, final[name])


def test_what_the_recorder_does_not_see_is_noticed(samples, held_out):
    recorder = TrajectoryRecorder(1e9)
    clipping = [("clip", GradientNormClipping(0.01))]
    net = train(samples, recorder=recorder, lr=0.1, callbacks=clipping)
    with pytest.raises(ValueError, match=r"cannot be replayed: step 12 comes out"):
        final_scores(net, recorder, samples, held_out)


def test_it_is_noticed_between_the_states_that_were_kept(classifier, blobs):
    clipping = [("clip", GradientNormClipping(0.05))]
    model = DataDropoutClassifier(
        classifier.set_params(callbacks=clipping, train_split=None),
        engine=Trajectory(max_memory=1),
        cv=3,
    )
    with pytest.raises(ValueError, match="cannot be replayed"):
        model.fit(*blobs)


def huge_loss(outputs, y):
    return 1e36 * F.cross_entropy(outputs, y, reduction="none")


@pytest.mark.parametrize("objective", ["bounded", huge_loss])
def test_derivatives_that_explode_are_not_scores(classifier, blobs, objective):
    """They grow beyond what a sample can do, or to infinity."""
    net = classifier.set_params(
        optimizer=torch.optim.SGD, lr=2, optimizer__momentum=0.9, max_epochs=40
    )
    model = DataDropoutClassifier(
        net,
        engine=Trajectory(n_checkpoints=99, n_groups=1),
        objective=objective,
        cv=0.3,
        random_state=0,
    )
    largest = r"(inf|nan)" if objective is huge_loss else r"\d"
    with pytest.warns(ConvergenceWarning, match=f"grew to {largest}.* are not scored"):
        model.fit(*blobs)
    assert model.n_dropped_ == 0
    assert np.isnan(model.influence_).all()


def test_recording_changes_nothing(samples):
    recorded = train(samples, recorder=TrajectoryRecorder(1e9), lr=0.1)
    plain = train(samples, lr=0.1)
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
def test_nets_that_cannot_be_replayed_are_refused(
    classifier, blobs, trainings, options, message
):
    net = classifier.set_params(**options)
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(net, engine=Trajectory()).fit(*blobs)
    assert not trainings


def test_nets_of_accelerate_are_refused(classifier, blobs, trainings):
    class Accelerated(AccelerateMixin, NeuralNetClassifier):
        """Holds what accelerates it."""

    params = classifier.get_params(deep=False) | {"device": None}
    net = Accelerated(accelerator=Accelerator(cpu=True), **params)
    with pytest.raises(ValueError, match="its steps are taken by accelerate"):
        DataDropoutClassifier(net, engine=Trajectory()).fit(*blobs)
    assert not trainings


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"smoothing": -1}, "smoothing == -1, must be >= 0"),
        ({"smoothing": np.nan}, "smoothing == nan, must be"),
        ({"max_memory": 0}, "max_memory == 0, must be > 0"),
    ],
)
def test_parameters_out_of_range(classifier, blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, engine=Trajectory(**parameters)).fit(*blobs)
