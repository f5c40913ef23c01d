"""Scores by default: what wrong targets make of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import log_loss

from sk_datadrop._default_scores import (
    can_turn_round,
    mean_probability,
    median_error_saved,
    share_right,
)
from sk_datadrop._predictions import Aim
from sk_datadrop._reading import Reading
from sk_datadrop.datasets import flip_labels

LABELS = Aim(Reading("logits", n_classes=5), np.array(0), None)


def predicting(values, aim=LABELS, proba=None):
    """A stand-in for a fitted estimator, with its predictions for X."""
    return SimpleNamespace(
        aim_=aim,
        classes_=np.arange(5),
        predict=lambda _: values,
        predict_proba=lambda _: proba,
    )


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(5, size=20_000)


def sure(y, share_right, confidence):
    """Predictions of which a share is right, all as sure as that."""
    rng = np.random.default_rng(1)
    wrong = rng.random(len(y)) >= share_right
    codes = np.where(wrong, (y + rng.integers(1, 5, size=len(y))) % 5, y)
    proba = np.full((len(y), 5), (1 - confidence) / 4)
    proba[np.arange(len(y)), codes] = confidence
    return predicting(codes, proba=proba)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_wrong_labels_at_random_do_not_turn_it_round(labels, rate):
    """They take the same share of every difference, and turn log loss round."""
    given, _ = flip_labels(labels, rate, random_state=0)
    better, worse = sure(labels, 0.95, 0.99), sure(labels, 0.90, 1 - rate)
    for score in (share_right, mean_probability):
        right, shown = (
            score(better, None, y) - score(worse, None, y) for y in (labels, given)
        )
        assert shown == pytest.approx(right * (1 - rate / 0.8), abs=0.02)
        assert right > shown > 0
    right, shown = (
        log_loss(y, worse.predict_proba(None)) - log_loss(y, better.predict_proba(None))
        for y in (labels, given)
    )
    assert right > 0 > shown


def test_errors_of_one_kind_can(labels):
    """A class taken for the next one: nets that have learned it are scored as right."""
    spoiled = (labels == 0) & (np.random.default_rng(2).random(len(labels)) < 0.6)
    given = np.where(spoiled, 1, labels)
    right, learned = predicting(labels), predicting(np.where(labels == 0, 1, labels))
    assert share_right(right, None, labels) > share_right(learned, None, labels)
    assert share_right(right, None, given) < share_right(learned, None, given)


def test_names_of_labels_are_compared_as_they_are():
    fitted = predicting(np.array(["a", "b", "b"]))
    assert share_right(fitted, None, ["a", "b", "a"]) == pytest.approx(2 / 3)
    fitted = predicting(None, proba=np.full((2, 9), 0.1))
    assert mean_probability(fitted, None, [[4], [7]]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("reading", "given"),
    [
        (Reading("logits", is_binary=True), [[0, 1, 1], [1, 0, 0]]),
        (Reading("logits", is_binary=True, first=-1.0), [[-1, 1, 1], [1, -1, -1]]),
        (Reading("logits", n_classes=3, ignored=9), [[0, 1, 2, 9], [-1, 0, 2, 9]]),
    ],
)
def test_of_many_classes_per_sample_all_count_that_are_there(reading, given):
    y = np.array(given)
    predicted = y.copy()
    predicted[0, :2] = predicted[0, 1::-1]
    aim = Aim(reading, y[0], y.shape[1:])
    fitted = predicting(predicted, aim)
    n_wrong, n_counted = 2, np.sum((y != 9) & (y >= (reading.first or 0)))
    assert share_right(fitted, None, y) == pytest.approx(1 - n_wrong / n_counted)
    assert np.isnan(mean_probability(fitted, None, y))


def test_nets_without_probabilities_have_none():
    fitted = predicting(np.zeros(3))

    def refuse(X):
        raise ValueError("no probabilities")

    fitted.predict_proba = refuse
    assert np.isnan(mean_probability(fitted, None, np.zeros(3)))


class TestMedianError:
    def test_is_relative_to_a_constant(self):
        y = np.arange(101.0)
        assert median_error_saved(predicting(y), None, y) == 1
        assert median_error_saved(predicting(np.full(101, 50.0)), None, y) == 0
        half = 50 + (y - 50) / 2
        assert median_error_saved(predicting(half), None, y) == pytest.approx(0.5)
        column = half.reshape(-1, 1)
        assert median_error_saved(predicting(column), None, y) == pytest.approx(0.5)

    def test_gross_errors_do_not_turn_it_round(self):
        """They do so with R2: the net that is drawn toward them is better there."""
        rng = np.random.default_rng(0)
        y = rng.normal(size=2000)
        given = np.where(np.arange(2000) < 400, y + 20, y)
        right, drawn = (predicting(y + 0.1 * rng.normal(size=2000) + b) for b in (0, 4))
        score = median_error_saved
        assert score(right, None, given) > 0.8 > 0 > score(drawn, None, given)
        errors = [np.mean((f.predict(None) - given) ** 2) for f in (right, drawn)]
        assert errors[0] > errors[1]

    def test_columns_count_alike_and_pixels_by_their_image(self):
        y = np.random.default_rng(0).normal(size=(99, 2)) * [1, 1000]
        half = np.column_stack([y[:, 0], np.full(99, np.median(y[:, 1]))])
        assert median_error_saved(predicting(half), None, y) == pytest.approx(0.5)
        images = y.reshape(99, 1, 2, 1)
        assert median_error_saved(predicting(images), None, images) == 1
        assert median_error_saved(predicting(0 * images), None, images) < 0.1

    def test_targets_that_hardly_vary(self):
        y = np.array([0.0, 0, 0, 0, 5])
        assert median_error_saved(predicting(y + 0.1), None, y) == pytest.approx(0.9)
        assert median_error_saved(predicting(np.ones(5)), None, np.ones(5)) == 1
        assert median_error_saved(predicting(np.zeros(5)), None, np.ones(5)) == 0

    def test_predictions_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match=r"shape \(5, 3\) and targets \(5,\)"):
            median_error_saved(predicting(np.ones((5, 3))), None, np.ones(5))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("neg_log_loss", True),
        ("make_scorer(log_loss, greater_is_better=False)", True),
        ("neg_root_mean_squared_error", True),
        ("r2", True),
        ("neg_brier_score", True),
        ("accuracy", False),
        ("roc_auc", False),
        ("neg_median_absolute_error", False),
        ("share of the median error saved", False),
    ],
)
def test_scores_that_are_known_to_turn_round(name, expected):
    assert can_turn_round(name) == expected
