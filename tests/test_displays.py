"""Pictures: what is drawn."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DropCurve,
    DropCurveDisplay,
    InfluenceDisplay,
    InfluenceFunctions,
    drop_curve,
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


class TestDropCurve:
    @pytest.fixture
    def curve(self):
        """Two runs of a curve whose shares are not in order."""
        return DropCurve(
            fractions=[0.2, 0.1],
            dropout=np.array([[0.9, 0.7], [0.8, 0.7]]),
            random=np.array([[0.5, 0.6], [0.6, 0.6]]),
            none=np.array([0.6, 0.7]),
            n_dropped=np.array([[20, 10], [18, 9]]),
            n_train=np.array([100, 90]),
            n_test=np.array([50, 60]),
        )

    def test_lines_are_gains_by_increasing_share(self, curve):
        ax = DropCurveDisplay(curve).plot().ax_
        lines = [container.lines for container in ax.containers]
        assert len(lines) == 2
        for over, (line, _, (bars,)) in zip(("none", "random"), lines, strict=True):
            mean, low, high = (values[::-1] for values in curve.gain(over))
            np.testing.assert_allclose(line.get_xdata(), [0.1, 0.2], atol=0.005)
            np.testing.assert_allclose(line.get_ydata(), mean)
            drawn = [segment[:, 1] for segment in bars.get_segments()]
            np.testing.assert_allclose(drawn, np.column_stack([low, high]))

    def test_is_drawn_on_the_axes_given(self, curve):
        _, ax = plt.subplots()
        display = DropCurveDisplay(curve).plot(ax)
        assert display.ax_ is ax
        assert display.figure_ is ax.figure

    def test_from_estimator_measures_what_is_drawn(self):
        X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
        y = X @ np.float32([1, 2, 3])
        net = NeuralNetRegressor(
            torch.nn.Linear, module__in_features=3, module__out_features=1, lr=0.1
        )
        model = DataDropoutRegressor(net, cv=2)
        options = {"fractions": [0.1], "n_repeats": 1, "cv": 2, "random_state": 0}
        display = DropCurveDisplay.from_estimator(model, X, y, **options)
        curve = drop_curve(model, X, y, **options)
        np.testing.assert_array_equal(display.curve.dropout, curve.dropout)
        line = display.ax_.containers[0].lines[0]
        np.testing.assert_allclose(line.get_ydata(), curve.gain()[0])


def test_histogram_holds_every_sample(fitted):
    display = InfluenceDisplay.from_estimator(*fitted)
    kept, dropped = (
        sum(bar.get_height() for bar in bars) for bars in display.ax_.containers
    )
    assert (kept, dropped) == (72, 18)
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


def test_agreement_of_groups(classifier, blobs):
    """The first two views of different splits, or of the only one."""
    engine = InfluenceFunctions(n_groups=2)
    display, alone = (
        InfluenceDisplay(
            DataDropoutClassifier(classifier, cv=cv, engine=engine).fit(*blobs), *blobs
        ).plot("agreement")
        for cv in (2, 0.3)
    )
    assert display.ax_.get_ylabel().startswith("influence, split 2, epoch")
    assert display.ax_.get_ylabel().endswith("group 1")
    assert alone.ax_.get_ylabel().startswith("influence, split 1, epoch")
    assert alone.ax_.get_ylabel().endswith("group 2")


def test_a_single_view_agrees_with_none(classifier, blobs):
    engine = InfluenceFunctions(n_groups=1)
    model = DataDropoutClassifier(classifier, cv=0.3, engine=engine).fit(*blobs)
    with pytest.raises(ValueError, match="there is one view only"):
        InfluenceDisplay(model, *blobs).plot("agreement")


def test_gallery_of_a_table(fitted):
    display = InfluenceDisplay.from_estimator(*fitted, kind="gallery", n_samples=3)
    assert display.ax_.shape == (2, 3)
    order = np.argsort(fitted[0].influence_)
    caption = display.ax_[0, 0].get_title().split("\n")
    assert caption[0] == f"sample {order[0]}"
    assert caption[1] == f"given {fitted[2][order[0]]}"
    assert caption[2].startswith("predicted ")
    assert display.ax_[1, 0].get_title().startswith(f"sample {order[-1]}\n")


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
    display = InfluenceDisplay.from_estimator(model, X, X, kind="gallery", n_samples=4)
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
    display = InfluenceDisplay(model, X, np.zeros(30)).plot("gallery", n_samples=2)
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
    with pytest.raises(ValueError, match="kind must be one of histogram, classes"):
        display.plot("pie")
    with pytest.raises(ValueError, match="a gallery makes its own axes"):
        display.plot("gallery", ax=plt.subplots()[1])
