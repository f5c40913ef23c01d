"""The table of findings, sample by sample."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutTransformer,
    InfluenceFunctions,
    influence_report,
)


@pytest.fixture
def fitted(classifier, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cat"])[y]
    model = DataDropoutClassifier(classifier, cv=3, drop_fraction=0.2, random_state=0)
    return model.fit(X, names), X, names


def test_tells_what_was_given_predicted_scored_and_decided(fitted):
    model, X, y = fitted
    table = pd.DataFrame(influence_report(model, X, y))
    assert table.columns.tolist() == [
        "row",
        "target",
        "prediction",
        "influence",
        "harm_probability",
        "z",
        "n_views",
        "kept",
    ]
    assert table["row"].tolist() == list(range(90))
    assert table["target"].tolist() == y.tolist()
    assert table["prediction"].tolist() == model.predict(X).tolist()
    np.testing.assert_array_equal(table["influence"], model.influence_)
    np.testing.assert_array_equal(table["harm_probability"], model.harm_probability_)
    np.testing.assert_array_equal(table["kept"], model.sample_mask_)
    views = model.influence_per_view_[:, 5]
    error = np.std(views, ddof=1) / np.sqrt(3)
    assert table["z"][5] == pytest.approx(views.mean() / error)
    assert (table["n_views"] == 3).all()


def test_counts_the_views_that_scored(classifier, blobs):
    engine = InfluenceFunctions(n_groups=4)
    model = DataDropoutClassifier(classifier, cv=0.3, engine=engine, random_state=0)
    report = influence_report(model.fit(*blobs), *blobs)
    assert sorted(report["n_views"]) == [3] * 27 + [4] * 63


def test_z_needs_two_views(classifier, blobs):
    engine = InfluenceFunctions(n_groups=1)
    model = DataDropoutClassifier(classifier, cv=0.3, engine=engine, random_state=0)
    report = influence_report(model.fit(*blobs), *blobs)
    assert np.isnan(report["z"]).all()
    assert np.isfinite(report["influence"]).all()


def test_of_a_selector_has_no_predictions(classifier, blobs):
    selector = DataDropoutTransformer(classifier, cv=2, random_state=0).fit(*blobs)
    report = influence_report(selector, *blobs)
    assert "prediction" not in report.dtype.names
    np.testing.assert_array_equal(report["target"], blobs[1])


def test_without_targets_tells_the_rest(fitted):
    model, X, y = fitted
    report = influence_report(model, X)
    rest = ("row", "influence", "harm_probability", "z", "n_views", "kept")
    assert report.dtype.names == rest
    np.testing.assert_array_equal(report["z"], influence_report(model, X, y)["z"])


def test_reads_the_targets_of_a_data_set(classifier, blobs):
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
    data = TensorDataset(*map(torch.from_numpy, blobs))
    np.testing.assert_array_equal(
        influence_report(model, data), influence_report(model, *blobs)
    )


@pytest.mark.parametrize("y", [slice(50), slice(90)])
def test_of_other_samples_is_refused(fitted, y):
    model, X, names = fitted
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        influence_report(model, X[:50], names[y])


def test_needs_a_fit(classifier, blobs):
    with pytest.raises(NotFittedError):
        influence_report(DataDropoutClassifier(classifier), *blobs)
