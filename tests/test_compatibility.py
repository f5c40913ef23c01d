"""Uses of scikit-learn estimators: one test for each row of the docs."""

import copy
import pickle
import re
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import skorch
import torch
from conftest import MLP
from packaging.version import parse as parse_version
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, WeightedRandomSampler

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    InfluenceFunctions,
    Lanczos,
)
from sk_datadrop.nets import SmallCNN

DOCS = Path(__file__).parents[1] / "docs" / "compatibility.md"


@pytest.fixture
def model(classifier):
    return DataDropoutClassifier(classifier, cv=2, random_state=0)


@pytest.fixture
def two_classes(blobs):
    X, y = blobs
    return X[y < 2], y[y < 2]


@pytest.fixture
def binary(classifier):
    net = classifier.set_params(module__n_outputs=2)
    return DataDropoutClassifier(net, cv=2, random_state=0)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_every_row_of_the_docs_names_a_test():
    table, _ = DOCS.read_text().split("## Nets, targets and inputs")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    named = re.findall(r"`(test_\w+)`", "\n".join(rows))
    assert len(rows) - 1 == len(named)
    here = {name for name in globals() if name.startswith("test_")}
    elsewhere = "\n".join(p.read_text() for p in Path(__file__).parent.glob("*.py"))
    for name in named:
        assert name in here or f"def {name}(" in elsewhere, name


# Composition.


def test_pipeline(model, blobs):
    X, y = blobs
    piped = make_pipeline(StandardScaler(), model).fit(X, y)
    assert piped.score(X, y) > 0.9
    assert piped[-1].n_features_in_ == 4


def to_images(X):
    return X.reshape(-1, 1, 8, 8)


def test_pipeline_with_image_steps(noisy_digits):
    X, y, flipped = noisy_digits
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.005,
        max_epochs=6,
        batch_size=32,
    )
    piped = Pipeline(
        [
            ("images", FunctionTransformer(to_images)),
            ("net", DataDropoutClassifier(net, cv=2, random_state=0)),
        ]
    ).fit(X.reshape(len(X), -1), y)
    assert piped["net"].input_shape_ == (1, 8, 8)
    assert flipped[~piped["net"].sample_mask_].mean() > 0.8


def test_nested_parameters(model):
    model.set_params(engine=InfluenceFunctions(solver=Lanczos()))
    piped = make_pipeline(StandardScaler(), model)
    piped.set_params(
        datadropoutclassifier__estimator__lr=0.5,
        datadropoutclassifier__engine__solver__max_iter=3,
    )
    assert piped[-1].estimator.lr == 0.5
    assert piped[-1].engine.solver.max_iter == 3


def test_clone(model, blobs):
    again = clone(model.fit(*blobs))
    assert not hasattr(again, "influence_")
    np.testing.assert_array_equal(again.fit(*blobs).influence_, model.influence_)


# Model selection.


def test_cross_val_score_and_predict(model, blobs):
    assert cross_val_score(model, *blobs, cv=2).mean() > 0.9
    proba = cross_val_predict(model, *blobs, cv=2, method="predict_proba")
    assert proba.shape == (90, 3)
    np.testing.assert_allclose(proba.sum(1), 1)


def test_learning_curve(model, blobs):
    sizes, _, scores = learning_curve(model, *blobs, cv=2, train_sizes=[0.5, 1.0])
    assert sizes.tolist() == [22, 45]
    assert scores[-1].mean() > 0.8


def test_grid_search(model, blobs):
    grid = {"drop_fraction": [0.0, 0.1, "harmful"], "estimator__lr": [0.05]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(*blobs)
    assert len(search.cv_results_["params"]) == 3
    assert search.best_score_ > 0.9


def test_randomized_search_with_workers(model, blobs):
    search = RandomizedSearchCV(
        model, {"drop_fraction": [0.0, 0.1]}, n_iter=2, cv=2, n_jobs=2, random_state=0
    )
    alone = clone(search).set_params(n_jobs=None)
    np.testing.assert_array_equal(
        search.fit(*blobs).cv_results_["mean_test_score"],
        alone.fit(*blobs).cv_results_["mean_test_score"],
    )


def test_tuned_threshold(binary, two_classes):
    tuned = TunedThresholdClassifierCV(binary, cv=2).fit(*two_classes)
    assert tuned.score(*two_classes) > 0.9


def test_calibrated(model, blobs):
    calibrated = CalibratedClassifierCV(model, cv=2).fit(*blobs)
    assert calibrated.score(*blobs) > 0.9


def test_permutation_importance(model, blobs):
    result = permutation_importance(model.fit(*blobs), *blobs, random_state=0)
    assert result.importances_mean[3] < result.importances_mean[:3].min()


# Ensembles.


def test_voting(model, regressor, blobs, plane):
    members = [("dropout", model), ("linear", LogisticRegression())]
    assert VotingClassifier(members, voting="soft").fit(*blobs).score(*blobs) > 0.9
    member = DataDropoutRegressor(regressor, cv=2, random_state=0)
    vote = VotingRegressor([("dropout", member)]).fit(*plane)
    alone = member.fit(*plane).predict(plane[0])
    np.testing.assert_array_equal(vote.predict(plane[0]), alone)


def test_stacking(model, blobs):
    stacked = StackingClassifier([("dropout", model)], cv=2).fit(*blobs)
    assert stacked.score(*blobs) > 0.9


def test_bagging(model, blobs):
    bagged = BaggingClassifier(model, n_estimators=2, random_state=0).fit(*blobs)
    assert bagged.score(*blobs) > 0.9


def test_one_vs_rest(binary, blobs):
    assert OneVsRestClassifier(binary).fit(*blobs).score(*blobs) > 0.9


def test_frozen(model, blobs):
    X, y = blobs
    model.fit(X, y)
    frozen = make_pipeline(FrozenEstimator(model)).fit(X[:10], y[:10])
    np.testing.assert_array_equal(frozen.predict(X), model.predict(X))


def test_transformed_target(regressor, plane):
    X, y = plane
    model = DataDropoutRegressor(regressor, cv=2, random_state=0)
    scale = StandardScaler()
    wrapped = TransformedTargetRegressor(model, transformer=scale).fit(X, 100 * y)
    alone = clone(model).fit(X, scale.fit_transform(100 * y[:, None])[:, 0])
    expected = scale.inverse_transform(alone.predict(X)[:, None])[:, 0]
    np.testing.assert_allclose(wrapped.predict(X), expected)


# Data.


def test_frames_in_and_names_out(model, blobs):
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(90) + 500)
    model.set_params(drop_fraction=0.1).fit(
        frame, pd.Series(y, index=frame.index).map({0: "x", 1: "y", 2: "z"})
    )
    assert model.feature_names_in_.tolist() == list("abcd")
    assert model.classes_.tolist() == ["x", "y", "z"]
    kept = frame[model.sample_mask_]
    assert len(kept) == 90 - model.n_dropped_ == 81
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "e"}))


def test_read_only_memmap(model, blobs, tmp_path):
    X, y = blobs
    joblib.dump((X, y), tmp_path / "samples")
    mapped = joblib.load(tmp_path / "samples", mmap_mode="r")
    assert not mapped[0].flags.writeable
    np.testing.assert_array_equal(
        clone(model).fit(*mapped).influence_, model.fit(X, y).influence_
    )


# Persistence and display.


@pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
def test_pickle_joblib_deepcopy(model, blobs, tmp_path, way):
    X, y = blobs
    model.set_params(drop_fraction=0.1).fit(X, y)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(model))
    elif way == "joblib":
        joblib.dump(model, tmp_path / "model")
        again = joblib.load(tmp_path / "model")
    else:
        again = copy.deepcopy(model)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.sample_mask_, model.sample_mask_)
    np.testing.assert_array_equal(again.harm_probability_, model.harm_probability_)
    again.fit(X, y)
    np.testing.assert_array_equal(again.influence_, model.influence_)


def test_skops(model, blobs, tmp_path):
    X, y = blobs
    model.fit(X, y)
    skops.io.dump(model, tmp_path / "model.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert any(name.startswith("sk_datadrop.") for name in trusted)
    again = skops.io.load(tmp_path / "model.skops", trusted=trusted)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_html(model, blobs):
    page = model._repr_html_()
    assert "DataDropoutClassifier" in page
    assert "NeuralNetClassifier" in page
    assert "DataDropoutClassifier" in model.fit(*blobs)._repr_html_()


# Workers.


def test_splits_side_by_side_are_bitwise_the_same(model, blobs):
    model.set_params(cv=3, drop_fraction=0.1)
    alone = clone(model).fit(*blobs)
    together = clone(model).set_params(n_jobs=2).fit(*blobs)
    np.testing.assert_array_equal(alone.influence_, together.influence_)
    np.testing.assert_array_equal(alone.harm_probability_, together.harm_probability_)
    np.testing.assert_array_equal(alone.sample_mask_, together.sample_mask_)
    for a, b in zip(
        alone.round_one_estimators_, together.round_one_estimators_, strict=True
    ):
        for p, q in zip(a.module_.parameters(), b.module_.parameters(), strict=True):
            assert torch.equal(p, q)


# Metadata.


GROUPS = np.arange(90) % 9


class SeenGroups(GroupKFold):
    """Notes the groups it was given."""

    seen: list = []

    def split(self, X, y=None, groups=None):
        self.seen.append(groups)
        return super().split(X, y, groups)


@pytest.fixture
def grouped(classifier):
    SeenGroups.seen.clear()
    return DataDropoutClassifier(classifier, cv=SeenGroups(3), random_state=0)


def test_groups(grouped, blobs):
    grouped.fit(*blobs, groups=GROUPS)
    np.testing.assert_array_equal(SeenGroups.seen[0], GROUPS)


def test_groups_through_a_pipeline(grouped, blobs):
    make_pipeline(StandardScaler(), grouped).fit(
        *blobs, datadropoutclassifier__groups=GROUPS
    )
    np.testing.assert_array_equal(SeenGroups.seen[0], GROUPS)


def test_groups_through_a_search(grouped, blobs):
    search = GridSearchCV(grouped, {"drop_fraction": [0.1]}, cv=2, refit=False)
    with pytest.raises(ValueError, match="The 'groups' parameter should not be None"):
        search.set_params(error_score="raise").fit(*blobs)


@pytest.mark.usefixtures("routing")
class TestRouting:
    def test_groups_are_routed(self, grouped, blobs):
        grouped.fit(*blobs, groups=GROUPS)
        np.testing.assert_array_equal(SeenGroups.seen[0], GROUPS)

    def test_groups_are_routed_through_everything(self, grouped, blobs):
        piped = make_pipeline(StandardScaler(), grouped)
        piped.fit(*blobs, groups=GROUPS)
        np.testing.assert_array_equal(SeenGroups.seen[0], GROUPS)
        SeenGroups.seen.clear()
        search = GridSearchCV(
            piped,
            {"datadropoutclassifier__drop_fraction": [0.0, 0.1]},
            cv=GroupKFold(3),
            error_score="raise",
        ).fit(*blobs, groups=GROUPS)
        assert len(SeenGroups.seen) == 7
        assert [len(g) for g in SeenGroups.seen] == [60] * 6 + [90]
        SeenGroups.seen.clear()
        scores = cross_validate(
            search,
            *blobs,
            params={"groups": GROUPS},
            cv=GroupKFold(3),
            error_score="raise",
        )
        assert len(SeenGroups.seen) == 3 * 7
        assert not np.isnan(scores["test_score"]).any()

    def test_X_val_through_a_pipeline(self, model, blobs):
        X, y = blobs
        model.set_fit_request(X_val=True, y_val=True)
        piped = Pipeline(
            [("scale", StandardScaler()), ("net", model)], transform_input=["X_val"]
        ).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        direct = clone(model).fit(
            piped["scale"].transform(X[:60]),
            y[:60],
            X_val=piped["scale"].transform(X[60:]),
            y_val=y[60:],
        )
        np.testing.assert_array_equal(piped["net"].influence_, direct.influence_)
        assert len(piped["net"].round_one_estimators_) == 1

    def test_what_nobody_asked_for_is_refused(self, model, blobs):
        with pytest.raises(TypeError, match="unexpected argument"):
            model.fit(*blobs, weights=np.ones(90))
        X, y = blobs
        piped = make_pipeline(StandardScaler(), model)
        with pytest.raises(UnsetMetadataPassedError, match="X_val"):
            piped.fit(X, y, X_val=X, y_val=y)


class NetWithOffset(NeuralNetClassifier):
    """A net whose ``fit`` has parameters of its own."""

    def fit(self, X, y, offset=None, times=1, **fit_params):
        self.offset_ = offset
        return super().fit(X, y, epochs=times, **fit_params)


older_skorch = pytest.mark.skipif(
    parse_version(skorch.__version__) < parse_version("1.4"),
    reason="skorch before 1.4 cannot clone a net with metadata requests",
)


@pytest.mark.parametrize("is_routed", [False, pytest.param(True, marks=older_skorch)])
def test_fit_parameters_reach_the_net_cut_as_the_samples_are(blobs, is_routed):
    X, y = blobs
    net = NetWithOffset(MLP, criterion=nn.CrossEntropyLoss, lr=0.1)
    folds = list(KFold(3).split(X))
    model = DataDropoutClassifier(net, cv=folds, drop_fraction=0.1, random_state=0)
    numbers = np.arange(90)
    with sklearn.config_context(enable_metadata_routing=is_routed):
        if is_routed:
            net.set_fit_request(offset=True, times=True)
        model.fit(X, y, offset=numbers, times=2)
    of_round_two = model.estimator_.offset_
    np.testing.assert_array_equal(np.unique(of_round_two), model.sample_indices_)
    assert len(model.sample_indices_) == 81
    # Some of them twice.
    assert len(of_round_two) == 90
    assert len(model.estimator_.history) == 2
    for fitted, (train, _) in zip(model.round_one_estimators_, folds, strict=True):
        np.testing.assert_array_equal(fitted.offset_, train)
        assert len(fitted.history) == 2


def test_sample_weight_is_refused(model, blobs):
    with pytest.raises(
        ValueError, match="sample_weight is not supported, .* pass an iterator"
    ):
        model.fit(*blobs, sample_weight=np.ones(90))


def balanced(dataset, **options):
    labels = np.array([int(label) for _, label in dataset])
    weights = (1 / np.bincount(labels))[labels]
    sampler = WeightedRandomSampler(weights, num_samples=len(labels))
    return DataLoader(dataset, **options | {"sampler": sampler, "shuffle": False})


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_samplers(name, blobs, classifier):
    """One for all samples is refused; a data loader may make its own."""
    X, y = blobs
    sampler = WeightedRandomSampler(np.ones(90), 90)
    given = BatchSampler(sampler, 16, drop_last=False) if name[0] == "b" else sampler
    net = clone(classifier).set_params(**{f"iterator_train__{name}": given})
    message = f"iterator_train__{name}, which is made for all samples"
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(net).fit(X, y)
    classifier.set_params(iterator_train=balanced, max_epochs=2)
    model = DataDropoutClassifier(classifier, cv=2, drop_fraction=0.1, random_state=0)
    assert model.fit(X, y).n_dropped_ == 9
