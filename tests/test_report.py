"""The table of findings, sample by sample, and the audit that returns it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.io import imsave
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutWarning,
    DatasetRows,
    DropCurveDisplay,
    InfluenceDisplay,
    InfluenceFunctions,
    audit,
    influence_html,
    influence_report,
    influence_scores,
)


@pytest.fixture
def fitted(classifier, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cat"])[y]
    model = DataDropoutClassifier(classifier, cv=3, drop_fraction=0.2, random_state=0)
    return model.fit(X, names), X, names


def test_tells_what_was_given_predicted_scored_and_decided(fitted):
    model, X, y = fitted
    report = influence_report(model, X, y)
    assert report.columns.tolist() == [
        "row",
        "target",
        "prediction",
        "suggested",
        "suggestion_probability",
        "harm_probability",
        "influence",
        "z",
        "n_views",
        "kept",
    ]
    assert report.index.equals(pd.RangeIndex(90))
    assert report.index.name == "sample"
    assert report["row"].tolist() == list(range(90))
    assert report["target"].tolist() == y.tolist()
    assert report["prediction"].tolist() == model.predict(X).tolist()
    np.testing.assert_array_equal(report["influence"], model.influence_)
    np.testing.assert_array_equal(report["harm_probability"], model.harm_probability_)
    np.testing.assert_array_equal(report["kept"], model.sample_mask_)
    assert report["kept"].dtype == bool
    views = model.influence_per_view_[:, 5]
    error = np.std(views, ddof=1) / np.sqrt(3)
    assert report["z"][5] == pytest.approx(views.mean() / error)
    assert (report["n_views"] == 3).all()


def test_is_sorted_traced_and_written_as_any_frame(fitted, tmp_path):
    model, X, y = fitted
    report = influence_report(model, X, y)
    worst = report.sort_values(
        ["harm_probability", "influence"], ascending=[False, True]
    )
    np.testing.assert_array_equal(y[worst["row"]], worst["target"])
    assert worst.sort_values("row").equals(report)
    worst.to_csv(tmp_path / "report.csv")
    read = pd.read_csv(tmp_path / "report.csv", index_col="sample")
    pd.testing.assert_frame_equal(read, worst)


def test_has_the_index_of_a_frame(classifier, blobs):
    X, y = blobs
    index = pd.Index([f"patient {number}" for number in range(90)], name="patient")
    frame = pd.DataFrame(X, columns=list("abcd"), index=index)
    labels = pd.Series(y, index=index)
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(frame, labels)
    report = influence_report(model, frame, labels)
    pd.testing.assert_index_equal(report.index, index)
    assert report["row"].tolist() == list(range(90))
    assert report["target"].tolist() == y.tolist()
    assert report["prediction"].tolist() == model.predict(frame).tolist()


class Flat(torch.nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.LazyLinear(n_classes)
        )

    def forward(self, X):
        return self.layers(X)


def flat(n_classes, **options):
    return NeuralNetClassifier(
        Flat,
        module__n_classes=n_classes,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=2,
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    """Thirty bright and dark images of 6 x 6 in three classes, as files."""
    rng = np.random.default_rng(0)
    for name, level in [("ape", 0), ("bear", 90), ("cow", 180)]:
        (tmp_path / name).mkdir()
        for number in range(10):
            image = (level + rng.integers(0, 60, (6, 6, 3))).astype(np.uint8)
            imsave(tmp_path / name / f"{number}.png", image, check_contrast=False)
    return tmp_path


class TestImageFolder:
    def test_has_files_and_names_of_classes(self, folder):
        images = ImageFolder(folder, ToTensor())
        model = DataDropoutClassifier(flat(3), cv=2, random_state=0).fit(images)
        report = influence_report(model, images)
        assert report.index.name == "file"
        assert report.index.tolist() == [path for path, _ in images.samples]
        assert (
            report["target"].tolist() == np.repeat(["ape", "bear", "cow"], 10).tolist()
        )
        codes = model.predict(images)
        assert report["prediction"].tolist() == [images.classes[c] for c in codes]

    @pytest.mark.parametrize("cut", ["subset", "nested", "rows", "slice"])
    def test_the_same_of_a_part(self, folder, cut):
        """Labels 1 and 2 alone, in another order, are still bears and cows."""
        images = ImageFolder(folder, ToTensor())
        chosen = np.r_[29:9:-1]
        part = {
            "subset": lambda: Subset(images, chosen),
            "nested": lambda: Subset(Subset(images, np.r_[:30]), chosen),
            "rows": lambda: DatasetRows(images)[chosen],
            "slice": lambda: DatasetRows(SliceDataset(Subset(images, chosen), idx=0)),
        }[cut]()
        y = None if cut != "slice" else np.array(images.targets)[chosen]
        model = DataDropoutTransformer(flat(2), cv=2, random_state=0).fit(part, y)
        report = influence_report(model, part, y)
        assert report.index.tolist() == [images.samples[i][0] for i in chosen]
        names = [2] * 10 + [1] * 10
        if cut != "slice":
            names = [images.classes[code] for code in names]
        assert report["target"].tolist() == names

    def test_labels_given_apart_have_names_if_they_number_the_same_classes(
        self, folder
    ):
        images = ImageFolder(folder, ToTensor())
        for n_classes, expected in [(3, "bear"), (2, 1)]:
            y = np.arange(30) % n_classes
            model = DataDropoutTransformer(flat(n_classes), cv=2).fit(images, y)
            assert influence_report(model, images, y)["target"].iloc[1] == expected
            spoiled = DatasetRows(images).with_targets(y)
            assert influence_report(model, spoiled)["target"].iloc[1] == expected

    def test_labels_changed_on_the_way_have_no_names(self, folder):
        images = ImageFolder(folder, ToTensor(), target_transform=lambda y: 2 - y)
        model = DataDropoutTransformer(flat(3), cv=2, random_state=0).fit(images)
        report = influence_report(model, images)
        assert report["target"].tolist() == np.repeat([2, 1, 0], 10).tolist()

    def test_audit_needs_no_more_than_the_folder(self, folder):
        images = ImageFolder(folder, ToTensor())
        report = audit(flat(3), images, cv=2, random_state=0)
        assert Path(report.index[0]).parent.name == report["target"].iloc[0] == "ape"


class Sentences(Dataset):
    """Its samples are listed, but not as files."""

    samples = [("not a file", 0)] * 30
    classes = [0, 1]

    def __len__(self):
        return 30

    def __getitem__(self, number):
        return torch.full((2,), number % 2), number % 2


def test_samples_that_are_no_files_are_counted():
    model = DataDropoutTransformer(flat(2), cv=2, random_state=0).fit(Sentences())
    report = influence_report(model, Sentences())
    assert report.index.name == "sample"
    assert report["target"].tolist() == [0, 1] * 15


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
    assert "prediction" not in report
    np.testing.assert_array_equal(report["target"], blobs[1])


def test_weights_have_a_column(classifier, blobs):
    model = DataDropoutClassifier(classifier, on_harmful="weigh", random_state=0)
    report = influence_report(model.fit(*blobs), *blobs)
    np.testing.assert_array_equal(report["weight"], model.sample_weight_)
    model.set_params(on_harmful="drop")
    assert "weight" not in influence_report(model, *blobs)


def test_without_targets_tells_the_rest(fitted):
    model, X, y = fitted
    report = influence_report(model, X)
    all_columns = influence_report(model, X, y).columns
    assert report.columns.tolist() == [
        name for name in all_columns if name not in ("target", "prediction")
    ]
    np.testing.assert_array_equal(report["z"], influence_report(model, X, y)["z"])


def test_reads_the_targets_of_a_data_set(classifier, blobs):
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
    data = TensorDataset(*map(torch.from_numpy, blobs))
    pd.testing.assert_frame_equal(
        influence_report(model, data), influence_report(model, *blobs)
    )


class TestSuggestions:
    def test_stand_beside_the_predictions(self, fitted):
        model, X, y = fitted
        model.suggested_targets_ = y[::-1]
        model.suggestion_probability_ = np.linspace(0, 1, 90)
        report = influence_report(model, X, y)
        assert report.columns.tolist()[:5] == [
            "row",
            "target",
            "prediction",
            "suggested",
            "suggestion_probability",
        ]
        assert report["suggested"].tolist() == y[::-1].tolist()
        assert report["suggestion_probability"].iloc[-1] == 1

    def test_of_classes_have_names(self, folder):
        images = ImageFolder(folder, ToTensor())
        model = DataDropoutTransformer(flat(3), cv=2, random_state=0).fit(images)
        model.suggested_targets_ = np.arange(30) % 3
        report = influence_report(model, images)
        assert report["suggested"].tolist() == ["ape", "bear", "cow"] * 10
        del model.suggestion_probability_
        report = influence_report(model, images)
        assert "suggestion_probability" not in report

    def test_of_real_targets(self, regressor, plane):
        X, y = plane
        model = DataDropoutRegressor(regressor, cv=2, random_state=0).fit(X, y)
        model.suggested_targets_ = y + 1
        np.testing.assert_array_equal(influence_report(model, X, y)["suggested"], y + 1)

    def test_of_many_values_have_no_column(self, fitted):
        model, X, y = fitted
        model.suggested_targets_ = np.zeros((90, 3))
        model.suggestion_probability_ = np.zeros(90)
        assert not [c for c in influence_report(model, X, y) if "suggest" in c]


@pytest.mark.parametrize(("n_X", "n_y"), [(50, 50), (50, 90), (90, 50)])
def test_of_other_samples_is_refused(fitted, n_X, n_y):
    model, X, names = fitted
    name = "X" if n_X < 90 else "y"
    message = f"{name} has 50 samples.*DataDropoutClassifier was fitted on 90. Pass all"
    with pytest.raises(ValueError, match=message):
        influence_report(model, X[:n_X], names[:n_y])


def test_needs_a_fit(classifier, blobs):
    with pytest.raises(NotFittedError):
        influence_report(DataDropoutClassifier(classifier), *blobs)


class TestAudit:
    def test_is_the_report_of_a_transformer(self, classifier, blobs):
        options = {
            "cv": 2,
            "objective": "loss",
            "engine": InfluenceFunctions(n_groups=2),
            "random_state": 3,
        }
        selector = DataDropoutTransformer(classifier, **options).fit(*blobs)
        pd.testing.assert_frame_equal(
            audit(classifier, *blobs, **options), influence_report(selector, *blobs)
        )
        assert not classifier.initialized_

    def test_finds_wrong_labels(self, classifier, blobs):
        X, y = blobs
        given = y.copy()
        given[:9] = (given[:9] + 1) % 3
        classifier.set_params(max_epochs=20)
        report = audit(classifier, X, given, random_state=0)
        suspects = report.sort_values("harm_probability", ascending=False)
        assert set(suspects.index[:9]) == set(range(9))

    def test_of_a_frame(self, classifier, blobs):
        X, y = blobs
        frame = pd.DataFrame(X, index=np.arange(90) + 500)
        report = audit(classifier, frame, y, cv=2)
        assert report.index.tolist() == list(range(500, 590))

    def test_measures_on_samples_that_are_trusted(self, classifier, blobs):
        X, y = blobs
        report = audit(classifier, X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        assert len(report) == 60
        assert (report["n_views"] == 8).all()

    def test_memory_jobs_and_words(self, classifier, blobs, tmp_path, capsys):
        options = {"cv": 2, "random_state": 0}
        alone = audit(classifier, *blobs, **options)
        capsys.readouterr()
        options |= {"memory": str(tmp_path), "n_jobs": 1, "verbose": 1}
        pd.testing.assert_frame_equal(audit(classifier, *blobs, **options), alone)
        assert capsys.readouterr().out.startswith("dropped ")
        assert list(tmp_path.iterdir())

    def test_warns_of_what_could_not_be_known(self, classifier, blobs):
        classifier.set_params(max_epochs=1, lr=1e-9)
        with pytest.warns(DataDropoutWarning):
            audit(classifier, *blobs, cv=2, random_state=0)


class TestOthers:
    """Estimators that are not ours, but hold one."""

    @pytest.mark.parametrize(
        "function", [influence_report, influence_html, InfluenceDisplay]
    )
    def test_are_refused_with_advice(self, function, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, cv=2, drop_fraction=0.1)
        pipe = make_pipeline(StandardScaler(), model).fit(X, y)
        name = function.__name__
        message = (
            rf"{name} needs a fitted .* got Pipeline. .*"
            rf"{name}\(pipe\[-1\], pipe\[:-1\].transform\(X\), y\)"
        )
        with pytest.raises(TypeError, match=message):
            function(pipe, X, y)
        function(pipe[-1], pipe[:-1].transform(X), y)
        search = GridSearchCV(model, {"cv": [2]}, cv=2).fit(X, y)
        with pytest.raises(TypeError, match="Pass its best_estimator_"):
            function(search, X, y)
        with pytest.raises(TypeError, match=r"got NeuralNetClassifier. .*audit\("):
            function(classifier, X, y)

    @pytest.mark.parametrize("function", [audit, influence_scores])
    def test_a_pipeline_is_no_net(self, function, classifier, blobs):
        pipe = make_pipeline(StandardScaler(), classifier.set_params(max_epochs=1))
        message = "Pass the net, its last step, and X as"
        arguments = blobs if function is audit else (*blobs, *blobs)
        with pytest.raises(TypeError, match=message):
            function(pipe.fit(*blobs), *arguments)


class TestWithoutPandas:
    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)

    @pytest.mark.parametrize("function", [influence_report, audit])
    def test_says_what_to_install_before_any_training(
        self, function, classifier, blobs, trainings
    ):
        message = (
            rf"{function.__name__} requires pandas. You can install pandas with "
            r'`pip install "sk_datadrop\[report\]"`'
        )
        with pytest.raises(ImportError, match=message):
            function(classifier, *blobs)
        assert trainings == []


def test_without_matplotlib_says_what_to_install_before_any_training(
    fitted, classifier, blobs, trainings, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = (
        r"{} requires matplotlib. You can install matplotlib with "
        r'`pip install "sk_datadrop\[plot\]"`'
    )
    drawn = DropCurveDisplay.from_estimator
    with pytest.raises(
        ImportError, match=message.format("DropCurveDisplay.from_estimator")
    ):
        drawn(DataDropoutClassifier(classifier), *blobs)
    assert trainings == []
    model, X, y = fitted
    for kind in ("histogram", "gallery"):
        with pytest.raises(ImportError, match=message.format("InfluenceDisplay.plot")):
            InfluenceDisplay(model, X, y).plot(kind)


def test_the_package_needs_none_of_the_optional_ones():
    code = (
        "import sys\n"
        "optional = 'pandas matplotlib jinja2 torchvision PIL skops safetensors'\n"
        "for name in optional.split():\n"
        "    sys.modules[name] = None\n"
        "import sk_datadrop\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
