"""Weighing and mending, through the estimators."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch import (
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import EarlyStopping, EpochScoring
from torch import nn
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutWarning,
    _two_rounds,
)
from sk_datadrop._mending import doubt
from sk_datadrop.nets import DnCNN, SmallCNN


def plain_training(net, X, y, seed):
    """A training of the net without sk_datadrop."""
    net = clone(net).set_params(verbose=0, train_split=None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net.fit(X, y)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.module_.parameters()])


NAMES = np.array(list("abcdefghij"))


@pytest.fixture
def digits_net():
    return NeuralNetClassifier(
        SmallCNN,
        module__channels=(8, 16),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.005,
        max_epochs=12,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


@pytest.fixture
def trained_on(monkeypatch):
    """Targets and options of round 2, as they go to the training."""
    seen = []
    original = _two_rounds.train

    def recorded(net, samples, recipe, **options):
        seen.append((np.asarray(samples.y), options))
        return original(net, samples, recipe, **options)

    monkeypatch.setattr(_two_rounds, "train", recorded)
    return seen


class TestClasses:
    def test_wrong_labels_are_suggested_and_mended(
        self, digits_net, noisy_digits, trained_on
    ):
        X, y, flipped = noisy_digits
        model = DataDropoutClassifier(digits_net, on_harmful="mend", random_state=0)
        model.fit(X, NAMES[y])
        suggested = model.suggested_targets_
        changed = suggested != NAMES[y]
        np.testing.assert_array_equal(changed, model.harm_probability_ > 0.5)
        assert flipped[changed].mean() > 0.85
        assert changed[flipped].mean() > 0.6
        assert model.n_dropped_ == 0
        assert model.sample_mask_.all()
        assert model.summary_.startswith(f"mended {changed.sum()} of 600 samples")
        ((targets, _),) = trained_on
        assert targets.shape == (600, 10)
        assert targets.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
        rows = np.arange(600)
        np.testing.assert_allclose(
            targets[rows, y], 1 - doubt(model.harm_probability_), atol=1e-6
        )
        codes = np.searchsorted(NAMES, suggested)
        np.testing.assert_allclose(
            model.suggestion_probability_[changed],
            targets[rows, codes][changed],
            atol=1e-6,
        )
        np.testing.assert_allclose(
            model.suggestion_probability_[~changed],
            1 - model.harm_probability_[~changed],
        )
        assert set(model.predict(X)) <= set(NAMES)
        np.testing.assert_array_equal(model.estimator_.classes_, np.arange(10))

    def test_weights_are_one_minus_the_chance(
        self, digits_net, noisy_digits, trained_on
    ):
        X, y, flipped = noisy_digits
        model = DataDropoutClassifier(
            digits_net, on_harmful="weigh", random_state=0
        ).fit(X, y)
        np.testing.assert_allclose(model.sample_weight_, 1 - model.harm_probability_)
        ((targets, options),) = trained_on
        np.testing.assert_array_equal(targets, y)
        made = options["iterator"](None)
        np.testing.assert_array_equal(made.weights, model.sample_weight_)
        assert made.same_steps
        # It is not kept in the net, which would take the samples along.
        assert model.estimator_.iterator_train is digits_net.iterator_train
        dropping = clone(model).set_params(on_harmful="drop").fit(X, y)
        np.testing.assert_array_equal(
            dropping.harm_probability_, model.harm_probability_
        )
        np.testing.assert_array_equal(dropping.sample_weight_, dropping.sample_mask_)
        assert (model.sample_weight_[flipped] < 0.5).mean() > 0.6

    @pytest.mark.parametrize("on_harmful", ["weigh", "mend"])
    def test_where_nothing_is_found_the_net_is_the_plain_one(
        self, on_harmful, classifier, blobs
    ):
        X, y = blobs
        model = DataDropoutClassifier(
            classifier, on_harmful=on_harmful, random_state=3
        ).fit(X, y)
        assert not (model.harm_probability_ > 0.5).any()
        plain = plain_training(classifier, X, y, 3)
        assert torch.equal(weights(plain), weights(model.estimator_))
        np.testing.assert_array_equal(model.sample_weight_, 1)
        np.testing.assert_array_equal(model.suggested_targets_, y)

    @pytest.mark.parametrize("case", ["NLLLoss", "subclass", "withheld"])
    def test_else_the_most_likely_class_is_taken(
        self, case, digits_net, noisy_digits, trained_on
    ):
        X, y, _ = noisy_digits
        if case == "NLLLoss":
            digits_net = clone(digits_net).set_params(criterion=nn.NLLLoss)
            digits_net.set_params(module=LogSoftmaxCNN)
        elif case == "subclass":
            digits_net.set_params(criterion=CrossEntropyOfOurOwn)
        else:
            stopping = EarlyStopping("valid_loss", patience=20)
            skorch_default = NeuralNetClassifier(nn.Linear).train_split
            digits_net.set_params(callbacks=[stopping], train_split=skorch_default)
        model = DataDropoutClassifier(digits_net, on_harmful="mend", random_state=0)
        model.fit(X, y)
        ((targets, _),) = trained_on
        assert targets.shape == (600,)
        assert (targets != y).any()
        changed = targets != y
        np.testing.assert_array_equal(
            targets[changed], model.suggested_targets_[changed]
        )

    def test_binary_chances(self, trained_on):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(400, 5)).astype(np.float32)
        true = X[:, 0] + X[:, 1] > 0
        y = np.where(rng.random(400) < 0.15, ~true, true)
        net = NeuralNetBinaryClassifier(
            nn.Linear,
            module__in_features=5,
            module__out_features=1,
            lr=0.05,
            optimizer=torch.optim.Adam,
            max_epochs=15,
            batch_size=32,
            train_split=None,
            verbose=0,
        )
        model = DataDropoutClassifier(net, on_harmful="mend", random_state=0)
        model.fit(X, np.where(y, "yes", "no"))
        ((targets, _),) = trained_on
        assert targets.shape == (400,)
        share = doubt(model.harm_probability_)
        expected = np.where(y, 1 - share, share)
        np.testing.assert_allclose(targets, expected, atol=1e-6)
        assert model.score(X, np.where(true, "yes", "no")) > 0.9

    def test_data_sets(self, digits_net, noisy_digits):
        X, y, _ = noisy_digits
        dataset = TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
        for on_harmful in ("weigh", "mend"):
            model = DataDropoutClassifier(
                digits_net, on_harmful=on_harmful, cv=2, random_state=0
            )
            lazy = clone(model).fit(dataset, None)
            model.fit(X, y)
            assert torch.equal(weights(lazy.estimator_), weights(model.estimator_))
            np.testing.assert_array_equal(
                lazy.suggested_targets_, model.suggested_targets_
            )

    def test_transformers_suggest_too(self, digits_net, noisy_digits):
        X, y, flipped = noisy_digits
        selector = DataDropoutTransformer(digits_net, cv=2, random_state=0).fit(X, y)
        changed = selector.suggested_targets_ != y
        assert flipped[changed].mean() > 0.8
        assert selector.suggestion_probability_.shape == (600,)
        np.testing.assert_array_equal(selector.sample_weight_, selector.sample_mask_)


class LogSoftmaxCNN(SmallCNN):
    def forward(self, X):
        return super().forward(X).softmax(1)


class CrossEntropyOfOurOwn(nn.CrossEntropyLoss):
    pass


class TestValues:
    def spoilt_plane(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(300, 4)).astype(np.float32)
        true = X @ np.array([1.0, -2.0, 0.5, 0.0], dtype=np.float32)
        spoilt = rng.random(300) < 0.1
        noise = 0.1 * rng.normal(size=300)
        return X, (true + noise + 30 * spoilt).astype(np.float32), true, spoilt

    @pytest.mark.parametrize("n_axes", [1, 2])
    def test_predictions_are_suggested_and_mended(self, regressor, trained_on, n_axes):
        X, y, true, spoilt = self.spoilt_plane()
        regressor.set_params(max_epochs=40, train_split=None, verbose=0)
        y = y.reshape(300, *[1] * (n_axes - 1))
        model = DataDropoutRegressor(regressor, on_harmful="mend", random_state=0)
        model.fit(X, y)
        assert model.suggested_targets_.shape == y.shape
        suggested = model.suggested_targets_.ravel()
        np.testing.assert_array_equal(suggested != y.ravel(), spoilt)
        # The nets that say it have learned from spoilt targets, too.
        assert np.abs(suggested - true)[spoilt].mean() < 10
        ((targets, _),) = trained_on
        chance = model.harm_probability_
        expected = (1 - chance) * y.ravel() + chance * suggested
        np.testing.assert_allclose(
            targets.ravel()[spoilt], expected[spoilt], rtol=1e-4, atol=1e-4
        )

    def test_pictures(self, trained_on):
        rng = np.random.default_rng(0)
        y = rng.normal(size=(120, 1, 8, 8)).cumsum(2).cumsum(3).astype(np.float32) / 6
        X = y + 0.1 * rng.normal(size=y.shape).astype(np.float32)
        spoilt = np.arange(120) % 8 == 0
        given = np.where(spoilt[:, None, None, None], y + 4, y)
        net = denoiser()
        model = DataDropoutRegressor(net, on_harmful="mend", random_state=0)
        model.fit(X, given)
        ((targets, _),) = trained_on
        changed = np.abs(targets - given).max((1, 2, 3)) > 0.5
        np.testing.assert_array_equal(changed, spoilt)
        assert model.suggested_targets_.shape == given.shape
        errors = np.abs(targets - y).mean((1, 2, 3))
        assert errors[spoilt].mean() < 2
        dropping = clone(model).set_params(on_harmful="drop").fit(X, given)
        assert not hasattr(dropping, "suggested_targets_")


def denoiser():
    return NeuralNetRegressor(
        DnCNN,
        module__depth=3,
        module__width=8,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=8,
        batch_size=16,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


class TestWhereChancesAreNoTargets:
    """Classes are mended then, and nothing fails after round 1."""

    @pytest.mark.parametrize("case", ["weight", "ignore_index", "scores of training"])
    def test_classes_are_suggested_to_train_on(
        self, case, digits_net, noisy_digits, trained_on
    ):
        X, y, _ = noisy_digits
        if case == "weight":
            digits_net.set_params(criterion__weight=torch.linspace(5, 9, 10))
        elif case == "ignore_index":
            digits_net.set_params(criterion__ignore_index=12)
        else:
            scoring = EpochScoring("accuracy", on_train=True)
            digits_net.set_params(callbacks=[("train_acc", scoring)])
        model = DataDropoutClassifier(
            digits_net, on_harmful="mend", cv=2, random_state=0
        ).fit(X, y)
        ((targets, _),) = trained_on
        np.testing.assert_array_equal(targets, model.suggested_targets_)
        assert (targets != y).sum() == int(model.summary_.split()[1])

    def test_a_sampler_is_refused_before_round_one(self, classifier, blobs, trainings):
        classifier.set_params(
            iterator_train__shuffle=False,
            iterator_train__sampler=torch.utils.data.RandomSampler(range(60)),
        )
        with pytest.raises(ValueError, match="is made for all samples, and the fit"):
            DataDropoutClassifier(classifier, on_harmful="weigh").fit(*blobs)
        assert trainings == []


def test_what_is_not_suggested_is_as_given(regressor):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.normal(size=300)
    y[:30] += 30
    regressor.set_params(max_epochs=40, train_split=None, verbose=0)
    model = DataDropoutRegressor(regressor, random_state=0).fit(X, y)
    assert model.suggested_targets_.dtype == np.float64
    np.testing.assert_array_equal(model.suggested_targets_ != y, np.arange(300) < 30)
    whole = DataDropoutRegressor(regressor, random_state=0).fit(X, y.astype(int))
    np.testing.assert_array_equal(whole.suggested_targets_[30:], y.astype(int)[30:])


def test_spared_samples_are_not_called_right(classifier, blobs):
    """None may be acted on: nets that are blind suspect some all the same."""
    X, y = blobs
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)).astype(np.float32), rng.integers(3, size=90)
    model = DataDropoutClassifier(classifier, on_harmful="mend", random_state=0)
    with pytest.warns(DataDropoutWarning):
        model.fit(X, y)
    np.testing.assert_array_equal(model.suggested_targets_, y)
    np.testing.assert_allclose(
        model.suggestion_probability_, 1 - model.harm_probability_
    )
    np.testing.assert_array_equal(model.sample_weight_, 1)


class TestParameters:
    @pytest.mark.parametrize("on_harmful", ["remove", None, True])
    def test_unknown(self, on_harmful, classifier, blobs):
        model = DataDropoutClassifier(classifier, on_harmful=on_harmful)
        with pytest.raises(ValueError, match="on_harmful must be 'drop', 'weigh' or"):
            model.fit(*blobs)

    @pytest.mark.parametrize("drop_fraction", ["auto", 0.1])
    @pytest.mark.parametrize("on_harmful", ["weigh", "mend"])
    def test_nothing_is_dropped(self, on_harmful, drop_fraction, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, on_harmful=on_harmful, drop_fraction=drop_fraction
        )
        with pytest.raises(ValueError, match="drops no sample, and drop_fraction="):
            model.fit(*blobs)

    def test_fewer_steps_by_weights(self, digits_net, noisy_digits):
        X, y, _ = noisy_digits
        model = DataDropoutClassifier(
            digits_net, on_harmful="weigh", same_steps=False, cv=2, random_state=0
        ).fit(X, y)
        n_drawn = sum(model.estimator_.history[0, "batches", :, "train_batch_size"])
        assert n_drawn == round(model.sample_weight_.sum())
        assert n_drawn < 590
