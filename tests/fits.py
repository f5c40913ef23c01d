"""A small net for samples of any shape, and a fit that is looked at from all sides."""

import re
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

import sk_datadrop
from sk_datadrop import DataDropoutClassifier

OURS = [str(Path(package.__file__).parent) for package in (sk_datadrop, sklearn)]


class Net(nn.Module):
    """Two layers."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.second = nn.Linear(n_inputs, 4), nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.second(torch.tanh(self.first(X.reshape(len(X), -1))))


def small_classifier(n_inputs, n_outputs, **options):
    options = {"criterion": nn.CrossEntropyLoss, "lr": 0.1} | options
    return _small(NeuralNetClassifier, n_inputs, n_outputs, options)


def small_regressor(n_inputs, n_outputs=1, **options):
    return _small(NeuralNetRegressor, n_inputs, n_outputs, {"lr": 0.01} | options)


def _small(kind, n_inputs, n_outputs, options):
    common = {
        "module": Net,
        "module__n_inputs": n_inputs,
        "module__n_outputs": n_outputs,
        "max_epochs": 2,
        "batch_size": 8,
        "verbose": 0,
    }
    return kind(**common | options)


def table(seed, n=16, n_features=3):
    """Samples of two classes that a net can tell apart."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    X = rng.normal(size=(n, n_features)) + y[:, None]
    return X.astype(np.float32), y


def fit(model, X, y, **params):
    """Fit, check what can be checked, and return the error, or None, and the warnings.

    The warnings are their messages.
    """
    error = None
    with warnings.catch_warnings(record=True) as caught:
        # All others are errors, as everywhere in these tests.
        warnings.simplefilter("always", UserWarning)
        try:
            model.fit(X, y, **params)
        except Exception as raised:
            check_error(raised)
            error = raised
    warned = [str(w.message) for w in caught]
    if error is None:
        check_fitted(model, len(y), warned)
    return error, warned


def check_error(error, message=""):
    """Check that an error is one of ours, and does not come from deep inside torch."""
    assert re.search(message, str(error))
    assert type(error) in (ValueError, TypeError), repr(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert any(last.filename.startswith(place) for place in OURS), repr(error)
    assert len(str(error)) > 20


def check_fitted(model, n, warned):
    keep, influence = model.sample_mask_, model.influence_
    assert keep.shape == influence.shape == (n,)
    assert keep.dtype == bool
    assert influence.dtype == np.float64
    assert not np.isinf(model.influence_per_view_).any()
    assert keep[np.isnan(influence)].all()
    np.testing.assert_array_equal(model.sample_indices_, np.flatnonzero(keep))
    assert model.n_dropped_ == np.sum(~keep)
    n_scored = np.sum(~np.isnan(influence))
    assert model.drop_fraction_ * max(n_scored, 1) == pytest.approx(model.n_dropped_)
    assert n_scored >= n_trained_on(model.cv, n) or any(
        "not scored" in w for w in warned
    )
    if isinstance(model.drop_fraction, float):
        n_classes = len(getattr(model, "classes_", "1"))
        expected = min(round(model.drop_fraction * n_scored), n - n_classes)
        assert model.n_dropped_ <= expected
        if n_scored == n:
            assert model.n_dropped_ == expected


def n_trained_on(cv, n):
    """Count the samples that some split trains on: others may stay unscored.

    The gradient of a sample that was never trained on may be too large for a first
    order, and some engines score none of them.
    """
    if isinstance(cv, list):
        return len({index for train, _ in cv for index in train})
    return n - int(np.ceil(cv * n)) if isinstance(cv, float) else n


def check_predictions(model, X, y):
    predicted = model.predict(X)
    assert len(predicted) == len(X)
    if isinstance(model, DataDropoutClassifier):
        assert set(np.unique(np.asarray(y))) == set(model.classes_)
        assert set(predicted) <= set(model.classes_)
        kept = np.asarray(y).ravel()[model.sample_mask_]
        assert set(np.unique(kept)) == set(model.classes_)
        assert np.isfinite(model.predict_proba(X)).all()
        np.testing.assert_array_less(model.drop_rate_per_class_, 1)
    else:
        assert np.isfinite(predicted).all()
        assert predicted.shape == np.shape(y)


def check_same_again(model, X, y):
    mask, influence = model.sample_mask_, model.influence_
    assert fit(model, X, y)[0] is None
    np.testing.assert_array_equal(model.sample_mask_, mask)
    np.testing.assert_array_equal(model.influence_, influence)
