"""Warnings before anything is dropped, and samples that are left alone, by case."""

from re import search

import numpy as np
import pytest
from scipy.special import log_softmax

from sk_datadrop._judge import Evidence, Predictions
from sk_datadrop._safeguards import (
    Course,
    Verdict,
    power_of,
    review,
    summary_of,
)

# It falls, levels off and rises again.
LOSSES = np.r_[np.geomspace(1, 0.5, 8), np.linspace(0.51, 0.6, 8)]
FINE = Course(LOSSES, lowest=0.5, constant=1.0)

NOTES = {
    "blind": "hardly better than a constant",
    "first epoch": "best after the first epoch",
    "no change": "hardly changed.*Raise the learning rate",
    "still falling": "still falling when training ended",
    "most of all": "of all samples look harmful",
    "class": "most samples of class",
    "hard": "these samples seem hard, not mislabelled",
    "too hard": "know too little to tell which labels are wrong",
    "low power": "nothing was found, but little could have been",
}


def labels(n=100, *, sure=8.0, n_classes=2, seed=0):
    """Evidence of classes in turn, predicted with `sure` in logits."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    scores = sure * np.eye(n_classes)[codes] + 0.5 * rng.normal(size=(n, n_classes))
    log_proba = log_softmax(scores, axis=1)
    return Evidence(
        np.ones((1, n)),
        np.zeros(1, dtype=int),
        np.zeros((1, n), dtype=bool),
        -log_proba[np.arange(n), codes][None],
        [Predictions(0, np.arange(n), log_proba)],
        codes,
    )


def numbers(losses):
    losses = np.atleast_2d(losses)
    shape = losses.shape
    return Evidence(
        np.ones(shape), np.arange(shape[0]), np.zeros(shape, dtype=bool), losses, []
    )


def chances(n, harmful):
    chance = np.full(n, 0.1)
    chance[harmful] = 0.9
    return chance


def told(verdict):
    """Return which of the notes a verdict has; each note is one of them."""
    found = [
        name for name, words in NOTES.items() if search(words, "\n".join(verdict.notes))
    ]
    assert len(found) == len(verdict.notes)
    return found


class TestFine:
    def test_what_is_more_likely_harmful_than_not_is_dropped(self):
        chance = np.r_[np.nan, 0.5, 0.51, 1.0, np.zeros(96)]
        verdict = review(labels(), chance, [FINE] * 3)
        assert verdict.notes == []
        np.testing.assert_array_equal(np.flatnonzero(verdict.is_harmful), [2, 3])
        np.testing.assert_array_equal(verdict.harm_probability, chance)
        assert verdict.power > 0.9

    def test_nothing_found_where_it_would_have_been(self):
        verdict = review(labels(), np.zeros(100), [FINE])
        assert verdict.notes == []
        assert not verdict.is_harmful.any()


class TestBlindNets:
    @pytest.mark.parametrize(
        ("lowest", "is_blind"), [(0.97, False), (0.99, True), (1.0, True), (3.0, True)]
    )
    def test_nets_no_better_than_a_constant(self, lowest, is_blind):
        course = Course(LOSSES, lowest, constant=1.0)
        verdict = review(labels(), chances(100, [3, 4, 5]), [course])
        assert told(verdict) == ["blind"] * is_blind
        assert verdict.is_harmful.sum() == (0 if is_blind else 3)

    def test_says_how_much_they_save_and_how_many_it_kept(self):
        course = Course(LOSSES, lowest=1.98, constant=2.0)
        (note,) = review(labels(), chances(100, [3, 4, 5]), [course]).notes
        assert "save 1.0% of its loss" in note
        assert "3 look harmful, none was dropped" in note

    @pytest.mark.parametrize(("n_blind", "is_blind"), [(1, False), (2, True)])
    def test_the_median_of_the_splits_counts(self, n_blind, is_blind):
        blind = Course(LOSSES, lowest=1.0, constant=1.0)
        courses = [blind] * n_blind + [FINE] * (3 - n_blind)
        assert told(review(labels(), np.zeros(100), courses)) == ["blind"] * is_blind

    @pytest.mark.parametrize(
        ("in_spread", "is_blind"), [(0.9, False), (0.21, False), (0.1, True)]
    )
    def test_gross_errors_do_not_hide_what_a_net_explains(self, in_spread, is_blind):
        """Their losses outweigh those of all others."""
        course = Course(LOSSES, 1.0, 1.0, gain_in_spread=in_spread)
        verdict = review(numbers(np.ones(50)), chances(50, [1]), [course])
        assert told(verdict) == ["blind"] * is_blind

    @pytest.mark.parametrize("lowest", [0.0, 0.25])
    def test_a_constant_that_loses_nothing(self, lowest):
        """Targets are all the same."""
        course = Course(LOSSES, lowest, constant=0.0)
        verdict = review(numbers(np.ones(50)), chances(50, [1]), [course])
        assert told(verdict) == ["blind"]
        assert not verdict.is_harmful.any()

    @pytest.mark.parametrize(("lowest", "is_blind"), [(-3.0, False), (-1.0, True)])
    def test_losses_below_zero(self, lowest, is_blind):
        """Those of densities are."""
        course = Course(LOSSES, lowest, constant=-2.0)
        verdict = review(labels(), np.zeros(100), [course])
        assert told(verdict) == ["blind"] * is_blind


class TestHardSamples:
    def evidence(self, *, comes_round, n=1000, share=0.3):
        """One net held all out, and another trained on them."""
        rng = np.random.default_rng(0)
        true = np.arange(n) % 4
        codes = np.where(rng.random(n) < share, (true + 1) % 4, true)
        scores = 6 * np.eye(4)[true] + rng.normal(size=(n, 4))
        learned = 8 * np.eye(4)[codes] if comes_round else scores
        both = [log_softmax(values, axis=1) for values in (scores, learned)]
        return Evidence(
            np.ones((2, n)),
            np.arange(2),
            np.repeat([[True], [False]], n, axis=1),
            -np.stack([log_proba[np.arange(n), codes] for log_proba in both]),
            [
                Predictions(k, np.arange(n), log_proba)
                for k, log_proba in enumerate(both)
            ],
            codes,
        )

    @pytest.mark.parametrize("comes_round", [True, False])
    def test_labels_that_nets_come_round_to(self, comes_round):
        evidence = self.evidence(comes_round=comes_round)
        verdict = review(evidence, chances(1000, [1]), [FINE])
        assert told(verdict) == ["hard"] * comes_round
        assert verdict.is_harmful.sum() == 1

    @pytest.mark.parametrize(("share", "notes"), [(0.35, []), (0.7, ["too hard"])])
    def test_where_the_surest_are_mostly_contradicted_none_is_dropped(
        self, share, notes
    ):
        evidence = self.evidence(comes_round=False, share=share)
        verdict = review(evidence, chances(1000, [1]), [FINE])
        assert told(verdict) == notes
        assert verdict.is_harmful.sum() == (0 if notes else 1)

    def test_a_few_of_them_are_everywhere(self):
        evidence = self.evidence(comes_round=True, share=0.03)
        assert told(review(evidence, chances(1000, [1]), [FINE])) == []

    def test_blind_nets_are_told_as_such(self):
        blind = Course(LOSSES, lowest=1.0, constant=1.0)
        evidence = self.evidence(comes_round=True)
        assert told(review(evidence, chances(1000, [1]), [blind])) == ["blind"]


class TestEpochs:
    def course(self, losses):
        return Course(np.array(losses), lowest=0.5, constant=1.0)

    def told(self, *courses):
        return told(
            review(labels(), chances(100, [3]), list(map(self.course, courses)))
        )

    def test_best_after_the_first_epoch(self):
        rising = [0.5, 0.6, 0.7]
        assert self.told(rising) == ["first epoch"]
        assert self.told(rising, rising, LOSSES) == ["first epoch"]
        assert self.told(rising, LOSSES) == []
        # Too short to tell.
        assert self.told([0.5]) == self.told([0.5, 0.6]) == []

    def test_a_net_that_does_not_learn_is_no_net_that_learns_too_fast(self):
        for losses in ([0.5, 0.50001, 0.50002], [0.50002, 0.50001, 0.5], [0.0] * 3):
            assert self.told(losses) == ["no change"]

    def test_the_loss_was_still_falling(self):
        falling = np.linspace(1, 0.5, 10)
        assert self.told(falling) == ["still falling"]
        assert self.told(falling, falling, LOSSES) == ["still falling"]
        assert self.told(falling, LOSSES) == []

    @pytest.mark.parametrize(
        "losses",
        [
            # The last fifth brings less than a tenth of it all,
            [1.0, 0.8, 0.7, 0.6, 0.55, 0.53, 0.52, 0.51, 0.505, 0.5],
            # or the lowest is not the last,
            [*np.linspace(1, 0.5, 9), 0.51],
            # or no fifth is a whole epoch.
            [1.0, 0.9, 0.8, 0.7],
        ],
    )
    def test_it_was_not(self, losses):
        assert self.told(losses) == []

    def test_samples_are_dropped_anyway(self):
        course = self.course(np.linspace(1, 0.5, 10))
        assert review(labels(), chances(100, [3]), [course]).is_harmful.sum() == 1


class TestMostOfIt:
    @pytest.mark.parametrize(("n_harmful", "is_most"), [(50, False), (51, True)])
    def test_most_of_all_samples(self, n_harmful, is_most):
        evidence = numbers(np.random.default_rng(0).normal(size=100) ** 2)
        verdict = review(evidence, chances(100, np.arange(n_harmful)), [FINE])
        assert told(verdict) == ["most of all"] * is_most
        assert verdict.is_harmful.sum() == (0 if is_most else n_harmful)
        if is_most:
            assert verdict.notes[0].startswith("51% of all samples look harmful")

    @pytest.mark.parametrize(("n_harmful", "is_most"), [(5, False), (6, True)])
    def test_most_of_a_class(self, n_harmful, is_most):
        """The class has ten samples; harmful samples of other classes are dropped."""
        evidence = labels(100, n_classes=10)
        of_class = np.flatnonzero(evidence.codes == 7)
        chance = chances(100, np.r_[of_class[:n_harmful], 0, 1])
        verdict = review(evidence, chance, [FINE])
        assert told(verdict) == ["class"] * is_most
        expected = [0, 1] if is_most else [0, 1, *of_class[:n_harmful]]
        np.testing.assert_array_equal(np.flatnonzero(verdict.is_harmful), expected)

    def test_its_name_and_number(self):
        evidence = labels(100, n_classes=10)
        harmful = np.isin(evidence.codes, [2, 7])
        harmful[72] = False
        (note,) = review(evidence, chances(100, harmful), [FINE]).notes
        assert "class 2 (9 of 10), 7 (10 of 10) look harmful" in note
        names = np.array(list("abcdefghij"))
        (note,) = review(evidence, chances(100, harmful), [FINE], names).notes
        assert "class 'c' (9 of 10), 'h' (10 of 10) look harmful" in note

    def test_the_chances_stay_as_they_are(self):
        chance = chances(100, np.arange(60))
        np.testing.assert_array_equal(
            review(labels(), chance, [FINE]).harm_probability, chance
        )


class TestPower:
    @pytest.mark.parametrize("n_classes", [2, 5, 10])
    def test_of_confident_predictions(self, n_classes):
        assert power_of(labels(600, n_classes=n_classes)) > 0.95

    def test_of_useless_predictions(self):
        assert power_of(labels(600, n_classes=2, sure=0.0)) < 0.1

    def test_grows_with_the_certainty(self):
        powers = [power_of(labels(2000, sure=sure)) for sure in (0.5, 1, 2)]
        assert powers[0] + 0.1 < powers[1] < powers[2] - 0.1

    @pytest.mark.parametrize("n_splits", [1, 3])
    def test_of_losses_that_are_errors_squared(self, n_splits):
        errors = np.random.default_rng(0).normal(size=(1, 800))
        losses = np.repeat(errors**2, n_splits, axis=0)
        assert power_of(numbers(losses)) > 0.9

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_units_of_losses_do_not_matter(self, scale):
        losses = np.random.default_rng(0).normal(size=800) ** 2
        expected = pytest.approx(power_of(numbers(losses)), abs=0.02)
        assert power_of(numbers(scale * losses)) == expected

    def test_of_useless_losses(self):
        """Errors of six typical ones are nothing among these."""
        rng = np.random.default_rng(0)
        losses = np.exp(4 * rng.normal(size=800))
        assert power_of(numbers(losses)) < 0.1
        assert power_of(numbers(np.zeros(800))) == 0

    def test_order_of_the_samples_does_not_matter(self):
        losses = np.random.default_rng(0).normal(size=400) ** 2
        assert power_of(numbers(losses[::-1])) == power_of(numbers(losses))

    def test_of_nothing(self):
        evidence = labels()
        bare = Evidence(**{**vars(evidence), "predictions": []})
        assert power_of(bare) == 0
        nothing = Predictions(0, np.arange(100), np.full((100, 2), np.nan))
        bare = Evidence(**{**vars(evidence), "predictions": [nothing]})
        assert power_of(bare) == 0
        assert power_of(labels(100, n_classes=1)) == 0
        assert power_of(numbers(np.full(5, np.nan))) == 0

    @pytest.mark.parametrize("n", range(2, 8))
    def test_of_hardly_any_sample(self, n):
        assert power_of(labels(n)) == 1
        assert power_of(numbers(np.arange(1.0, n + 1))) == 0

    def test_samples_that_no_split_has_are_left_out(self):
        losses = np.random.default_rng(0).normal(size=800) ** 2
        with_gaps = np.r_[losses, np.full(50, np.nan)]
        assert power_of(numbers(with_gaps)) == power_of(numbers(losses))

    def test_low_and_nothing_found(self):
        losses = np.exp(4 * np.random.default_rng(0).normal(size=200))
        evidence = numbers(losses)
        verdict = review(evidence, np.zeros(200), [FINE])
        assert told(verdict) == ["low power"]
        assert f"only {verdict.power:.0%} of the errors planted" in verdict.notes[0]
        # Something was found after all,
        assert told(review(evidence, chances(200, [5]), [FINE])) == []
        # or it was, and is spared,
        every_other = Evidence(**{**vars(evidence), "codes": np.arange(200) % 2})
        chance = chances(200, np.arange(0, 200, 2))
        assert told(review(every_other, chance, [FINE])) == ["class"]
        # or there is more to say.
        blind = Course(LOSSES, lowest=1.0, constant=1.0)
        assert told(review(evidence, np.zeros(200), [blind])) == ["blind"]


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3.0, 1.0, 2.0], 2),
        ([1.0, 1.0, 2.0], 1),
        ([np.nan, 2.0, 1.0], 3),
        ([np.inf, 2.0, np.nan], 2),
        ([np.nan, np.inf, 7.0, -np.inf], 4),
        ([np.nan, np.nan], 1),
    ],
)
def test_best_epoch(losses, best):
    assert Course(np.array(losses), 0.5, 1.0).best_epoch == best


class TestSummary:
    def verdict(self, n_harmful, notes=()):
        chance = np.r_[np.full(n_harmful, 0.8), np.full(2000 - n_harmful, 0.5)]
        chance[-1] = np.nan
        return Verdict(chance, chance > 0.5, 0.876, list(notes))

    def test_in_words_and_numbers(self):
        keep = np.arange(2000) >= 1100
        courses = [FINE, Course(np.array([2.0, 1.0, 3.0]), 0.5, 1.0)]
        assert summary_of(self.verdict(1234), keep, courses) == (
            "dropped 1,100 of 2,000 samples (55.0%); 1,234 are more likely harmful "
            "than not; errors planted in the evidence are found at 88%; scored at "
            "epochs 8, 2 of 16 trained"
        )

    def test_it_mentions_warnings(self):
        summary = summary_of(self.verdict(0, ["a", "b"]), np.ones(2000) > 0, [FINE])
        assert summary.startswith("dropped 0 of 2,000 samples (0.0%); 0 are more")
        assert summary.endswith("scored at epochs 8 of 16 trained; 2 warning(s)")
