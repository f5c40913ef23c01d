"""Loaded models are the same as those saved, and what cannot be trusted is refused."""

import copy
import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import joblib
import numpy as np
import pytest
import skops.io
import torch
from conftest import MLP
from imblearn.pipeline import make_pipeline as make_imblearn_pipeline
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
)
from skorch.callbacks import Callback
from torch import nn

from sk_datadrop import (
    CG,
    Arnoldi,
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    Dense,
    GaussNewton,
    Hessian,
    InfluenceFunctions,
    Lanczos,
    LiSSA,
    influence_report,
    load_model,
    save_model,
)

PAGE = (Path(__file__).parents[1] / "docs" / "persistence.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.skops"


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(90) % 3)
    X = (rng.normal(size=(90, 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    return DataDropoutClassifier(small(), cv=2, random_state=0).fit(X, y)


@pytest.fixture
def fitted(trained):
    return copy.deepcopy(trained)


def again(model, net, path, **options):
    save_model(model, path)
    return load_model(path, net, **options)


def check_same(model, loaded, X):
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(model, method):
            before, after = (getattr(m, method)(X) for m in (model, loaded))
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
    if not hasattr(model, "sample_mask_"):
        return
    left_out = {"estimator", "estimator_", "round_one_estimators_", "memory"}
    assert vars(loaded).keys() | left_out == vars(model).keys() | left_out
    assert loaded.memory is None
    for name in vars(loaded).keys() - left_out:
        before, after = getattr(model, name), getattr(loaded, name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        elif not hasattr(before, "get_state"):
            assert repr(before) == repr(after)


def test_every_block_is_a_file():
    assert PAGE.count("```python") == len(FILES)


def test_the_page_runs_and_predicts_the_same_in_another_process(tmp_path):
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    for name, out in (("train.py", "before.npz"), ("predict.py", "after.npz")):
        script = tmp_path / f"run_{name}"
        script.write_text(
            f"import numpy, torch\ntorch.set_num_threads(1)\n{FILES[name]}\n"
            "from sk_datadrop import influence_report\n"
            "report = influence_report(model, X).to_numpy(float)\n"
            f"numpy.savez({out!r}, model.predict_proba(X), model.influence_, "
            "model.sample_mask_, report)\n"
        )
        root = str(Path(__file__).parents[1])
        env = os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "ignore"}
        subprocess.run([sys.executable, script], cwd=tmp_path, env=env, check=True)
    before, after = (np.load(tmp_path / f"{t}.npz") for t in ("before", "after"))
    assert len(before.files) == 4
    for name in before.files:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"engine": InfluenceFunctions(solver=CG())},
        {"engine": InfluenceFunctions(GaussNewton(), Arnoldi())},
        {"engine": InfluenceFunctions(Hessian(damping=2.0), Dense())},
        {"engine": InfluenceFunctions(solver=LiSSA(max_iter=300))},
        {"engine": InfluenceFunctions(solver=Lanczos(), n_groups=2)},
        {"engine": InfluenceFunctions(n_checkpoints=3), "drop_fraction": "auto"},
        {"on_harmful": "mend", "cv": 0.3},
        {"cv": KFold(2), "random_state": np.random.RandomState(0)},
        {"cv": RepeatedKFold(n_splits=2, n_repeats=1, random_state=0)},
        {"cv": ShuffleSplit(2, random_state=0)},
        {"cv": [(np.arange(40), np.arange(40, 80))]},
        {"memory": "cache"},
    ],
)
def test_parameters_and_findings(
    regressor, plane, path, parameters, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    parameters = {"cv": 2, "random_state": 0, **parameters}
    model = DataDropoutRegressor(regressor, **parameters).fit(*plane)
    loaded = again(model, regressor, path)
    check_same(model, loaded, plane[0])
    assert loaded.estimator is regressor
    if parameters["random_state"] == 0:
        loaded.fit(*plane)
        np.testing.assert_array_equal(loaded.influence_, model.influence_)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "bb", "ccc"],
        np.array(["a", "bb", "ccc"], dtype=object),
        np.array(["2020-01-01", "2021-01-01", "2022-01-01"], dtype="datetime64[D]"),
        [False, True, True],
        [0.0, 1.0, 2.0],
    ],
)
def test_labels_of_any_type(classifier, blobs, path, labels):
    X, y = blobs[0], np.asarray(labels)[blobs[1]]
    classifier.set_params(module__n_outputs=len(np.unique(y)))
    model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(X, y)
    loaded = again(model, classifier, path)
    check_same(model, loaded, X)
    assert influence_report(loaded, X, y).equals(influence_report(model, X, y))


def test_names_of_columns(classifier, blobs, path):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(blobs[0], columns=list("abcd"))
    model = DataDropoutClassifier(classifier, cv=2).fit(X, pd.Series(blobs[1]))
    loaded = again(model, classifier, path)
    check_same(model, loaded, X)
    assert list(loaded.feature_names_in_) == list("abcd")


class Tied(nn.Module):
    """Two layers of the same weights, and buffers."""

    def __init__(self, dtype=None):
        super().__init__()
        self.first, self.second = (nn.Linear(4, 4, dtype=dtype) for _ in range(2))
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.last = nn.Linear(4, 3, dtype=dtype)

    def forward(self, X):
        X = X.to(self.last.weight.dtype)
        X = self.last(self.norm(torch.tanh(self.second(self.first(X)))))
        return X.float() if X.dtype == torch.bfloat16 else X


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))


class SetsSizes(Callback):
    def on_train_begin(self, net, X=None, y=None, **kwargs):
        net.set_params(module__n_inputs=X.shape[1], module__n_hidden=7)


class WithEncoder(NeuralNetClassifier):
    def initialize_module(self):
        super().initialize_module()
        self.encoder_ = nn.Linear(4, 4)
        return self

    def infer(self, x, **fit_params):
        return self.module_(self.encoder_(x))


class Margin(nn.Module):
    """Criterion that does not tell how probabilities are read."""

    reduction = "mean"

    def forward(self, outputs, y):
        margins = nn.functional.relu(1 - outputs.gather(1, y[:, None]) + outputs)
        losses = (margins**2).sum(1)
        return losses if self.reduction == "none" else losses.mean()


def by_softmax(outputs):
    return outputs.softmax(1)


def small(module=MLP, kind=NeuralNetClassifier, **options):
    options = {"criterion": nn.CrossEntropyLoss, "lr": 0.05, "max_epochs": 2} | options
    return kind(module, batch_size=16, verbose=0, **options)


@pytest.mark.parametrize(
    "net",
    [
        small(Tied),
        small(Tied, module__dtype=torch.float64),
        small(Tied, module__dtype=torch.bfloat16),
        small(Lazy),
        small(MLP()),
        small(module__n_inputs=1, callbacks=[SetsSizes]),
        small(kind=WithEncoder),
        small(criterion__weight=torch.tensor([1.0, 2.0, 3.0])),
        small(
            criterion=Margin, predict_nonlinearity=lambda outputs: by_softmax(outputs)
        ),
        small(criterion=nn.MultiMarginLoss),
    ],
)
@pytest.mark.filterwarnings("ignore:the net holds an instance")
def test_nets(net, blobs, path):
    model = DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
    state = torch.get_rng_state()
    loaded = again(model, net, path)
    assert torch.equal(torch.get_rng_state(), state)
    check_same(model, loaded, blobs[0])
    assert loaded.estimator_.score(*blobs) == model.estimator_.score(*blobs)
    assert not net.initialized_


def test_binary_and_multilabel(blobs, path):
    X, y = blobs
    options = {"criterion": nn.BCEWithLogitsLoss, "module__n_outputs": 1}
    binary = small(kind=NeuralNetBinaryClassifier, **options)
    labels = small(kind=NeuralNet, criterion=nn.BCEWithLogitsLoss)
    for net, target in ((binary, y > 0), (labels, np.float32(X[:, :3] > 1))):
        model = DataDropoutClassifier(net, cv=2, random_state=0).fit(X, target)
        check_same(model, again(model, net, path), X)


@pytest.mark.parametrize("kind", [DataDropoutTransformer, DataDropoutSampler])
def test_selectors_have_no_weights(classifier, blobs, path, kind):
    selector = kind(classifier, drop_fraction=0.1, cv=2, random_state=0).fit(*blobs)
    loaded = again(selector, classifier, path)
    check_same(selector, loaded, blobs[0])
    np.testing.assert_array_equal(loaded.get_support(), selector.get_support())
    with ZipFile(path) as archive:
        assert not any(name.endswith("safetensors") for name in archive.namelist())


def test_what_round_one_found_is_saved_where_round_two_failed(fitted, classifier, path):
    del fitted.estimator_
    loaded = again(fitted, classifier, path)
    np.testing.assert_array_equal(loaded.sample_mask_, fitted.sample_mask_)
    with pytest.raises(NotFittedError):
        loaded.predict([[0.0] * 4])


class TestPipelines:
    def test_steps_are_saved(self, fitted, classifier, blobs, path):
        pipe = make_pipeline(StandardScaler(), fitted).fit(*blobs)
        pipe.memory = "cache"
        loaded = again(pipe, classifier, path)
        check_same(pipe, loaded, blobs[0])
        check_same(pipe[-1], loaded[-1], blobs[0])
        assert loaded.memory is None
        assert loaded[-1].estimator is classifier

    def test_a_sampler_in_the_middle(self, classifier, blobs, path):
        sampler = DataDropoutSampler(classifier, cv=2, random_state=0)
        pipe = make_imblearn_pipeline(StandardScaler(), sampler, LogisticRegression())
        pipe.fit(*blobs)
        loaded = again(pipe, classifier, path, trusted=[type(pipe)])
        check_same(pipe, loaded, blobs[0])


class BySize:
    """Splitter of one's own."""

    def split(self, X, y=None, groups=None):
        yield np.arange(45), np.arange(45, 90)

    def get_n_splits(self, X=None, y=None, groups=None):
        return 1


def surprise(outputs, y):
    return nn.functional.cross_entropy(outputs, y, reduction="none").clamp(max=3)


def test_own_types_are_refused_until_trusted(classifier, blobs, path):
    model = DataDropoutClassifier(classifier, cv=BySize(), objective=surprise)
    save_model(model.fit(*blobs), path)
    names = ["test_persistence.BySize", "test_persistence.surprise"]
    message = rf"model.skops holds types that are not trusted: {', '.join(names)}. .*"
    with pytest.raises(TypeError, match=message + re.escape(f"pass trusted={names}")):
        load_model(path, classifier)
    with pytest.raises(TypeError, match=f"not trusted: {names[1]}"):
        load_model(path, classifier, trusted=[BySize])
    for trusted in (names, [BySize, surprise]):
        loaded = load_model(path, classifier, trusted=trusted)
        assert loaded.objective is surprise
        np.testing.assert_array_equal(loaded.influence_, model.influence_)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("objective", lambda outputs, y: y, "objective of type function .*<lambda>"),
        ("cv", iter([]), "cv of type list_iterator cannot be saved"),
        ("note", torch.zeros(3), "note of type Tensor cannot be saved"),
        ("note", small(), "note .*NeuralNetClassifier is a net.* unpickle"),
        ("note", [{"net": small()}], "note .*NeuralNetClassifier is a net.* unpickle"),
    ],
)
def test_what_cannot_be_saved_is_named(fitted, path, name, value, message):
    path.write_text("former")
    setattr(fitted, name, value)
    with pytest.raises(TypeError, match=message):
        save_model(fitted, path)
    assert path.read_text() == "former"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none/model.skops", FileNotFoundError, "there is no folder .*none to save"),
        ("", FileExistsError, "is not a file. Pass the name of a file"),
        (os.devnull, FileExistsError, "is not a file"),
    ],
)
def test_places_that_cannot_hold_a_file(fitted, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        save_model(fitted, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_and_stays(fitted, classifier, tmp_path):
    link, path = tmp_path / "latest", tmp_path / ("a" * 255)
    link.symlink_to(path)
    save_model(fitted, link)
    assert link.is_symlink()
    load_model(path, classifier)


def test_a_disk_that_is_full_leaves_the_former_file(fitted, path, monkeypatch):
    path.write_text("former")
    write = Path.write_bytes

    def fail_halfway(draft, data):
        write(draft, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OSError, match="No space left"):
        save_model(fitted, path)
    assert path.read_text() == "former"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("trusted", ["my_splits.BySite", True, BySize, [BySize()]])
def test_names_to_trust_are_a_list(fitted, classifier, path, trusted):
    save_model(fitted, path)
    with pytest.raises(TypeError, match="trusted must be a list of types, functions"):
        load_model(path, classifier, trusted=trusted)


def test_a_criterion_may_move_to_another_module(fitted, classifier, path, monkeypatch):
    save_model(fitted, path)
    monkeypatch.setattr(nn.CrossEntropyLoss, "__module__", "elsewhere")
    load_model(path, classifier)


class TestOtherModels:
    def test_not_fitted(self, classifier, path):
        model = DataDropoutClassifier(classifier)
        for unfitted in (model, make_pipeline(StandardScaler(), model)):
            with pytest.raises(NotFittedError, match="not fitted yet"):
                save_model(unfitted, path)

    def test_of_other_kinds(self, classifier, path):
        message = "takes a fitted estimator of this package, or a Pipeline .* got "
        pipe = make_pipeline(StandardScaler(), LogisticRegression())
        for other in (classifier, pipe, "model"):
            with pytest.raises(TypeError, match=message + type(other).__name__):
                save_model(other, path)

    def test_of_a_search(self, fitted, blobs, path):
        search = GridSearchCV(fitted, {"drop_fraction": [0.0]}, cv=2).fit(*blobs)
        with pytest.raises(TypeError, match=r"GridSearchCV\. Pass its best_estimator_"):
            save_model(search, path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            small(module__n_hidden=9),
            r"module_, .*conftest\.MLP.* first\.weight: .*9, 4",
        ),
        (small(Tied), r"do not fit the net .*Missing key.*norm\.running_mean"),
        (
            small(MLP(n_hidden=5).double()),
            "in torch.float32, and first.weight .*float64",
        ),
        (small(criterion=nn.NLLLoss), "trained with .*CrossEntropyLoss as criterion_"),
        (
            small(kind=NeuralNet),
            r"NeuralNetClassifier as net, .*skorch\.net\.NeuralNet",
        ),
        (small(kind=WithEncoder), r"trained with nothing as encoder_, .*Linear"),
        (
            small(predict_nonlinearity=by_softmax),
            "as predict_nonlinearity.* a function",
        ),
        (small(criterion__weight=torch.ones(3)), r"criterion_, .*Missing key.*weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_net_is_refused(fitted, path, other, message):
    save_model(fitted, path)
    with pytest.raises(ValueError, match=message):
        load_model(path, other)


@pytest.mark.parametrize("other", [MLP, MLP(), NeuralNetClassifier, None])
def test_what_is_no_net_is_refused(path, other):
    with pytest.raises(TypeError, match="needs the skorch net that the model was made"):
        load_model(path, other)


class Touches:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def skops_schema(value):
    """Return what skops writes of something without arrays."""
    with ZipFile(io.BytesIO(skops.io.dumps(value))) as archive:
        return json.loads(archive.read("schema.json"))


class TestFilesNotToTrust:
    def refused(self, path, net, message="is no complete file of save_model"):
        with pytest.raises(ValueError, match=message):
            load_model(path, net)

    @pytest.mark.parametrize("dump", [pickle.dump, joblib.dump, torch.save])
    def test_pickles(self, classifier, path, dump):
        mark = path.with_name("mark")
        with path.open("wb") as file:
            dump(Touches(mark), file)
        self.refused(path, classifier, r"no complete file.* A pickle .* any code")
        assert not mark.exists()

    def test_plain_skops_files(self, classifier, path):
        skops.io.dump({"model": 1}, path)
        self.refused(path, classifier, r"written is loaded by skops\.io\.load")

    def test_a_file_that_is_missing(self, classifier, path):
        with pytest.raises(FileNotFoundError):
            load_model(path, classifier)

    def test_truncated_files(self, fitted, classifier, path):
        save_model(fitted, path)
        data = path.read_bytes()
        for length in range(0, len(data), len(data) // 20):
            path.write_bytes(data[:length])
            self.refused(path, classifier)

    def test_damaged_files(self, fitted, classifier, path):
        save_model(fitted, path)
        data = path.read_bytes()
        with ZipFile(path) as archive:
            entries = archive.infolist()
        assert any(entry.filename == "module_.safetensors" for entry in entries)
        for entry in entries:
            damaged = bytearray(data)
            damaged[entry.header_offset + 30 + len(entry.filename) + 5] ^= 255
            path.write_bytes(damaged)
            self.refused(path, classifier)

    def rewritten(self, path, name, content):
        """Replace an entry, as somebody may who knows the format."""
        with ZipFile(path) as archive:
            entries = {n: archive.read(n) for n in archive.namelist()}
        with ZipFile(path, "w") as archive:
            for other, data in (entries | {name: content}).items():
                archive.writestr(other, data)

    def test_files_of_later_versions(self, fitted, classifier, path):
        save_model(fitted, path)
        header = {"format": 99, "sk_datadrop": "7.1"}
        self.rewritten(path, "sk_datadrop.json", json.dumps(header))
        message = r"saved by sk_datadrop 7\.1 in format 99; .* up to 1\. Upgrade"
        self.refused(path, classifier, message)

    @pytest.mark.parametrize(
        "header",
        [
            *(b"{}", b"[]", b"no json", b"\xff", b"[" * 100_000),
            b'{"format": Infinity, "sk_datadrop": "1"}',
            b'{"format": 1, "sk_datadrop": "1"}',
            b'{"format": 1, "sk_datadrop": "1", "net": [1]}',
        ],
    )
    def test_headers_of_others(self, fitted, classifier, path, header):
        save_model(fitted, path)
        self.rewritten(path, "sk_datadrop.json", header)
        self.refused(path, classifier)

    def test_weights_that_are_none(self, fitted, classifier, path):
        save_model(fitted, path)
        self.rewritten(path, "module_.safetensors", b"no weights")
        self.refused(path, classifier)

    @pytest.mark.parametrize("loader", ["PartialNode", "NdArrayNode", "SliceNode"])
    def test_schemas_that_make_no_sense(self, fitted, classifier, path, loader):
        save_model(fitted, path)
        with ZipFile(path) as archive:
            schema = archive.read("schema.json").decode()
        self.rewritten(path, "schema.json", schema.replace("TupleNode", loader))
        self.refused(path, classifier)

    def test_arrays_that_are_missing(self, fitted, classifier, path):
        save_model(fitted, path)
        with ZipFile(path) as archive:
            schema = archive.read("schema.json").decode()
        self.rewritten(path, "schema.json", schema.replace('.npy"', '.gone"'))
        self.refused(path, classifier, r"no complete file .*\.gone")

    @pytest.mark.parametrize("byte", [8, 10])
    def test_entries_that_cannot_be_read(self, fitted, classifier, path, byte):
        """They are marked as encrypted, or as compressed in an unknown way."""
        save_model(fitted, path)
        data = bytearray(path.read_bytes())
        data[data.rfind(b"PK\x01\x02") + byte] |= 97
        path.write_bytes(data)
        self.refused(path, classifier)

    def test_types_that_are_not_there(self, fitted, classifier, path):
        save_model(fitted, path)
        with ZipFile(path) as archive:
            schema = archive.read("schema.json").decode()
        gone = schema.replace('"DataDropoutClassifier"', '"Gone"')
        self.rewritten(path, "schema.json", gone)
        trusted = ["sk_datadrop._estimators.Gone"]
        with pytest.raises(ValueError, match=r"needs something that is missing.*Gone"):
            load_model(path, classifier, trusted=trusted)

    def smuggled(self, path, model, **attributes):
        """Put a model into a file as nobody would who uses `save_model`."""
        for name in ("estimator_", "round_one_estimators_"):
            vars(model).pop(name)
        vars(model).update({"estimator": None, **attributes})
        header = {"format": 1, "sk_datadrop": "0.1.0"}
        skops.io.dump({"model": model}, path)
        with ZipFile(path, "a") as archive:
            archive.writestr("sk_datadrop.json", json.dumps(header))

    def test_a_net_inside_would_be_unpickled_and_is_refused(self, fitted, path):
        mark = path.with_name("mark")
        fitted.estimator_.module_.mark = Touches(mark)
        self.smuggled(path, fitted, cv=fitted.estimator_)
        types = skops.io.get_untrusted_types(file=path)
        # The list of types does not show it, and skops runs it.
        assert not any("Touches" in name or "touch" in name for name in types)
        for trusted in (None, types, [*types, NeuralNetClassifier, MLP]):
            with pytest.raises(TypeError, match="NeuralNetClassifier"):
                load_model(path, small(), trusted=trusted)
        assert not mark.exists()
        skops.io.load(path, trusted=types)
        assert mark.exists()

    def test_a_file_does_not_choose_the_folder_of_a_cache(self, fitted, path):
        hidden = make_pipeline(StandardScaler(), memory="folder of somebody else")
        grid = {"step": np.full(1, None)}
        grid["step"][0] = hidden
        search = GridSearchCV(hidden, grid)
        self.smuggled(path, fitted, memory=hidden.memory, cv=[{"a": (search,)}])
        loaded = load_model(path, small())
        search = loaded.cv[0]["a"][0]
        assert loaded.memory is search.estimator.memory is None
        assert search.param_grid["step"][0].memory is None

    def test_a_file_chooses_no_settings_but_sizes(self, fitted, classifier, path):
        classifier.set_params(module__n_hidden=6)
        save_model(fitted, path)
        with ZipFile(path) as archive:
            schema = json.loads(archive.read("schema.json"))
        sizes = schema["content"]["net"]["content"]["sizes"]
        sizes |= skops_schema({"checkpoint": "evil.pt"})
        self.rewritten(path, "schema.json", json.dumps(schema))
        with pytest.raises(ValueError, match="invalid literal for int"):
            load_model(path, classifier)


def test_nothing_is_unpickled(fitted, classifier, blobs, path, monkeypatch):
    save_model(fitted, path)

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for module, names in (
        (pickle, ["load", "loads", "Unpickler"]),
        (joblib, ["load"]),
        (torch, ["load"]),
        (NeuralNet, ["__setstate__"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    loaded = load_model(path, classifier)
    np.testing.assert_array_equal(loaded.predict(blobs[0]), fitted.predict(blobs[0]))


def test_a_killed_save_leaves_the_former_file(fitted, classifier, path, monkeypatch):
    save_model(fitted, path)
    former = path.read_bytes()

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ZipFile, "writestr", kill)
    with pytest.raises(KeyboardInterrupt):
        save_model(fitted, path)
    assert path.read_bytes() == former
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("package", ["skops", "safetensors"])
def test_without_the_packages_says_what_to_install(fitted, path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'_model requires {package}.* `pip install "sk_datadrop\[save\]"`'
    with pytest.raises(ImportError, match="save" + message):
        save_model(fitted, path)
    with pytest.raises(ImportError, match="load" + message):
        load_model(path, small())


def test_many_labels_that_are_objects_take_little_space(classifier, blobs, path):
    X, y = blobs[0], np.array(["a", "bb", "ccc"], dtype=object)[blobs[1]]
    model = DataDropoutClassifier(classifier, cv=2).fit(X, y)
    save_model(model, path)
    with ZipFile(path) as archive:
        schema = archive.read("schema.json").decode()
    # Of classes_, not of 90 suggested_targets_.
    assert schema.count('"ccc') == schema.count("ccc") == 1
