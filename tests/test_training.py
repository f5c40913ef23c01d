"""Trainings: seeded, from scratch, scored at the right moment, left as found."""

import pickle
import random
import weakref
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit

from sk_datadrop import _training
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, seeded, train, train_watched

RECIPE = Recipe("x", seed=0)


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


def watched(net, samples, held_out, *, ends_early=False):
    """Return the trained net and the checkpoint of its best epoch."""
    training = train_watched(
        net, samples, held_out, RECIPE, n_checkpoints=1, ends_early=ends_early
    )
    (checkpoint,) = training.checkpoints
    return training.net, checkpoint


def held_out_losses(net):
    return np.array(net.history[:, "valid_loss"])


def draws():
    """Return the next number of each global generator."""
    return float(torch.rand(())), np.random.rand(), random.random()


@pytest.fixture
def generators_untouched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    python_state = random.getstate()
    yield
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2:] == numpy_state[2:]
    assert random.getstate() == python_state


@pytest.fixture
def overfitting(classifier):
    """A net that fits random labels, so that the held-out loss rises early."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    y = rng.integers(3, size=60)
    net = classifier.set_params(max_epochs=12, lr=0.1, module__n_hidden=40)
    return net, Samples(X[:40], y[:40]), Samples(X[40:], y[40:])


def test_same_seed_same_weights_and_other_seed_other_weights(classifier, blobs):
    def run(seed):
        return weights(train(classifier, Samples(*blobs), Recipe("x", seed)))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_equals_plain_training_under_torch_manual_seed(classifier, blobs):
    net = train(classifier, Samples(*blobs), Recipe("x", seed=3))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain = classifier.set_params(train_split=None, verbose=0).fit(*blobs)
    assert torch.equal(weights(net), weights(plain))


@pytest.mark.usefixtures("generators_untouched")
def test_estimator_and_global_generators_are_untouched(classifier, blobs):
    before = joblib.hash(vars(classifier))
    watched(classifier, Samples(*blobs), Samples(*blobs))
    assert joblib.hash(vars(classifier)) == before


@pytest.mark.usefixtures("generators_untouched")
def test_every_global_generator_is_seeded():
    def drawn(seed):
        with seeded(seed, "cpu"):
            return draws()

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.usefixtures("generators_untouched")
def test_seeded_restores_the_generators_after_an_error():
    def fail():
        with seeded(0, "cpu"):
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fail()


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


def test_the_trained_net_holds_no_samples_and_no_extra_callbacks(classifier, blobs):
    X, y = np.tile(blobs[0], (500, 1)), np.tile(blobs[1], 500)
    classifier.set_params(
        max_epochs=1, batch_size=512, train_split=ValidSplit(7), verbose=1
    )
    net, _ = watched(classifier, Samples(X, y), Samples(X, y))
    assert len(pickle.dumps(net)) < X.nbytes
    assert [name for name, _ in net.callbacks_] == [
        name for name, _ in classifier.get_default_callbacks()
    ]
    # That of the training held the samples: predefined_split.
    assert isinstance(net.train_split, ValidSplit)
    assert net.train_split.cv == 7
    assert net.callbacks is None
    assert net.verbose == 1


def test_checkpoint_is_that_of_the_lowest_held_out_loss(overfitting):
    net, samples, held_out = overfitting
    trained, checkpoint = watched(net, samples, held_out)
    losses = held_out_losses(trained)
    assert checkpoint.epoch == 1 + np.argmin(losses) < len(losses)
    trained.module_.load_state_dict(checkpoint.state_dict)
    trained.module_.eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            trained.module_(torch.as_tensor(held_out.X)), torch.as_tensor(held_out.y)
        )
    assert float(loss) == pytest.approx(losses.min(), rel=1e-5)


@pytest.mark.parametrize("n_checkpoints", [1, 2, 3, 5])
def test_checkpoints_are_spread_up_to_the_lowest_held_out_loss(
    overfitting, n_checkpoints
):
    training = train_watched(
        *overfitting, RECIPE, n_checkpoints=n_checkpoints, ends_early=False
    )
    best = 1 + np.argmin(held_out_losses(training.net))
    epochs = np.array([checkpoint.epoch for checkpoint in training.checkpoints])
    wanted = best * np.arange(1, n_checkpoints + 1) / n_checkpoints
    assert epochs[-1] == best
    assert len(epochs) == min(n_checkpoints, best)
    assert np.abs(epochs - wanted[-len(epochs) :]).max() <= 1


@pytest.mark.parametrize("best", [1, 2, 37, 200])
@pytest.mark.parametrize("n_checkpoints", [1, 2, 3])
def test_few_copies_are_kept_of_a_long_training(monkeypatch, best, n_checkpoints):
    """Wherever the lowest loss is: the earlier epochs are spread up to it."""
    copies = weakref.WeakSet()

    class Copy(dict):
        __hash__ = object.__hash__

    def copy_of(module):
        copies.add(copy := Copy())
        return copy

    losses = iter(np.abs(np.arange(1, 201) - best))
    monkeypatch.setattr(_training, "_copy_of_state", copy_of)
    monkeypatch.setattr(_training, "module_of", lambda net: None)
    monkeypatch.setattr(_training, "_epoch_loss", lambda net, phase: next(losses))
    watcher = _training._HeldOutCheckpoints(n_checkpoints)
    net = SimpleNamespace(history=[])
    watcher.on_train_begin(net)
    for _ in range(200):
        net.history.append(None)
        watcher.on_epoch_end(net)
        assert len(copies) <= 3 * n_checkpoints + 1
    epochs = np.array([checkpoint.epoch for checkpoint in watcher.kept_])
    assert len(epochs) == min(n_checkpoints, best)
    wanted = best * np.arange(1, n_checkpoints + 1) / n_checkpoints
    np.testing.assert_allclose(epochs, wanted[-len(epochs) :], rtol=0.35)


class NaNAtFirst(NeuralNetClassifier):
    def get_loss(self, *args, training=False, **kwargs):
        loss = super().get_loss(*args, training=training, **kwargs)
        return loss if training or len(self.history) > 1 else loss * torch.nan


def test_a_held_out_loss_of_nan_is_not_the_lowest(overfitting):
    net, samples, held_out = overfitting
    net = NaNAtFirst(**net.get_params(deep=False))
    trained, checkpoint = watched(net, samples, held_out)
    assert checkpoint.epoch == 1 + np.nanargmin(held_out_losses(trained)) > 1


def test_early_stopping_sees_the_held_out_samples(overfitting):
    net, samples, held_out = overfitting
    net.set_params(max_epochs=50, callbacks=[EarlyStopping(patience=2)])
    trained, _ = watched(net, samples, held_out)
    losses = held_out_losses(trained)
    assert len(losses) == 1 + np.argmin(losses) + 2 < 50
    n_seen = sum(trained.history[-1, "batches", :, "valid_batch_size"])
    assert n_seen == len(held_out)


def test_disabled_callbacks_do_not_matter(overfitting):
    net, samples, held_out = overfitting
    _, reference = watched(net, samples, held_out)
    net.set_params(callbacks="disable")
    trained, checkpoint = watched(net, samples, held_out)
    assert checkpoint.epoch == reference.epoch
    assert trained.callbacks == "disable"
    assert trained.callbacks_ == []


def test_a_loss_that_is_not_finite_names_the_training(regressor, plane):
    X, y = plane
    regressor.set_params(optimizer=torch.optim.SGD, lr=1e30)
    with pytest.raises(ValueError, match=r"round 7: the training loss became .* epoch"):
        train(regressor, Samples(X, y[:, None]), Recipe("round 7", seed=0))


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
    net, samples, held_out = overfitting
    net.set_params(lr=1e-3, callbacks=[StopAt(epoch, in_the_middle=False)])
    trained, checkpoint = watched(net, samples, held_out)
    losses = held_out_losses(trained)
    assert len(losses) == epoch
    assert checkpoint.epoch == 1 + np.argmin(losses)


def test_an_interruption_is_not_swallowed(overfitting):
    net, samples, held_out = overfitting
    net.set_params(callbacks=[StopAt(2, in_the_middle=True)])
    with pytest.raises(KeyboardInterrupt, match="x: interrupted"):
        watched(net, samples, held_out)


@pytest.mark.parametrize("phase", ["train", "valid"])
def test_no_batch_is_refused(classifier, blobs, phase):
    classifier.set_params(batch_size=100, callbacks="disable")
    classifier.set_params(**{f"iterator_{phase}__drop_last": True})
    with pytest.raises(ValueError, match=f"x: the net saw no batch in its {phase} ph"):
        watched(classifier, Samples(*blobs), Samples(*blobs))


def test_no_epoch_is_refused(classifier, blobs):
    classifier.set_params(max_epochs=0)
    with pytest.raises(ValueError, match="x: the net trained for no epoch"):
        train(classifier, Samples(*blobs), RECIPE)


def test_the_first_of_epochs_with_the_same_loss_is_the_best(classifier, blobs):
    samples = Samples(*blobs)
    net = classifier.set_params(lr=0.0)
    recipe = Recipe("training", seed=0)
    training = train_watched(
        net, samples, samples, recipe, n_checkpoints=1, ends_early=False
    )
    assert [checkpoint.epoch for checkpoint in training.checkpoints] == [1]


class TestEarlyEnd:
    """The training ends once its best epoch has surely passed."""

    class Scripted(NeuralNetClassifier):
        """A net whose losses after each epoch are given."""

        train = held_out = ()

        def get_loss(self, *args, training=False, **kwargs):
            loss = super().get_loss(*args, training=training, **kwargs)
            script = self.train if training else self.held_out
            return 0 * loss + script[len(self.history) - 1]

    def run(self, classifier, blobs, train, held_out, *, ends_early=True):
        """Return the number of epochs trained, and the best one."""
        kind = type("Net", (self.Scripted,), {"train": train, "held_out": held_out})
        net = kind(**classifier.get_params(deep=False))
        net.set_params(max_epochs=len(held_out))
        samples = Samples(*blobs)
        trained, checkpoint = watched(net, samples, samples, ends_early=ends_early)
        return len(trained.history), checkpoint.epoch

    @pytest.mark.parametrize(
        ("held_out", "n_epochs"),
        [
            # Twice as many epochs as the best, and three more at least.
            ([5, 6, 6, 6, 6, 6], 4),
            ([8, 5, 6, 6, 6, 6], 5),
            ([8, 7, 6, 5, 6, 6, 6, 6, 6], 8),
            ([9, 8, 7, 6, 5, 6, 6, 6, 6, 6, 6], 10),
            # Well above its lowest: by more than a tenth, twice in a row.
            ([8, 5, 5.4, 5.4, 5.4, 5.4], 6),
            ([8, 5, 6, 6, 5.4, 6, 6, 6], 7),
            ([8, 5, 6, 5.4, 6, 6, 6, 6], 6),
            ([8, 5, 5.4, 5.4, 5.4, 5.6, 5.6, 5.6], 7),
            # A lower one is a new beginning.
            ([8, 5, 6, 4, 6, 6, 6, 6, 6], 8),
        ],
    )
    def test_of_a_net_that_memorises(self, classifier, blobs, held_out, n_epochs):
        train = [0.1] * len(held_out)
        found = self.run(classifier, blobs, train, held_out)
        assert found == (n_epochs, 1 + np.argmin(held_out[:n_epochs]))
        left_alone = self.run(classifier, blobs, train, held_out, ends_early=False)
        assert left_alone == (len(held_out), found[1])

    @pytest.mark.parametrize(("train", "n_epochs"), [(4.9, 8), (4.7, 5)])
    def test_of_a_net_that_knows_its_samples_far_better(
        self, classifier, blobs, train, n_epochs
    ):
        """By a fifth; else the loss is merely noisy."""
        held_out = [8, 5, 6, 6, 6, 6, 6, 6]
        assert self.run(classifier, blobs, [train] * 8, held_out) == (n_epochs, 2)

    def test_while_the_held_out_loss_falls_it_goes_on(self, classifier, blobs):
        held_out = list(np.geomspace(8, 4, 20))
        assert self.run(classifier, blobs, [0.1] * 20, held_out) == (20, 20)

    def test_a_loss_of_nan_is_not_the_lowest(self, classifier, blobs):
        held_out = [np.nan, 8, 5, 6, 6, 6, 6]
        assert self.run(classifier, blobs, [0.1] * 7, held_out) == (6, 3)

    def test_its_limit_is_a_loss_that_falls_a_second_time(self, classifier, blobs):
        """After a rise that looks like the end; left alone, it is found."""
        held_out = [8, 5, 6, 6, 6, 3, 3]
        train = [0.1] * 7
        assert self.run(classifier, blobs, train, held_out) == (5, 2)
        assert self.run(classifier, blobs, train, held_out, ends_early=False) == (7, 6)

    def test_the_moment_is_the_same_as_without(self, overfitting):
        net, samples, held_out = overfitting
        net.set_params(max_epochs=60)
        whole, expected = watched(net, samples, held_out)
        short, checkpoint = watched(net, samples, held_out, ends_early=True)
        assert len(short.history) < 30 < len(whole.history) == 60
        assert checkpoint.epoch == expected.epoch
        assert checkpoint.state_dict.keys() == expected.state_dict.keys()
        for name, value in expected.state_dict.items():
            assert torch.equal(checkpoint.state_dict[name], value)
        np.testing.assert_array_equal(
            held_out_losses(short), held_out_losses(whole)[: len(short.history)]
        )

    def test_callbacks_of_the_user_see_all_of_it(self, overfitting):
        """Also of the epoch that is the last, and that training has ended."""
        seen = []

        class Recorder(Callback):
            def on_epoch_end(self, net, **kwargs):
                seen.append(net.history[-1, ("valid_loss", "train_loss", "valid_acc")])

            def on_train_end(self, net, **kwargs):
                seen.append("end")

        net, samples, held_out = overfitting
        net.set_params(max_epochs=60, callbacks=[Recorder()])
        trained, _ = watched(net, samples, held_out, ends_early=True)
        columns = ("valid_loss", "train_loss", "valid_acc")
        assert len(trained.history) < 60
        assert seen == [*trained.history[:, columns], "end"]
        assert all("dur" in row for row in trained.history)
        assert len(trained.callbacks_) == len(
            watched(net, samples, held_out)[0].callbacks_
        )

    def test_other_trainings_are_never_cut(self, overfitting):
        net, samples, held_out = overfitting
        net.set_params(max_epochs=40)
        assert len(watched(net, samples, held_out)[0].history) == 40
        trained = train(net, samples, RECIPE, validation=held_out)
        assert len(trained.history) == 40
