"""Round 1 alone, as a transformer and as a sampler."""

import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from conftest import MLP
from packaging.version import parse as parse_version
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
)
from sk_datadrop.metrics import neg_mean_squared_error_scorer
from sk_datadrop.nets import DnCNN

SELECTORS = [DataDropoutTransformer, DataDropoutSampler]
both = pytest.mark.parametrize("selector", SELECTORS)
QUICK = {"cv": 3, "drop_fraction": 0.1, "random_state": 0}


@pytest.fixture
def denoiser():
    return NeuralNetRegressor(
        DnCNN,
        module__depth=2,
        module__width=4,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=3,
        batch_size=16,
        train_split=None,
        verbose=0,
    )


@pytest.fixture
def images():
    """40 noisy images (N, 1, 6, 6) and what they should be."""
    rng = np.random.default_rng(0)
    clean = np.repeat(rng.random((40, 1, 3, 3)), 2, 2).repeat(2, 3)
    return clean + 0.1 * rng.standard_normal(clean.shape), clean


def same(first, second):
    np.testing.assert_array_equal(first.influence_, second.influence_)
    np.testing.assert_array_equal(first.sample_mask_, second.sample_mask_)


@both
class TestBoth:
    @pytest.mark.parametrize("drop_fraction", [0.1, "harmful"])
    def test_the_samples_of_the_classifier(
        self, selector, classifier, noisy_digits, drop_fraction
    ):
        X, y, _ = noisy_digits
        X = X.reshape(600, 64)
        classifier.set_params(module__n_inputs=64, module__n_outputs=10, lr=0.01)
        parameters = QUICK | {"drop_fraction": drop_fraction}
        model = DataDropoutClassifier(classifier, **parameters).fit(X, y)
        found = selector(classifier, **parameters).fit(X, y)
        assert 0 < model.n_dropped_ == found.n_dropped_
        same(found, model)
        np.testing.assert_array_equal(found.classes_, model.classes_)
        np.testing.assert_array_equal(
            found.drop_rate_per_class_, model.drop_rate_per_class_
        )

    def test_the_samples_of_the_regressor(self, selector, denoiser, images):
        model = DataDropoutRegressor(denoiser, **QUICK).fit(*images)
        found = selector(denoiser, **QUICK).fit(*images)
        assert found.n_dropped_ == 4
        same(found, model)
        assert found.input_shape_ == (1, 6, 6)
        assert not hasattr(found, "classes_")

    def test_the_attributes_of_the_estimator_but_for_round_two(
        self, selector, classifier, blobs
    ):
        model = DataDropoutClassifier(classifier, **QUICK).fit(*blobs)
        found = selector(classifier, **QUICK).fit(*blobs)
        names = {name for name in vars(model) if name.endswith("_")}
        assert {name for name in vars(found) if name.endswith("_")} == (
            names - {"estimator_"}
        )
        assert set(found.timings_) == {"round_one", "scoring"}
        assert len(found.round_one_estimators_) == len(found.solver_results_) == 3

    def test_held_out_samples_given(self, selector, classifier, blobs):
        X, y = blobs
        held_out = {"X_val": X[60:], "y_val": y[60:]}
        model = DataDropoutClassifier(classifier, **QUICK)
        found = selector(classifier, **QUICK).fit(X[:60], y[:60], **held_out)
        same(found, model.fit(X[:60], y[:60], **held_out))
        assert len(found.round_one_estimators_) == 1

    def test_names(self, selector, classifier, blobs):
        X, y = blobs
        found = selector(classifier, **QUICK).fit(X, y)
        assert found.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]
        found.fit(pd.DataFrame(X, columns=list("abcd")), y)
        assert found.get_feature_names_out().tolist() == list("abcd")
        with pytest.raises(ValueError, match="not equal to feature_names_in_"):
            found.get_feature_names_out(list("abce"))

    def test_images_have_no_names(self, selector, denoiser, images):
        found = selector(denoiser, **QUICK).fit(*images)
        with pytest.raises(ValueError, match=r"only tables .* shape \(1, 6, 6\)"):
            found.get_feature_names_out()

    def test_memory_is_shared_with_the_estimators(
        self, selector, classifier, blobs, tmp_path, trainings
    ):
        parameters = QUICK | {"memory": joblib.Memory(tmp_path, verbose=0)}
        model = DataDropoutClassifier(classifier, **parameters).fit(*blobs)
        assert len(trainings) == 3
        same(selector(classifier, **parameters).fit(*blobs), model)
        assert len(trainings) == 3

    @pytest.mark.parametrize("routing", [False, True])
    def test_groups(self, selector, classifier, blobs, routing):
        groups = np.arange(90) % 3
        folds = list(GroupKFold(3).split(*blobs, groups))
        model = DataDropoutClassifier(classifier, **QUICK | {"cv": folds}).fit(*blobs)
        found = selector(classifier, **QUICK | {"cv": GroupKFold(3)})
        with config_context(enable_metadata_routing=routing):
            same(found.fit(*blobs, groups=groups), model)
        with pytest.raises(ValueError, match="'groups' parameter should not be None"):
            found.fit(*blobs)


@pytest.mark.parametrize(
    ("criterion", "has_classes"), [(nn.CrossEntropyLoss, True), (nn.MSELoss, False)]
)
def test_the_criterion_of_a_plain_net_says_what_the_targets_are(
    blobs, criterion, has_classes
):
    X, y = blobs
    y = y if has_classes else np.eye(3)[y]
    net = NeuralNet(MLP, criterion=criterion, max_epochs=2)
    found = DataDropoutTransformer(net, **QUICK).fit(X, y)
    assert hasattr(found, "classes_") == has_classes
    assert hasattr(found, "target_shape_") != has_classes


class TestTransformer:
    def test_transform_changes_nothing(self, classifier, blobs):
        X, y = blobs
        found = DataDropoutTransformer(classifier, **QUICK).fit(X, y)
        assert found.n_dropped_ == 9
        assert found.transform(X) is X
        assert found.transform(X[:2]).shape == (2, 4)
        listed = found.transform(X[:2].tolist())
        np.testing.assert_array_equal(listed, X[:2])
        assert clone(found).fit_transform(X, y) is X

    def test_frame(self, classifier, blobs):
        X, y = pd.DataFrame(blobs[0], columns=list("abcd")), pd.Series(blobs[1])
        found = DataDropoutTransformer(classifier, **QUICK).fit(X, y)
        assert found.transform(X) is X
        with pytest.raises(ValueError, match="feature names should match"):
            found.transform(X[list("dcba")])

    def test_set_output(self, classifier, blobs):
        found = DataDropoutTransformer(classifier, **QUICK).fit(*blobs)
        framed = found.set_output(transform="pandas").transform(blobs[0])
        pd.testing.assert_frame_equal(
            framed, pd.DataFrame(blobs[0], columns=["x0", "x1", "x2", "x3"])
        )

    def test_images(self, denoiser, images):
        X, y = images
        found = DataDropoutTransformer(denoiser, **QUICK).fit(X, y)
        assert found.transform(X) is X
        with pytest.raises(ValueError, match=r"samples of shape \(1, 6, 7\), but"):
            found.transform(np.zeros((2, 1, 6, 7)))

    def test_pipeline(self, classifier, blobs):
        X, y = blobs
        X = X.astype(np.float64)
        scale = StandardScaler()
        selector = DataDropoutTransformer(classifier, **QUICK)
        model = DataDropoutClassifier(classifier, **QUICK | {"drop_fraction": 0.0})
        pipeline = make_pipeline(scale, selector, model).fit(X, y)
        alone = DataDropoutClassifier(classifier, **QUICK).fit(
            scale.fit_transform(X), y
        )
        same(pipeline[1], alone)
        assert pipeline.score(X, y) > 0.8
        assert pipeline.predict(X[:5]).shape == (5,)

    def test_pipeline_before_a_net(self, classifier, blobs):
        classifier.set_params(verbose=0)
        pipeline = make_pipeline(
            DataDropoutTransformer(classifier, **QUICK), clone(classifier)
        ).fit(*blobs)
        assert pipeline[0].n_dropped_ == 9
        assert pipeline.predict(blobs[0]).shape == (90,)
        assert pipeline.score(*blobs) > 0.8

    def test_workers(self, classifier, blobs):
        found = DataDropoutTransformer(classifier, **QUICK).fit(*blobs)
        twin = clone(found).set_params(n_jobs=2)
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            same(twin.fit(*blobs), found)

    def test_routing_through_a_pipeline(self, classifier, blobs):
        with config_context(enable_metadata_routing=True):
            selector = DataDropoutTransformer(classifier, **QUICK)
            selector.set_params(cv=GroupKFold(3)).set_fit_request(
                X_val=False, y_val=False
            )
            pipeline = make_pipeline(selector, StandardScaler())
            pipeline.fit(*blobs, groups=np.arange(90) % 3)
        assert len(selector.round_one_estimators_) == 3


class TestSampler:
    def test_the_kept_samples(self, classifier, blobs):
        X, y = blobs
        sampler = DataDropoutSampler(classifier, **QUICK)
        X_kept, y_kept = sampler.fit_resample(X, y)
        assert X_kept.shape == (81, 4)
        np.testing.assert_array_equal(X_kept, X[sampler.sample_indices_])
        np.testing.assert_array_equal(y_kept, y[sampler.sample_indices_])
        assert not hasattr(sampler, "transform")

    def test_frames(self, classifier, blobs):
        X = pd.DataFrame(blobs[0], columns=list("abcd"), index=np.arange(90)[::-1])
        y = pd.Series(np.array(["x", "y", "z"])[blobs[1]], X.index, name="kind")
        sampler = DataDropoutSampler(classifier, **QUICK)
        X_kept, y_kept = sampler.fit_resample(X, y)
        pd.testing.assert_frame_equal(X_kept, X[sampler.sample_mask_])
        pd.testing.assert_series_equal(y_kept, y[sampler.sample_mask_])

    def test_lists(self, classifier, blobs):
        X, y = blobs[0].tolist(), blobs[1].tolist()
        sampler = DataDropoutSampler(classifier, **QUICK)
        X_kept, y_kept = sampler.fit_resample(X, y)
        assert X_kept == [X[i] for i in sampler.sample_indices_]
        assert y_kept == [y[i] for i in sampler.sample_indices_]
        assert len(y_kept) == 81

    def test_images(self, denoiser, images):
        X, y = images[0], images[1].astype(np.float16)
        sampler = DataDropoutSampler(denoiser, **QUICK)
        X_kept, y_kept = sampler.fit_resample(X, y)
        assert (X_kept.shape, X_kept.dtype) == ((36, 1, 6, 6), np.float64)
        assert (y_kept.shape, y_kept.dtype) == ((36, 1, 6, 6), np.float16)
        np.testing.assert_array_equal(X_kept, X[sampler.sample_mask_])
        np.testing.assert_array_equal(y_kept, y[sampler.sample_mask_])

    def test_held_out_samples_are_not_returned(self, classifier, blobs):
        X, y = blobs
        sampler = DataDropoutSampler(classifier, **QUICK)
        X_kept, _ = sampler.fit_resample(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        assert len(X_kept) == 54
        assert sampler.influence_.shape == (60,)

    def test_scikit_learns_pipeline_refuses_it(self, classifier, blobs):
        pipeline = make_pipeline(DataDropoutSampler(classifier), LogisticRegression())
        with pytest.raises(TypeError, match="should be transformers and implement"):
            pipeline.fit(*blobs)

    @pytest.mark.skipif(
        parse_version(sklearn.__version__) < parse_version("1.8"),
        reason="older scikit-learn reads no requests for methods it does not know",
    )
    def test_it_needs_no_imbalanced_learn(self):
        code = (
            "import sys; sys.modules['imblearn'] = None\n"
            "from sklearn.utils.metadata_routing import get_routing_for_object as get\n"
            "from skorch import NeuralNetRegressor as Net\n"
            "import torch, sk_datadrop\n"
            "sampler = sk_datadrop.DataDropoutSampler(Net(torch.nn.Linear))\n"
            "print(sorted(get(sampler).consumes('fit', ['X_val', 'other'])))\n"
        )
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == "['X_val']\n"


class TestPipelineOfImbalancedLearn:
    def test_images(self, denoiser, images):
        from imblearn.pipeline import make_pipeline

        X, y = (part.astype(np.float32) for part in images)
        pipeline = make_pipeline(DataDropoutSampler(denoiser, **QUICK), clone(denoiser))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipeline.fit(X, y)
            keep = pipeline[0].sample_mask_
            torch.manual_seed(0)
            plain = clone(denoiser).fit(X[keep], y[keep])
        assert keep.sum() == 36
        predicted = pipeline.predict(X)
        assert predicted.shape == (40, 1, 6, 6)
        np.testing.assert_array_equal(predicted, plain.predict(X))

    def test_grid_search_over_the_drop_fraction(
        self, denoiser, images, tmp_path, trainings
    ):
        from imblearn.pipeline import Pipeline

        X, y = (part.astype(np.float32) for part in images)
        sampler = DataDropoutSampler(
            denoiser, cv=2, random_state=0, memory=joblib.Memory(tmp_path, verbose=0)
        )
        search = GridSearchCV(
            Pipeline([("drop", sampler), ("net", denoiser)]),
            {"drop__drop_fraction": [0.0, 0.1, 0.25]},
            scoring=neg_mean_squared_error_scorer,
            cv=2,
            error_score="raise",
            refit=False,
        ).fit(X, y)
        assert len(set(search.cv_results_["mean_test_score"])) == 3
        # Two splits in each of two outer folds, whatever the share.
        assert len(trainings) == 4

    @pytest.mark.skipif(
        parse_version(sklearn.__version__) < parse_version("1.8"),
        reason="older scikit-learn reads no requests for methods it does not know",
    )
    def test_held_out_samples_by_routing(self, classifier, blobs):
        from imblearn.pipeline import make_pipeline

        X, y = blobs
        classifier.set_params(verbose=0)
        with config_context(enable_metadata_routing=True):
            sampler = DataDropoutSampler(classifier, **QUICK)
            pipeline = make_pipeline(sampler, clone(classifier))
            pipeline.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        assert len(sampler.round_one_estimators_) == 1
        assert sampler.n_dropped_ == 6

    def test_groups_by_routing(self, classifier, blobs):
        from imblearn.pipeline import make_pipeline

        with config_context(enable_metadata_routing=True):
            sampler = DataDropoutSampler(classifier, **QUICK | {"cv": GroupKFold(3)})
            pipeline = make_pipeline(sampler, clone(classifier))
            pipeline.fit(*blobs, groups=np.arange(90) % 3)
        assert len(sampler.round_one_estimators_) == 3
