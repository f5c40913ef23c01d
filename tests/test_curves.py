"""The drop curve: what it compares, and what it does not let in."""

from threading import get_ident

import matplotlib as mpl
import numpy as np
import pytest
import torch
from joblib import parallel_config
from scipy import stats
from sklearn.model_selection import GroupKFold, ShuffleSplit
from skorch import NeuralNetRegressor
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DropCurve,
    DropCurveDisplay,
    drop_curve,
)
from sk_datadrop._curves import _interval, _shuffled


@pytest.fixture
def spoiled_plane():
    """120 rows of a plane, a tenth of the targets far off."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3)).astype(np.float32)
    y = X @ [1.0, 2.0, 3.0]
    y[:12] += 30
    order = rng.permutation(120)
    return X[order], y[order].astype(np.float32)


@pytest.fixture
def model():
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=3,
        module__out_features=1,
        lr=0.1,
        max_epochs=25,
    )
    return DataDropoutRegressor(net, cv=2)


def curve_of(model, rows, **options):
    defaults = {
        "fractions": [0.05, 0.1],
        "n_repeats": 2,
        "cv": 2,
        "scoring": "neg_median_absolute_error",
        "random_state": 0,
    }
    return drop_curve(model, *rows, **(defaults | options))


def test_dropping_what_is_spoiled_helps_and_a_random_drop_does_not(
    model, spoiled_plane
):
    curve = curve_of(model, spoiled_plane, fractions=[0.0, 0.1], n_repeats=3)
    assert curve.dropout.shape == curve.random.shape == (6, 2)
    np.testing.assert_array_equal(curve.n_dropped, [[0, 6]] * 6)
    np.testing.assert_array_equal(curve.dropout[:, 0], curve.none)
    np.testing.assert_array_equal(curve.random[:, 0], curve.none)
    for over in ("none", "random"):
        mean, low, _ = curve.gain(over)
        assert mean[1] > low[1] > 0


def test_round_one_is_run_once_per_run(model, spoiled_plane, trainings):
    curve_of(model, spoiled_plane, fractions=[0.1, 0.2, 0.3], n_repeats=1)
    assert len(trainings) == 2 * 2
    assert len(set(trainings)) == 4  # a seed of its own for every run and round


def test_scored_rows_are_never_trained_on(model, spoiled_plane):
    X, y = spoiled_plane
    seen = []

    def scorer(fitted, X_test, y_test):
        seen.append((fitted.sample_mask_, X_test))
        return fitted.score(X_test, y_test)

    [(train, test)] = splits = list(ShuffleSplit(1, random_state=0).split(X))
    curve = curve_of(model, (X, y), cv=splits, scoring=scorer, n_repeats=1)
    assert len(seen) == 1 + 2 * 2
    for mask, X_test in seen:
        assert len(mask) == len(train)
        np.testing.assert_array_equal(X_test, X[test])
    assert curve.n_train.tolist() == [108]
    assert curve.n_test.tolist() == [12]


def test_the_seed_decides(model, spoiled_plane):
    first, second = (curve_of(model, spoiled_plane, n_repeats=1) for _ in range(2))
    np.testing.assert_array_equal(first.dropout, second.dropout)
    np.testing.assert_array_equal(first.random, second.random)
    other = curve_of(model, spoiled_plane, n_repeats=1, random_state=1)
    assert not np.array_equal(first.dropout, other.dropout)


def test_workers_change_nothing(model, spoiled_plane):
    alone = curve_of(model, spoiled_plane, fractions=[0.1], n_repeats=1)
    together = curve_of(model, spoiled_plane, fractions=[0.1], n_repeats=1, n_jobs=2)
    np.testing.assert_array_equal(alone.dropout, together.dropout)
    np.testing.assert_array_equal(alone.random, together.random)


def test_threads_are_no_workers(model, spoiled_plane):
    seen = set()

    def scorer(fitted, X, y):
        seen.add(get_ident())
        return fitted.score(X, y)

    with parallel_config(backend="threading"):
        curve_of(model, spoiled_plane, scoring=scorer, n_repeats=1, n_jobs=2)
    assert seen == {get_ident()}


def test_negative_is_a_fraction_too(classifier, blobs):
    model = DataDropoutClassifier(classifier, cv=3)
    curve = drop_curve(
        model, *blobs, fractions=["negative"], n_repeats=1, cv=2, random_state=0
    )
    assert curve.fractions == ["negative"]
    assert (curve.none > 0.8).all()


def test_random_drop_has_the_size_and_the_classes():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    mask = np.random.default_rng(0).random(100) > 0.3
    shuffled = _shuffled(mask, labels, np.random.default_rng(1))
    np.testing.assert_array_equal(
        np.bincount(labels[mask]), np.bincount(labels[shuffled])
    )
    assert not np.array_equal(mask, shuffled)
    assert _shuffled(mask, None, np.random.default_rng(1)).sum() == mask.sum()


def test_interval_of_independent_runs_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=(7, 2))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = _interval(values, overlap=0.0)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    # Two folds for scoring and eight for training: wider by sqrt(1 + 7 / 4).
    _, wider, _ = _interval(values, overlap=0.25)
    np.testing.assert_allclose(mean - wider, (mean - low) * np.sqrt(1 + 7 / 4))
    assert np.isnan(_interval(values[:1], overlap=0.25)[1:]).all()


def test_groups_are_kept_together_inside_and_outside(model, spoiled_plane):
    groups = np.arange(120) % 6
    outer = GroupKFold(3)
    model.set_params(cv=GroupKFold(2))
    curve = curve_of(model, spoiled_plane, cv=outer, n_repeats=1, groups=groups)
    pairs = list(outer.split(*spoiled_plane, groups))
    assert curve.n_test.tolist() == [len(test) for _, test in pairs]
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        curve_of(model, spoiled_plane)


def test_outer_splitters_need_no_groups(model, spoiled_plane):
    class Halves:
        def split(self, X, y):
            return [(np.arange(60), np.arange(60, 120))]

    curve = curve_of(model, spoiled_plane, cv=Halves(), n_repeats=1)
    assert curve.n_test.tolist() == [60]


def test_fit_params_are_cut_as_rows_are(model, spoiled_plane):
    class Noted(NeuralNetRegressor):
        def fit(self, X, y, numbers, **fit_params):
            np.testing.assert_array_equal(X, spoiled_plane[0][numbers])
            return super().fit(X, y, **fit_params)

    net = Noted(**model.estimator.get_params(deep=False))
    curve_of(model.set_params(estimator=net), spoiled_plane, numbers=np.arange(120))


def test_only_the_estimators_have_a_curve(model, spoiled_plane):
    selector = DataDropoutTransformer(model.estimator)
    with pytest.raises(TypeError, match="must be an instance of DataDropoutClassifier"):
        curve_of(selector, spoiled_plane)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": [1.5]}, "drop_fraction must be"),
        ({"fractions": "negative"}, r"got 'negative'. Pass \['negative'\]"),
        ({"fractions": []}, "fractions must not be empty"),
        ({"n_repeats": 0}, "n_repeats must be a positive integer; got 0"),
    ],
)
def test_options_out_of_range(model, spoiled_plane, options, message):
    with pytest.raises(ValueError, match=message):
        curve_of(model, spoiled_plane, **options)


def test_targets_are_those_given_or_of_the_data_set(model, spoiled_plane):
    X, y = map(torch.tensor, spoiled_plane)
    given = curve_of(model, spoiled_plane, n_repeats=1)
    own = curve_of(model, [TensorDataset(X, y)], n_repeats=1)
    np.testing.assert_array_equal(own.dropout, given.dropout)
    with pytest.raises(ValueError, match="y is missing"):
        curve_of(model, [X])


def test_gain_over_something_else():
    ones = np.ones((2, 1))
    curve = DropCurve([0.1], ones, ones, ones[:, 0], ones, ones[:, 0], ones[:, 0])
    with pytest.raises(ValueError, match="over must be 'none' or 'random'; got 'all'"):
        curve.gain("all")


def test_display(model, spoiled_plane):
    mpl.use("Agg")
    display = DropCurveDisplay.from_estimator(
        model, *spoiled_plane, fractions=[0.2, 0.1], n_repeats=1, cv=2, random_state=0
    )
    lines = [c.lines[0] for c in display.ax_.containers]
    assert len(lines) == 2
    mean, _, _ = display.curve.gain("none")
    np.testing.assert_allclose(lines[0].get_ydata(), mean[::-1])
    assert display.figure_ is display.ax_.figure
    again = DropCurveDisplay(display.curve).plot(display.ax_)
    assert again.ax_ is display.ax_
