"""The drop rule on scores whose truth is known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import isotonic_regression

from sk_datadrop._drop import (
    candidate_fractions,
    check_drop_fraction,
    drop_fewer,
    keep_mask,
    mean_influence,
    one_standard_error,
    paired_standard_error,
    significantly_negative,
    standard_error,
)

SPLITS = np.arange(5)


def make_views(effects, noise, n_views=5, seed=0):
    rng = np.random.default_rng(seed)
    return effects + noise * rng.standard_normal((n_views, len(effects)))


def test_mean_ignores_views_that_did_not_score():
    views = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(mean_influence(views), [2.0, 5.0, np.nan])


def test_standard_error_is_that_of_scipy():
    views = np.random.default_rng(0).normal(size=(5, 20))
    views[0, 0] = views[1:, 1] = np.nan
    expected = stats.sem(views, axis=0)
    expected[0] = stats.sem(views[1:, 0])
    np.testing.assert_allclose(standard_error(views), expected)


def test_splits_that_agree_give_the_sign_rule():
    effects = np.r_[np.full(200, -1.0), np.full(800, 0.3)]
    selected = significantly_negative(make_views(effects, 0.05), SPLITS)
    np.testing.assert_array_equal(selected, effects < 0)


@pytest.mark.parametrize("seed", range(5))
def test_splits_that_disagree_drop_nothing(seed):
    views = make_views(np.zeros(1000), 1.0, seed=seed)
    assert np.mean(views.mean(0) < 0) > 0.4
    assert significantly_negative(views, SPLITS).sum() <= 2


def test_false_discoveries_stay_below_the_rate():
    """Half the samples without effect, half harmful."""
    effects = np.r_[np.zeros(2000), np.full(2000, -1.5)]
    rates = []
    for seed in range(10):
        selected = significantly_negative(make_views(effects, 1.0, seed=seed), SPLITS)
        rates.append(np.mean(effects[selected] == 0))
        assert selected[2000:].mean() > 0.7
    assert np.mean(rates) <= 0.2


def test_heavy_tails_are_no_evidence():
    """Of each sample one view is far larger than the others: |t| is near one."""
    rng = np.random.default_rng(0)
    views = rng.standard_normal((5, 1000)) * 1e-3
    views[rng.integers(5, size=1000), np.arange(1000)] = rng.standard_cauchy(1000)
    assert significantly_negative(views, SPLITS).sum() == 0


def by_hand(views):
    """The rule from scipy's t-test and a fitted decreasing density."""
    m = views.shape[1]
    p = stats.ttest_1samp(views, 0, alternative="less").pvalue
    two_sided = stats.ttest_1samp(views, 0).pvalue
    null_share = min(1, (np.sum(two_sided > 0.3) + 1) / (0.7 * m))
    widths = np.diff(np.r_[0, np.sort(p)])
    density = isotonic_regression(
        1 / (m * widths), sample_weight=widths, increasing=False
    )
    dense = density > 2 * null_share
    cut = np.sort(p)[dense].max() if dense.any() else -1
    return p <= cut, null_share * m * cut / max(np.sum(p <= cut), 1)


@pytest.mark.parametrize("effect", [-2.0, -4.0])
def test_cut_against_the_grenander_density(effect):
    views = make_views(np.r_[np.zeros(300), np.full(300, effect)], 1.0)
    expected, false_discovery_rate = by_hand(views)
    assert false_discovery_rate < 0.2
    np.testing.assert_array_equal(significantly_negative(views, SPLITS), expected)


def test_agreement_about_others_is_no_evidence_against_a_rare_class():
    """Splits agree about 900 samples, and disagree about the 30 of one class."""
    rng = np.random.default_rng(0)
    effects = np.r_[np.full(200, -1.0), np.full(700, 0.5), np.zeros(30)]
    codes = np.repeat([0, 1], [900, 30])
    views = make_views(effects, 0.1)
    views[:, 900:] = rng.normal(-0.02, 0.1, size=(5, 30))
    pooled = significantly_negative(views, SPLITS)
    assert pooled[900:].sum() >= 5
    selected = significantly_negative(views, SPLITS, codes)
    assert selected[900:].sum() <= 1
    np.testing.assert_array_equal(selected[:900], effects[:900] < 0)


def test_classes_together_are_no_easier_than_one_class():
    """A class of harmful samples alone would lose more of them than among others."""
    codes = np.repeat([0, 1], [1000, 50])
    views = make_views(np.where(codes, -1.5, 0.0), 1.0)
    together = significantly_negative(views, SPLITS)
    np.testing.assert_array_equal(
        significantly_negative(views, SPLITS, np.zeros(1050)), together
    )
    by_class = significantly_negative(views, SPLITS, codes)
    assert not np.any(by_class & ~together)
    alone = significantly_negative(views[:, codes == 1], SPLITS)
    assert alone.sum() > by_class[codes == 1].sum() > 0


def test_views_of_one_split_are_no_independent_evidence():
    """Copies of a split's view change nothing."""
    views = make_views(np.linspace(-0.5, 0.5, 100), 0.4)
    once = significantly_negative(views, SPLITS)
    many = significantly_negative(np.repeat(views, 10, axis=0), np.repeat(SPLITS, 10))
    np.testing.assert_array_equal(once, many)
    of_own_splits = significantly_negative(np.repeat(views, 10, axis=0), np.arange(50))
    assert 0 < once.sum() < of_own_splits.sum()


def test_a_single_view_decides_by_its_sign():
    views = np.array([[-1.0, 1.0, -0.1, np.nan]])
    np.testing.assert_array_equal(
        significantly_negative(views, np.zeros(1)), [True, False, True, False]
    )


def test_groups_of_a_single_split_are_tested():
    effects = np.r_[np.full(50, -1.0), np.full(150, 0.5)]
    views = make_views(effects, 0.1, n_views=8)
    selected = significantly_negative(views, np.zeros(8))
    np.testing.assert_array_equal(selected, effects < 0)


def test_samples_without_enough_views_are_kept():
    views = make_views(np.full(50, -1.0), 0.01)
    views[1:, 0] = np.nan
    views[:, 1] = np.nan
    selected = significantly_negative(views, SPLITS)
    assert not selected[:2].any()
    assert selected[2:].all()


def test_identical_views_are_certain_and_zeros_are_not():
    views = np.tile(np.r_[np.full(10, -1.0), np.full(10, 1.0), 0.0], (5, 1))
    np.testing.assert_array_equal(significantly_negative(views, SPLITS), views[0] < 0)


@pytest.mark.parametrize(("fraction", "n_dropped"), [(0, 0), (0.25, 5), (0.5, 10)])
def test_fraction_drops_the_lowest(fraction, n_dropped):
    views = np.random.default_rng(0).standard_normal((1, 20))
    keep = keep_mask(views, np.zeros(1), fraction)
    np.testing.assert_array_equal(
        np.flatnonzero(~keep), np.sort(np.argsort(views[0])[:n_dropped])
    )


def test_fraction_counts_scored_samples_only():
    views = np.r_[np.full(10, np.nan), np.arange(10.0)][None]
    keep = keep_mask(views, np.zeros(1), 0.2)
    np.testing.assert_array_equal(np.flatnonzero(~keep), [10, 11])


@pytest.mark.parametrize("drop_fraction", ["harmful", 0.9])
def test_no_class_is_emptied(drop_fraction):
    codes = np.r_[np.zeros(20, dtype=int), np.ones(3, dtype=int)]
    views = make_views(np.r_[np.full(20, 1.0), [-3.0, -1.0, -2.0]], 0.01)
    keep = keep_mask(views, SPLITS, drop_fraction, codes)
    assert keep[21]
    np.testing.assert_array_equal(np.flatnonzero(keep & (codes == 1)), [21])


def test_some_sample_is_always_kept():
    views = make_views(np.full(10, -1.0), 0.01)
    assert keep_mask(views, SPLITS, "harmful").sum() == 1


def test_an_unscored_sample_serves_its_class():
    codes = np.array([0, 0, 1, 1])
    views = np.array([[1.0, 1.0, -1.0, np.nan]])
    np.testing.assert_array_equal(
        keep_mask(views, np.zeros(1), "harmful", codes), [True, True, False, True]
    )


class TestAuto:
    """What "auto" compares, and how it chooses."""

    def test_nothing_half_and_all(self):
        keep = np.arange(100) >= 7
        influence = np.r_[np.arange(99.0), np.nan]
        np.testing.assert_allclose(
            candidate_fractions(keep, influence), np.array([0, 3, 7]) / 99
        )

    def test_nothing_where_there_is_nothing(self):
        keep = np.ones(9, dtype=bool)
        np.testing.assert_array_equal(candidate_fractions(keep, np.ones(9)), [0])

    def test_fewer_are_the_lowest_of_those_dropped(self):
        keep = np.array([True, False, False, False, True])
        influence = np.array([-9.0, -2.0, -3.0, -1.0, np.nan])
        for n_dropped, expected in enumerate([[], [2], [1, 2], [1, 2, 3]]):
            fewer = drop_fewer(keep, influence, n_dropped / 4)
            np.testing.assert_array_equal(np.flatnonzero(~fewer), expected)

    @pytest.mark.parametrize(("gain", "chosen"), [(0.1, 0), (0.18, 0), (0.19, 2)])
    def test_nothing_unless_the_best_is_a_standard_error_better(self, gain, chosen):
        """Of three splits, an error of .2 * sqrt(1 / 3 + 1 / 2) = .183."""
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


def test_samples_without_any_influence_count_as_without_effect():
    """Views that agree on zero are no evidence, and weak ones beside them are none."""
    spread = np.array([-1, -0.5, 0, 0.5, 1])[:, None]
    # Student's t is -1.53, a one-sided p-value of .1 with five views.
    weak = np.repeat(spread - 0.542, 10, axis=1)
    splits = np.arange(5)
    assert significantly_negative(weak, splits).all()
    beside = np.hstack([weak, np.zeros((5, 30))])
    assert not significantly_negative(beside, splits).any()
