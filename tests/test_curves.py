"""The drop curve: what it compares, and what it does not let in."""

import warnings
from dataclasses import replace
from threading import get_ident

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, ShuffleSplit
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutWarning,
    DropCurve,
    drop_curve,
)


@pytest.fixture
def spoiled_plane():
    """120 samples of a plane, a tenth of the targets far off."""
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


@pytest.fixture
def spoiled_blobs(blobs):
    """The blobs, every sixth of them under a wrong label."""
    X, y = blobs
    return X, np.where(np.arange(90) % 6 == 0, (y + 1) % 3, y)


def curve_of(model, samples, **options):
    defaults = {
        "fractions": [0.05, 0.1],
        "n_repeats": 2,
        "cv": 2,
        "scoring": "neg_median_absolute_error",
        "random_state": 0,
    }
    return drop_curve(model, *samples, **(defaults | options))


def test_dropping_what_is_spoiled_helps_and_a_random_drop_does_not(
    model, spoiled_plane
):
    model.set_params(drop_fraction=0.0)
    curve = curve_of(model, spoiled_plane, fractions=[0.1], n_repeats=3)
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
    assert len(set(trainings)) == 4  # a seed of its own for every run and split


def test_scored_samples_are_never_trained_on(model, spoiled_plane):
    X, y = spoiled_plane
    seen = []

    def scorer(fitted, X_test, y_test):
        seen.append((fitted.sample_mask_, X_test))
        return fitted.score(X_test, y_test)

    [(train, test)] = splits = list(ShuffleSplit(1, random_state=0).split(X))
    curve = curve_of(model, (X, y), cv=splits, scoring=scorer, n_repeats=1)
    assert len(seen) == 1 + 2 * 3
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


def test_each_arm_drops_what_it_should(classifier, spoiled_blobs):
    """The random arm drops as many samples of each class as the estimator."""
    X, y = spoiled_blobs
    seen = []

    def scorer(fitted, X_test, y_test):
        seen.append((clone(fitted), fitted.sample_mask_))
        return fitted.score(X_test, y_test)

    [(train, _)] = splits = list(ShuffleSplit(1, random_state=0).split(X))
    fractions = ["harmful", "auto", 0.1]
    curve = curve_of(
        DataDropoutClassifier(classifier, cv=3),
        spoiled_blobs,
        fractions=fractions,
        cv=splits,
        scoring=scorer,
        n_repeats=1,
    )
    assert curve.fractions == fractions
    models, masks = zip(*seen, strict=True)
    assert masks[0].all()
    for column, fraction in enumerate(fractions):
        dropout, random = masks[1 + 2 * column : 3 + 2 * column]
        alone = models[0].set_params(drop_fraction=fraction).fit(X[train], y[train])
        np.testing.assert_array_equal(dropout, alone.sample_mask_)
        assert curve.n_dropped[0, column] == alone.n_dropped_ > 0
        for c in range(3):
            of_class = y[train] == c
            assert np.sum(random[of_class]) == np.sum(dropout[of_class])
        assert not np.array_equal(dropout, random)


class TestTrustedSamples:
    @pytest.fixture
    def trusted(self):
        """50 samples of the plane, none of them spoiled."""
        X = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
        return {"X_test": X, "y_test": (X @ [1.0, 2.0, 3.0]).astype(np.float32)}

    def test_all_of_X_is_trained_on_and_only_they_are_scored(
        self, model, spoiled_plane, trusted, trainings
    ):
        seen = []

        def scorer(fitted, X_test, y_test):
            seen.append((len(fitted.sample_mask_), X_test, y_test))
            return fitted.score(X_test, y_test)

        options = {"cv": None, "scoring": scorer, "fractions": [], **trusted}
        curve = curve_of(model.set_params(drop_fraction=0.1), spoiled_plane, **options)
        assert len(set(trainings)) == 2 * 2
        assert curve.n_train.tolist() == [120] * 10
        assert curve.n_test.tolist() == [10] * 10
        assert curve.n_parts == 5
        assert len(seen) == 2 * 3 * 5
        parts = [{*map(bytes, X)} for _, X, _ in seen]
        assert set.union(*parts[:5]) == {*map(bytes, trusted["X_test"])}
        for (n_train, X, y), part in zip(seen, parts[:5] * 6, strict=True):
            assert n_train == 120
            assert {*map(bytes, X)} == part
            np.testing.assert_allclose(y, X @ [1, 2, 3], rtol=1e-4)

    def test_five_repetitions_of_parts_show_that_dropping_helps(
        self, model, spoiled_plane, trusted
    ):
        options = {"fractions": [], "random_state": 0, **trusted}
        curve = drop_curve(
            model.set_params(drop_fraction=0.1), *spoiled_plane, **options
        )
        assert curve.dropout.shape == (25, 1)
        for over in ("none", "random"):
            assert curve.gain(over)[1][0] > 0
        assert str(curve).count("helps") == 2
        assert "given as trusted" in str(curve)

    @pytest.mark.parametrize("kind", ["frame", "data set", "list"])
    def test_may_be_of_any_kind(self, model, spoiled_plane, trusted, kind):
        options = {"cv": None, "fractions": [], "n_repeats": 1}
        expected = curve_of(model, spoiled_plane, **options, **trusted)
        X, y = trusted.values()
        given = {
            "frame": (pd.DataFrame(X), pd.Series(y, index=np.arange(50) + 7)),
            "data set": (TensorDataset(torch.tensor(X), torch.tensor(y)), None),
            "list": (X.tolist(), y.tolist()),
        }[kind]
        curve = curve_of(
            model, spoiled_plane, **options, X_test=given[0], y_test=given[1]
        )
        np.testing.assert_allclose(curve.dropout, expected.dropout, rtol=1e-5)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"y_test": None}, "X_test and y_test go together; y_test is missing"),
            ({"X_test": None}, "X_test and y_test go together; X_test is missing"),
            ({"X_test": np.zeros((50, 2))}, "2 features"),
            ({"y_test": np.zeros(49)}, r"y_test: .*inconsistent"),
            ({"y_test": np.zeros((50, 2))}, "y_test: the targets have shape"),
            ({"cv": 3}, "cv holds out samples of X to score on, and X_test is there"),
        ],
    )
    def test_are_checked_first(
        self, model, spoiled_plane, trusted, trainings, changed, message
    ):
        with pytest.raises(ValueError, match=message):
            curve_of(model, spoiled_plane, **{"cv": None, **trusted, **changed})
        assert trainings == []

    def test_of_an_unknown_class_are_refused(self, classifier, blobs, trainings):
        model = DataDropoutClassifier(classifier, cv=2)
        options = {"X_test": blobs[0], "y_test": blobs[1] + 1}
        with pytest.raises(ValueError, match="y_test holds a label that is not among"):
            drop_curve(model, *blobs, **options)
        assert trainings == []


@pytest.mark.parametrize(
    ("parameters", "fractions", "rules"),
    [
        ({}, [], ["harmful"]),
        ({}, [0.2, "harmful"], ["harmful", 0.2]),
        ({"drop_fraction": 0.2}, [0.2, 0.1], [0.2, 0.1]),
        ({"on_harmful": "weigh"}, ["harmful"], ["weigh", "harmful"]),
    ],
)
def test_the_rule_of_the_estimator_comes_first(
    model, spoiled_plane, parameters, fractions, rules
):
    model.set_params(**parameters)
    curve = curve_of(model, spoiled_plane, fractions=fractions, n_repeats=1)
    assert curve.fractions == rules


def test_weights_and_mended_targets_are_compared(classifier, spoiled_blobs):
    X, y = spoiled_blobs
    seen = []

    def scorer(fitted, X_test, y_test):
        seen.append((clone(fitted), fitted.sample_weight_))
        return fitted.score(X_test, y_test)

    [(train, _)] = splits = list(ShuffleSplit(1, random_state=0).split(X))
    options = {"cv": splits, "scoring": scorer, "n_repeats": 1, "fractions": ["mend"]}
    model = DataDropoutClassifier(classifier, cv=3, on_harmful="weigh")
    curve = curve_of(model, spoiled_blobs, **options)
    models, weights = zip(*seen, strict=True)
    _, weighed, weighed_at_random, mended, dropped_at_random = weights
    alone = models[1].fit(X[train], y[train])
    assert models[1].on_harmful == "weigh"
    assert models[3].on_harmful == "mend"
    np.testing.assert_array_equal(weighed, alone.sample_weight_)
    n_harmful = np.sum(alone.harm_probability_ > 0.5)
    assert curve.n_dropped.tolist() == [[n_harmful, n_harmful]]
    assert np.all(mended == 1)
    assert np.sum(dropped_at_random == 0) == n_harmful > 0
    assert not np.array_equal(weighed, weighed_at_random)
    for c in range(3):
        of_class = y[train] == c
        same = np.sort(weighed[of_class]), np.sort(weighed_at_random[of_class])
        np.testing.assert_array_equal(*same)


def test_a_score_that_errors_can_turn_round_is_warned_of(classifier, spoiled_blobs):
    model = DataDropoutClassifier(classifier.set_params(max_epochs=15), cv=2)
    options = {"fractions": [], "n_repeats": 1}
    message = r"look wrong\), and these can turn neg_log_loss round"
    with pytest.warns(DataDropoutWarning, match=message):
        curve = curve_of(model, spoiled_blobs, scoring="neg_log_loss", **options)
    assert "They can turn this score" in curve.summary().replace("\n", " ")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the samples scored on")
        curve = curve_of(model, spoiled_blobs, scoring=None, **options)
    assert curve.score == "accuracy"
    assert curve.probability.score == "probability of the given class"
    assert 0.05 < curve.share_harmful < 0.25


def test_several_labels_per_sample_are_scored_one_by_one(blobs):
    X, y = blobs
    net = NeuralNetClassifier(
        torch.nn.Linear,
        module__in_features=4,
        module__out_features=2,
        criterion=torch.nn.BCEWithLogitsLoss,
        lr=0.5,
        train_split=None,
    )
    labels = np.column_stack([y == 0, y < 2]).astype(int)
    model = DataDropoutClassifier(net, cv=2, drop_fraction=0.1)
    trusted = {"X_test": X[60:], "y_test": labels[60:]}
    options = {"cv": None, "scoring": None, "fractions": [], "n_repeats": 1}
    curve = curve_of(model, (X[:60], labels[:60]), **options, **trusted)
    assert curve.score == "accuracy"
    assert curve.probability is None
    assert set(np.unique(curve.none * 20) % 1) == {0.0}
    assert curve.none.mean() > 0.5


def test_verbose_prints_the_summary(model, spoiled_plane, capsys):
    model.set_params(verbose=1)
    curve = curve_of(model, spoiled_plane, n_repeats=1, fractions=[], scoring=None)
    assert capsys.readouterr().out.endswith(f" s\n{curve}\n")
    assert curve.score == "share of the median error saved"
    assert curve.probability is None


def test_splits_that_auto_cannot_use_are_refused_first(classifier, blobs, trainings):
    model = DataDropoutClassifier(classifier, cv=0.2)
    with pytest.raises(ValueError, match="compares on samples that had no say"):
        drop_curve(model, *blobs, fractions=["auto"])
    assert not trainings


def curve_with(dropout, overlap=0.0):
    """A curve whose other arms are zero."""
    n_runs, zeros = len(dropout), np.zeros_like(dropout)
    n_test = np.full(n_runs, 100 * overlap)
    n_train = np.full(n_runs, 100)
    return DropCurve([0.1, 0.2], dropout, zeros, zeros[:, 0], zeros, n_train, n_test)


@pytest.mark.parametrize("over", ["none", "random"])
def test_interval_of_independent_runs_is_that_of_the_t_test(over):
    values = np.random.default_rng(0).normal(size=(7, 2))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = curve_with(values).gain(over)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose([low, high], [expected.low, expected.high])
    # Two folds for scoring and eight for training: wider by sqrt(1 + 7 / 4).
    _, wider, _ = curve_with(values, overlap=0.25).gain(over)
    np.testing.assert_allclose(mean - wider, (mean - low) * np.sqrt(1 + 7 / 4))
    assert np.isnan(curve_with(values[:1]).gain(over)[1:]).all()


@pytest.mark.parametrize(
    ("seeds", "parts", "both"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, 3, 2)]
)
def test_interval_on_trusted_samples_covers_seeds_and_samples(seeds, parts, both):
    """A thousand curves without any gain: it is outside of one interval in twenty."""
    rng = np.random.default_rng(0)
    gains = (
        seeds * rng.normal(size=(5, 1, 1000))
        + parts * rng.normal(size=(1, 10, 1000))
        + both * rng.normal(size=(5, 10, 1000))
    ).reshape(50, 1000)
    _, low, high = replace(curve_with(gains), n_parts=10).gain()
    coverage = np.mean((low < 0) & (high > 0))
    assert 0.935 < coverage <= 1
    # Never much wider than the interval of seeds alone, where they are all there is.
    if not parts and not both:
        assert coverage < 0.965


def test_a_single_seed_or_no_difference(spoiled_plane):
    one = replace(curve_with(np.ones((5, 2))), n_parts=5)
    assert np.isnan(one.gain()[1:]).all()
    same = replace(curve_with(np.zeros((10, 2))), n_parts=5)
    np.testing.assert_array_equal(same.gain(), np.zeros((3, 2)))


class TestSummary:
    def test_verdicts_are_those_of_the_intervals(self):
        rng = np.random.default_rng(0)
        values = 0.01 * rng.normal(size=(9, 2)) + [1.0, 0.0]
        curve = curve_with(values)
        shown = curve.summary().splitlines()
        assert shown[2].count("helps") == 2
        assert shown[3].count("not shown") == 2
        assert replace(curve, dropout=-values).summary().count("hurts") == 2
        assert curve_with(values[:1]).summary().count("one run: not shown") == 4

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"n_parts": 2}, "given as trusted"),
            (
                {"share_harmful": np.nan},
                "How many of these are wrong could not be told",
            ),
            ({"share_harmful": 0.001}, "under 1% of these look wrong"),
            (
                {"share_harmful": 0.18, "n_classes": 10},
                "1.25 times as large, of the same",
            ),
            ({"share_harmful": 0.6, "n_classes": 2}, "So many can turn it round"),
            ({"share_harmful": 0.2}, "can hide a gain. Errors of one kind"),
            ({"share_harmful": 0.2, "score": "r2"}, "can turn this score round"),
        ],
    )
    def test_says_what_the_samples_can_show(self, changed, said):
        curve = replace(curve_with(np.ones((4, 2))), score="accuracy")
        text = replace(curve, **changed).summary().replace("\n", " ")
        assert said in text
        is_doubted = not changed.get("share_harmful", 0) < 0.01
        assert ("pass trusted X_test and y_test" in text) == is_doubted


def test_a_net_that_is_surer_is_not_said_to_help():
    """Dropping hard samples of clean data does that, and accuracy need not rise."""
    values = 0.01 * np.random.default_rng(0).normal(size=(9, 2)) + [1.0, -1.0]
    surer = replace(curve_with(values), score="probability of the given class")
    curve = replace(curve_with(0 * values), score="accuracy", probability=surer)
    text = curve.summary()
    assert text.count("surer") == 2 + 1
    assert text.count("less sure") == 2
    assert "helps" not in text
    assert "hurts" not in text
    assert "the accuracy tells" in text.replace("\n", " ")
    assert "the accuracy tells" not in replace(curve, probability=None).summary()


def test_runs_that_agree_by_chance_show_nothing():
    """Two runs that differ by three samples of 75 each are no interval of no width."""
    assert curve_with(np.full((2, 2), 3 / 75)).summary().count("not shown") == 4


def test_what_a_median_does_not_show_is_said():
    curve = replace(curve_with(np.eye(2)), score="share of the median error saved")
    assert "scoring='r2' does" in curve.summary().replace("\n", " ")
    assert "r2" not in curve_with(np.eye(2)).summary()


def test_nets_that_learned_nothing_do_not_tell_how_many_are_wrong(
    classifier, spoiled_blobs
):
    net = classifier.set_params(lr=1e-6, max_epochs=1)
    model = DataDropoutClassifier(net, cv=3, drop_fraction=0.0)
    with pytest.warns(DataDropoutWarning, match="hardly better than a constant"):
        curve = drop_curve(
            model, *spoiled_blobs, fractions=[], n_repeats=1, random_state=0
        )
    assert np.isnan(curve.share_harmful)


def test_gain_over_something_else():
    with pytest.raises(ValueError, match="over must be 'none' or 'random'; got 'all'"):
        curve_with(np.ones((2, 2))).gain("all")


def test_gain_is_over_the_arm_asked_for():
    curve = replace(curve_with(np.ones((2, 2))), none=np.array([0.25, 0.75]))
    np.testing.assert_array_equal(curve.gain("none")[0], [0.5, 0.5])
    np.testing.assert_array_equal(curve.gain("random")[0], [1, 1])


def test_groups_are_kept_together_inside_and_outside(model, spoiled_plane):
    X, _ = spoiled_plane
    groups, inner, scored = np.arange(120) % 6, [], []

    class Noted(GroupKFold):
        def split(self, X, y=None, groups=None):
            inner.append(groups)
            return super().split(X, y, groups)

    def scorer(fitted, X_test, y_test):
        scored.append(X_test)
        return fitted.score(X_test, y_test)

    pairs = list(GroupKFold(3).split(*spoiled_plane, groups))
    options = {"cv": GroupKFold(3), "n_repeats": 1, "fractions": []}
    curve_of(
        model.set_params(cv=Noted(2), drop_fraction=0.0),
        spoiled_plane,
        scoring=scorer,
        groups=groups,
        **options,
    )
    for (train, test), of_run, X_test in zip(pairs, inner, scored, strict=True):
        np.testing.assert_array_equal(of_run, groups[train])
        np.testing.assert_array_equal(X_test, X[test])
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        curve_of(model, spoiled_plane, **options)


def test_outer_splitters_need_no_groups(model, spoiled_plane):
    class Halves:
        def split(self, X, y):
            return [(np.arange(60), np.arange(60, 120))]

    curve = curve_of(model, spoiled_plane, cv=Halves(), n_repeats=1)
    assert curve.n_test.tolist() == [60]


def test_fit_params_are_cut_as_samples_are(model, spoiled_plane):
    class Noted(NeuralNetRegressor):
        def fit(self, X, y, numbers, **fit_params):
            np.testing.assert_array_equal(X, spoiled_plane[0][numbers])
            return super().fit(X, y, **fit_params)

    net = Noted(**model.estimator.get_params(deep=False))
    curve_of(model.set_params(estimator=net), spoiled_plane, numbers=np.arange(120))


def test_only_the_estimators_have_a_curve(model, spoiled_plane):
    selector = DataDropoutTransformer(model.estimator)
    with pytest.raises(TypeError, match="must be a DataDropoutClassifier or"):
        curve_of(selector, spoiled_plane)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": [1.5]}, "drop_fraction must be"),
        ({"fractions": "harmful"}, r"got 'harmful'. Pass \['harmful'\]"),
        ({"fractions": 0.2}, r"must be a sequence.* got 0.2. Pass \[0.2\]"),
        ({"n_repeats": 0}, "n_repeats == 0, must be >= 1"),
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
