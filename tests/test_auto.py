"""Trials: what "auto" compares, and that nothing compared had a say."""

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    Trajectory,
    _trials,
    _two_rounds,
    drop_curve,
)
from sk_datadrop._round_one import Scoring
from sk_datadrop._splits import Split
from sk_datadrop._trials import (
    check_trial_splits,
    held_out_objective,
    kept_in_trial,
    run_trial,
    scales_of,
)

ROUNDS = np.repeat([0, 1, 2], 2)
SPLIT = Split(np.arange(20, 60), np.arange(20))


@pytest.fixture
def views():
    return np.random.default_rng(0).normal(size=(6, 60))


@pytest.fixture
def retrained(monkeypatch):
    """Names of the trials, as they are trained."""
    names = []
    original = _trials.train

    @functools.wraps(original)
    def counted(*args, **kwargs):
        names.append(kwargs["name"])
        return original(*args, **kwargs)

    monkeypatch.setattr(_trials, "train", counted)
    return names


def scoring_of(is_classification, objective="bounded"):
    return Scoring(objective, is_classification, None, None, None, None, 1, 1)


def mean_error(net, X, y, round_one):
    """One minus a power of the probability of the class, averaged over the classes.

    The power is below one for classes that the net of round 1 hardly knows.
    """
    errors = []
    for c in range(3):
        probabilities, known = (n.predict_proba(X)[y == c, c] for n in (net, round_one))
        errors.append(
            np.mean(1 - probabilities ** min(1, -1 / np.log(np.median(known))))
        )
    return np.mean(errors)


def trained_alone(net, rows, held_out, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        split = predefined_split(Dataset(*held_out))
        return clone(net).set_params(train_split=split, verbose=0).fit(*rows)


class Marked(NeuralNetClassifier):
    """Net that gets the first column once more, row by row."""

    def fit(self, X, y, marks):
        np.testing.assert_array_equal(marks, X[:, 0])
        return super().fit(X, y)


@pytest.fixture
def spoiled_blobs(blobs):
    """The blobs, every sixth of them under a wrong label, and which."""
    X, y = blobs
    spoiled = np.arange(90) % 6 == 0
    return X, np.where(spoiled, (y + 1) % 3, y), spoiled


class TestRows:
    def test_the_lowest_of_the_rows_trained_on_are_left_out(self, views):
        kept = kept_in_trial(0, SPLIT, views, ROUNDS, 0.25, None)
        mean = views[2:, 20:].mean(0)
        np.testing.assert_array_equal(kept, 20 + np.sort(np.argsort(mean)[10:]))

    def test_views_on_the_rows_compared_have_no_say(self, views):
        kept = kept_in_trial(0, SPLIT, views, ROUNDS, 0.25, None)
        views[:2] *= -1
        np.testing.assert_array_equal(
            kept, kept_in_trial(0, SPLIT, views, ROUNDS, 0.25, None)
        )
        views[2] *= -1
        assert not np.array_equal(
            kept, kept_in_trial(0, SPLIT, views, ROUNDS, 0.25, None)
        )

    def test_no_class_is_emptied(self, views):
        labels = np.repeat([0, 1], [55, 5])
        views[:, 55:] -= 100
        kept = kept_in_trial(0, SPLIT, views, ROUNDS, 0.5, labels)
        assert np.sum(labels[kept] == 1) == 1

    @pytest.mark.parametrize(
        "held_out", [[[0, 1]], [[0, 1], [1, 2]]], ids=["one split", "overlap"]
    )
    def test_rounds_must_hold_out_rows_of_their_own(self, held_out):
        splits = [Split(np.arange(3, 9), np.array(rows)) for rows in held_out]
        with pytest.raises(ValueError, match="at least two splits that hold out diff"):
            check_trial_splits(splits, score_held_out=True)

    def test_other_rounds_must_score_rows_trained_on(self):
        halves = [np.arange(5), np.arange(5, 10)]
        splits = [Split(*halves), Split(*halves[::-1])]
        check_trial_splits(splits, score_held_out=True)
        with pytest.raises(ValueError, match="none that score a row which split 1 tra"):
            check_trial_splits(splits, score_held_out=False)
        apart = [Split(rows[:2], rows[2:]) for rows in halves]
        with pytest.raises(ValueError, match="Let the splits share rows"):
            check_trial_splits(apart, score_held_out=True)


class TestOneTrial:
    def test_of_a_classifier(self, classifier, blobs):
        """Against the net one would train oneself."""
        X, y = blobs
        rows, held_out = (X[:60], y[:60]), (X[60:], y[60:])
        trial = run_trial(
            classifier,
            rows,
            held_out,
            key="",
            split=Split(np.arange(60), np.arange(60, 90)),
            scales=np.ones(30),
            seed=3,
            scoring=scoring_of(is_classification=True),
            fit_params={},
            name="trial",
        )
        plain = trained_alone(classifier, rows, held_out, seed=3)
        probabilities = plain.predict_proba(held_out[0])
        errors = [1 - probabilities[y[60:] == c, c].mean() for c in range(3)]
        assert trial.objective == pytest.approx(np.mean(errors), abs=1e-6)
        assert trial.seconds > 0

    def test_a_regressor_is_measured_on_the_scale_of_round_one(self, regressor, plane):
        X, y = plane[0], plane[1][:, None]
        first, second = (clone(regressor).fit(X, shift * y) for shift in (1, 2))
        losses = [np.square(net.predict(X) - y)[:, 0] for net in (first, second)]
        scoring = scoring_of(is_classification=False)
        scale = 2.985**2 * np.median(losses[0])
        scales = scales_of(first, (X, y), scoring)
        np.testing.assert_allclose(scales, scale, rtol=1e-4)
        for net, loss in zip((first, second), losses, strict=True):
            assert held_out_objective(net, (X, y), scales, scoring) == pytest.approx(
                np.mean(1 - np.exp(-loss / scale)), rel=1e-4
            )


class TestAuto:
    def test_drops_wrong_labels(self, classifier, spoiled_blobs, retrained):
        X, y, spoiled = spoiled_blobs
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0
        ).fit(X, y)
        assert spoiled[~model.sample_mask_].mean() > 0.8
        assert model.n_dropped_ >= 10
        fractions = model.cv_results_["drop_fraction"]
        objectives = model.cv_results_["objective"]
        assert fractions[0] == 0
        assert model.drop_fraction_ in fractions
        assert objectives.shape == (3, len(fractions))
        assert len(retrained) == 3 * (len(fractions) - 1)
        assert set(model.timings_) == {"round_one", "scoring", "trials", "round_two"}

    def test_nothing_dropped_is_round_one(self, classifier, spoiled_blobs):
        X, y, _ = spoiled_blobs
        rows = np.arange(90)
        folds = [(rows[rows % 2 != k], rows[rows % 2 == k]) for k in range(2)]
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=folds, random_state=0
        ).fit(X, y)
        for k, net in enumerate(model.round_one_estimators_):
            held_out = folds[k][1]
            assert model.cv_results_["objective"][k, 0] == pytest.approx(
                mean_error(net, X[held_out], y[held_out], net), abs=1e-6
            )

    def test_the_rounds_of_a_regressor_set_the_scale(self, regressor, plane):
        X, y = plane
        rows = np.arange(80)
        folds = [(rows[rows % 2 != k], rows[rows % 2 == k]) for k in range(2)]
        model = DataDropoutRegressor(
            regressor, drop_fraction="auto", cv=folds, random_state=0
        ).fit(X, y)
        for k, net in enumerate(model.round_one_estimators_):
            held_out = folds[k][1]
            losses = np.square(net.predict(X[held_out])[:, 0] - y[held_out])
            scale = 2.985**2 * np.median(losses)
            assert model.cv_results_["objective"][k, 0] == pytest.approx(
                np.mean(1 - np.exp(-losses / scale)), rel=1e-4
            )

    def test_a_trial_is_its_round_without_the_lowest_rows(
        self, classifier, spoiled_blobs, trainings, monkeypatch
    ):
        """Against nets one would train oneself; each class keeps a row."""
        fractions = np.array([0, 0.5, 0.97])
        monkeypatch.setattr(_two_rounds, "fractions_to_try", lambda *_: fractions)
        X, y, _ = spoiled_blobs
        rows = np.arange(90)
        splits = [Split(rows[rows % 3 != k], rows[rows % 3 == k]) for k in range(3)]
        model = DataDropoutClassifier(
            Marked(**classifier.get_params(deep=False)),
            drop_fraction="auto",
            cv=[(split.train, split.held_out) for split in splits],
            random_state=0,
        ).fit(X, y, marks=X[:, 0])
        for k, (split, seed) in enumerate(zip(splits, trainings, strict=True)):
            held_out = X[split.held_out], y[split.held_out]
            for column, n_kept in [(1, 30), (2, 3)]:
                kept = kept_in_trial(
                    k,
                    split,
                    model.influence_per_view_,
                    np.arange(3),
                    fractions[column],
                    y,
                )
                assert len(kept) == n_kept
                net = trained_alone(classifier, (X[kept], y[kept]), held_out, seed)
                assert model.cv_results_["objective"][k, column] == pytest.approx(
                    mean_error(net, *held_out, model.round_one_estimators_[k]),
                    abs=1e-6,
                )

    def test_the_standard_error_knows_how_rounds_overlap(
        self, classifier, spoiled_blobs, monkeypatch
    ):
        overlaps = []

        def choose(objectives, overlap):
            overlaps.append(overlap)
            return len(objectives[0]) - 1

        monkeypatch.setattr(_two_rounds, "one_standard_error", choose)
        X, y, _ = spoiled_blobs
        options = {"cv": 3, "random_state": 0}
        model = DataDropoutClassifier(classifier, drop_fraction="auto", **options)
        mask = model.fit(X, y).sample_mask_
        assert overlaps == pytest.approx([30 / 60])
        negative = DataDropoutClassifier(classifier, **options).fit(X, y)
        np.testing.assert_array_equal(mask, negative.sample_mask_)

    def test_the_progress_bar_counts_the_trials(
        self, classifier, spoiled_blobs, monkeypatch
    ):
        bars = []
        original = _two_rounds.tqdm

        def kept(**options):
            bars.append(original(file=io.StringIO(), **options))
            return bars[-1]

        monkeypatch.setattr(_two_rounds, "tqdm", kept)
        X, y, _ = spoiled_blobs
        DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0, verbose=1
        ).fit(X, y)
        assert bars[0].n == bars[0].total == 3 + 3 * 2 + 1

    def test_drops_nothing_if_that_does_harm(self, classifier, blobs, monkeypatch):
        """Scores upside down, so that "negative" drops the most helpful rows."""
        original = _two_rounds.run_round_one

        def upside_down(*args, **kwargs):
            result = original(*args, **kwargs)
            scores = result.scores
            scores = replace(scores, train=-scores.train, held_out=-scores.held_out)
            return replace(result, scores=scores)

        monkeypatch.setattr(_two_rounds, "run_round_one", upside_down)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
        assert model.n_dropped_ > 30
        model.set_params(drop_fraction="auto").fit(*blobs)
        assert len(model.cv_results_["drop_fraction"]) == 3
        assert model.n_dropped_ == 0

    def test_no_training_where_nothing_is_harmful(self, classifier, blobs, retrained):
        model = DataDropoutClassifier(
            classifier.set_params(max_epochs=20),
            drop_fraction="auto",
            cv=5,
            random_state=0,
        ).fit(*blobs)
        assert not retrained
        np.testing.assert_array_equal(model.cv_results_["drop_fraction"], [0])
        assert model.cv_results_["objective"].shape == (5, 1)
        assert model.n_dropped_ == 0

    def test_workers_and_memory_change_nothing(
        self, regressor, plane, tmp_path, retrained
    ):
        X, y = plane[0], np.where(np.arange(80) % 8 == 0, 20, plane[1])
        options = {"drop_fraction": "auto", "cv": 2, "random_state": 0}
        alone = DataDropoutRegressor(regressor, **options).fit(X, y)
        n_trials = len(retrained)
        together = DataDropoutRegressor(regressor, n_jobs=2, **options).fit(X, y)
        kept = DataDropoutRegressor(regressor, memory=str(tmp_path), **options)
        kept.fit(X, y)
        assert len(retrained) == 2 * n_trials > 0
        again = clone(kept).fit(X, y)
        assert len(retrained) == 2 * n_trials
        for other in (together, kept, again):
            np.testing.assert_array_equal(
                alone.cv_results_["objective"], other.cv_results_["objective"]
            )
            np.testing.assert_array_equal(alone.sample_mask_, other.sample_mask_)

    @pytest.mark.parametrize(
        "change", [{"objective": "loss"}, {"estimator__lr": 0.04}, {"random_state": 1}]
    )
    def test_what_changes_a_trial_runs_it_again(
        self, classifier, spoiled_blobs, tmp_path, retrained, monkeypatch, change
    ):
        fractions = np.array([0, 0.1])
        monkeypatch.setattr(_two_rounds, "fractions_to_try", lambda *_: fractions)
        X, y, _ = spoiled_blobs
        options = {"cv": 2, "random_state": 0, "memory": str(tmp_path)}
        model = DataDropoutClassifier(classifier, drop_fraction="auto", **options)
        model.fit(X, y)
        model.fit(X, y)
        assert len(retrained) == 2
        changed = clone(model).set_params(**change).fit(X, y)
        assert len(retrained) == 4
        alone = clone(changed).set_params(memory=None).fit(X, y)
        np.testing.assert_array_equal(
            changed.cv_results_["objective"], alone.cv_results_["objective"]
        )

    def test_another_rule_leaves_no_trials_behind(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=2, random_state=0
        ).fit(*blobs)
        assert hasattr(model, "cv_results_")
        model.set_params(drop_fraction=0).fit(*blobs)
        assert not hasattr(model, "cv_results_")

    @pytest.mark.parametrize(
        "cv", [0.2, ShuffleSplit(3, test_size=0.5, random_state=0)]
    )
    def test_refuses_rounds_without_rows_of_their_own(
        self, classifier, blobs, cv, trainings
    ):
        model = DataDropoutClassifier(classifier, drop_fraction="auto", cv=cv)
        with pytest.raises(ValueError, match="compares on rows that had no say"):
            model.fit(*blobs)
        assert not trainings

    def test_refuses_two_folds_of_trajectories(self, classifier, blobs, trainings):
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=2, engine=Trajectory()
        )
        with pytest.raises(ValueError, match="this takes three folds"):
            model.fit(*blobs)
        assert not trainings

    def test_refuses_validation_rows(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, drop_fraction="auto")
        with pytest.raises(ValueError, match="neither X_val nor random splits"):
            model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])

    def test_selectors_and_searches_know_it(self, classifier, spoiled_blobs):
        X, y, _ = spoiled_blobs
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0
        )
        selector = DataDropoutTransformer(**model.get_params(deep=False)).fit(X, y)
        np.testing.assert_array_equal(
            selector.sample_mask_, clone(model).fit(X, y).sample_mask_
        )
        search = GridSearchCV(
            model, {"drop_fraction": [0, "auto"]}, cv=2, error_score="raise"
        ).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_drop_curve_of_it(self, classifier, spoiled_blobs):
        X, y, _ = spoiled_blobs
        curve = drop_curve(
            DataDropoutClassifier(classifier, cv=3),
            X,
            y,
            fractions=["auto", "negative", 0.1],
            n_repeats=1,
            cv=2,
            random_state=0,
        )
        assert curve.dropout.shape == (2, 3)
        seeds = curve.n_dropped[:, 2]
        np.testing.assert_array_equal(seeds, [4, 4])  # a tenth of 45

    def test_drop_curve_checks_the_rounds_first(self, classifier, blobs, trainings):
        with pytest.raises(ValueError, match="compares on rows that had no say"):
            drop_curve(
                DataDropoutClassifier(classifier, cv=0.2), *blobs, fractions=["auto"]
            )
        assert not trainings
