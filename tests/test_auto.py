"""What "auto" compares, and that nothing compared had a say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from skorch import NeuralNet, NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from tqdm.auto import tqdm

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    InfluenceFunctions,
    Trajectory,
    _auto,
)
from sk_datadrop._auto import kept_for_candidate, train_candidate
from sk_datadrop._engine import Scores, View
from sk_datadrop._plan import make_plan
from sk_datadrop._splits import Split, check_candidate_splits


def folds(n_samples, n_folds):
    number = np.arange(n_samples) % n_folds
    return [
        (np.flatnonzero(number != k), np.flatnonzero(number == k))
        for k in range(n_folds)
    ]


THIRDS = folds(90, 3)


@pytest.fixture
def fits(monkeypatch):
    """Numbers of samples of all trainings, in the order in which they take place."""
    numbers = []
    original = NeuralNet.partial_fit

    def counted(self, X, *args, **kwargs):
        numbers.append(len(X))
        return original(self, X, *args, **kwargs)

    monkeypatch.setattr(NeuralNet, "partial_fit", counted)
    return numbers


class Marked(NeuralNetClassifier):
    """Net that gets the first column once more, sample by sample."""

    def fit(self, X, y, marks):
        np.testing.assert_array_equal(marks, X[:, 0])
        return super().fit(X, y)


class UpsideDown(InfluenceFunctions):
    """Takes helpful samples for harmful ones."""

    def _score(self, training, train, objective, request):
        scores = super()._score(training, train, objective, request)
        return replace(scores, train=-scores.train, held_out=-scores.held_out)


class AllHarmful(InfluenceFunctions):
    """Finds every sample harmful, some more than others."""

    def _score(self, training, train, objective, request):
        rng = np.random.default_rng(request.number)
        train, held_out = (
            rng.uniform(-1.1, -1, size=(1, len(samples)))
            for samples in (train, objective.samples)
        )
        return Scores(train, held_out, [View(request.number, 1, 0)], [])


@pytest.fixture
def spoiled_blobs(blobs):
    """The blobs, every sixth of them under a wrong label, and which."""
    X, y = blobs
    spoiled = np.arange(90) % 6 == 0
    return X, np.where(spoiled, (y + 1) % 3, y), spoiled


@pytest.fixture
def spoiled_plane(plane):
    """The plane, every eighth of its targets far off."""
    return plane[0], np.where(np.arange(80) % 8 == 0, 20, plane[1])


def plan_of(model, X, y, **params):
    return make_plan(model, X, y, None, None, params)


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


def trained_alone(net, samples, held_out, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        split = predefined_split(Dataset(*held_out))
        return clone(net).set_params(train_split=split, verbose=0).fit(*samples)


def influence_in_others(model, number):
    """Mean influence over the views of all splits but one."""
    others = [view.split != number for view in model.views_]
    return np.nanmean(model.influence_per_view_[others], axis=0)


class TestSamples:
    """Samples that a split is trained on again."""

    SPLIT_OF_VIEW = np.repeat([1, 2], 2)

    @pytest.fixture
    def views(self):
        """Views of the splits 1 and 2."""
        return np.random.default_rng(0).normal(size=(4, 60))

    def test_the_lowest_of_the_samples_trained_on_are_left_out(self, regressor, views):
        cv = [(np.arange(20, 60), np.arange(20)), (np.arange(20), np.arange(20, 60))]
        model = DataDropoutRegressor(regressor, cv=cv)
        plan = plan_of(model, np.zeros((60, 4)), np.zeros(60))
        kept = kept_for_candidate(plan, 0, views, self.SPLIT_OF_VIEW, 0.25)
        lowest = np.argsort(views[:, 20:].mean(0))[:10]
        np.testing.assert_array_equal(kept, np.delete(np.arange(20, 60), lowest))

    def test_no_class_is_emptied(self, classifier, views):
        y = np.repeat([0, 1, 2], [25, 25, 10])
        cv = folds(60, 2)
        model = DataDropoutClassifier(classifier, cv=cv)
        plan = plan_of(model, np.zeros((60, 4)), y)
        views[:, 50:] -= 100
        kept = kept_for_candidate(plan, 0, views, self.SPLIT_OF_VIEW, 0.5)
        assert np.isin(kept, cv[0][0]).all()
        assert np.sum(y[kept] == 2) == 1

    @pytest.mark.parametrize(
        "held_out", [[[0, 1]], [[0, 1], [1, 2]]], ids=["one split", "overlap"]
    )
    def test_splits_must_hold_out_samples_of_their_own(self, held_out):
        splits = [Split(np.arange(3, 9), np.array(part)) for part in held_out]
        with pytest.raises(ValueError, match="at least two splits that hold out diff"):
            check_candidate_splits(splits, score_held_out=True)

    def test_other_splits_must_score_samples_trained_on(self):
        halves = [np.arange(5), np.arange(5, 10)]
        splits = [Split(*halves), Split(*halves[::-1])]
        check_candidate_splits(splits, score_held_out=True)
        with pytest.raises(ValueError, match="none that score a sample which split 1"):
            check_candidate_splits(splits, score_held_out=False)
        apart = [Split(half[:2], half[2:]) for half in halves]
        with pytest.raises(ValueError, match="Let the splits share samples"):
            check_candidate_splits(apart, score_held_out=True)


class TestOneCandidate:
    """Against the net one would train oneself."""

    KEPT = np.arange(3, 50)

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_of_a_classifier(self, classifier, blobs, scale):
        X, y = blobs
        cv = [(np.arange(60), np.arange(60, 90))]
        model = DataDropoutClassifier(classifier, cv=cv, random_state=3)
        candidate = train_candidate(
            plan_of(model, X, y), 0, 0.1, self.KEPT, np.full(30, scale)
        )
        plain = trained_alone(
            classifier, (X[self.KEPT], y[self.KEPT]), (X[60:], y[60:]), seed=3
        )
        probabilities = plain.predict_proba(X[60:]) ** (1 / scale)
        errors = [1 - probabilities[y[60:] == c, c].mean() for c in range(3)]
        assert candidate.objective == pytest.approx(np.mean(errors), abs=1e-6)
        assert candidate.seconds > 0

    def test_of_a_regressor(self, regressor, plane):
        X, y = plane
        cv = [(np.arange(60), np.arange(60, 80))]
        model = DataDropoutRegressor(regressor, cv=cv, random_state=3)
        scales = np.linspace(1, 5, 20)
        candidate = train_candidate(plan_of(model, X, y), 0, 0.1, self.KEPT, scales)
        plain = trained_alone(
            regressor,
            (X[self.KEPT], y[self.KEPT, None]),
            (X[60:], y[60:, None]),
            seed=3,
        )
        losses = np.square(plain.predict(X[60:])[:, 0] - y[60:])
        expected = np.mean(1 - np.exp(-losses / scales))
        assert candidate.objective == pytest.approx(expected, rel=1e-5)


class TestAuto:
    def test_drops_wrong_labels(self, classifier, spoiled_blobs, fits):
        X, y, spoiled = spoiled_blobs
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0
        ).fit(X, y)
        assert spoiled[~model.sample_mask_].mean() > 0.8
        assert model.n_dropped_ >= 10
        fractions = model.cv_results_["drop_fraction"]
        assert fractions[0] == 0
        assert model.drop_fraction_ in fractions
        assert model.cv_results_["objective"].shape == (3, len(fractions))
        left_out = np.repeat([np.round(60 * fractions[1:])], 3, axis=0).ravel()
        np.testing.assert_array_equal(
            fits, [60] * 3 + list(60 - left_out) + [90 - model.n_dropped_]
        )
        stages = {"round_one", "scoring", "candidates", "round_two"}
        assert set(model.timings_) == stages

    def test_nothing_dropped_is_round_one(self, classifier, spoiled_blobs):
        X, y, _ = spoiled_blobs
        cv = folds(90, 2)
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=cv, random_state=0
        ).fit(X, y)
        for k, net in enumerate(model.round_one_estimators_):
            held_out = cv[k][1]
            assert model.cv_results_["objective"][k, 0] == pytest.approx(
                mean_error(net, X[held_out], y[held_out], net), abs=1e-6
            )

    def test_candidates_of_a_classifier_lack_what_other_splits_find_harmful(
        self, classifier, spoiled_blobs, trainings
    ):
        """Against nets one would train oneself; each class keeps a sample."""
        X, y, _ = spoiled_blobs
        model = DataDropoutClassifier(
            Marked(**classifier.get_params(deep=False)),
            drop_fraction="auto",
            cv=THIRDS,
            engine=AllHarmful(),
            random_state=0,
        ).fit(X, y, marks=X[:, 0])
        fractions = model.cv_results_["drop_fraction"]
        np.testing.assert_allclose(fractions, np.array([0, 43, 87]) / 90)
        for k, ((train, held_out), seed) in enumerate(
            zip(THIRDS, trainings, strict=True)
        ):
            order = train[np.argsort(influence_in_others(model, k)[train])]
            best = [order[y[order] == c][-1] for c in range(3)]
            order = order[~np.isin(order, best)]
            for column, n_dropped in [(1, 29), (2, 57)]:
                kept = np.setdiff1d(train, order[:n_dropped])
                net = trained_alone(
                    classifier, (X[kept], y[kept]), (X[held_out], y[held_out]), seed
                )
                assert model.cv_results_["objective"][k, column] == pytest.approx(
                    mean_error(
                        net,
                        X[held_out],
                        y[held_out],
                        model.round_one_estimators_[k],
                    ),
                    abs=1e-6,
                )

    def test_candidates_of_a_regressor_are_measured_on_the_scale_of_round_one(
        self, regressor, spoiled_plane, trainings
    ):
        """Against nets one would train oneself."""
        X, y = spoiled_plane[0], spoiled_plane[1][:, None]
        cv = folds(80, 2)
        model = DataDropoutRegressor(
            regressor, drop_fraction="auto", cv=cv, random_state=0
        ).fit(X, y)
        fractions = model.cv_results_["drop_fraction"]
        assert len(fractions) == 3
        for k, ((train, held_out), seed) in enumerate(zip(cv, trainings, strict=True)):
            given = X[held_out], y[held_out]
            order = train[np.argsort(influence_in_others(model, k)[train])]
            left_out = [order[: round(share * 40)] for share in fractions[1:]]
            kept = [np.setdiff1d(train, part) for part in left_out]
            nets = [model.round_one_estimators_[k]]
            nets += [trained_alone(regressor, (X[i], y[i]), given, seed) for i in kept]
            losses = [np.square(net.predict(X[held_out]) - y[held_out]) for net in nets]
            scale = 2.985**2 * np.median(losses[0])
            expected = [np.mean(1 - np.exp(-values / scale)) for values in losses]
            np.testing.assert_allclose(
                model.cv_results_["objective"][k], expected, rtol=1e-4
            )

    def test_the_standard_error_knows_how_splits_overlap(
        self, classifier, spoiled_blobs, monkeypatch
    ):
        overlaps = []

        def choose(objectives, overlap):
            overlaps.append(overlap)
            return len(objectives[0]) - 1

        monkeypatch.setattr(_auto, "one_standard_error", choose)
        X, y, _ = spoiled_blobs
        options = {"cv": 3, "random_state": 0}
        model = DataDropoutClassifier(classifier, drop_fraction="auto", **options)
        mask = model.fit(X, y).sample_mask_
        assert overlaps == pytest.approx([30 / 60])
        harmful = DataDropoutClassifier(classifier, **options).fit(X, y)
        np.testing.assert_array_equal(mask, harmful.sample_mask_)

    def test_the_progress_bar_counts_the_candidates(
        self, classifier, spoiled_blobs, monkeypatch
    ):
        counts = []

        def closed(bar):
            if not bar.disable:
                counts.append((bar.n, bar.total))
            close(bar)

        close = tqdm.close
        monkeypatch.setattr(tqdm, "close", closed)
        X, y, _ = spoiled_blobs
        DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0, verbose=1
        ).fit(X, y)
        n_trainings = 3 + 3 * 2 + 1
        assert counts[0] == (n_trainings, n_trainings)

    def test_drops_nothing_if_that_does_harm(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, cv=3, engine=UpsideDown(), random_state=0
        ).fit(*blobs)
        assert model.n_dropped_ > 30
        model.set_params(drop_fraction="auto").fit(*blobs)
        assert len(model.cv_results_["drop_fraction"]) == 3
        assert model.n_dropped_ == 0

    def test_no_training_where_nothing_is_harmful(self, classifier, blobs, fits):
        model = DataDropoutClassifier(
            classifier.set_params(max_epochs=20),
            drop_fraction="auto",
            cv=5,
            random_state=0,
        ).fit(*blobs)
        assert fits == [72] * 5 + [90]
        np.testing.assert_array_equal(model.cv_results_["drop_fraction"], [0])
        assert model.cv_results_["objective"].shape == (5, 1)
        assert model.n_dropped_ == 0

    def test_workers_and_memory_change_nothing(
        self, regressor, spoiled_plane, tmp_path, fits
    ):
        options = {"drop_fraction": "auto", "cv": 2, "random_state": 0}
        alone = DataDropoutRegressor(regressor, **options).fit(*spoiled_plane)
        n_candidates = 2 * (len(alone.cv_results_["drop_fraction"]) - 1)
        assert n_candidates > 0
        assert len(fits) == 2 + n_candidates + 1
        together = DataDropoutRegressor(regressor, n_jobs=2, **options)
        together.fit(*spoiled_plane)
        kept = DataDropoutRegressor(regressor, memory=str(tmp_path), **options)
        kept.fit(*spoiled_plane)
        fits.clear()
        again = clone(kept).fit(*spoiled_plane)
        assert fits == [80 - again.n_dropped_]
        for other in (together, kept, again):
            np.testing.assert_array_equal(
                alone.cv_results_["objective"], other.cv_results_["objective"]
            )
            np.testing.assert_array_equal(alone.sample_mask_, other.sample_mask_)

    @pytest.mark.parametrize(
        "change", [{"objective": "loss"}, {"estimator__lr": 0.04}, {"random_state": 1}]
    )
    def test_what_changes_a_candidate_trains_it_again(
        self, classifier, spoiled_blobs, tmp_path, fits, change
    ):
        X, y, _ = spoiled_blobs
        options = {"cv": 2, "random_state": 0, "memory": str(tmp_path)}
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", engine=AllHarmful(), **options
        ).fit(X, y)
        n_trainings = 2 + 2 * 2 + 1
        assert len(fits) == n_trainings
        changed = clone(model).set_params(**change).fit(X, y)
        assert len(fits) == 2 * n_trainings
        alone = clone(changed).set_params(memory=None).fit(X, y)
        np.testing.assert_array_equal(
            changed.cv_results_["objective"], alone.cv_results_["objective"]
        )

    def test_another_rule_leaves_no_candidates_behind(self, classifier, blobs):
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=2, random_state=0
        ).fit(*blobs)
        assert hasattr(model, "cv_results_")
        model.set_params(drop_fraction=0).fit(*blobs)
        assert not hasattr(model, "cv_results_")

    @pytest.mark.parametrize(
        "cv", [0.2, ShuffleSplit(3, test_size=0.5, random_state=0)]
    )
    def test_refuses_splits_without_samples_of_their_own(
        self, classifier, blobs, cv, fits
    ):
        model = DataDropoutClassifier(classifier, drop_fraction="auto", cv=cv)
        with pytest.raises(ValueError, match="compares on samples that had no say"):
            model.fit(*blobs)
        assert not fits

    def test_refuses_two_folds_of_trajectories(self, classifier, blobs, fits):
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=2, engine=Trajectory()
        )
        with pytest.raises(ValueError, match="this takes three folds"):
            model.fit(*blobs)
        assert not fits

    def test_refuses_validation_samples(self, classifier, blobs, fits):
        X, y = blobs
        model = DataDropoutClassifier(classifier, drop_fraction="auto")
        with pytest.raises(ValueError, match="neither X_val nor random splits"):
            model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        assert not fits

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
            model, {"drop_fraction": [0, "auto"]}, cv=THIRDS[:1], refit=False
        ).fit(X, y)
        [(train, test)] = THIRDS[:1]
        expected = clone(model).fit(X[train], y[train]).score(X[test], y[test])
        assert search.cv_results_["mean_test_score"][1] == expected
