"""Clusters beyond a valley are found, and tails are not taken for any."""

import numpy as np
import pytest
from scipy import stats

from sk_datadrop._valleys import (
    SIGNIFICANCE,
    _significant_rise,
    chance_beyond_valley,
)

LOG_NORMAL_MEAN = np.exp(0.5)

# One population each, however skewed, heavy-tailed or of varying spread.
POPULATIONS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "Student": lambda rng, n: rng.standard_t(3, size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "log normal": lambda rng, n: np.log(abs(rng.normal(size=n))),
    "log scales": lambda rng, n: np.log(
        abs(rng.normal(size=n) * np.exp(rng.normal(size=n)))
    ),
    "log skewed": lambda rng, n: np.log(abs(rng.lognormal(size=n) - LOG_NORMAL_MEAN)),
}


def two_normals(n=1000, share=0.1, distance=8.0, seed=0):
    """Return values and which are of the upper cluster."""
    rng = np.random.default_rng(seed)
    is_upper = np.arange(n) < share * n
    return rng.normal(size=n) + distance * is_upper, is_upper


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_a_cluster_above_is_found(share):
    values, is_upper = two_normals(share=share)
    chance = chance_beyond_valley(values)
    np.testing.assert_array_equal(chance > 0.5, is_upper)
    assert np.mean(chance[is_upper] > 0.95) > 0.9
    assert np.mean(chance[~is_upper] < 0.05) > 0.9
    assert np.median(chance[is_upper]) > 0.99
    assert np.median(chance[~is_upper]) < 0.01


def test_more_than_a_third_is_no_exception():
    for share, is_found in [(0.3, True), (0.4, False)]:
        values, _ = two_normals(share=share, distance=10.0)
        assert chance_beyond_valley(values).any() == is_found


def test_a_chance_of_one_half_is_at_the_bottom():
    """Between clusters of equal spread, nearer to the smaller one than halfway."""
    values, _ = two_normals(n=4000, share=0.3, distance=5.0)
    chance = chance_beyond_valley(values)
    below, above = values[chance <= 0.5].max(), values[chance > 0.5].min()
    assert 2.3 < below < above < 3.2
    near = (values > below - 0.1) & (values < above + 0.1)
    np.testing.assert_allclose(chance[near], 0.5, atol=0.1)


@pytest.mark.parametrize(("n", "n_draws"), [(300, 200), (2000, 50)])
@pytest.mark.parametrize("population", POPULATIONS)
def test_nothing_is_found_in_one_population(population, n, n_draws):
    found = []
    for seed in range(n_draws):
        values = POPULATIONS[population](np.random.default_rng(seed), n)
        found.append(chance_beyond_valley(values).any())
    # At a significance of 1e-4 that the many windows share, few alarms are false.
    assert np.mean(found) <= 0.02


@pytest.mark.parametrize("distance", [5.0, 6.0, 20.0])
def test_never_falls_as_values_rise(distance):
    values, _ = two_normals(distance=distance)
    chance = chance_beyond_valley(values)[np.argsort(values)]
    assert chance[-1] > 0.5
    assert (np.diff(chance) >= 0).all()
    assert ((chance >= 0) & (chance <= 1)).all()


@pytest.mark.parametrize(("scale", "shift"), [(2.0**9, 0.0), (3e-7, 0.0), (5.0, -700)])
def test_units_do_not_matter(scale, shift):
    values, _ = two_normals()
    np.testing.assert_allclose(
        chance_beyond_valley(scale * values + shift),
        chance_beyond_valley(values),
        atol=1e-3,
    )


def test_order_does_not_matter():
    values, _ = two_normals()
    order = np.random.default_rng(1).permutation(len(values))
    np.testing.assert_allclose(
        chance_beyond_valley(values[order]), chance_beyond_valley(values)[order]
    )


def test_a_cluster_below_is_none():
    values, _ = two_normals()
    assert chance_beyond_valley(values).any()
    np.testing.assert_array_equal(chance_beyond_valley(-values), np.zeros(1000))


def test_the_lower_cluster_of_three_is_none():
    """Only what lies above that of most values."""
    values, is_upper = two_normals()
    is_lower = np.arange(1000) >= 900
    chance = chance_beyond_valley(np.where(is_lower, values - 8, values))
    np.testing.assert_array_equal(chance > 0.5, is_upper)
    assert not chance[is_lower].any()


def test_a_shoulder_is_no_valley():
    """Far more of them than by a density that falls, but no gap in between."""
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(size=2000), rng.normal(2.2, 0.7, size=300)]
    assert not chance_beyond_valley(values).any()


@pytest.mark.parametrize(("n_upper", "is_deep"), [(250, False), (1000, True)])
def test_a_shallow_valley_is_none(n_upper, is_deep):
    """The rise is significant, but to a peak that is only half as high again."""
    rng = np.random.default_rng(0)
    plateau = np.r_[0.5 * rng.normal(size=5000), 6 * rng.random(3000)]
    values = np.r_[plateau, rng.normal(4.5, 0.4, size=n_upper)]
    counts = np.histogram(values, np.linspace(0, 6, 40))[0]
    assert _significant_rise(counts) is not None
    assert chance_beyond_valley(values).any() == is_deep


@pytest.mark.parametrize("value", [0.0, -3.0, 1e300])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_a_constant_has_no_cluster(value, n):
    np.testing.assert_array_equal(chance_beyond_valley(np.full(n, value)), np.zeros(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 12])
def test_hardly_any_values(n):
    values, _ = two_normals(n=n, share=0.3, distance=50)
    np.testing.assert_array_equal(chance_beyond_valley(values), np.zeros(n))


def test_ties_share_their_chance():
    values, is_upper = two_normals()
    values = values.round(3)
    chance = chance_beyond_valley(values)
    np.testing.assert_array_equal(chance > 0.5, is_upper)
    for value in np.unique(values):
        assert np.ptp(chance[values == value]) < 1e-9


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_nothing_is_found_on_a_lattice(step):
    values = np.random.default_rng(0).normal(size=1000)
    assert not chance_beyond_valley((values / step).round() * step).any()


def test_more_than_half_tied():
    """Their spread is zero, and there is no width to smooth by."""
    values = np.r_[np.zeros(900), np.full(100, 9.0)]
    np.testing.assert_array_equal(chance_beyond_valley(values), np.zeros(1000))


@pytest.mark.parametrize("lower", [0, 1, 5, 40, 300])
def test_a_rise_is_significant_by_the_binomial_test(lower):
    """Windows of one bin each: the later holds just enough, or one too few."""

    def p_value(upper):
        return stats.binomtest(upper, lower + upper, alternative="greater").pvalue

    upper = next(n for n in range(lower + 1, 1000) if p_value(n) < SIGNIFICANCE)
    assert _significant_rise(np.array([lower, upper - 1, 0])) is None
    assert _significant_rise(np.array([lower, upper, 0])) == slice(1, 2)
    # A fall is none.
    assert _significant_rise(np.array([upper, lower, 0])) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_most_significant_pair_of_windows(seed):
    counts = np.random.default_rng(seed).poisson([90, 60, 30, 8, 6, 25, 40, 20, 5])
    best, expected = 1.0, None
    for width in (1, 2, 3):
        for first in range(9):
            for second in range(first + width, 10 - width):
                low = int(counts[first : first + width].sum())
                high = int(counts[second : second + width].sum())
                p = stats.binomtest(high, low + high, alternative="greater").pvalue
                if p < best:
                    best, expected = p, slice(second, second + width)
    assert best < SIGNIFICANCE
    assert _significant_rise(counts) == expected
