"""Errors of both signs against honest noise of every kind that has no second kind."""

import numpy as np
import pytest
from scipy import stats

from sk_datadrop._contamination import (
    _fit_mixture,
    _likelihood_of_t,
    chance_of_contamination,
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
