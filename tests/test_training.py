"""Trainings: seeded, from scratch, scored at the right moment, left as found."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping

from sk_datadrop._rounds import seeded, train, train_round


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


def held_out_losses(net):
    return np.array(net.history[:, "valid_loss"])


@pytest.fixture
def overfitting(classifier):
    """A net that fits random labels, so that the held-out loss rises early."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    y = rng.integers(3, size=60)
    net = classifier.set_params(max_epochs=12, lr=0.1, module__n_hidden=40)
    return net, X[:40], y[:40], (X[40:], y[40:])


def test_same_seed_same_weights_and_other_seed_other_weights(classifier, blobs):
    def run(seed):
        net = train(classifier, *blobs, validation=None, seed=seed, name="x")
        return weights(net)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_equals_plain_training_under_torch_manual_seed(classifier, blobs):
    net = train(classifier, *blobs, validation=None, seed=3, name="x")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = classifier.set_params(train_split=None, verbose=0).fit(*blobs)
    assert torch.equal(weights(net), weights(plain))


def test_estimator_and_global_generators_are_untouched(classifier, blobs):
    before = joblib.hash(vars(classifier))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    train_round(classifier, *blobs, blobs, n_checkpoints=1, seed=0, name="x")
    assert joblib.hash(vars(classifier)) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])


def test_seeded_restores_the_generators_after_an_error():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()

    def fail():
        with seeded(0, "cpu"):
            torch.rand(1), np.random.rand()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])


@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda", 0)])
def test_seeded_touches_no_other_device(device, number, monkeypatch):
    """Generators of the CPU stand in for those of devices."""
    devices = [torch.Generator().manual_seed(7) for _ in range(3)]
    monkeypatch.setattr(torch.cuda, "default_generators", devices)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, pytest.fail)
    with seeded(5, device):
        seeds = [generator.initial_seed() for generator in devices]
        drawn = torch.rand(3, generator=devices[number])
    assert seeds == [5 if i == number else 7 for i in range(3)]
    assert [generator.initial_seed() for generator in devices] == [7, 7, 7]
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_the_trained_net_holds_no_rows_and_no_extra_callbacks(classifier, blobs):
    X, y = np.tile(blobs[0], (500, 1)), np.tile(blobs[1], 500)
    classifier.set_params(max_epochs=1, batch_size=512)
    net, _ = train_round(classifier, X, y, (X, y), n_checkpoints=1, seed=0, name="x")
    assert len(pickle.dumps(net)) < X.nbytes
    assert [name for name, _ in net.callbacks_] == [
        name for name, _ in classifier.get_default_callbacks()
    ]
    assert net.train_split is classifier.train_split or net.train_split is not None
    assert net.callbacks is None
    assert net.verbose == classifier.verbose


def test_checkpoint_is_that_of_the_lowest_held_out_loss(overfitting):
    net, X, y, held_out = overfitting
    trained, (checkpoint,) = train_round(
        net, X, y, held_out, n_checkpoints=1, seed=0, name="x"
    )
    losses = held_out_losses(trained)
    assert checkpoint.epoch == 1 + np.argmin(losses) < len(losses)
    trained.module_.load_state_dict(checkpoint.state_dict)
    trained.module_.eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            trained.module_(torch.as_tensor(held_out[0])), torch.as_tensor(held_out[1])
        )
    assert float(loss) == pytest.approx(losses.min(), rel=1e-5)


def test_checkpoints_surround_the_lowest_held_out_loss(overfitting):
    net, X, y, held_out = overfitting
    trained, checkpoints = train_round(
        net, X, y, held_out, n_checkpoints=3, seed=0, name="x"
    )
    best = 1 + np.argmin(held_out_losses(trained))
    around = [e for e in (best - 1, best, best + 1) if 1 <= e <= 12]
    epochs = [c.epoch for c in checkpoints]
    assert best in epochs
    assert set(around) <= set(epochs)
    assert epochs == sorted(epochs)
    assert len(epochs) <= 3


class NaNAtFirst(NeuralNetClassifier):
    def get_loss(self, *args, training=False, **kwargs):
        loss = super().get_loss(*args, training=training, **kwargs)
        return loss if training or len(self.history) > 1 else loss * torch.nan


def test_a_held_out_loss_of_nan_is_not_the_lowest(overfitting):
    net, X, y, held_out = overfitting
    net = NaNAtFirst(**net.get_params(deep=False))
    trained, (checkpoint,) = train_round(
        net, X, y, held_out, n_checkpoints=1, seed=0, name="x"
    )
    assert checkpoint.epoch == 1 + np.nanargmin(held_out_losses(trained)) > 1


def test_early_stopping_sees_the_held_out_rows(overfitting):
    net, X, y, held_out = overfitting
    net.set_params(max_epochs=50, callbacks=[EarlyStopping(patience=2)])
    trained, _ = train_round(net, X, y, held_out, n_checkpoints=1, seed=0, name="x")
    assert len(trained.history) < 50


def test_disabled_callbacks_do_not_matter(overfitting):
    net, X, y, held_out = overfitting
    options = {"n_checkpoints": 1, "seed": 0, "name": "x"}
    _, (reference,) = train_round(net, X, y, held_out, **options)
    net.set_params(callbacks="disable")
    trained, (checkpoint,) = train_round(net, X, y, held_out, **options)
    assert checkpoint.epoch == reference.epoch
    assert trained.callbacks_ == []


def test_a_loss_that_is_not_finite_names_the_training(regressor, plane):
    X, y = plane
    regressor.set_params(optimizer=torch.optim.SGD, lr=1e30)
    with pytest.raises(ValueError, match=r"round 7: the training loss became .* epoch"):
        train(regressor, X, y[:, None], validation=None, seed=0, name="round 7")


class StopAt(Callback):
    def __init__(self, epoch, *, in_the_middle):
        self.epoch = epoch
        self.in_the_middle = in_the_middle

    def on_batch_end(self, net, **kwargs):
        if self.in_the_middle and len(net.history) == self.epoch:
            raise KeyboardInterrupt

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_epoch_in_which_a_callback_stops_counts(overfitting, epoch):
    net, X, y, held_out = overfitting
    net.set_params(lr=1e-3, callbacks=[StopAt(epoch, in_the_middle=False)])
    trained, (checkpoint,) = train_round(
        net, X, y, held_out, n_checkpoints=1, seed=0, name="x"
    )
    losses = held_out_losses(trained)
    assert len(losses) == epoch
    assert checkpoint.epoch == 1 + np.argmin(losses)


def test_an_interruption_is_not_swallowed(overfitting):
    net, X, y, held_out = overfitting
    net.set_params(callbacks=[StopAt(2, in_the_middle=True)])
    with pytest.raises(KeyboardInterrupt, match="x: interrupted"):
        train_round(net, X, y, held_out, n_checkpoints=1, seed=0, name="x")


@pytest.mark.parametrize("phase", ["train", "valid"])
def test_no_batch_is_refused(classifier, blobs, phase):
    X, y = blobs
    classifier.set_params(batch_size=100, callbacks="disable")
    classifier.set_params(**{f"iterator_{phase}__drop_last": True})
    with pytest.raises(ValueError, match=f"x: the net saw no batch in its {phase} ph"):
        train_round(classifier, X, y, blobs, n_checkpoints=1, seed=0, name="x")


def test_no_epoch_is_refused(classifier, blobs):
    classifier.set_params(max_epochs=0)
    with pytest.raises(ValueError, match="x: the net trained for no epoch"):
        train(classifier, *blobs, validation=None, seed=0, name="x")
