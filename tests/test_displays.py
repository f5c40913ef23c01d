"""Pictures and the table behind them."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from skorch import NeuralNetRegressor

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    InfluenceDisplay,
    Views,
    influence_report,
)
from sk_datadrop.nets import DnCNN


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def fitted(classifier, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cat"])[y]
    model = DataDropoutClassifier(classifier, cv=3, drop_fraction=0.2, random_state=0)
    return model.fit(X, names), X, names


def test_report(fitted):
    model, X, y = fitted
    table = pd.DataFrame(influence_report(model, X, y))
    assert table.columns.tolist() == [
        "row",
        "target",
        "prediction",
        "influence",
        "z",
        "n_views",
        "kept",
    ]
    assert table["target"].tolist() == y.tolist()
    assert table["prediction"].tolist() == model.predict(X).tolist()
    np.testing.assert_array_equal(table["influence"], model.influence_)
    np.testing.assert_array_equal(table["kept"], model.sample_mask_)
    views = model.influence_per_view_[:, 5]
    error = np.std(views, ddof=1) / np.sqrt(3)
    assert table["z"][5] == pytest.approx(views.mean() / error)
    assert (table["n_views"] == 3).all()


def test_report_of_a_selector_has_no_predictions(classifier, blobs):
    selector = DataDropoutTransformer(classifier, cv=2, random_state=0).fit(*blobs)
    report = influence_report(selector, *blobs)
    assert "prediction" not in report.dtype.names
    np.testing.assert_array_equal(report["target"], blobs[1])


def test_report_of_other_rows(fitted):
    model, X, y = fitted
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        influence_report(model, X[:50], y[:50])


def test_z_needs_two_views(classifier, blobs):
    model = DataDropoutClassifier(
        classifier, cv=0.3, views=Views(n_groups=1), random_state=0
    ).fit(*blobs)
    assert np.isnan(influence_report(model, *blobs)["z"]).all()


def test_histogram_holds_every_row(fitted):
    display = InfluenceDisplay.from_estimator(*fitted)
    heights = [patch.get_height() for patch in display.ax_.patches]
    assert sum(heights) == 90
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["kept (72)", "dropped (18)"]
    assert display.figure_ is display.ax_.figure


def test_classes(fitted):
    _, ax = plt.subplots()
    display = InfluenceDisplay.from_estimator(*fitted, kind="classes", ax=ax)
    assert display.ax_ is ax
    assert [t.get_text() for t in ax.get_xticklabels()] == ["ant", "bee", "cat"]
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(heights, fitted[0].drop_rate_per_class_)


def test_agreement(fitted):
    display = InfluenceDisplay.from_estimator(*fitted, kind="agreement")
    views = fitted[0].influence_per_view_
    correlation = np.corrcoef(views[0], views[1])[0, 1]
    assert display.ax_.get_title() == f"correlation {correlation:.2f}"
    assert display.ax_.get_xlabel().startswith("influence, split 1, epoch")
    assert display.ax_.get_ylabel().startswith("influence, split 2, epoch")


def test_gallery_of_a_table(fitted):
    display = InfluenceDisplay.from_estimator(*fitted, kind="gallery", n_rows=3)
    assert display.ax_.shape == (2, 3)
    order = np.argsort(fitted[0].influence_)
    caption = display.ax_[0, 0].get_title().split("\n")
    assert caption[0] == f"row {order[0]}"
    assert caption[1] == f"given {fitted[2][order[0]]}"
    assert caption[2].startswith("predicted ")
    assert display.ax_[1, 0].get_title().startswith(f"row {order[-1]}\n")


def test_gallery_of_image_pairs():
    X = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    net = NeuralNetRegressor(
        DnCNN,
        module__depth=3,
        module__width=4,
        optimizer=torch.optim.Adam,
        max_epochs=2,
    )
    model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, X)
    display = InfluenceDisplay.from_estimator(model, X, X, kind="gallery", n_rows=4)
    assert display.ax_.shape == (4, 4)
    [shown] = display.ax_[1, 0].get_images()
    most_harmful = model.influence_.argmin()
    np.testing.assert_array_equal(shown.get_array(), X[most_harmful, 0])
    with pytest.raises(ValueError, match="a regressor has no classes"):
        display.plot("classes")


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 30)])
def test_gallery_of_colours_and_signals(shape):
    X = np.random.default_rng(0).random((30, *shape), dtype=np.float32)
    net = NeuralNetRegressor(Flat, max_epochs=2)
    model = DataDropoutRegressor(net, cv=2, random_state=0).fit(
        X, X.reshape(30, -1).mean(1)
    )
    display = InfluenceDisplay(model, X, np.zeros(30)).plot("gallery", n_rows=2)
    ax = display.ax_[0, 0]
    assert len(ax.get_images() if len(shape) == 3 else ax.get_lines()) == 1


class Flat(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1))

    def forward(self, X):
        return self.layers(X)


def test_bad_kinds(fitted):
    display = InfluenceDisplay(*fitted)
    with pytest.raises(ValueError, match="kind must be one of histogram, gallery"):
        display.plot("pie")
    with pytest.raises(ValueError, match="a gallery makes its own axes"):
        display.plot("gallery", ax=plt.subplots()[1])
