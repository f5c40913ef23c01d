"""Which labels are wrong, on predictions and label noise whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import log_softmax

from sk_datadrop._label_noise import (
    RATE_PRIOR,
    SMALLEST_RATE,
    _Confidence,
    chance_of_wrong_label,
    confusion_matrix,
    contradiction,
)

KINDS = ["symmetric", "pair", "one class"]


def noise(kind, n_classes, rate=0.2):
    """Chances of the given label (columns) for each true class (rows)."""
    T = np.eye(n_classes)
    if kind == "symmetric":
        T = np.full((n_classes, n_classes), rate / (n_classes - 1))
        np.fill_diagonal(T, 1 - rate)
    if kind == "pair":
        T = (1 - rate) * T + rate * np.roll(T, 1, axis=1)
    if kind == "one class":
        T[0, :2] = 1 - rate, rate
    return T


def draw(chances, rng):
    """Draw a class from each row of chances."""
    return (rng.random(len(chances))[:, None] > chances.cumsum(axis=1)[:, :-1]).sum(1)


def near_perfect(n, T, seed=0):
    """Predictions that all but tell the true class, and labels given through T."""
    rng = np.random.default_rng(seed)
    true = rng.integers(len(T), size=n)
    scores = 8 * np.eye(len(T))[true] + rng.normal(size=(n, len(T)))
    return log_softmax(scores, axis=1), draw(T[true], rng), true


def calibrated(n, T, spread=4.0, seed=0):
    """True classes that are drawn from the predictions themselves."""
    rng = np.random.default_rng(seed)
    log_proba = log_softmax(spread * rng.normal(size=(n, len(T))), axis=1)
    true = draw(np.exp(log_proba), rng)
    return log_proba, draw(T[true], rng), true


class TestConfusionMatrix:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_found_within_its_sampling_error(self, kind):
        T = noise(kind, 4)
        log_proba, codes, _ = near_perfect(20_000, T)
        found = confusion_matrix(log_proba, codes)
        # About 500 anchors per class; one wrong label of each kind on top.
        error = np.sqrt(T * (1 - T) / 500) + 1 / 250
        assert (abs(found - T) < 3 * error).all()

    @pytest.mark.parametrize("kind", ["clean", *KINDS])
    @pytest.mark.parametrize("n", [5, 50, 2000])
    def test_rows_are_distributions(self, kind, n):
        log_proba, codes, _ = near_perfect(n, noise(kind, 3))
        found = confusion_matrix(log_proba, codes)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        # None is ruled out.
        assert (found > 0).all()

    def test_clean_labels_have_rates_at_the_floor(self):
        log_proba, codes, _ = near_perfect(3000, np.eye(3))
        rates = 1 - np.diag(confusion_matrix(log_proba, codes))
        assert (rates > 0.5 * SMALLEST_RATE).all()
        assert (rates <= SMALLEST_RATE).all()

    def test_hard_samples_do_not_count(self):
        """Only the most confident predictions are right."""
        rng = np.random.default_rng(0)
        log_proba, codes, _ = near_perfect(2000, np.eye(3))
        hard = rng.random(2000) < 0.6
        log_proba[hard] = log_softmax(rng.normal(size=(hard.sum(), 3)), axis=1)
        rates = 1 - np.diag(confusion_matrix(log_proba, codes))
        assert (rates <= SMALLEST_RATE).all()

    def by_hand(self, log_proba, codes):
        """Anchors and wrong labels among them, by predicted class."""
        top = np.sort(log_proba, axis=1)
        frame = pd.DataFrame(
            {
                "predicted": log_proba.argmax(axis=1),
                "confidence": top[:, -1] - top[:, -2],
                "given": codes,
            }
        )
        anchors = (
            frame.sort_values("confidence", ascending=False)
            .groupby("predicted")
            .apply(lambda part: part.head(int(np.ceil(0.1 * len(part)))))
        )
        wrong = anchors["given"] != anchors.index.get_level_values(0)
        return wrong.groupby(level=0).agg(["size", "sum"])

    def test_few_anchors_take_the_rate_of_all(self):
        T = noise("symmetric", 4, 0.3)
        log_proba, codes, _ = near_perfect(3000, T)
        # Nothing is predicted to be of class 3, and 20 of class 2.
        of_class_2 = np.cumsum(log_proba.argmax(axis=1) == 2)
        keep = (log_proba.argmax(axis=1) < 3) & (
            (log_proba.argmax(axis=1) != 2) | (of_class_2 <= 20)
        )
        log_proba, codes = log_proba[keep], codes[keep]
        counts = self.by_hand(log_proba, codes)
        overall = counts["sum"].sum() / counts["size"].sum()
        assert counts.loc[2, "size"] == 2
        rates = 1 - np.diag(confusion_matrix(log_proba, codes))
        assert rates[3] == pytest.approx(overall)
        expected = (counts["sum"] + RATE_PRIOR) / (
            counts["size"] + RATE_PRIOR / overall
        )
        np.testing.assert_allclose(rates[:3], expected)
        # Not 0, 1/2 or 1, as two anchors alone would say.
        own = counts.loc[2, "sum"] / 2
        assert min(own, overall) < rates[2] < max(own, overall)

    def test_a_class_of_its_own_rate(self):
        log_proba, codes, _ = near_perfect(20_000, noise("one class", 4, 0.4))
        rates = 1 - np.diag(confusion_matrix(log_proba, codes))
        assert rates[0] == pytest.approx(0.4, abs=0.06)
        assert (rates[1:] < 0.01).all()


class TestContradiction:
    def by_hand(self, held_out, codes, trained_on=None):
        """Rate and share of wrong labels, sample by sample."""
        samples = []
        for row, log_proba in enumerate(held_out):
            *_, second, first = sorted(log_proba)
            samples.append((int(np.argmax(log_proba)), second - first, row))
        surest, following, asked, persists = [], [], [], []
        for label in range(held_out.shape[1]):
            rows = [row for k, _, row in sorted(samples) if k == label]
            for place, row in enumerate(rows):
                is_contradicted = codes[row] != label
                if place / len(rows) < 0.1:
                    surest.append(is_contradicted)
                elif place / len(rows) < 0.3:
                    following.append(is_contradicted)
                if trained_on is not None and is_contradicted:
                    persists.append(np.argmax(trained_on[row]) != codes[row])
                    asked += persists[-1:] if place < 0.2 * len(rows) else []
        rate, later = np.mean(surest), np.mean(following)
        error = np.hypot(
            np.std(surest) / len(surest) ** 0.5,
            np.std(following) / len(following) ** 0.5,
        )
        share = np.clip(1 - (later - rate - error) / rate, 0, 1)
        if trained_on is not None:
            persisting = (sum(asked) + 0.85 * 5) / (len(asked) + 5)
            persisting += max(0, 0.55 - np.mean(persists))
            share *= np.clip((persisting - 0.45) / 0.4, 0, 1)
        return rate, share

    @pytest.mark.parametrize("spread", [1.0, 2.0, 4.0])
    @pytest.mark.parametrize("is_trained_on", [False, True])
    def test_is_that_of_a_count(self, spread, is_trained_on):
        held_out, codes, _ = calibrated(600, noise("symmetric", 3), spread)
        rng = np.random.default_rng(1)
        trained_on = held_out + 2 * np.eye(3)[codes] * rng.random((600, 1))
        arguments = (held_out, codes, *[trained_on] * is_trained_on)
        np.testing.assert_allclose(
            contradiction(*arguments), self.by_hand(*arguments), rtol=1e-12
        )

    @pytest.mark.parametrize("kind", ["symmetric", "pair"])
    def test_wrong_labels_are_all_of_it(self, kind):
        """Nets that train on them still know better."""
        log_proba, codes, _ = near_perfect(3000, noise(kind, 4))
        rate, share = contradiction(log_proba, codes, log_proba)
        assert rate == pytest.approx(0.2, abs=0.06)
        assert share > 0.8

    def test_less_confident_predictions_are_mistaken_more_often(self):
        """All samples are hard: even the surest predictions are mistaken."""
        log_proba, codes, _ = calibrated(4000, np.eye(4), spread=1.2)
        rate, share = contradiction(log_proba, codes)
        assert rate > 0.1
        assert share < 0.3
        assert np.mean(chance_of_wrong_label(log_proba, codes) > 0.5) < 0.01

    def hard(self):
        """Held-out predictions that are as mistaken at any confidence, and codes."""
        rng = np.random.default_rng(0)
        held_out, _, true = near_perfect(3000, np.eye(4))
        is_mistaken = rng.random(3000) < 0.3
        return held_out, np.where(is_mistaken, (true + 1) % 4, true)

    def test_nets_that_come_round_say_that_samples_are_hard(self):
        held_out, codes = self.hard()
        learned = np.log(0.91 * np.eye(4)[codes] + 0.03 * (1 - np.eye(4)[codes]))
        every = (held_out + 2 * learned) / 3
        chance = chance_of_wrong_label(held_out, codes, every)
        came_round = chance_of_wrong_label(held_out, codes, every, learned)
        assert np.mean(chance > 0.5) > 0.2
        assert np.mean(came_round > 0.5) == 0

    @pytest.mark.parametrize("n_fitted", [600, 2900])
    def test_nets_that_fit_nearly_all_may_fit_wrong_labels_too(self, n_fitted):
        """As many of the surest come round, be it more or less than of all others."""
        held_out, codes = self.hard()
        confidence = _Confidence.of(held_out)
        is_sure = (confidence.predicted != codes) & (confidence.inside(0.2) > 0)
        is_fitted = np.arange(3000) < n_fitted
        is_fitted[is_sure] = np.arange(is_sure.sum()) % 2 == 0
        fitted = np.log(0.91 * np.eye(4)[codes] + 0.03 * (1 - np.eye(4)[codes]))
        trained_on = np.where(is_fitted[:, None], fitted, held_out)
        share = contradiction(held_out, codes, trained_on).share_wrong
        assert share < 0.3 if n_fitted == 600 else share > 0.6

    def test_only_nets_that_trained_on_a_sample_are_asked(self):
        held_out, codes = self.hard()
        learned = np.log(0.91 * np.eye(4)[codes] + 0.03 * (1 - np.eye(4)[codes]))
        learned[:] = np.nan
        assert contradiction(held_out, codes, learned).share_wrong == pytest.approx(
            contradiction(held_out, codes).share_wrong
        )

    @pytest.mark.parametrize("order", ["wrong first", "wrong last", "any"])
    def test_among_equals_no_order_matters(self, order):
        """Saturated nets are as sure of all; a tenth of the labels is wrong."""
        codes = np.arange(400) % 2
        log_proba = np.where(np.eye(2)[codes], 0.0, -50.0)
        given = np.where(np.arange(400) < 40, 1 - codes, codes)
        rows = np.arange(400)
        if order == "wrong last":
            rows = rows[::-1]
        elif order == "any":
            rows = np.random.default_rng(0).permutation(400)
        log_proba, given = log_proba[rows], given[rows]
        rate, share = contradiction(log_proba, given, log_proba)
        assert (rate, share) == (pytest.approx(0.1), 1)
        rates = 1 - np.diag(confusion_matrix(log_proba, given))
        np.testing.assert_allclose(rates, 0.1, rtol=0.05)
        chance = chance_of_wrong_label(log_proba, given)
        np.testing.assert_array_equal(chance > 0.5, given != codes[rows])

    def test_a_handful_does_not_prove_anything(self):
        """One of 60 labels is contradicted, until nets train on it."""
        held_out, codes, _ = near_perfect(60, np.eye(3))
        sure = np.argsort(np.sort(held_out, axis=1)[:, -2])[0]
        codes[sure] = (codes[sure] + 1) % 3
        learned = np.log(0.98 * np.eye(3)[codes] + 0.01 * (1 - np.eye(3)[codes]))
        rate, share = contradiction(held_out, codes, learned)
        assert 0 < rate < 0.3
        assert share > 0.5

    def test_nothing_contradicted(self):
        log_proba, codes, _ = near_perfect(300, np.eye(3))
        assert contradiction(log_proba, codes, log_proba) == (0, 1)


def probabilities(log_proba, power):
    weights = np.exp(power * (log_proba - log_proba.max(axis=1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


def sharpened(log_proba, codes, T):
    """The power, of a grid, that makes the given labels most likely."""

    def likelihood(power):
        given = probabilities(log_proba, power) @ T
        return np.log(given[np.arange(len(codes)), codes]).sum()

    return max(np.exp(np.linspace(-2, 2.5, 1001)), key=likelihood)


def matrix_of(log_proba, codes):
    """That of the labels alone, hard samples taken off."""
    share = contradiction(log_proba, codes).share_wrong
    return confusion_matrix(log_proba, codes, share)


def bayes(log_proba, codes):
    """The theorem of Bayes with dense matrices."""
    T, rows = matrix_of(log_proba, codes), np.arange(len(codes))
    proba = probabilities(log_proba, sharpened(log_proba, codes, T))
    # Right is the joint chance that true and given label are both this one.
    wrong = 1 - proba[rows, codes] * T[codes, codes] / (proba @ T)[rows, codes]
    return contradiction(log_proba, codes).share_wrong * wrong


class TestChanceOfWrongLabel:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("flatten", [0.3, 1.0, 2.0])
    def test_is_that_of_bayes(self, kind, flatten):
        log_proba, codes, _ = calibrated(400, noise(kind, 3))
        log_proba = log_softmax(flatten * log_proba, axis=1)
        np.testing.assert_allclose(
            chance_of_wrong_label(log_proba, codes), bayes(log_proba, codes), atol=2e-3
        )

    @pytest.mark.parametrize("kind", ["symmetric", "pair"])
    @pytest.mark.parametrize("flatten", [1.0, 0.25])
    def test_is_calibrated(self, kind, flatten):
        """Also if the net hedges, as it does once it saw wrong labels."""
        log_proba, codes, true = calibrated(20_000, noise(kind, 3))
        log_proba = log_softmax(flatten * log_proba, axis=1)
        chance = chance_of_wrong_label(log_proba, codes)
        is_wrong = codes != true
        assert chance.mean() == pytest.approx(is_wrong.mean(), abs=0.02)
        bins = pd.cut(chance, [0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1])
        found = pd.DataFrame({"chance": chance, "wrong": is_wrong}).groupby(
            bins, observed=True
        )
        assert len(found) == 7
        mean, n = found.mean(), found.size()
        error = 3 * np.sqrt(mean["wrong"] * (1 - mean["wrong"]) / n) + 0.03
        assert (abs(mean["chance"] - mean["wrong"]) < error).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_finds_the_wrong_ones(self, kind):
        log_proba, codes, true = near_perfect(3000, noise(kind, 4))
        chance = chance_of_wrong_label(log_proba, codes)
        np.testing.assert_array_equal(chance > 0.5, codes != true)

    @pytest.mark.parametrize(("n_classes", "spread"), [(2, 1.0), (5, 2.4), (10, 3.6)])
    def test_clean_but_hard_labels_are_not_wrong(self, n_classes, spread):
        """Three of ten predictions are wrong, and no label."""
        flagged, right = [], []
        for seed in range(5):
            log_proba, codes, _ = calibrated(3000, np.eye(n_classes), spread, seed)
            right.append(np.mean(log_proba.argmax(axis=1) == codes))
            flagged.append(np.mean(chance_of_wrong_label(log_proba, codes) > 0.5))
        assert 0.66 < np.mean(right) < 0.76
        assert np.mean(flagged) < 0.01

    @pytest.mark.parametrize("kind", KINDS)
    def test_neither_order_matters(self, kind):
        log_proba, codes, _ = calibrated(500, noise(kind, 4))
        chance = chance_of_wrong_label(log_proba, codes)
        rng = np.random.default_rng(1)
        rows, classes = rng.permutation(500), rng.permutation(4)
        of_rows = chance_of_wrong_label(log_proba[rows], codes[rows])
        np.testing.assert_allclose(of_rows, chance[rows], atol=1e-4)
        of_classes = chance_of_wrong_label(
            log_proba[:, classes], np.argsort(classes)[codes]
        )
        np.testing.assert_allclose(of_classes, chance, atol=1e-4)

    def test_two_classes_of_any_certainty(self):
        """The net is sure of all; of one label in ten it says the opposite."""
        codes = np.arange(400) % 2
        log_proba = np.where(np.eye(2)[codes], 0.0, -50.0)
        assert (chance_of_wrong_label(log_proba, codes) < 1e-6).all()
        given = codes.copy()
        given[::20] = 1
        given[5::20] = 0
        chance = chance_of_wrong_label(log_proba, given)
        assert np.isfinite(chance).all()
        np.testing.assert_array_equal(chance > 0.5, given != codes)

    def test_a_single_class_has_no_wrong_label(self):
        chance = chance_of_wrong_label(np.zeros((3, 1)), np.zeros(3, dtype=int))
        np.testing.assert_array_equal(chance, [0, 0, 0])

    def test_classes_that_nobody_predicts_or_has(self):
        log_proba, codes, true = near_perfect(900, noise("symmetric", 3))
        # Of two more classes one is never predicted but given, and one is neither.
        wider = np.column_stack([log_proba, np.full((900, 2), -30.0)])
        codes[:5] = 3
        chance = chance_of_wrong_label(wider, codes)
        assert ((chance >= -1e-9) & (chance <= 1)).all()
        assert np.mean((chance > 0.5) == (codes != true)) > 0.99
        assert (chance[:5] > 0.99).all()

    def biased(self, n=3000):
        """Return held-out predictions, better but biased ones, codes and the truth."""
        log_proba, codes, true = calibrated(n, noise("symmetric", 3), spread=2.0)
        rng = np.random.default_rng(1)
        more = 3 * np.eye(3)[true] + 2 * np.eye(3)[codes] + rng.normal(size=(n, 3))
        return log_proba, log_softmax(log_proba + more, axis=1), codes, true

    def test_those_held_out_say_how_many_and_all_say_which(self):
        held_out, every, codes, true = self.biased()
        chance = chance_of_wrong_label(held_out, codes, every)
        of_held_out = chance_of_wrong_label(held_out, codes)
        np.testing.assert_array_equal(np.sort(chance), np.sort(of_held_out))
        # Biased ones alone find far fewer.
        of_every = chance_of_wrong_label(every, codes)
        assert of_every.mean() < 0.7 * chance.mean()
        matrix = matrix_of(held_out, codes)
        joint = np.exp(sharpened(held_out, codes, matrix) * every) * matrix[:, codes].T
        wrong = 1 - joint[np.arange(3000), codes] / joint.sum(axis=1)
        assert stats.spearmanr(chance, wrong).statistic > 0.999
        assert (
            np.mean(chance[codes != true]) > np.mean(of_held_out[codes != true]) + 0.1
        )

    def test_samples_that_were_never_held_out_take_what_every_net_says(self):
        held_out, every, codes, _ = self.biased()
        known = np.arange(3000) % 4 > 0
        partly = np.where(known[:, None], held_out, np.nan)
        chance = chance_of_wrong_label(partly, codes, every)
        np.testing.assert_array_equal(
            chance[known],
            chance_of_wrong_label(held_out[known], codes[known], every[known]),
        )
        matrix = matrix_of(held_out[known], codes[known])
        power = sharpened(held_out[known], codes[known], matrix)
        joint = np.exp(power * every) * matrix[:, codes].T
        wrong = 1 - joint[np.arange(3000), codes] / joint.sum(axis=1)
        share = contradiction(held_out[known], codes[known]).share_wrong
        np.testing.assert_allclose(chance[~known], share * wrong[~known], atol=2e-3)

    def test_without_any_held_out_every_net_says_it_all(self):
        log_proba, codes, _ = calibrated(300, noise("pair", 3))
        nothing = np.full_like(log_proba, np.nan)
        np.testing.assert_array_equal(
            chance_of_wrong_label(nothing, codes, log_proba),
            chance_of_wrong_label(log_proba, codes),
        )

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_hardly_any_sample(self, n):
        log_proba = np.log([[0.6, 0.3, 0.1]] * n)
        chance = chance_of_wrong_label(log_proba, np.arange(n))
        assert ((chance >= -1e-9) & (chance <= 1)).all()
