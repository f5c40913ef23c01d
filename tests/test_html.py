"""The page of findings: what it says, shows and does, and what it never does."""

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from skimage.io import imsave
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutWarning,
    influence_html,
    influence_report,
)

VOID = {"meta", "input", "img", "br", "link", "polyline"}


class Page(HTMLParser):
    """The elements of a page, and the cells of its tables."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.tables, self.text = [], [], []
        self.open, self.cell = [], None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = {"tag": tag, "text": "", "tags": [], **attributes}
            self.tables[-1][-1].append(self.cell)
        elif self.cell is not None:
            self.cell["tags"].append((tag, attributes))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.text.append(data)
        if self.cell is not None:
            self.cell["text"] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def samples(self):
        """Return the table of samples as a frame of texts."""
        head, *rows = self.tables[-1]
        names = [cell["text"].strip() for cell in head]
        return pd.DataFrame(
            [[cell["text"].strip() for cell in row] for row in rows], columns=names
        )

    def pictures(self, column):
        head, *rows = self.tables[-1]
        place = [cell["text"].strip() for cell in head].index(column)
        return [row[place]["tags"] for row in rows]


class Found(BaseEstimator):
    """An estimator with the attributes of a fit, without one."""

    warnings_ = []
    summary_ = "dropped some"

    def __init__(self, n_samples=None):
        self.n_samples = n_samples

    def fit(self, X=None, y=None):
        rng = np.random.default_rng(0)
        self.influence_per_view_ = rng.normal(size=(3, self.n_samples))
        self.harm_probability_ = rng.random(self.n_samples)
        self.sample_mask_ = self.harm_probability_ < 0.5
        return self


@pytest.fixture
def fitted(classifier, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cat"])[y]
    model = DataDropoutClassifier(classifier, cv=3, drop_fraction=0.2, random_state=0)
    return model.fit(X, names), X, names


def worst_first(report):
    return report.sort_values(
        ["harm_probability", "influence"], ascending=[False, True]
    )


def test_lists_the_samples_most_likely_harmful_first(fitted):
    report = worst_first(influence_report(*fitted))
    page = Page(influence_html(*fitted))
    assert page.open == []
    samples = page.samples()
    assert samples.columns.tolist() == [
        "Sample",
        "Input",
        "Given",
        "Predicted",
        "Suggested",
        "Chance that it is right",
        "Chance of harm",
        "Influence",
        "Decision",
    ]
    assert samples["Sample"].tolist() == [str(i) for i in report.index]
    assert samples["Given"].tolist() == report["target"].tolist()
    assert samples["Predicted"].tolist() == report["prediction"].tolist()
    chance = [f"{p:.2f}" for p in report["harm_probability"]]
    assert samples["Chance of harm"].tolist() == chance
    np.testing.assert_allclose(
        samples["Influence"].astype(float), report["influence"], rtol=0.06
    )
    assert (samples["Decision"] == "dropped").tolist() == (~report["kept"]).tolist()


def test_says_what_the_fit_says(classifier, blobs):
    classifier.set_params(max_epochs=1, lr=1e-9)
    model = DataDropoutClassifier(classifier, cv=2, random_state=0)
    with pytest.warns(DataDropoutWarning) as heard:
        model.fit(*blobs)
    assert model.warnings_ == [str(warning.message) for warning in heard]
    text = " ".join(Page(influence_html(model, *blobs)).text)
    assert f"D{model.summary_[1:]}." in text
    for warning in model.warnings_:
        assert warning in text
    assert "DataDropoutClassifier: what was found" in text
    assert "Fruit" in Page(influence_html(model, *blobs, title="Fruit")).text


def test_is_written_to_a_file(fitted, tmp_path):
    path = influence_html(*fitted, path=str(tmp_path / "page.html"), title="Käfer")
    assert path == tmp_path / "page.html"
    assert path.read_text(encoding="utf-8") == influence_html(*fitted, title="Käfer")


def test_share_dropped_of_each_class(fitted):
    model = fitted[0]
    _, *rows = Page(influence_html(*fitted)).tables[0]
    shares = {row[0]["text"]: row[3]["text"] for row in rows}
    expected = dict(zip(model.classes_, model.drop_rate_per_class_, strict=True))
    assert shares == {name: f"{100 * s:.1f} %" for name, s in expected.items()}
    falling = [float(text.split()[0]) for text in shares.values()]
    assert falling == sorted(falling, reverse=True)
    assert sum(int(row[1]["text"]) for row in rows) == model.n_dropped_ == 18


@pytest.mark.parametrize(
    ("on_harmful", "verb"), [("weigh", "weighed down"), ("mend", "mended")]
)
def test_says_what_became_of_harmful_samples(classifier, blobs, on_harmful, verb):
    X, y = blobs
    spoiled = np.where(np.arange(90) % 9 == 0, (y + 1) % 3, y)
    classifier.set_params(max_epochs=20, verbose=0)
    model = DataDropoutClassifier(classifier, on_harmful=on_harmful, random_state=0)
    page = Page(influence_html(model.fit(X, spoiled), X, spoiled))
    samples = page.samples()
    harmful = samples["Chance of harm"].astype(float) > 0.5
    assert harmful.sum() > 3
    assert (samples["Decision"] == verb).tolist() == harmful.tolist()
    assert set(samples["Decision"]) == {verb, "kept"}
    header, *rows = page.tables[0]
    assert header[1]["text"] == verb.capitalize()
    assert sum(int(row[1]["text"]) for row in rows) == harmful.sum()
    assert f"Share {verb} of each class" in page.text


@pytest.mark.parametrize("is_suggested", [False, True])
def test_confusion_of_classes(fitted, is_suggested):
    """With what is suggested where anything is, else with what is predicted."""
    model, X, y = fitted
    found = model.predict(X)
    if is_suggested:
        model.suggested_targets_ = found = np.roll(y, 1)
        model.suggestion_probability_ = np.full(90, 0.25)
    else:
        del model.suggested_targets_, model.suggestion_probability_
    page = Page(influence_html(*fitted))
    verb = "suggested" if is_suggested else "predicted"
    assert f"Classes given and {verb}" in page.text
    head, *rows = page.tables[1]
    assert [cell["text"] for cell in head] == ["given", "ant", "bee", "cat"]
    counts = Counter(zip(y, found, strict=True))
    for row in rows:
        for cell, other in zip(row[1:], ["ant", "bee", "cat"], strict=True):
            given = row[0]["text"]
            assert int(cell["text"]) == counts[given, other]
            buttons = [a for tag, a in cell["tags"] if tag == "button"]
            if given != other and counts[given, other]:
                assert (buttons[0]["data-given"], buttons[0]["data-found"]) == (
                    given,
                    other,
                )
            else:
                assert not buttons
    if is_suggested:
        assert set(page.samples()["Chance that it is right"]) == {"0.25"}


@pytest.fixture
def many():
    """25 classes and 120 samples; what is suggested differs by one or two."""
    found = Found(120).fit()
    found.classes_ = np.arange(25)
    y = np.r_[np.arange(25), np.repeat(7, 95)]
    found.suggested_targets_ = np.r_[np.arange(24), 3, np.repeat([7, 12], [40, 55])]
    return found, np.zeros((120, 2)), y


def test_many_classes_are_listed_as_pairs(many):
    page = Page(influence_html(*many))
    head, *rows = page.tables[1]
    assert [cell["text"] for cell in head] == ["Given", "Suggested", "Samples"]
    texts = [tuple(cell["text"] for cell in row) for row in rows]
    assert texts == [("7", "12", "55"), ("24", "3", "1")]


def test_classes_that_agree_are_said_to(many):
    many[0].suggested_targets_ = many[2]
    text = " ".join(Page(influence_html(*many)).text)
    assert "No sample has a class suggested that differs from the one given." in text


def test_numbers_of_classes_are_in_order(many):
    [given] = [
        s
        for s in re.findall(r"(?s)<select.*?</select>", influence_html(*many))
        if 'data-name="given"' in s
    ]
    assert re.findall(r'value="(\d+)"', given) == [str(i) for i in range(25)]


def test_of_a_transformer_without_targets(classifier, blobs):
    X, y = blobs
    selector = DataDropoutTransformer(classifier, cv=2, random_state=0).fit(X, y)
    columns = Page(influence_html(selector, X, y)).samples().columns
    assert columns.tolist()[1:4] == ["Input", "Given", "Suggested"]
    page = Page(influence_html(selector, X))
    assert page.samples().columns.tolist()[1:3] == ["Input", "Suggested"]
    assert len(page.tables) == 1


def test_samples_never_scored_come_last(classifier, blobs):
    found = Found(90).fit()
    found.harm_probability_[:] = np.nan
    found.harm_probability_[5] = 0.1
    samples = Page(influence_html(found, *blobs)).samples()
    assert samples["Sample"][0] == "5"
    assert set(samples["Chance of harm"][1:]) == {"not scored"}


class TestPictures:
    @pytest.mark.parametrize(("n", "n_shown"), [(3, 3), (0, 0), (1000, 90)])
    def test_are_as_many_as_asked_for(self, fitted, n, n_shown):
        page = influence_html(*fitted, max_samples=n)
        assert page.count('class="values"') == n_shown
        assert len(Page(page).samples()) == 90

    def test_of_a_negative_number_are_refused(self, fitted):
        with pytest.raises(ValueError, match="max_samples must be 0 or more; got -1"):
            influence_html(*fitted, max_samples=-1)

    def test_of_tables_are_names_and_values(self, classifier, blobs):
        X, y = blobs
        frame = pd.DataFrame(X, columns=["length", "width", "height", "weight"])
        model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(frame, y)
        samples = Page(influence_html(model, frame, y)).samples()
        first = X[int(samples["Sample"][0])]
        expected = [f"{n} {v:.4g}" for n, v in zip(frame.columns, first, strict=True)]
        assert samples["Input"][0].split() == " ".join(expected).split()

    def test_of_wide_tables_are_cut(self):
        X = np.arange(40.0).reshape(2, 20)
        first = Page(influence_html(Found(2).fit(), X)).samples()["Input"]
        assert {text.split()[-3:][1] for text in first} == {"12"}
        assert "x7" in first[0]
        assert "x8" not in first[0]

    @pytest.mark.parametrize("n_channels", [1, 2, 3, 4])
    def test_of_images_are_their_pixels(self, n_channels):
        X = np.random.default_rng(0).random((6, n_channels, 5, 7), dtype=np.float32)
        page = Page(influence_html(Found(6).fit(), X))
        for number, [(tag, image)] in zip(
            page.samples()["Sample"].astype(int), page.pictures("Input"), strict=True
        ):
            assert tag == "img"
            assert image["alt"] == f"input of sample {number}"
            assert (image["width"], image["height"]) == ("72", "51")
            pixels, shown = decoded(image["src"]), X[number]
            levels = (shown - shown.min()) / (shown.max() - shown.min())
            expected = levels[0] if n_channels < 3 else np.moveaxis(levels[:3], 0, -1)
            np.testing.assert_allclose(pixels, expected, atol=0.003)

    def test_of_large_images_are_means(self):
        X = np.random.default_rng(0).random((2, 1, 200, 50))
        page = Page(influence_html(Found(2).fit(), X))
        [(_, image)] = page.pictures("Input")[0]
        shown = X[int(page.samples()["Sample"][0]), 0]
        low, high = shown.min(), shown.max()
        # Three rows each, and of the last two.
        means = [shown[i : i + 3].mean(axis=0) for i in range(0, 200, 3)]
        expected = (np.array(means) - low) / (high - low)
        np.testing.assert_allclose(decoded(image["src"]), expected, atol=0.003)
        assert (image["width"], image["height"]) == ("18", "72")

    def test_of_a_plain_image_do_not_divide_by_zero(self):
        page = Page(influence_html(Found(2).fit(), np.ones((2, 1, 4, 4))))
        assert decoded(page.pictures("Input")[0][0][1]["src"]).max() == 0

    def test_of_volumes_are_the_middle(self):
        X = np.zeros((2, 1, 5, 4, 4))
        X[:, :, 2, 1, 1] = 1
        page = Page(influence_html(Found(2).fit(), X))
        pixels = decoded(page.pictures("Input")[0][0][1]["src"])
        assert np.flatnonzero(pixels).tolist() == [5]

    def test_of_images_without_channels_are_pixels(self):
        X = np.zeros((2, 9, 12))
        X[:, 1, 2] = 1
        page = Page(influence_html(Found(2).fit(), X))
        pixels = decoded(page.pictures("Input")[0][0][1]["src"])
        assert np.flatnonzero(pixels).tolist() == [14]

    def test_of_signals_are_lines(self):
        X = np.stack([np.linspace([0, 1], [1, 0], 1000).T] * 3)
        page = Page(influence_html(Found(3).fit(), X))
        (svg, label), *lines = page.pictures("Input")[0]
        assert svg == "svg"
        assert label["aria-label"].startswith("input of sample ")
        assert len(lines) == 2
        for (_, line), ends in zip(lines, [(48, 0), (0, 48)], strict=True):
            points = np.array(
                [point.split(",") for point in line["points"].split()], dtype=float
            )
            assert points.shape == (160, 2)
            assert points[[0, -1]].tolist() == [[0, ends[0]], [120, ends[1]]]
            np.testing.assert_allclose(np.diff(points[:, 1], 2), 0, atol=0.25)

    def test_of_targets_that_are_images_stand_beside(self):
        found, X = Found(4).fit(), np.random.default_rng(0).random((4, 1, 3, 3))
        y = X + 1
        y[:, 0, 0, 0] = 3
        found.predict = lambda X: np.full((len(X), 1, 3, 3), 1.5)
        page = Page(influence_html(found, X, y))
        assert page.samples().columns[:4].tolist() == [
            "Sample",
            "Input",
            "Given",
            "Predicted",
        ]
        number = int(page.samples()["Sample"][0])
        [(_, given)], [(_, predicted)] = (
            page.pictures(name)[0] for name in ("Given", "Predicted")
        )
        low = y[number].min()
        expected = (y[number, 0] - low) / (3 - low)
        np.testing.assert_allclose(decoded(given["src"]), expected, atol=0.003)
        # On the scale of what was given, to be compared with it.
        level = max(1.5 - low, 0) / (3 - low)
        np.testing.assert_allclose(decoded(predicted["src"]), level, atol=0.003)

    def test_of_targets_with_several_values(self, regressor, plane):
        X, y = plane
        regressor.set_params(module__n_outputs=2)
        targets = np.column_stack([y, -y])
        model = DataDropoutRegressor(regressor, cv=2, random_state=0).fit(X, targets)
        samples = Page(influence_html(model, X, targets)).samples()
        number = int(samples["Sample"][0])
        assert (
            samples["Given"][0].split()
            == f"x0 {y[number]:.4g} x1 {-y[number]:.4g}".split()
        )
        assert samples["Predicted"][0].startswith("x0 ")


def decoded(source):
    start = "data:image/png;base64,"
    assert source.startswith(start)
    return imread(BytesIO(b64decode(source.removeprefix(start))), format="png")


def test_real_targets_are_numbers(regressor, plane):
    model = DataDropoutRegressor(regressor, cv=2, random_state=0).fit(*plane)
    page = Page(influence_html(model, *plane))
    kinds = {c["text"]: c["data-kind"] for c in page.tables[-1][0]}
    assert kinds["Given"] == kinds["Predicted"] == kinds["Influence"] == "number"
    number = int(page.samples()["Sample"][0])
    given = page.tables[-1][1][2]
    assert float(given["data-value"]) == pytest.approx(plane[1][number], rel=1e-5)
    assert len(page.tables) == 1
    assert [s["data-name"] for s in page.all("select")] == ["decision"]


def test_a_data_set_has_its_files_and_names(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    for name in ("ape", "bear"):
        (tmp_path / name).mkdir()
        for number in range(3):
            image = np.full((4, 4, 3), 40 * number, np.uint8)
            imsave(tmp_path / name / f"{number}.png", image, check_contrast=False)
    images = ImageFolder(tmp_path, ToTensor())
    found = Found(6).fit()
    found.classes_ = np.arange(2)
    page = Page(influence_html(found, images))
    cell = page.tables[-1][1][0]
    row = worst_first(influence_report(found, images)).iloc[0]
    assert cell["data-value"] == cell["title"] == row.name
    assert cell["text"] == row.name.rsplit("/", 1)[-1]
    assert page.samples()["Given"][0] == row["target"]


EVIL = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(1)>"


def test_text_from_the_data_does_nothing(classifier, blobs):
    X, y = blobs
    labels = np.array([EVIL, QUOTED, "{{ 7 * 7 }}"], dtype=object)[y]
    frame = pd.DataFrame(X, columns=[EVIL, QUOTED, "c", "d"])
    frame.index = [f"{QUOTED}{number}" for number in range(90)]
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(frame, labels)
    model.warnings_ = [EVIL]
    page = Page(influence_html(model, frame, labels, title=QUOTED))
    assert page.open == []
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not [a for _, a in page.elements if any(k.startswith("on") for k in a)]
    assert set(page.samples()["Given"]) == {EVIL, QUOTED, "{{ 7 * 7 }}"}
    assert EVIL in page.samples()["Input"][0]
    assert page.text.count(QUOTED) >= 2


def test_nothing_is_loaded_from_elsewhere(fitted):
    text = influence_html(*fitted)
    page = Page(text)
    assert not page.all("link")
    assert not [a for a in page.all("script") if "src" in a]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    [policy] = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_controls_have_names_and_are_reached_by_keyboard(fitted):
    text = influence_html(*fitted)
    page = Page(text)
    head = page.tables[-1][0]
    for cell in head:
        has_button = "button" in [tag for tag, _ in cell["tags"]]
        assert has_button == (cell["data-kind"] != "picture")
    [is_sorted] = [cell for cell in head if "aria-sort" in cell]
    assert is_sorted["text"] == "Chance of harm"
    assert is_sorted["aria-sort"] == "descending"
    for control in ("<select", "<input"):
        assert all(
            "<label>" in before.rsplit("</label>", 1)[-1]
            for before in text.split(control)[:-1]
        )
    assert [a["lang"] for a in page.all("html")] == ["en"]
    regions = [a for a in page.all("div") if a.get("role") == "region"]
    assert len(regions) == 3
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["aria-labelledby"] for a in regions} <= ids
    assert all(a["tabindex"] == "0" for a in regions)
    assert "prefers-color-scheme: dark" in text


def test_large_data_give_a_page_of_bounded_size():
    found = Found(12_000).fit()
    X = np.random.default_rng(0).random((12_000, 3, 64, 64), dtype=np.float32)
    text = influence_html(found, X, np.arange(12_000) % 10, max_samples=20)
    page = Page(text)
    assert len(page.samples()) == 10_000
    assert len(page.all("img")) == 20
    assert "10,000 most likely harmful of 12,000 samples" in " ".join(page.text)
    assert len(text) < 6e6


def test_needs_a_fit(classifier, blobs):
    with pytest.raises(NotFittedError):
        influence_html(DataDropoutClassifier(classifier), *blobs)


@pytest.mark.parametrize("package", ["pandas", "jinja2"])
def test_says_what_to_install(monkeypatch, fitted, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = (
        f"influence_html requires {package}. You can install {package} with "
        r'`pip install "sk_datadrop\[report\]"`'
    )
    with pytest.raises(ImportError, match=message):
        influence_html(*fitted)


def test_the_template_is_part_of_the_package():
    assert (files("sk_datadrop") / "_templates" / "report.html.jinja").is_file()


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

DRIVE = """<script>
const said = {};
const heading = (name) => [...document.querySelectorAll("#samples th")].find(
  (th) => th.textContent.trim() === name);
const press = (name) => heading(name).querySelector("button").click();
const column = (name) => [...document.querySelectorAll("#samples tbody tr")].map(
  (row) => row.cells[heading(name).cellIndex].textContent.trim());
const select = (name, value) => {
  const box = document.querySelector(`select[data-name="${name}"]`);
  box.value = value;
  box.dispatchEvent(new Event("change"));
};
said.atFirst = column("Sample");
press("Influence");
said.falling = column("Influence").map(Number);
said.order = heading("Influence").getAttribute("aria-sort");
said.sorted = document.querySelectorAll("#samples [aria-sort]").length;
press("Influence");
said.rising = column("Influence").map(Number);
said.orderThen = heading("Influence").getAttribute("aria-sort");
press("Sample");
said.names = column("Sample").map(Number);
select("given", "bee");
said.bees = column("Given");
select("decision", "dropped");
said.dropped = column("Decision");
said.status = document.getElementById("status").textContent;
const pair = document.querySelector("button[data-given]");
pair.click();
said.pair = [pair.dataset.given, pair.dataset.found, Number(pair.textContent)];
said.ofPair = [column("Given"), column("Suggested")];
said.focused = document.activeElement.dataset.name;
select("given", "");
select("suggested", "");
const search = document.getElementById("search");
search.value = " 41 ";
search.dispatchEvent(new Event("input"));
said.searched = column("Sample");
search.value = "";
search.dispatchEvent(new Event("input"));
said.all = column("Sample").length;
document.body.innerHTML = `<p id="said">${btoa(JSON.stringify(said))}</p>`;
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
class TestInChromium:
    def test_is_sorted_and_filtered(self, fitted, tmp_path):
        model, _, y = fitted
        model.suggested_targets_ = np.roll(y, 1)
        report = influence_report(*fitted)
        said = self.driven(influence_html(*fitted), tmp_path)
        assert said["atFirst"] == [str(i) for i in worst_first(report).index]
        assert said["falling"] == sorted(said["falling"], reverse=True)
        assert said["rising"] == sorted(said["falling"])
        assert (said["order"], said["orderThen"]) == ("descending", "ascending")
        assert said["sorted"] == 1
        assert said["names"] == list(range(89, -1, -1))
        assert said["bees"] == ["bee"] * 30
        n_dropped = int((~model.sample_mask_[y == "bee"]).sum())
        assert said["dropped"] == ["dropped"] * n_dropped
        assert said["status"] == f"{n_dropped} of 90 samples"
        given, suggested, n = said["pair"]
        assert said["ofPair"] == [[given] * n, [suggested] * n]
        assert said["focused"] == "suggested"
        assert said["searched"] == ["41"]
        assert said["all"] == 90

    def driven(self, page, folder):
        path = folder / "page.html"
        path.write_text(page.replace("</body>", DRIVE), encoding="utf-8")
        dumped = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        [said] = re.findall(r'<p id="said">(.*?)</p>', dumped)
        return json.loads(b64decode(said))
