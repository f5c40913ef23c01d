""" "auto" compares candidates on samples that had no say in them."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    InfluenceFunctions,
    _auto,
    _two_rounds,
)
from sk_datadrop._auto import kept_for_candidate, train_candidate
from sk_datadrop._drop import as_many_rows
from sk_datadrop._engine import Scores, View
from sk_datadrop._plan import make_plan
from sk_datadrop._splits import Split, check_candidate_splits


def folds(n_samples, n_folds):
    number = np.arange(n_samples) % n_folds
    return [
        (np.flatnonzero(number != k), np.flatnonzero(number == k))
        for k in range(n_folds)
    ]


THIRDS = folds(180, 3)


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


def upside_down(evidence):
    """Take the most helpful samples of each class for harmful ones."""
    rank = pd.Series(evidence.influence).groupby(evidence.codes).rank(pct=True)
    return np.where(rank > 0.6, 0.9, 0.1)


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
    """The blobs twice, every sixth of them under a wrong label, and which."""
    noise = np.random.default_rng(1).normal(size=(180, 4)).astype(np.float32)
    X, y = np.tile(blobs[0], (2, 1)) + 0.3 * noise, np.tile(blobs[1], 2)
    spoiled = np.arange(180) % 6 == 0
    return X, np.where(spoiled, (y + 1) % 3, y), spoiled


@pytest.fixture
def spoiled_plane(plane):
    """The plane twice, every eighth of its targets far off."""
    noise = np.random.default_rng(1).normal(size=(160, 5)).astype(np.float32)
    X, y = np.tile(plane[0], (2, 1)), np.tile(plane[1], 2)
    X, y = X + 0.3 * noise[:, :4], y + 0.3 * noise[:, 4]
    return X, np.where(np.arange(160) % 8 == 0, y + 10, y)


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
            np.mean(1 - probabilities ** min(1, 1 / np.median(-np.log(known))))
        )
    return np.mean(errors)


def trained_alone(net, samples, held_out, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        split = predefined_split(Dataset(*held_out))
        return clone(net).set_params(train_split=split, verbose=0).fit(*samples)


@pytest.fixture
def heard(monkeypatch):
    """Evidence that candidates are chosen by, and the chance of harm by it."""
    pairs = []
    original = _auto.chance_of_harm

    def spied(evidence):
        pairs.append((evidence, original(evidence)))
        return pairs[-1][1]

    monkeypatch.setattr(_auto, "chance_of_harm", spied)
    return pairs


def kept_by_others(heard, model, number, train, n_dropped):
    """Samples to train a split on, by what all others say, each as often as it comes.

    Those most likely harmful are left out, and of equal ones the most harmful.
    """
    evidence, chance = heard[number]
    others = [view.split != number for view in model.views_]
    views = model.influence_per_view_[others]
    np.testing.assert_array_equal(evidence.influence_per_view, views)
    assert len(evidence.losses) == len(model.round_one_estimators_) - 1
    frame = pd.DataFrame({"chance": -chance, "influence": np.nanmean(views, axis=0)})
    order = frame.loc[train].sort_values(["chance", "influence"]).index.to_numpy()
    rng = np.random.default_rng(model.random_state)
    return as_many_rows(np.sort(order[n_dropped:]), len(train), rng)


class TestSamples:
    """Samples that a split is trained on again."""

    INFLUENCE = np.random.default_rng(0).normal(size=60)

    @pytest.fixture
    def plan(self, regressor):
        cv = [(np.arange(20, 60), np.arange(20)), (np.arange(20), np.arange(20, 60))]
        model = DataDropoutRegressor(regressor, cv=cv)
        return plan_of(model, np.zeros((60, 4)), np.zeros(60))

    def test_the_likeliest_of_the_samples_trained_on_are_left_out(self, plan):
        chance = np.random.default_rng(1).random(60)
        kept = kept_for_candidate(plan, 0, self.INFLUENCE, chance, 0.25)
        likeliest = np.argsort(-chance[20:])[:10]
        np.testing.assert_array_equal(kept, np.delete(np.arange(20, 60), likeliest))

    def test_of_equally_likely_ones_the_lowest_are(self, plan):
        kept = kept_for_candidate(plan, 0, self.INFLUENCE, np.full(60, 0.7), 0.25)
        lowest = np.argsort(self.INFLUENCE[20:])[:10]
        np.testing.assert_array_equal(kept, np.delete(np.arange(20, 60), lowest))

    def test_no_class_is_emptied(self, classifier):
        y = np.repeat([0, 1, 2], [25, 25, 10])
        cv = folds(60, 2)
        model = DataDropoutClassifier(classifier, cv=cv)
        plan = plan_of(model, np.zeros((60, 4)), y)
        chance = np.where(y == 2, 0.9, 0.1)
        kept = kept_for_candidate(plan, 0, self.INFLUENCE, chance, 0.5)
        assert np.isin(kept, cv[0][0]).all()
        assert np.sum(y[kept] == 2) == 1

    @pytest.mark.parametrize(
        "held_out", [[[0, 1]], [[0, 1], [1, 2]]], ids=["one split", "overlap"]
    )
    def test_splits_must_hold_out_samples_of_their_own(self, held_out):
        splits = [Split(np.arange(3, 9), np.array(part)) for part in held_out]
        with pytest.raises(ValueError, match="at least two splits that hold out diff"):
            check_candidate_splits(splits)

    def test_other_splits_must_score_samples_trained_on(self):
        halves = [np.arange(5), np.arange(5, 10)]
        splits = [Split(*halves), Split(*halves[::-1])]
        check_candidate_splits(splits)
        apart = [Split(half[:2], half[2:]) for half in halves]
        with pytest.raises(ValueError, match="none that score a sample which split 1"):
            check_candidate_splits(apart)


class TestOneCandidate:
    """Against the net one would train oneself."""

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_of_a_classifier(self, classifier, blobs, scale):
        X, y = blobs
        cv, rows = [(np.arange(60), np.arange(60, 90))], np.r_[3:50, 9:22]
        model = DataDropoutClassifier(classifier, cv=cv, random_state=3)
        candidate = train_candidate(
            plan_of(model, X, y), 0, 0.1, rows, np.full(3, scale)
        )
        plain = trained_alone(classifier, (X[rows], y[rows]), (X[60:], y[60:]), seed=3)
        probabilities = plain.predict_proba(X[60:]) ** (1 / scale)
        errors = [1 - probabilities[y[60:] == c, c].mean() for c in range(3)]
        assert candidate.objective == pytest.approx(np.mean(errors), abs=1e-6)
        assert candidate.seconds > 0

    def test_of_a_regressor(self, regressor, plane):
        X, y = plane[0], plane[1][:, None]
        cv, rows = [(np.arange(60), np.arange(60, 80))], np.arange(3, 50)
        model = DataDropoutRegressor(regressor, cv=cv, random_state=3)
        scale = np.array([3.0])
        candidate = train_candidate(plan_of(model, X, y), 0, 0.1, rows, scale)
        plain = trained_alone(regressor, (X[rows], y[rows]), (X[60:], y[60:]), seed=3)
        losses = np.square(plain.predict(X[60:]) - y[60:])
        expected = np.mean(1 - np.exp(-losses[:, 0] / 3))
        assert candidate.objective == pytest.approx(expected, rel=1e-5)


class TestAuto:
    def test_drops_wrong_labels(self, classifier, spoiled_blobs, fits):
        X, y, spoiled = spoiled_blobs
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=3, random_state=0
        ).fit(X, y)
        assert spoiled[~model.sample_mask_].mean() > 0.8
        assert model.n_dropped_ >= 20
        fractions = model.cv_results_["drop_fraction"]
        assert fractions[0] == 0
        assert model.drop_fraction_ in fractions
        assert model.cv_results_["objective"].shape == (3, len(fractions))
        assert fits == [120] * (3 + 3 * (len(fractions) - 1)) + [180]
        fits.clear()
        fewer = clone(model).set_params(same_steps=False).fit(X, y)
        left_out = np.repeat([np.round(120 * fractions[1:])], 3, axis=0).ravel()
        np.testing.assert_array_equal(
            fits, [120] * 3 + list(120 - left_out) + [180 - fewer.n_dropped_]
        )
        stages = {"round_one", "scoring", "candidates", "round_two"}
        assert set(model.timings_) == stages

    def test_nothing_dropped_is_round_one(self, classifier, spoiled_blobs):
        X, y, _ = spoiled_blobs
        cv = folds(180, 2)
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=cv, random_state=0
        ).fit(X, y)
        for k, net in enumerate(model.round_one_estimators_):
            held_out = cv[k][1]
            assert model.cv_results_["objective"][k, 0] == pytest.approx(
                mean_error(net, X[held_out], y[held_out], net), abs=1e-6
            )

    def test_candidates_of_a_classifier_lack_what_other_splits_find_harmful(
        self, classifier, spoiled_blobs, trainings, heard
    ):
        """Against nets one would train oneself."""
        X, y, _ = spoiled_blobs
        model = DataDropoutClassifier(
            Marked(**classifier.get_params(deep=False)),
            drop_fraction="auto",
            cv=THIRDS,
            random_state=0,
        ).fit(X, y, marks=X[:, 0])
        fractions = model.cv_results_["drop_fraction"]
        assert len(fractions) == 3
        assert fractions[2] > 0.1
        for k, ((train, held_out), seed) in enumerate(
            zip(THIRDS, trainings, strict=True)
        ):
            given = X[held_out], y[held_out]
            for column in (1, 2):
                n_dropped = round(fractions[column] * 120)
                rows = kept_by_others(heard, model, k, train, n_dropped)
                net = trained_alone(classifier, (X[rows], y[rows]), given, seed)
                assert model.cv_results_["objective"][k, column] == pytest.approx(
                    mean_error(net, *given, model.round_one_estimators_[k]), abs=1e-6
                )

    def test_candidates_of_a_regressor_are_measured_on_the_scale_of_round_one(
        self, regressor, spoiled_plane, trainings, heard
    ):
        """Against nets one would train oneself."""
        X, y = spoiled_plane[0], spoiled_plane[1][:, None]
        cv = folds(160, 2)
        model = DataDropoutRegressor(
            regressor, drop_fraction="auto", cv=cv, random_state=0
        ).fit(X, y)
        fractions = model.cv_results_["drop_fraction"]
        assert len(fractions) == 3
        for k, ((train, held_out), seed) in enumerate(zip(cv, trainings, strict=True)):
            given = X[held_out], y[held_out]
            nets = [model.round_one_estimators_[k]]
            for share in fractions[1:]:
                rows = kept_by_others(heard, model, k, train, round(share * 80))
                nets.append(trained_alone(regressor, (X[rows], y[rows]), given, seed))
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
        assert overlaps == pytest.approx([60 / 120])
        harmful = DataDropoutClassifier(classifier, **options).fit(X, y)
        np.testing.assert_array_equal(mask, harmful.sample_mask_)

    def test_drops_nothing_if_that_does_harm(self, classifier, blobs, monkeypatch):
        for module in (_two_rounds, _auto):
            monkeypatch.setattr(module, "chance_of_harm", upside_down)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
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
        assert fits == [160]
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

    def test_as_many_steps_or_fewer_are_other_candidates(
        self, classifier, spoiled_blobs, tmp_path, fits
    ):
        X, y, _ = spoiled_blobs
        options = {"cv": 2, "random_state": 0, "memory": str(tmp_path)}
        model = DataDropoutClassifier(classifier, drop_fraction="auto", **options)
        assert len(model.fit(X, y).cv_results_["drop_fraction"]) == 3
        fits.clear()
        fewer = clone(model).set_params(same_steps=False).fit(X, y)
        # Round 1 is the same, and its trainings are not repeated.
        assert len(fits) == 2 * 2 + 1
        alone = clone(fewer).set_params(memory=None).fit(X, y)
        np.testing.assert_array_equal(
            fewer.cv_results_["objective"], alone.cv_results_["objective"]
        )

    @pytest.mark.parametrize("n_jobs", [None, 2])
    def test_where_round_two_repeats_no_sample_candidates_do_not(
        self, classifier, spoiled_blobs, n_jobs
    ):
        """The net withholds some there, for its early stopping."""
        X, y, _ = spoiled_blobs
        classifier.set_params(callbacks=[EarlyStopping(sink=lambda text: None)])
        model = DataDropoutClassifier(
            classifier, drop_fraction="auto", cv=2, random_state=0, n_jobs=n_jobs
        ).fit(X, y)
        fewer = clone(model).set_params(n_jobs=None, same_steps=False).fit(X, y)
        assert len(model.cv_results_["drop_fraction"]) == 3
        np.testing.assert_array_equal(
            model.cv_results_["objective"], fewer.cv_results_["objective"]
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
        parameters = model.get_params(deep=False)
        del parameters["same_steps"], parameters["on_harmful"]
        selector = DataDropoutTransformer(**parameters).fit(X, y)
        np.testing.assert_array_equal(
            selector.sample_mask_, clone(model).fit(X, y).sample_mask_
        )
        search = GridSearchCV(
            model, {"drop_fraction": [0, "auto"]}, cv=THIRDS[:1], refit=False
        ).fit(X, y)
        [(train, test)] = THIRDS[:1]
        expected = clone(model).fit(X[train], y[train]).score(X[test], y[test])
        assert search.cv_results_["mean_test_score"][1] == expected
