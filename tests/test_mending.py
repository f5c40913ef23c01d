"""Suggested targets, on predictions and errors whose truth is known."""

import numpy as np
import pytest
from scipy.special import log_softmax

from sk_datadrop._judge import Evidence, Predictions
from sk_datadrop._label_noise import chances_of_others, estimate_noise
from sk_datadrop._mending import (
    chances_of_classes,
    doubt,
    mend_values,
    other_classes,
    suggest_classes,
    suggest_values,
)


def noisy_pairs(n=3000, n_classes=4, rate=0.3, confused=2.0, seed=0):
    """Predictions that waver between a class and the one before, as labels do.

    A third of the labels of a class name the next one, and the nets have learned some
    of that: of each class they also predict the next.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(n_classes, size=n)
    codes = np.where(rng.random(n) < rate, (true + 1) % n_classes, true)
    scores = (
        5 * np.eye(n_classes)[true]
        + confused * np.eye(n_classes)[(true + 1) % n_classes]
    )
    return log_softmax(scores + rng.normal(size=scores.shape), axis=1), codes, true


class TestChancesOfOthers:
    def test_are_those_of_bayes(self):
        log_proba, codes, _ = noisy_pairs(n=500)
        noise = estimate_noise(log_proba, codes, log_proba)
        found = chances_of_others(log_proba, codes)
        for row in range(0, 500, 7):
            proba = np.exp(noise.power * log_proba[row])
            joint = proba * noise.matrix[:, codes[row]]
            joint[codes[row]] = 0
            np.testing.assert_allclose(found[row], joint / joint.sum(), rtol=1e-9)

    def test_know_which_classes_are_confused(self):
        """The true class of a wrong label is the class before."""
        log_proba, codes, true = noisy_pairs()
        wrong = codes != true
        found = chances_of_others(log_proba, codes)
        assert (found.argmax(axis=1) == true)[wrong].mean() > 0.97

    def test_rows_add_up_to_one_without_the_given_class(self):
        log_proba, codes, _ = noisy_pairs(n=300)
        found = chances_of_others(log_proba, codes)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        np.testing.assert_array_equal(found[np.arange(300), codes], 0)

    def test_where_all_others_are_ruled_out_they_are_alike(self):
        codes = np.arange(60) % 3
        log_proba = np.where(np.eye(3)[codes], 0.0, -1e6)
        found = chances_of_others(log_proba, codes)
        np.testing.assert_allclose(found, (1 - np.eye(3)[codes]) / 2)

    def test_samples_that_were_never_held_out_take_what_every_net_says(self):
        log_proba, codes, _ = noisy_pairs(n=400)
        partly = log_proba.copy()
        partly[::3] = np.nan
        found = chances_of_others(partly, codes, log_proba)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found.sum(axis=1), 1)

    def test_order_does_not_matter(self):
        log_proba, codes, _ = noisy_pairs(n=300)
        order = np.random.default_rng(1).permutation(300)
        np.testing.assert_allclose(
            chances_of_others(log_proba[order], codes[order]),
            chances_of_others(log_proba, codes)[order],
            atol=1e-6,
        )


def evidence_of(log_proba, codes):
    """Held out by one net, and trained on by another that says the same."""
    n = len(codes)
    return Evidence(
        np.ones((2, n)),
        np.arange(2),
        np.repeat([[True], [False]], n, axis=1),
        np.ones((2, n)),
        [Predictions(split, np.arange(n), log_proba) for split in range(2)],
        codes,
    )


class TestClasses:
    def test_a_label_keeps_what_is_not_suspected(self):
        log_proba, codes, _ = noisy_pairs(n=400)
        chance = np.random.default_rng(0).random(400)
        found = chances_of_classes(
            other_classes(evidence_of(log_proba, codes)), codes, chance
        )
        rows = np.arange(400)
        np.testing.assert_allclose(found[rows, codes], 1 - chance)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        others = found.copy()
        others[rows, codes] = 0
        np.testing.assert_allclose(
            others, chance[:, None] * chances_of_others(log_proba, codes, log_proba)
        )

    def test_samples_that_no_net_predicts_keep_their_label(self):
        log_proba, codes, _ = noisy_pairs(n=400)
        evidence = evidence_of(log_proba[:300], codes)
        evidence.predictions[:] = [
            Predictions(p.split, np.arange(300), p.log_proba)
            for p in evidence.predictions
        ]
        found = chances_of_classes(other_classes(evidence), codes, np.full(400, 0.7))
        np.testing.assert_array_equal(found[300:], np.eye(4)[codes[300:]])

    def test_suggestions_are_right_as_often_as_they_say(self):
        log_proba, codes, true = noisy_pairs(n=6000)
        chance = np.where(codes != true, 0.9, 0.1)
        chances = chances_of_classes(
            other_classes(evidence_of(log_proba, codes)), codes, chance
        )
        targets, probability = suggest_classes(chances, codes, chance)
        changed = targets != codes
        np.testing.assert_array_equal(changed, chance > 0.5)
        assert (targets == true)[changed].mean() > 0.97
        np.testing.assert_allclose(probability[~changed], 0.9)
        assert (probability[changed] <= 0.9 + 1e-12).all()
        np.testing.assert_allclose(
            probability[changed], chances[np.arange(6000), targets][changed]
        )


def test_small_chances_count_by_their_square():
    chance = np.array([0, 0.1, 0.25, 0.5, 0.51, 0.9, 1])
    expected = [0, 0.02, 0.125, 0.5, 0.51, 0.9, 1]
    np.testing.assert_allclose(doubt(chance), expected)


class TestValues:
    @pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 2, 3)])
    def test_move_toward_the_prediction_by_the_chance(self, shape):
        rng = np.random.default_rng(0)
        y, predicted = rng.normal(size=(2, *shape)).astype(np.float32)
        chance = rng.random(50)
        mended = mend_values(y, predicted, chance)
        assert mended.dtype == y.dtype
        for row in range(50):
            expected = (1 - chance[row]) * y[row] + chance[row] * predicted[row]
            np.testing.assert_allclose(mended[row], expected, rtol=1e-5)

    @pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2, 2)])
    def test_suggestions(self, shape):
        y, predicted = np.zeros(shape), np.ones(shape)
        predicted[3] = np.nan
        chance = np.array([0.1, 0.5, 0.8, 0.9])
        spared = np.where(chance == 0.9, 0, chance)
        np.testing.assert_allclose(
            suggest_values(y, np.ones(shape), spared, chance).probability,
            [0.9, 0.5, 0.8, 0.1],
        )
        targets, probability = suggest_values(y, predicted, chance, chance)
        is_predicted = targets.reshape(4, -1).all(axis=1)
        np.testing.assert_array_equal(is_predicted, [False, False, True, False])
        np.testing.assert_allclose(probability, [0.9, 0.5, 0.8, 0.1])

    def test_what_nobody_predicts_stays(self):
        y = np.arange(3.0)
        mended = mend_values(y, np.array([np.nan, 0.0, np.nan]), np.full(3, 0.9))
        np.testing.assert_allclose(mended, [0, 0.1, 2])
