"""Errors without a size of their own, against honest noise of every kind."""

import numpy as np
import pytest
from scipy import stats

from sk_datadrop._contamination import (
    _fit_mixture,
    _likelihood_of_one_peak,
    _likelihood_of_t,
    chance_of_contamination,
    chance_of_upper_kind,
)

HONEST = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(3, size=n),
    "very heavy tails": lambda rng, n: rng.standard_cauchy(size=n),
    "skewed": lambda rng, n: rng.lognormal(size=n),
    "varying spread": lambda rng, n: (
        (3 * rng.uniform(size=n) ** 2 + 0.1) * rng.normal(size=n)
    ),
    "spread of many sizes": lambda rng, n: (
        np.exp(rng.normal(size=n)) * rng.normal(size=n)
    ),
    "two groups": lambda rng, n: (
        np.where(rng.uniform(size=n) < 0.3, 2, 1) * rng.normal(size=n)
    ),
    "Laplace": lambda rng, n: rng.laplace(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, size=n),
}


def swapped(n=2000, share=0.1, ratio=7.0, seed=0):
    """Residuals, and which of them are errors."""
    rng = np.random.default_rng(seed)
    wrong = np.arange(n) < share * n
    return np.where(wrong, ratio, 1) * rng.normal(size=n), wrong


@pytest.mark.parametrize("n", [300, 2000])
@pytest.mark.parametrize("kind", HONEST)
def test_honest_noise_is_left_alone(kind, n):
    draws = [HONEST[kind](np.random.default_rng(seed), n) for seed in range(12)]
    assert sum(chance_of_contamination(values).any() for values in draws) <= 1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_swapped_targets_are_found(share):
    residuals, wrong = swapped(share=share)
    chance = chance_of_contamination(residuals)
    dropped = chance > 0.5
    assert wrong[dropped].mean() > 0.9
    assert dropped[wrong].mean() > 0.6
    # The chance is that of the mixture they were drawn from.
    densities = [stats.norm.pdf(residuals, scale=s) for s in (1, 7)]
    expected = (
        share * densities[1] / (share * densities[1] + (1 - share) * densities[0])
    )
    assert np.abs(chance - expected).mean() < 0.02


def test_of_one_sign_they_may_be_honest_skew():
    residuals, wrong = swapped()
    assert not chance_of_contamination(np.where(wrong, abs(residuals), residuals)).any()


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0), (1e6, 0), (-1, 0), (1, 100)])
def test_units_do_not_matter(scale, shift):
    residuals, _ = swapped()
    chance = chance_of_contamination(residuals)
    np.testing.assert_allclose(
        chance_of_contamination(scale * residuals + shift), chance, atol=1e-6
    )


def test_order_does_not_matter():
    residuals, _ = swapped()
    order = np.random.default_rng(1).permutation(len(residuals))
    np.testing.assert_allclose(
        chance_of_contamination(residuals[order]),
        chance_of_contamination(residuals)[order],
        atol=1e-9,
    )


@pytest.mark.parametrize(
    "residuals", [[0.0], [1.0, 1.0], [0.0] * 60 + [5.0, -5.0], [1.0, -2.0, 3.0]]
)
def test_hardly_any_or_constant_residuals(residuals):
    chance = chance_of_contamination(np.array(residuals))
    np.testing.assert_array_equal(chance, np.zeros(len(residuals)))


def test_the_mixture_is_the_most_likely():
    residuals, _ = swapped(share=0.15)
    likelihood, share, ratio, _ = _fit_mixture(residuals)
    assert share == pytest.approx(0.15, abs=0.03)
    assert ratio == pytest.approx(7, rel=0.15)
    for factor in (0.8, 1.25):
        wide = np.sqrt(np.sum(residuals**2) / len(residuals))
        density = (1 - share) * stats.norm.pdf(residuals) + share * stats.norm.pdf(
            residuals, scale=factor * wide * ratio
        )
        assert np.log(density).sum() < likelihood


def test_the_likelihood_of_t_is_that_of_scipy():
    values = np.random.default_rng(0).standard_t(3, size=400)
    df, _, scale = stats.t.fit(values, floc=0)
    expected = stats.t.logpdf(values, df, scale=scale).sum()
    assert _likelihood_of_t(values) == pytest.approx(expected, abs=0.3)


LOSSES = {
    "normal": lambda rng, n, d: rng.normal(size=(n, d)),
    "heavy tails": lambda rng, n, d: rng.standard_t(3, size=(n, d)),
    "heavy tails of samples": lambda rng, n, d: (
        rng.normal(size=(n, d)) * np.sqrt(4 / rng.chisquare(4, size=(n, 1)))
    ),
    "skewed": lambda rng, n, d: rng.lognormal(size=(n, d)) - np.exp(0.5),
    "varying spread": lambda rng, n, d: (
        rng.normal(size=(n, d)) * 3 * rng.uniform(size=(n, 1)) ** 2
    ),
    "spread of many sizes": lambda rng, n, d: (
        rng.normal(size=(n, d)) * np.exp(rng.exponential(0.7, size=(n, 1)))
    ),
}


def log_losses(kind, n, d, seed=0):
    """Logarithms of mean squared errors of targets of d values."""
    errors = LOSSES[kind](np.random.default_rng(seed), n, d)
    return np.log((errors**2).mean(axis=1))


def swapped_images(n=800, share=0.12, seed=0):
    """Log losses of which some are higher by as much as pictures differ; which."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < share
    return np.where(wrong, rng.normal(4, 1.5, n), rng.normal(0, 0.8, n)), wrong


class TestUpperKind:
    @pytest.mark.parametrize("d", [2, 100])
    @pytest.mark.parametrize("kind", LOSSES)
    def test_honest_noise_is_left_alone(self, kind, d):
        draws = [log_losses(kind, 500, d, seed) for seed in range(6)]
        assert not any(chance_of_upper_kind(values).any() for values in draws)

    def test_losses_of_swapped_targets_are_found(self):
        values, wrong = swapped_images()
        chance = chance_of_upper_kind(values)
        assert wrong[chance > 0.5].mean() > 0.9
        assert (chance > 0.5)[wrong].mean() > 0.8
        # The chance is that of the mixture they were drawn from.
        upper = 0.12 * stats.norm.pdf(values, 4, 1.5)
        expected = upper / (upper + 0.88 * stats.norm.pdf(values, 0, 0.8))
        expected[values < 0] = 0
        assert np.abs(chance - expected).mean() < 0.02

    def test_the_single_peak_is_the_most_likely_one(self):
        values = np.random.default_rng(0).standard_t(3, size=400)
        parameters = stats.johnsonsu.fit(values)
        expected = stats.johnsonsu.logpdf(values, *parameters).sum()
        assert _likelihood_of_one_peak(values) == pytest.approx(expected)

    @pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0), (1e3, 0), (1, 100)])
    def test_units_do_not_matter(self, scale, shift):
        values, _ = swapped_images()
        chance = chance_of_upper_kind(values)
        assert chance.any()
        moved = chance_of_upper_kind(scale * values + shift)
        np.testing.assert_allclose(moved, chance, atol=1e-4)

    def test_order_does_not_matter(self):
        values, _ = swapped_images()
        order = np.random.default_rng(1).permutation(len(values))
        np.testing.assert_allclose(
            chance_of_upper_kind(values[order]), chance_of_upper_kind(values)[order]
        )

    def test_of_many_values_some_are_fitted(self):
        """The chance goes to all of them."""
        values, wrong = swapped_images(n=12_000)
        assert np.mean((chance_of_upper_kind(values) > 0.5) == wrong) > 0.98

    @pytest.mark.parametrize(
        "values",
        [[0.0], [1.0] * 30, [0.0] * 60 + [5.0, -5.0], [1.0, -2.0, 3.0], [*range(30)]],
    )
    def test_hardly_any_or_constant_losses(self, values):
        chance = chance_of_upper_kind(np.array(values, dtype=float))
        np.testing.assert_array_equal(chance, np.zeros(len(values)))

    def test_where_most_are_high_none_is_an_exception(self):
        values, _ = swapped_images(share=0.6)
        assert not chance_of_upper_kind(values).any()
