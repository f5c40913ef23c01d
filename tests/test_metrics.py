"""Scores of n-D targets against scikit-learn and scikit-image."""

import numpy as np
import pytest
import sklearn.metrics
from skimage.metrics import peak_signal_noise_ratio as skimage_psnr
from sklearn.dummy import DummyRegressor

from sk_datadrop import metrics

RNG = np.random.default_rng(0)
TRUE, PREDICTED = RNG.random((2, 7, 1, 5, 5))


def test_mean_squared_error_against_scikit_learn():
    assert metrics.mean_squared_error(TRUE, PREDICTED) == pytest.approx(
        sklearn.metrics.mean_squared_error(TRUE.ravel(), PREDICTED.ravel())
    )


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_against_scikit_image(data_range):
    expected = np.mean(
        [
            skimage_psnr(t, p, data_range=data_range)
            for t, p in zip(TRUE, PREDICTED, strict=True)
        ]
    )
    assert metrics.peak_signal_noise_ratio(
        TRUE, PREDICTED, data_range=data_range
    ) == pytest.approx(expected)


def test_psnr_of_an_exact_image_is_infinite():
    assert metrics.peak_signal_noise_ratio(TRUE, TRUE) == np.inf


def test_r2_against_scikit_learn():
    flat = TRUE.reshape(7, -1), PREDICTED.reshape(7, -1)
    assert metrics.r2_score(TRUE, PREDICTED) == pytest.approx(
        sklearn.metrics.r2_score(*flat, multioutput="variance_weighted")
    )


def test_r2_of_constant_targets():
    assert metrics.r2_score(np.ones((3, 2, 2)), np.ones((3, 2, 2))) == 1
    assert metrics.r2_score(np.ones((3, 2, 2)), np.zeros((3, 2, 2))) == 0


def test_scorers():
    X, y = np.zeros((7, 1)), TRUE.reshape(7, -1)
    model = DummyRegressor().fit(X, y)
    predicted = model.predict(X)
    assert metrics.neg_mean_squared_error_scorer(model, X, y) == pytest.approx(
        -metrics.mean_squared_error(y, predicted)
    )
    assert metrics.peak_signal_noise_ratio_scorer(model, X, y) == pytest.approx(
        metrics.peak_signal_noise_ratio(y, predicted)
    )


@pytest.mark.parametrize(
    "function",
    [metrics.mean_squared_error, metrics.peak_signal_noise_ratio, metrics.r2_score],
)
def test_shapes_that_differ(function):
    with pytest.raises(ValueError, match=r"shape \(7, 1, 5, 5\) and y_pred \(6, 1, 5"):
        function(TRUE, PREDICTED[:6])
