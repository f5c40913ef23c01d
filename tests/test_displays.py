"""Pictures: what is drawn."""

import itertools
import sys
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from skorch import NeuralNetRegressor
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
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
            fractions=[0.2, "harmful", 0.1],
            dropout=np.array([[0.9, 0.8, 0.7], [0.8, 0.8, 0.7]]),
            random=np.array([[0.5, 0.4, 0.6], [0.6, 0.5, 0.6]]),
            none=np.array([0.6, 0.7]),
            n_dropped=np.array([[20, 15, 10], [18, 14, 9]]),
            n_train=np.array([100, 90]),
            n_test=np.array([50, 60]),
        )

    def test_rules_come_first_and_then_shares_by_size(self, curve):
        ax = DropCurveDisplay(curve).plot().ax_
        names = [label.get_text() for label in ax.get_xticklabels()]
        assert names == ["harmful\n(15.3 %)", "10 %", "20 %"]
        lines = [container.lines for container in ax.containers]
        assert len(lines) == 2
        for over, (line, _, (bars,)) in zip(("none", "random"), lines, strict=True):
            mean, low, high = (values[[1, 2, 0]] for values in curve.gain(over))
            np.testing.assert_allclose(line.get_xdata(), [0, 1, 2], atol=0.2)
            np.testing.assert_allclose(line.get_ydata(), mean)
            drawn = [segment[:, 1] for segment in bars.get_segments()]
            np.testing.assert_allclose(drawn, np.column_stack([low, high]))

    def test_both_scores_are_drawn_side_by_side(self, curve):
        curve = replace(curve, score="accuracy", probability=replace(curve, n_parts=2))
        display = DropCurveDisplay(curve).plot()
        assert [ax.get_ylabel() for ax in display.ax_] == [
            "gain in accuracy",
            "gain in score",
        ]
        titles = [ax.get_title() for ax in display.ax_]
        assert titles == ["scored on targets as given", "scored on trusted samples"]

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
        assert isinstance(display.ax_, mpl.axes.Axes)


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
    assert display.ax_.get_xlabel() == "influence by net 1"
    assert display.ax_.get_ylabel() == "influence by net 2"


def test_agreement_of_groups(classifier, blobs):
    """The first two views of different splits, or of the only one."""
    engine = InfluenceFunctions(n_groups=2)
    display, alone = (
        InfluenceDisplay(
            DataDropoutClassifier(classifier, cv=cv, engine=engine).fit(*blobs), *blobs
        ).plot("agreement")
        for cv in (2, 0.3)
    )
    assert display.ax_.get_ylabel() == "influence by net 2"
    assert alone.ax_.get_xlabel().startswith("influence by net 1, epoch")
    assert alone.ax_.get_xlabel().endswith("group 1")
    assert alone.ax_.get_ylabel().startswith("influence by net 1, epoch")
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
    given, predicted = fitted[2][order], fitted[0].predict(fitted[1])[order]
    for place, ax in [(0, display.ax_[0, 0]), (-1, display.ax_[1, 0])]:
        assert ax.get_title() == (
            f"sample {order[place]}\ngiven {given[place]}\npredicted {predicted[place]}"
        )
    labels = [ax.get_ylabel() for ax in display.ax_[:, 0]]
    assert labels == ["most harmful", "most helpful"]


def test_gallery_of_a_frame_is_that_of_its_values(classifier, blobs):
    X, y = blobs
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(90) + 500)
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(frame, y)
    display = InfluenceDisplay(model, frame, y).plot("gallery", n_samples=2)
    heights = [bar.get_height() for bar in display.ax_[0, 1].patches]
    np.testing.assert_allclose(heights, X[np.argsort(model.influence_)[1]])


LONG = "a name that goes on and on and on"


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], [LONG, "b" * 50, "cow"]])
def test_captions_can_be_read(classifier, blobs, names):
    """They are of ten points, four to a line, and do not run into one another."""
    X, y = blobs
    model = DataDropoutClassifier(classifier, cv=2, random_state=0)
    labels = np.array(names)[y]
    display = InfluenceDisplay(model.fit(X, labels), X, labels).plot("gallery")
    canvas = display.figure_.canvas
    canvas.draw()
    assert display.ax_.shape == (4, 4)
    for line in display.ax_:
        assert all(ax.title.get_fontsize() >= 10 for ax in line)
        boxes = [ax.title.get_window_extent(canvas.get_renderer()) for ax in line]
        for box, other in itertools.pairwise(boxes):
            assert box.x1 < other.x0
        assert boxes[0].x0 > 0
        assert boxes[-1].x1 < display.figure_.bbox.x1


def test_captions_of_contradicted_labels_are_red(fitted):
    model, X, y = fitted
    y = y.copy()
    most_harmful = np.argsort(model.influence_)[:2]
    y[most_harmful] = model.predict(X)[most_harmful]
    y[most_harmful[1]] = "bee" if y[most_harmful[1]] != "bee" else "cat"
    display = InfluenceDisplay(model, X, y).plot("gallery", n_samples=2)
    colors = [ax.title.get_color() for ax in display.ax_[0]]
    assert colors == ["black", "#c62828"]


def test_a_large_gallery_has_lines_of_four_at_most(fitted):
    """Seven samples at each end take two lines, the second with a place to spare."""
    display = InfluenceDisplay(*fitted).plot("gallery", n_samples=7)
    assert display.ax_.shape == (4, 4)
    titles = [ax.get_title() for ax in display.ax_.flat]
    assert [place for place, title in enumerate(titles) if not title] == [7, 15]
    assert not display.ax_[1, 3].axison
    order = np.argsort(fitted[0].influence_)
    shown = [int(title.split()[1]) for title in titles if title]
    assert shown == [*order[:7], *order[::-1][:7]]
    labels = [ax.get_ylabel() for ax in display.ax_[:, 0]]
    assert labels == ["most harmful"] * 2 + ["most helpful"] * 2


def test_large_and_small_numbers_have_a_common_power_of_ten(fitted):
    """Else the labels of neighbouring ticks run into one another."""
    for kind in ("histogram", "agreement"):
        axis = InfluenceDisplay(*fitted).plot(kind).ax_.xaxis
        axis.figure.canvas.draw()
        assert max(len(tick.get_text()) for tick in axis.get_ticklabels()) <= 5
        assert axis.get_offset_text().get_text().startswith("1e")


@pytest.fixture(scope="module")
def denoising():
    """Images, targets of another scale, and what was fitted to them."""
    X = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    net = NeuralNetRegressor(
        DnCNN,
        module__depth=3,
        module__width=4,
        optimizer=torch.optim.Adam,
        max_epochs=2,
    )
    return DataDropoutRegressor(net, cv=2, random_state=0).fit(X, X + 2), X, X + 2


def test_gallery_of_image_pairs(denoising):
    model, X, y = denoising
    display = InfluenceDisplay.from_estimator(*denoising, kind="gallery", n_samples=4)
    assert display.ax_.shape == (6, 4)
    labels = [ax.get_ylabel() for ax in display.ax_[:, 0]]
    assert labels == [
        "most harmful\ninput",
        "given",
        "predicted",
        "most helpful\ninput",
        "given",
        "predicted",
    ]
    order = np.argsort(model.influence_)
    for line, worst in [(0, order[1]), (3, order[-2])]:
        drawn = [display.ax_[line + i, 1].get_images()[0] for i in range(3)]
        expected = X[worst, 0], y[worst, 0], model.predict(X[[worst]])[0, 0]
        for image, values in zip(drawn, expected, strict=True):
            np.testing.assert_allclose(image.get_array(), values, rtol=1e-5)
        assert drawn[0].get_clim() == (X[worst].min(), X[worst].max())
        assert drawn[1].get_clim() == drawn[2].get_clim()
        assert drawn[1].get_clim() == (y[worst].min(), y[worst].max())
    with pytest.raises(ValueError, match="a regressor has no classes"):
        display.plot("classes")


def test_many_classes_per_sample_have_no_share_of_each(fitted):
    model, X, y = fitted
    del model.drop_rate_per_class_
    with pytest.raises(ValueError, match="many classes each are in no single one"):
        InfluenceDisplay(model, X, y).plot("classes")


def test_gallery_of_image_pairs_without_predictions(denoising):
    model, X, y = denoising
    selector = DataDropoutTransformer(model.estimator, cv=2, random_state=0).fit(X, y)
    display = InfluenceDisplay(selector, X, y).plot("gallery", n_samples=2)
    assert [ax.get_ylabel() for ax in display.ax_[:2, 0]] == [
        "most harmful\ninput",
        "given",
    ]
    assert display.ax_.shape == (4, 2)


def test_classes_have_the_names_of_a_data_set(classifier, blobs):
    data = TensorDataset(*map(torch.from_numpy, blobs))
    data.classes = ["an ant-eater of old age", "bee", "a cat with many kittens"]
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(data)
    display = InfluenceDisplay(model, data).plot("classes")
    ticks = display.ax_.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == data.classes
    assert ticks[0].get_rotation() == 0
    data.classes = [f"{name}, and much more" for name in data.classes]
    ticks = InfluenceDisplay(model, data).plot("classes").ax_.get_xticklabels()
    assert ticks[0].get_rotation() == 90


def test_needs_pandas(monkeypatch, fitted):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="InfluenceDisplay requires pandas"):
        InfluenceDisplay(*fitted)


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
