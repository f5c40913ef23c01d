"""Behaviour that all estimators, transformers and samplers share."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MLP
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils import get_tags
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
)

KINDS = [
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutSampler,
]
each = pytest.mark.parametrize("kind", KINDS)
QUICK = {"cv": 2, "drop_fraction": 0.1, "random_state": 0}


@pytest.fixture
def net(kind, classifier, regressor):
    return regressor if kind is DataDropoutRegressor else classifier


@pytest.fixture
def data(kind, blobs, plane):
    return plane if kind is DataDropoutRegressor else blobs


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


def check_same(first, second):
    np.testing.assert_array_equal(first.influence_, second.influence_)
    np.testing.assert_array_equal(first.harm_probability_, second.harm_probability_)
    np.testing.assert_array_equal(first.sample_mask_, second.sample_mask_)
    assert hasattr(first, "estimator_") == hasattr(second, "estimator_")
    if hasattr(first, "estimator_"):
        assert torch.equal(weights(first.estimator_), weights(second.estimator_))


@each
class TestEach:
    def test_parameters(self, kind, net):
        parameters = kind(net).get_params(deep=False)
        trains_again = kind in (DataDropoutClassifier, DataDropoutRegressor)
        assert parameters.pop("same_steps", None) is (True if trains_again else None)
        assert parameters.pop("on_harmful", None) == ("drop" if trains_again else None)
        assert parameters == {
            "estimator": net,
            "drop_fraction": "harmful",
            "cv": 3,
            "objective": "bounded",
            "engine": None,
            "memory": None,
            "n_jobs": None,
            "random_state": None,
            "verbose": 0,
        }

    def test_nested_parameters(self, kind, net):
        engine = InfluenceFunctions(curvature=GaussNewton(), solver=Lanczos())
        model = kind(net, engine=engine)
        model.set_params(
            estimator__lr=0.5, engine__curvature__damping=1, engine__solver__max_iter=3
        )
        twin = clone(model)
        assert twin.estimator.lr == 0.5
        assert twin.engine.curvature.damping == 1
        assert twin.engine.solver.max_iter == 3
        assert twin.estimator is not model.estimator
        assert twin.engine is not model.engine

    def test_tags(self, kind, net):
        tags = get_tags(kind(net))
        assert tags.input_tags.three_d_array
        assert tags.input_tags.two_d_array
        assert not tags.input_tags.sparse
        assert tags.target_tags.required
        assert tags.requires_fit
        assert tags.non_deterministic
        assert not get_tags(kind(net, random_state=0)).non_deterministic

    def test_requests(self, kind, net):
        with config_context(enable_metadata_routing=True):
            model = kind(net, cv=GroupKFold(3))
            model.set_fit_request(X_val=True, y_val=False)
            requests = model.get_metadata_routing()
        asked = ["groups", "X_val", "y_val", "other"]
        assert requests.consumes("fit", asked) == {"groups", "X_val"}

    def test_support_is_what_was_kept(self, kind, net, data):
        model = kind(net, **QUICK).fit(*data)
        n_samples = len(data[0])
        assert model.get_support().sum() == 0.9 * n_samples
        np.testing.assert_array_equal(model.get_support(), model.sample_mask_)
        kept = model.get_support(indices=True)
        np.testing.assert_array_equal(kept, np.flatnonzero(model.sample_mask_))

    def test_nothing_without_a_fit(self, kind, net, data):
        names = ["get_support", "get_feature_names_out"]
        names += ["predict", "predict_proba", "score", "transform"]
        model, asked = kind(net), 0
        for name in names:
            if hasattr(model, name):
                asked += 1
                arguments = data[: 2 if name == "score" else 1]
                if name.startswith("get"):
                    arguments = ()
                with pytest.raises(NotFittedError):
                    getattr(model, name)(*arguments)
        assert asked >= 2

    def test_nothing_of_the_caller_is_changed(self, kind, net, data):
        for part in data:
            part.setflags(write=False)
        before = joblib.hash(vars(net))
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
        threads = torch.get_num_threads()
        kind(net, **QUICK).fit(*data)
        assert joblib.hash(vars(net)) == before
        assert torch.equal(torch.get_rng_state(), torch_state)
        np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])
        assert torch.get_num_threads() == threads
        assert torch.is_grad_enabled()

    def test_fits_again_and_after_pickling_are_the_same(self, kind, net, data):
        model = kind(net, **QUICK).fit(*data)
        twin = pickle.loads(pickle.dumps(model))
        check_same(twin, model)
        with torch.no_grad():
            check_same(twin.fit(*data), model)


class TestAnotherFit:
    def test_keeps_nothing_of_the_last_one(self, classifier, regressor):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(30, 4)), np.arange(30) % 3
        model = DataDropoutTransformer(classifier, cv=2, random_state=0)
        model.fit(pd.DataFrame(X, columns=list("abcd")), y)
        of_classes = {"feature_names_in_", "classes_", "drop_rate_per_class_"}
        assert of_classes <= set(vars(model))
        model.set_params(estimator=regressor).fit(X, y)
        assert not of_classes & set(vars(model))

    def test_that_fails_leaves_no_net_of_the_last_one(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(X, y)
        with pytest.raises(ValueError, match="trained for no epoch"):
            model.fit(X, 2 - y, epochs=0)
        with pytest.raises(NotFittedError):
            model.predict(X)


class TestCv:
    def test_a_splitter_and_its_splits_are_the_same(self, classifier, blobs):
        folds = KFold(3)
        model = DataDropoutClassifier(classifier, cv=folds, random_state=0).fit(*blobs)
        assert len(model.round_one_estimators_) == 3
        listed = clone(model).set_params(cv=list(folds.split(blobs[0]))).fit(*blobs)
        check_same(listed, model)

    def test_a_share_is_one_split_with_a_view_per_group(self, classifier, blobs):
        model = DataDropoutClassifier(classifier, cv=0.3, random_state=0).fit(*blobs)
        assert len(model.round_one_estimators_) == 1
        assert [(v.split, v.group) for v in model.views_] == [(0, g) for g in range(8)]
        assert np.isfinite(model.influence_).all()


class TestRepr:
    def test_names_what_was_changed(self):
        net = NeuralNetClassifier(
            MLP,
            module__n_hidden=7,
            criterion=nn.CrossEntropyLoss,
            lr=0.3,
            callbacks=[SetShapes, ("rate", LRScheduler())],
            train_split=None,
        )
        engine = InfluenceFunctions(GaussNewton(damping=0.2), Lanczos())
        model = DataDropoutClassifier(net, cv=KFold(4), engine=engine, random_state=0)
        assert repr(clone(model)) == (
            "DataDropoutClassifier(NeuralNetClassifier(MLP, "
            "criterion=CrossEntropyLoss, lr=0.3, train_split=None, "
            "callbacks=[SetShapes, ('rate', LRScheduler(...))], module__n_hidden=7), "
            "cv=KFold(n_splits=4, random_state=None, shuffle=False), engine="
            "InfluenceFunctions(curvature=GaussNewton(damping=0.2), solver=Lanczos()), "
            "random_state=0)"
        )

    @each
    def test_defaults_are_left_out(self, kind):
        model = kind(NeuralNetClassifier(MLP))
        assert repr(clone(model)) == f"{kind.__name__}(NeuralNetClassifier(MLP))"

    def test_is_short_whatever_is_held(self):
        folds = list(KFold(4).split(np.zeros(500)))
        net = NeuralNetClassifier(MLP, criterion__weight=torch.ones(500))
        model = DataDropoutClassifier(net, cv=folds, objective=lambda outputs, y: y)
        assert len(repr(model)) < 400
        assert "\n" not in repr(model)
        assert "objective=<lambda>" in repr(model)


class SetShapes(Callback):
    """Gives the module its shape, and counts how often a training begins."""

    begun = 0

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        type(self).begun += 1
        net.set_params(module__n_inputs=X.shape[1], module__n_outputs=y.max() + 1)


class TestCallbacks:
    def test_one_may_shape_the_module(self, blobs):
        net = NeuralNetClassifier(
            MLP,
            module__n_inputs=2,
            criterion=nn.CrossEntropyLoss,
            callbacks=[SetShapes],
        )
        model = DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
        assert model.estimator_.module_.first.in_features == 4

    def test_they_see_trainings_only(self, classifier, blobs, monkeypatch):
        monkeypatch.setattr(SetShapes, "begun", 0)
        net = classifier.set_params(callbacks=[SetShapes])
        DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
        assert SetShapes.begun == 3
