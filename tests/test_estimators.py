"""The meta-estimators from outside: what a user sees and relies on."""

import numpy as np
import pytest
import torch
from conftest import MLP
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    Dense,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
)
from sk_datadrop._plan import derived_seed
from sk_datadrop.metrics import r2_score as r2_of_images
from sk_datadrop.nets import DnCNN, SmallCNN


def image_net(**parameters):
    defaults = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.005,
        "max_epochs": 10,
        "batch_size": 32,
        "iterator_train__shuffle": True,
    }
    return NeuralNet(SmallCNN, **(defaults | parameters))


@pytest.fixture(scope="module")
def fitted(noisy_digits):
    X, y, _ = noisy_digits
    return DataDropoutClassifier(image_net(), cv=3, random_state=0).fit(X, y)


class TestWhatItDoes:
    def test_finds_wrong_labels(self, fitted, noisy_digits):
        _, _, flipped = noisy_digits
        dropped = ~fitted.sample_mask_
        assert flipped[dropped].mean() > 0.85
        assert dropped[flipped].mean() > 0.3

    def test_harmful_is_negative(self, fitted, noisy_digits):
        _, _, flipped = noisy_digits
        assert (
            fitted.influence_[flipped].mean() < 0 < fitted.influence_[~flipped].mean()
        )

    def test_leaves_clean_data_alone(self, noisy_digits):
        X, _, _ = noisy_digits
        y = load_digits().target[:600]
        model = DataDropoutClassifier(image_net(), random_state=0).fit(X, y)
        assert model.drop_fraction_ <= 0.02

    def test_finds_spoiled_images(self):
        rng = np.random.default_rng(0)
        clean = np.repeat(rng.random((120, 1, 4, 4)), 2, 2).repeat(2, 3)
        spoiled = np.arange(120) % 8 == 0
        y = np.where(spoiled[:, None, None, None], 1 - clean, clean)
        X = clean + 0.1 * rng.standard_normal(clean.shape)
        net = NeuralNetRegressor(
            DnCNN,
            module__depth=3,
            module__width=8,
            optimizer=torch.optim.Adam,
            lr=0.01,
            max_epochs=10,
            batch_size=16,
        )
        model = DataDropoutRegressor(net, cv=3, random_state=0).fit(X, y)
        np.testing.assert_array_equal(~model.sample_mask_, spoiled)
        predicted = model.predict(X)
        assert predicted.shape == y.shape
        assert model.score(X, clean) == pytest.approx(r2_of_images(clean, predicted))
        with pytest.raises(ValueError, match="sample_weight is not supported"):
            model.score(X, y, sample_weight=np.ones(120))


class TestPrecision:
    """Two of the three splits of `fitted`, scored in another way."""

    @pytest.fixture
    def influence_of(self, noisy_digits):
        X, y, _ = noisy_digits
        folds = StratifiedKFold(3, shuffle=True, random_state=derived_seed(0))
        cv = list(folds.split(X, y))[:2]

        def influence(net, **parameters):
            engine = InfluenceFunctions(n_groups=1, **parameters)
            model = DataDropoutTransformer(net, cv=cv, engine=engine, random_state=0)
            return model.fit(X, y).influence_per_view_

        return influence

    @pytest.mark.parametrize("batch_size", [7, 512])
    def test_batch_size_of_scoring(self, fitted, influence_of, batch_size):
        influence = influence_of(image_net(iterator_valid__batch_size=batch_size))
        expected = fitted.influence_per_view_[:2]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(influence, expected, rtol=1e-4, atol=1e-4 * scale)

    def test_scoring_in_lower_precision(self, fitted, influence_of):
        influence = influence_of(image_net(), autocast="bfloat16")
        for lower, full in zip(influence, fitted.influence_per_view_, strict=False):
            assert not np.array_equal(lower, full)
            assert np.corrcoef(lower, full)[0, 1] > 0.99


class TestParameters:
    @pytest.mark.parametrize(
        ("objective", "formula"),
        [
            ("bounded", lambda z, y: 1 - z.softmax(1)[range(len(y)), y]),
            ("loss", lambda z, y: F.cross_entropy(z, y, reduction="none")),
        ],
    )
    def test_objectives_equal_their_formulas(
        self, classifier, blobs, objective, formula
    ):
        model = DataDropoutClassifier(
            classifier, cv=3, objective=objective, random_state=0
        ).fit(*blobs)
        by_hand = clone(model).set_params(objective=formula).fit(*blobs)
        np.testing.assert_allclose(
            model.influence_, by_hand.influence_, rtol=1e-3, atol=1e-7
        )

    def test_solver_and_curvature(self, classifier, blobs):
        folds = list(KFold(3).split(blobs[0]))

        def influence(solver):
            engine = InfluenceFunctions(
                curvature=GaussNewton(damping=0.5, n_samples=None), solver=solver
            )
            model = DataDropoutClassifier(
                classifier, cv=folds, engine=engine, random_state=0
            )
            views = model.fit(*blobs).influence_per_view_
            return [view[train] for view, (train, _) in zip(views, folds, strict=True)]

        for dense, lanczos in zip(
            influence(Dense()), influence(Lanczos(tol=1e-5)), strict=True
        ):
            scale = np.abs(dense).max()
            np.testing.assert_allclose(lanczos, dense, atol=1e-3 * scale)


class TestClassifier:
    @pytest.mark.parametrize("names", [["a", "b", "c"], [10, 20, 30], [2.0, 1.0, 3.0]])
    def test_labels_of_any_type(self, classifier, blobs, names):
        X, y = blobs
        y = np.array(names)[y]
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        predicted = model.predict(X)
        largest = model.predict_proba(X).argmax(1)
        np.testing.assert_array_equal(predicted, np.sort(names)[largest])
        assert predicted.dtype == y.dtype
        assert model.score(X, y) == np.mean(predicted == y) > 0.8

    def test_two_classes_and_a_binary_net(self, blobs):
        X, y = blobs[0][blobs[1] < 2], blobs[1][blobs[1] < 2]
        net = NeuralNetBinaryClassifier(
            MLP,
            module__n_outputs=1,
            optimizer=torch.optim.Adam,
            lr=0.05,
            max_epochs=5,
        )
        y = np.array(["no", "yes"])[y]
        model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
        proba = model.predict_proba(X)
        assert proba.shape == (60, 2)
        np.testing.assert_allclose(proba.sum(1), 1)
        predicted = np.where(proba[:, 1] > 0.5, "yes", "no")
        np.testing.assert_array_equal(model.predict(X), predicted)
        assert model.score(X, y) > 0.9

    @pytest.mark.parametrize(
        ("kind", "activation"),
        [(NeuralNetClassifier, nn.Softmax), (NeuralNet, nn.LogSoftmax)],
    )
    def test_likelihoods_are_as_good_as_cross_entropy(
        self, classifier, blobs, kind, activation
    ):
        X, y = blobs
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        net = kind(**classifier.get_params(deep=False))
        net.set_params(criterion=nn.NLLLoss, module__activation=activation(dim=-1))
        other = clone(model).set_params(estimator=net).fit(X, y)
        np.testing.assert_allclose(other.influence_, model.influence_, atol=1e-6)
        proba = other.predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1)
        np.testing.assert_allclose(proba, model.predict_proba(X), atol=1e-5)
        np.testing.assert_array_equal(other.predict(X), model.predict(X))

    def test_outputs_that_are_no_probabilities(self, classifier, blobs):
        classifier.set_params(predict_nonlinearity=None)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
        with pytest.raises(ValueError, match="gives no probabilities .* softmax"):
            model.predict_proba(blobs[0])

    def test_a_heavy_class_weight_does_not_silence_the_class(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(criterion__weight=torch.tensor([1.0, 1.0, 50.0]))
        model = DataDropoutClassifier(classifier, random_state=0)
        held_out = {"X_val": X[y == 2], "y_val": y[y == 2]}
        weighted = np.abs(model.fit(X, y, **held_out).influence_).max()
        model.set_params(estimator__criterion__weight=None)
        plain = np.abs(model.fit(X, y, **held_out).influence_).max()
        assert 0.5 * plain < weighted < 2 * plain

    def test_a_saturated_net_finds_no_influence_and_drops_nothing(
        self, classifier, blobs
    ):
        X, y = blobs[0] + 3 * np.eye(4)[blobs[1]], blobs[1]
        classifier.set_params(
            module=nn.Linear,
            module__in_features=4,
            module__out_features=3,
            lr=1e4,
            optimizer=torch.optim.SGD,
        )
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        with pytest.warns(ConvergenceWarning, match="so every influence is zero"):
            model.fit(1e3 * X, y)
        assert not model.influence_.any()
        assert model.n_dropped_ == 0
        assert model.harm_probability_.max() < 0.1

    def test_signals(self, blobs):
        rng = np.random.default_rng(0)
        _, y = blobs
        X = rng.normal(size=(90, 2, 16)) + y[:, None, None]
        net = image_net(module__n_dims=1, module__n_outputs=3, max_epochs=5)
        model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
        assert model.input_shape_ == (2, 16)
        assert model.score(X, y) > 0.8


class TestRegressor:
    def test_one_target(self, regressor, plane):
        X, y = plane
        regressor.set_params(max_epochs=30)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(X, y)
        predicted = model.predict(X)
        assert predicted.shape == (80,)
        assert predicted.dtype == np.float64
        assert model.score(X, y) == pytest.approx(r2_score(y, predicted))

    @pytest.mark.parametrize("n_targets", [1, 2])
    def test_targets_in_columns(self, regressor, plane, n_targets):
        X, y = plane
        y = np.c_[y, -y][:, :n_targets]
        regressor.set_params(module__n_outputs=n_targets)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(X, y)
        predicted = model.predict(X)
        assert predicted.shape == y.shape
        assert model.target_shape_ == (n_targets,)
        np.testing.assert_array_equal(predicted, model.estimator_.predict(X))
        assert model.score(X, y) == pytest.approx(r2_score(y, predicted))

    @pytest.mark.parametrize(
        ("criterion", "parameters", "factor"),
        [
            (nn.HuberLoss, {"criterion__delta": 64}, 1 / 2),
            (nn.SmoothL1Loss, {"criterion__beta": 64}, 1 / 128),
        ],
    )
    def test_other_criteria_are_squares_where_residuals_are_small(
        self, regressor, plane, criterion, parameters, factor
    ):
        regressor.set_params(optimizer=torch.optim.SGD, lr=0.1)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
        # A power of two times the squared error, and so up to the last bit.
        model.set_params(
            estimator=clone(regressor).set_params(
                criterion=criterion, lr=0.1 / factor, **parameters
            )
        )
        squares = model.influence_per_view_
        assert np.abs(squares).max() > 1e-3
        np.testing.assert_array_equal(model.fit(*plane).influence_per_view_, squares)
