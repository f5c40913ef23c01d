"""The meta-estimators from outside: what a user sees and relies on."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MLP
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    Dense,
    GaussNewton,
    Lanczos,
)
from sk_datadrop.metrics import r2_score as r2_of_images
from sk_datadrop.nets import DnCNN, SmallCNN


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


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
    return DataDropoutClassifier(image_net(), random_state=0).fit(X, y)


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
        from sklearn.datasets import load_digits

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


class TestFittedAttributes:
    def test_shapes(self, fitted):
        assert fitted.influence_.shape == fitted.sample_mask_.shape == (600,)
        assert fitted.influence_per_view_.shape == (5, 600)
        assert len(fitted.views_) == len(fitted.solver_results_) == 5
        assert len(fitted.round_one_estimators_) == 5
        assert fitted.input_shape_ == (1, 8, 8)
        assert fitted.n_features_in_ == 1
        np.testing.assert_array_equal(fitted.classes_, np.arange(10))

    def test_they_agree(self, fitted, noisy_digits):
        _, y, _ = noisy_digits
        mask = fitted.sample_mask_
        np.testing.assert_array_equal(fitted.sample_indices_, np.flatnonzero(mask))
        np.testing.assert_array_equal(fitted.get_support(), mask)
        np.testing.assert_array_equal(
            fitted.get_support(indices=True), fitted.sample_indices_
        )
        assert fitted.n_dropped_ == np.sum(~mask)
        assert fitted.drop_fraction_ == np.mean(~mask)
        np.testing.assert_allclose(
            fitted.influence_, fitted.influence_per_view_.mean(0)
        )
        for label, rate in zip(range(10), fitted.drop_rate_per_class_, strict=True):
            assert rate == np.mean(~mask[y == label])

    def test_timings(self, fitted):
        assert set(fitted.timings_) == {"round_one", "scoring", "round_two"}
        assert all(seconds > 0 for seconds in fitted.timings_.values())

    def test_the_kept_net_is_trained_on_the_kept_rows(self, fitted, noisy_digits):
        X, y, _ = noisy_digits
        keep = fitted.sample_mask_
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain = image_net(train_split=None, verbose=0).fit(X[keep], y[keep])
        assert torch.equal(weights(plain), weights(fitted.estimator_))

    def test_not_fitted(self, classifier, blobs):
        model = DataDropoutClassifier(classifier)
        for method in (model.predict, model.predict_proba):
            with pytest.raises(NotFittedError):
                method(blobs[0])
        with pytest.raises(NotFittedError):
            model.get_support()


class TestReproducible:
    def test_fit_twice(self, classifier, blobs):
        first, second = (
            DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.influence_, second.influence_)
        np.testing.assert_array_equal(first.sample_mask_, second.sample_mask_)
        assert torch.equal(weights(first.estimator_), weights(second.estimator_))

    def test_none_follows_the_generator_of_torch(self, classifier, blobs):
        def run():
            with torch.random.fork_rng():
                torch.manual_seed(5)
                return DataDropoutClassifier(classifier, cv=3).fit(*blobs).influence_

        np.testing.assert_array_equal(run(), run())

    def test_random_state_instance(self, classifier, blobs):
        def run(random_state):
            model = DataDropoutClassifier(classifier, cv=3, random_state=random_state)
            return model.fit(*blobs).influence_

        rng = np.random.RandomState(0)
        first, second = run(rng), run(rng)
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(first, run(np.random.RandomState(0)))

    @pytest.mark.parametrize("batch_size", [7, 512])
    def test_batch_size_of_scoring(self, fitted, noisy_digits, batch_size):
        X, y, _ = noisy_digits
        net = image_net(iterator_valid__batch_size=batch_size)
        model = DataDropoutClassifier(net, random_state=0).fit(X, y)
        scale = np.abs(fitted.influence_).max()
        np.testing.assert_allclose(
            model.influence_, fitted.influence_, rtol=1e-4, atol=1e-4 * scale
        )
        np.testing.assert_array_equal(model.sample_mask_, fitted.sample_mask_)

    def test_scoring_in_lower_precision(self, fitted, noisy_digits):
        X, y, _ = noisy_digits
        model = DataDropoutClassifier(
            image_net(), autocast="bfloat16", random_state=0
        ).fit(X, y)
        assert not np.array_equal(model.influence_, fitted.influence_)
        assert np.corrcoef(model.influence_, fitted.influence_)[0, 1] > 0.99

    def test_nothing_of_the_caller_is_changed(self, classifier, blobs):
        X, y = blobs
        X.setflags(write=False)
        y.setflags(write=False)
        before = joblib.hash(vars(classifier))
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
        threads = torch.get_num_threads()
        DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        assert joblib.hash(vars(classifier)) == before
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])
        assert torch.get_num_threads() == threads
        assert torch.is_grad_enabled()


class TestParameters:
    def test_drop_fraction_zero_is_plain_training(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, cv=3, drop_fraction=0.0, random_state=4
        ).fit(*blobs)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            plain = clone(classifier).set_params(train_split=None, verbose=0)
            plain.fit(*blobs)
        assert model.n_dropped_ == 0
        assert torch.equal(weights(plain), weights(model.estimator_))

    def test_drop_fraction_drops_the_lowest(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, cv=3, drop_fraction=0.1, random_state=0
        ).fit(*blobs)
        lowest = np.sort(np.argsort(model.influence_)[:9])
        np.testing.assert_array_equal(np.flatnonzero(~model.sample_mask_), lowest)

    @pytest.mark.parametrize("cv", [3, 0.3, KFold(3), list(KFold(3).split(range(90)))])
    def test_cv(self, classifier, blobs, cv):
        model = DataDropoutClassifier(classifier, cv=cv, random_state=0).fit(*blobs)
        assert len(model.round_one_estimators_) == (1 if cv == 0.3 else 3)
        assert not np.isnan(model.influence_).any()

    @pytest.mark.parametrize(
        "objective",
        ["bounded", "loss", lambda z, y: 1 - z.softmax(1)[range(len(y)), y]],
    )
    def test_objective(self, classifier, blobs, objective):
        model = DataDropoutClassifier(
            classifier, cv=3, objective=objective, random_state=0
        ).fit(*blobs)
        assert np.isfinite(model.influence_).all()

    def test_bounded_equals_its_formula(self, classifier, blobs):
        def influence(objective):
            return (
                DataDropoutClassifier(
                    classifier, cv=3, objective=objective, random_state=0
                )
                .fit(*blobs)
                .influence_
            )

        by_hand = influence(lambda z, y: 1 - z.softmax(1)[torch.arange(len(y)), y])
        np.testing.assert_allclose(influence("bounded"), by_hand, rtol=1e-3, atol=1e-7)

    def test_solver_and_curvature(self, classifier, blobs):
        folds = list(KFold(3).split(blobs[0]))

        def influence(solver):
            model = DataDropoutClassifier(
                classifier,
                cv=folds,
                curvature=GaussNewton(damping=0.5, n_samples=None),
                solver=solver,
                random_state=0,
            )
            views = model.fit(*blobs).influence_per_view_
            return [view[train] for view, (train, _) in zip(views, folds, strict=True)]

        for dense, lanczos in zip(
            influence(Dense()), influence(Lanczos(tol=1e-5)), strict=True
        ):
            scale = np.abs(dense).max()
            np.testing.assert_allclose(lanczos, dense, atol=1e-3 * scale)

    def test_solver_that_does_not_converge_warns(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, cv=3, solver=Lanczos(max_iter=1, tol=1e-9), random_state=0
        )
        with pytest.warns(ConvergenceWarning, match="raise max_iter"):
            model.fit(*blobs)

    def test_nested_parameters(self, classifier):
        model = DataDropoutClassifier(
            classifier, curvature=GaussNewton(), solver=Lanczos()
        )
        model.set_params(estimator__lr=0.5, curvature__damping=1, solver__max_iter=3)
        assert (model.estimator.lr, model.curvature.damping) == (0.5, 1)
        assert clone(model).solver.max_iter == 3

    def test_verbose_shows_a_bar_and_not_the_table(self, classifier, blobs, capsys):
        DataDropoutClassifier(classifier, cv=2, verbose=1, random_state=0).fit(*blobs)
        shown = capsys.readouterr()
        assert "split 2 of 2: scoring" in shown.err
        assert "train_loss" not in shown.out
        DataDropoutClassifier(classifier, cv=2, verbose=2, random_state=0).fit(*blobs)
        assert "train_loss" in capsys.readouterr().out

    def test_silent_by_default(self, classifier, blobs, capsys):
        DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
        shown = capsys.readouterr()
        assert not shown.out
        assert not shown.err


class SetShapes(Callback):
    """Gives the module its shape, and counts how often a training begins."""

    begun = 0

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        type(self).begun += 1
        net.set_params(module__n_inputs=X.shape[1], module__n_outputs=y.max() + 1)


def test_callback_that_shapes_the_module(blobs):
    net = NeuralNetClassifier(
        MLP, module__n_inputs=2, criterion=nn.CrossEntropyLoss, callbacks=[SetShapes]
    )
    model = DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
    assert model.estimator_.module_.first.in_features == 4


def test_callbacks_see_trainings_only(classifier, blobs, monkeypatch):
    monkeypatch.setattr(SetShapes, "begun", 0)
    net = classifier.set_params(callbacks=[SetShapes])
    DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
    assert SetShapes.begun == 3


class TestHeldOutRowsGiven:
    def test_one_round_on_all_rows(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, random_state=0).fit(
            X[:60], y[:60], X_val=X[60:], y_val=y[60:]
        )
        assert len(model.round_one_estimators_) == 1
        assert model.influence_.shape == (60,)
        assert not np.isnan(model.influence_per_view_).any()

    def test_they_serve_early_stopping_in_both_rounds(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(callbacks=[EarlyStopping(patience=1)], train_split=None)
        model = DataDropoutClassifier(classifier, random_state=0).fit(
            X[:60], y[:60], X_val=X[60:], y_val=y[60:]
        )
        assert "valid_loss" in model.estimator_.history[-1]

    def test_image_targets(self):
        X = np.random.default_rng(0).random((40, 1, 6, 6))
        net = NeuralNetRegressor(DnCNN, module__depth=2, module__width=4, max_epochs=2)
        model = DataDropoutRegressor(net, random_state=0)
        model.fit(X[:30], X[:30], X_val=X[30:], y_val=X[30:])
        assert model.influence_.shape == (30,)


def test_early_stopping_without_given_rows_uses_the_nets_own_split(classifier, blobs):
    classifier.set_params(callbacks=[EarlyStopping(patience=3)])
    model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
    assert "valid_loss" in model.estimator_.history[-1]


class TestData:
    @pytest.mark.parametrize("names", [["a", "b", "c"], [10, 20, 30], [2.0, 1.0, 3.0]])
    def test_labels_of_any_type(self, classifier, blobs, names):
        X, y = blobs
        y = np.array(names)[y]
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        assert set(model.predict(X)) <= set(names)
        assert model.score(X, y) > 0.8
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64])
    def test_rows_of_any_type(self, classifier, blobs, dtype):
        X, y = blobs
        X = np.abs(10 * X).astype(dtype)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        reference = clone(model).fit(X.astype(np.float32), y)
        np.testing.assert_array_equal(model.fit(X, y).influence_, reference.influence_)

    def test_lists_and_frames(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        listed = clone(model).fit(X.tolist(), y.tolist())
        frame = pd.DataFrame(X, columns=list("abcd"))
        framed = clone(model).fit(frame, pd.Series(y))
        np.testing.assert_array_equal(model.influence_, listed.influence_)
        np.testing.assert_array_equal(model.influence_, framed.influence_)
        assert list(framed.feature_names_in_) == list("abcd")

    def test_two_classes_and_a_binary_net(self, blobs):
        X, y = blobs[0][blobs[1] < 2], blobs[1][blobs[1] < 2]
        net = NeuralNetBinaryClassifier(
            MLP,
            module__n_outputs=1,
            optimizer=torch.optim.Adam,
            lr=0.05,
            max_epochs=5,
        )
        model = DataDropoutClassifier(net, cv=3, random_state=0)
        model.fit(X, np.array(["no", "yes"])[y])
        assert model.predict_proba(X).shape == (60, 2)
        assert model.score(X, np.array(["no", "yes"])[y]) > 0.9

    def test_softmax_net_with_nll(self, classifier, blobs):
        classifier.set_params(
            criterion=nn.NLLLoss, module__activation=nn.Softmax(dim=-1)
        )
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
        assert model.score(*blobs) > 0.8

    def test_plain_net_with_log_probabilities(self, blobs):
        net = NeuralNet(
            MLP,
            criterion=nn.NLLLoss,
            module__activation=nn.LogSoftmax(dim=-1),
            optimizer=torch.optim.Adam,
            lr=0.05,
            max_epochs=5,
        )
        X, y = blobs
        model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
        proba = model.predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1)
        np.testing.assert_array_equal(proba.argmax(1), model.predict(X))
        assert model.score(X, y) > 0.8

    def test_outputs_that_are_no_probabilities(self, classifier, blobs):
        classifier.set_params(predict_nonlinearity=None)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
        with pytest.raises(ValueError, match="gives no probabilities .* softmax"):
            model.predict_proba(blobs[0])

    def test_a_heavy_class_weight_does_not_silence_the_class(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(criterion__weight=torch.tensor([1.0, 1.0, 50.0]))
        model = DataDropoutClassifier(classifier, random_state=0)
        model.fit(X, y, X_val=X[y == 2], y_val=y[y == 2])
        assert np.abs(model.influence_).max() > 1e-8

    def test_a_saturated_net_is_not_scored_and_drops_nothing(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(
            module=nn.Linear,
            module__in_features=4,
            module__out_features=3,
            lr=1e4,
            optimizer=torch.optim.SGD,
        )
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        with pytest.warns(ConvergenceWarning):
            model.fit(1e3 * X, y)
        assert model.n_dropped_ == 0

    def test_within_no_grad(self, classifier, blobs):
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        reference = clone(model).fit(*blobs)
        with torch.no_grad():
            model.fit(*blobs)
        np.testing.assert_array_equal(model.influence_, reference.influence_)

    def test_signals(self, blobs):
        rng = np.random.default_rng(0)
        _, y = blobs
        X = rng.normal(size=(90, 2, 16)) + y[:, None, None]
        net = image_net(module__n_dims=1, module__n_outputs=3, max_epochs=5)
        model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
        assert model.input_shape_ == (2, 16)
        assert model.score(X, y) > 0.8

    def test_one_target(self, regressor, plane):
        X, y = plane
        regressor.set_params(max_epochs=30)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(X, y)
        predicted = model.predict(X)
        assert predicted.shape == (80,)
        assert predicted.dtype == np.float64
        assert model.score(X, y) == pytest.approx(r2_score(y, predicted))

    def test_several_targets(self, regressor, plane):
        X, y = plane
        regressor.set_params(module__n_outputs=2)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0)
        assert model.fit(X, np.c_[y, -y]).predict(X).shape == (80, 2)

    @pytest.mark.parametrize("criterion", [nn.HuberLoss, nn.SmoothL1Loss])
    def test_other_convex_criteria(self, regressor, plane, criterion):
        regressor.set_params(criterion=criterion)
        model = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
        assert np.isfinite(model.influence_).all()

    def test_rows_of_another_shape_in_predict(self, fitted):
        with pytest.raises(
            ValueError, match=r"rows of shape \(1, 9, 8\), but .* fitted"
        ):
            fitted.predict(np.zeros((2, 1, 9, 8)))


class TestEcosystem:
    def test_pipeline(self, classifier, blobs):
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        assert make_pipeline(StandardScaler(), model).fit(*blobs).score(*blobs) > 0.8

    def test_grid_search_over_the_drop_fraction(self, classifier, blobs):
        model = DataDropoutClassifier(classifier, cv=2, random_state=0)
        grid = {"drop_fraction": [0.0, 0.2, "negative"]}
        search = GridSearchCV(model, grid, cv=2).fit(*blobs)
        assert len(search.cv_results_["mean_test_score"]) == 3
        assert not np.isnan(search.cv_results_["mean_test_score"]).any()

    def test_pickle_and_deepcopy(self, fitted, noisy_digits):
        X, _, _ = noisy_digits
        for twin in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
            np.testing.assert_array_equal(twin.predict(X), fitted.predict(X))


def test_failed_fit_leaves_no_net_of_another(classifier, blobs):
    X, y = blobs
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="trained for no epoch"):
        model.fit(X, 2 - y, epochs=0)
    with pytest.raises(NotFittedError):
        model.predict(X)
