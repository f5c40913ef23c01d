"""The drop rule on scores whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from sk_datadrop._drop import (
    as_many_rows,
    candidate_fractions,
    check_drop_fraction,
    drop_fewer,
    keep_mask,
    mean_influence,
    most_harmful_first,
    one_standard_error,
    paired_standard_error,
    standard_error,
)


def test_mean_ignores_views_that_did_not_score():
    views = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(mean_influence(views), [2.0, 5.0, np.nan])


def test_standard_error_is_that_of_scipy():
    views = np.random.default_rng(0).normal(size=(5, 20))
    views[0, 0] = views[1:, 1] = np.nan
    expected = stats.sem(views, axis=0)
    expected[0] = stats.sem(views[1:, 0])
    np.testing.assert_allclose(standard_error(views), expected)


class TestKeepMask:
    """Which samples stay, given a chance of harm and what is harmful."""

    CHANCE = np.array([0.1, 0.9, np.nan, 0.6, 0.9, 0.6, 0.0, 0.4])
    INFLUENCE = np.array([-5.0, -1.0, np.nan, -2.0, -3.0, 1.0, 2.0, -4.0])

    def dropped(self, drop_fraction, is_harmful=None, codes=None):
        is_harmful = np.zeros(8, dtype=bool) if is_harmful is None else is_harmful
        keep = keep_mask(self.INFLUENCE, self.CHANCE, is_harmful, drop_fraction, codes)
        return np.flatnonzero(~keep)

    def test_order_is_by_chance_and_then_influence(self):
        order = most_harmful_first(self.INFLUENCE, self.CHANCE)
        np.testing.assert_array_equal(order, [4, 1, 3, 5, 7, 0, 6, 2])

    def test_order_of_samples_that_are_scored_but_not_judged(self):
        """They come after all others, by their influence."""
        order = most_harmful_first(
            np.array([1.0, np.nan, -1.0, 0.0]), np.array([np.nan, np.nan, np.nan, 0.0])
        )
        np.testing.assert_array_equal(order, [3, 2, 0, 1])

    def test_harmful_drops_what_is_found_harmful(self):
        """Whatever chance and influence say: safeguards have looked at them."""
        is_harmful = np.isin(np.arange(8), [0, 4])
        np.testing.assert_array_equal(self.dropped("harmful", is_harmful), [0, 4])
        assert not len(self.dropped("harmful"))

    @pytest.mark.parametrize("n_dropped", range(7))
    def test_a_fraction_drops_the_most_harmful(self, n_dropped):
        """Whatever was found harmful; of the seven that are scored."""
        expected = np.sort([4, 1, 3, 5, 7, 0, 6][:n_dropped])
        for is_harmful in (None, np.ones(8, dtype=bool)):
            np.testing.assert_array_equal(
                self.dropped(n_dropped / 7, is_harmful), expected
            )

    def test_unscored_samples_are_kept(self):
        everything = np.ones(8, dtype=bool)
        np.testing.assert_array_equal(
            self.dropped("harmful", everything), [0, 1, 3, 4, 5, 6, 7]
        )
        np.testing.assert_array_equal(self.dropped(0.99), [0, 1, 3, 4, 5, 6, 7])

    @pytest.mark.parametrize("drop_fraction", ["harmful", 0.99])
    def test_no_class_is_emptied(self, drop_fraction):
        """The third sample of class 1 and the sixth of class 2 stay.

        The third has the lowest chance, and the sixth is the last of equal ones.
        Class 0 has a sample that was not scored.
        """
        codes = np.array([1, 1, 0, 2, 1, 2, 0, 0])
        everything = np.ones(8, dtype=bool)
        kept = np.setdiff1d(
            np.arange(8), self.dropped(drop_fraction, everything, codes)
        )
        np.testing.assert_array_equal(kept, [0, 2, 5])

    def test_some_sample_is_always_kept(self):
        influence, chance = np.array([-1.0, -3.0, -2.0]), np.array([0.9, 0.8, 0.8])
        everything = np.ones(3, dtype=bool)
        keep = keep_mask(influence, chance, everything, "harmful")
        np.testing.assert_array_equal(keep, [False, False, True])

    def test_others_go_where_the_last_of_a_class_may_not(self):
        """The share is that of all samples scored, as far as there are enough."""
        codes = np.array([0, 0, 0, 1])
        influence, chance = np.zeros(4), np.array([0.1, 0.2, 0.3, 1.0])
        keep = keep_mask(influence, chance, np.zeros(4, dtype=bool), 0.5, codes)
        np.testing.assert_array_equal(keep, [True, False, False, True])


class TestAsManyRows:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("n_rows", [5, 6, 7, 9, 10, 23])
    def test_each_is_repeated_about_as_often(self, n_rows, seed):
        kept = np.array([2, 3, 5, 7, 11])
        rows = as_many_rows(kept, n_rows, np.random.default_rng(seed))
        assert len(rows) == n_rows
        assert (np.diff(rows) >= 0).all()
        found, counts = np.unique(rows, return_counts=True)
        np.testing.assert_array_equal(found, kept)
        assert set(counts) <= {n_rows // 5, n_rows // 5 + 1}

    def test_nothing_is_repeated_where_all_are_kept(self):
        kept = np.arange(9)
        rows = as_many_rows(kept, 9, np.random.default_rng(0))
        np.testing.assert_array_equal(rows, kept)

    def test_repeats_are_drawn_evenly(self):
        kept = np.arange(10)
        counts = np.zeros(10)
        for seed in range(400):
            rows = as_many_rows(kept, 13, np.random.default_rng(seed))
            counts += np.bincount(rows) - 1
        assert counts.sum() == 3 * 400
        # 120 each, with a standard deviation of 9.
        assert abs(counts - 120).max() < 40

    def test_same_generator_same_rows(self):
        first, again, other = (
            as_many_rows(np.arange(50), 70, np.random.default_rng(seed))
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


class TestAuto:
    """The candidates of "auto", and the choice among them."""

    def test_nothing_half_and_all(self):
        keep = np.arange(100) >= 7
        influence = np.r_[np.arange(99.0), np.nan]
        np.testing.assert_allclose(
            candidate_fractions(keep, influence), np.array([0, 3, 7]) / 99
        )

    def test_nothing_where_there_is_nothing(self):
        keep = np.ones(9, dtype=bool)
        np.testing.assert_array_equal(candidate_fractions(keep, np.ones(9)), [0])

    def test_fewer_are_the_most_harmful_of_those_dropped(self):
        """Also of three that a rule keeps, and of which one is not scored."""
        keep = np.array([True, False, False, False, True, True])
        influence = np.array([-9.0, -2.0, -3.0, -1.0, np.nan, 5.0])
        chance = np.array([1.0, 0.7, 0.7, 0.8, np.nan, 0.9])
        for n_dropped, expected in enumerate([[], [3], [2, 3], [1, 2, 3], [1, 2, 3]]):
            fewer = drop_fewer(keep, influence, chance, n_dropped / 5)
            np.testing.assert_array_equal(np.flatnonzero(~fewer), expected)

    @pytest.mark.parametrize(("gain", "chosen"), [(0.1, 0), (0.18, 0), (0.19, 2)])
    def test_nothing_unless_the_best_is_a_standard_error_better(self, gain, chosen):
        """The standard error over three splits is 0.2 * sqrt(1 / 3 + 1 / 2) = 0.183."""
        best = np.array([1.0, 2.0, 3.0])
        none = best + gain + np.array([-0.2, 0.0, 0.2])
        objectives = np.column_stack([none, best + 0.001, best])
        assert one_standard_error(objectives, overlap=0.5) == chosen

    def test_a_tie_drops_nothing(self):
        assert one_standard_error(np.ones((5, 3)), overlap=0.25) == 0

    def test_more_is_no_better_than_the_best(self):
        rng = np.random.default_rng(0)
        objectives = np.array([1.0, 0.5, 0.8]) + 0.001 * rng.normal(size=(5, 3))
        assert one_standard_error(objectives, overlap=0.25) == 1

    def test_error_of_independent_runs_is_that_of_scipy(self):
        values = np.random.default_rng(0).normal(size=(7, 2))
        np.testing.assert_allclose(
            paired_standard_error(values, overlap=0), stats.sem(values)
        )


@pytest.mark.parametrize(
    "drop_fraction", [-0.1, 1, 1.5, np.nan, "negative", None, True, "0.1"]
)
def test_drop_fraction_out_of_range(drop_fraction):
    with pytest.raises(
        ValueError, match="drop_fraction must be 'harmful', 'auto' or a"
    ):
        check_drop_fraction(drop_fraction)
