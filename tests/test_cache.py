"""Splits that `memory` gives back: the right ones, and no others."""

import ast
import copy
import functools
import json
import os
import subprocess
import sys
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import MLP
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring, LRScheduler
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
)
from sk_datadrop._cache import Cache, cache_key
from sk_datadrop._training import seeded


def same_fit(first, second):
    np.testing.assert_array_equal(first.influence_, second.influence_)
    np.testing.assert_array_equal(first.harm_probability_, second.harm_probability_)
    np.testing.assert_array_equal(first.sample_mask_, second.sample_mask_)
    for a, b in zip(
        first.estimator_.module_.parameters(),
        second.estimator_.module_.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_round_one_runs_once(classifier, blobs, tmp_path, trainings):
    plain = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(*blobs)
    assert len(trainings) == 3
    kept = DataDropoutClassifier(classifier, cv=3, random_state=0, memory=str(tmp_path))
    same_fit(kept.fit(*blobs), plain)
    assert len(trainings) == 6
    same_fit(kept.fit(*blobs), plain)
    kept.set_params(drop_fraction=0.2).fit(*blobs)
    assert kept.n_dropped_ == 18
    assert len(trainings) == 6
    assert set(kept.timings_) == {"round_one", "scoring", "round_two"}


def test_memory_object(classifier, blobs, tmp_path, trainings):
    memory = joblib.Memory(tmp_path, verbose=0)
    for _ in range(2):
        DataDropoutClassifier(classifier, cv=2, random_state=0, memory=memory).fit(
            *blobs
        )
    assert len(trainings) == 2
    with pytest.raises(ValueError, match="'memory' should be None"):
        DataDropoutClassifier(classifier, cv=2, random_state=0, memory=1).fit(*blobs)


@pytest.mark.parametrize(
    "change",
    [
        {"estimator__lr": 0.04},
        {"estimator__max_epochs": 4},
        {"estimator__module__n_hidden": 6},
        {"estimator__optimizer": torch.optim.SGD},
        {"estimator__criterion__weight": torch.tensor([1.0, 2.0, 1.0])},
        {"estimator__callbacks": [("rate", LRScheduler("StepLR", step_size=2))]},
        {"random_state": 1},
        {"objective": "loss"},
        {"engine": InfluenceFunctions(GaussNewton(damping=0.2))},
        {"engine": InfluenceFunctions(solver=Lanczos(tol=0.3))},
        {"engine": InfluenceFunctions(autocast="bfloat16")},
        {"engine": InfluenceFunctions(n_checkpoints=2)},
        {"engine": InfluenceFunctions(n_groups=3)},
        {"cv": 3},
        # Others may end early.
        {"drop_fraction": "auto"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_a_split_runs_it_again(
    classifier, blobs, tmp_path, trainings, change
):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path)
    )
    model.fit(*blobs)
    changed = copy.deepcopy(model).set_params(**change)
    trainings.clear()
    changed.fit(*blobs)
    assert len(trainings) == (3 if "cv" in change else 2)
    changed.fit(*blobs)
    model.fit(*blobs)
    assert len(trainings) == (3 if "cv" in change else 2)


@pytest.mark.parametrize(
    "change",
    [
        {"engine": InfluenceFunctions()},
        {"drop_fraction": 0.2},
        {"estimator__verbose": 1},
        {"verbose": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_leaves_a_split_as_it_is_does_not_run_it_again(
    classifier, blobs, tmp_path, trainings, change
):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path)
    )
    first = copy.deepcopy(model.fit(*blobs))
    trainings.clear()
    model.set_params(**change).fit(*blobs)
    assert trainings == []
    np.testing.assert_array_equal(model.influence_, first.influence_)


def test_number_of_splits_sets_the_number_of_groups(classifier, blobs, tmp_path):
    """The first of three splits is not a split alone, on the same samples."""
    samples = np.arange(90)
    folds = [(samples[samples % 3 != k], samples[samples % 3 == k]) for k in range(3)]
    model = DataDropoutClassifier(
        classifier, cv=folds[:1], random_state=0, memory=str(tmp_path)
    )
    assert model.fit(*blobs).influence_per_view_.shape == (8, 90)
    assert model.set_params(cv=folds).fit(*blobs).influence_per_view_.shape == (3, 90)


def test_classifier_is_no_regressor(plane, tmp_path):
    """A binary net on labels of 0 and 1 can be either, with another objective."""
    X, y = plane[0], (plane[1] > 0).astype(np.float32)
    net = NeuralNetBinaryClassifier(MLP, module__n_outputs=1, max_epochs=2)
    samples = np.arange(80)
    options = {"cv": [(samples[::2], samples[1::2])], "random_state": 0}
    DataDropoutClassifier(net, memory=str(tmp_path), **options).fit(X, y)
    plain = DataDropoutRegressor(net, **options).fit(X, y)
    kept = DataDropoutRegressor(net, memory=str(tmp_path), **options).fit(X, y)
    same_fit(kept, plain)


SCRIPT = """
import pickle, sys
import numpy as np, torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EpochScoring
from sk_datadrop import DataDropoutClassifier

class Block(torch.nn.Linear):
    pass

BLOCKS = {"plain": Block}
width = 7

class Net(torch.nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.width = width if "plain" in {"plain", "residual", "gated"} else 0
        self.layers = BLOCKS["plain"](4, 2)

    def forward(self, X):
        return self.layers(X)

def share(net, X, y):
    return float(np.mean(net.predict(X) == y))

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
y = (X[:, 0] > 0).astype(int)
net = NeuralNetClassifier(
    Net, criterion=torch.nn.CrossEntropyLoss, max_epochs=2,
    callbacks=[("share", EpochScoring(share, name="share"))],
)
model = DataDropoutClassifier(net, cv=2, random_state=0, memory=sys.argv[1])
if sys.argv[2] == "search":
    GridSearchCV(
        model, {"drop_fraction": [0.0, 0.1]}, cv=2, n_jobs=2, error_score="raise"
    ).fit(X, y)
else:
    for n_jobs in sys.argv[2].split():
        model.set_params(n_jobs=int(n_jobs)).fit(X, y)
        # A split that was found took the seconds that it took when it was run.
        print(model.timings_["round_one"], model.influence_.tolist())
        pickle.dumps(model)
"""


def test_nets_of_a_script(tmp_path):
    """Other processes, workers and searches find the splits of a net of a script."""
    script, cache = tmp_path / "script.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    here = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
    }
    # Two splits of the fit and of the refit, and two of each of the folds.
    runs = {"2 2": 2, "1": 2, "search": 6, "search again": 6}
    fits = []
    for seed, (how, n_splits) in enumerate(runs.items()):
        before = written(cache)
        process = subprocess.run(
            [sys.executable, script, cache, how.removesuffix(" again")],
            env=here | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        fits += process.stdout.splitlines()
        assert len(written(cache)) == n_splits
        assert before.items() <= written(cache).items()
    assert len(fits) == 3
    assert len(set(fits)) == 1


def written(folder):
    """Return the entries of a cache, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("output.pkl")}


@pytest.mark.parametrize("changed", ["X", "y", "X_val", "y_val"])
def test_other_samples_run_it_again(classifier, blobs, tmp_path, trainings, changed):
    X, y = blobs
    samples = {"X": X[:60], "y": y[:60], "X_val": X[60:], "y_val": y[60:]}
    model = DataDropoutClassifier(classifier, random_state=0, memory=str(tmp_path))
    model.fit(**samples)
    model.fit(**{name: array.copy() for name, array in samples.items()})
    assert len(trainings) == 1
    other = samples[changed].copy()
    other[0] = other[0] + 1e-3 if other.ndim > 1 else (other[0] + 1) % 3
    model.fit(**samples | {changed: other})
    assert len(trainings) == 2


def test_grid_search_trains_round_one_once_per_fold(
    classifier, blobs, tmp_path, trainings
):
    grid = {"drop_fraction": [0.0, 0.05, 0.1, 0.2]}
    model = DataDropoutClassifier(classifier, cv=2, random_state=0)
    without = GridSearchCV(model, grid, cv=3).fit(*blobs)
    assert len(trainings) == 2 * (3 * 4 + 1)
    trainings.clear()
    model.set_params(memory=str(tmp_path))
    search = GridSearchCV(model, grid, cv=3).fit(*blobs)
    assert len(trainings) == 2 * (3 + 1)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], without.cv_results_["mean_test_score"]
    )
    same_fit(search.best_estimator_, without.best_estimator_)


def test_workers_share_it_and_change_nothing(regressor, plane, tmp_path, trainings):
    alone = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
    assert len(trainings) == 3
    model = DataDropoutRegressor(
        regressor, cv=3, random_state=0, n_jobs=2, memory=str(tmp_path)
    )
    same_fit(model.fit(*plane), alone)
    entries, seconds = written(tmp_path), model.timings_["round_one"]
    assert len(entries) == 3
    for n_jobs in (2, None):
        same_fit(model.set_params(n_jobs=n_jobs).fit(*plane), alone)
        # Of a split that was found, the time is that of when it was run.
        assert model.timings_["round_one"] == seconds
        assert written(tmp_path) == entries
    assert len(trainings) == 3


def test_missing_splits_are_shared_out(regressor, plane, tmp_path, trainings):
    alone = DataDropoutRegressor(regressor, cv=4, random_state=0).fit(*plane)
    model = DataDropoutRegressor(
        regressor, cv=4, random_state=0, n_jobs=2, memory=str(tmp_path)
    )
    same_fit(model.fit(*plane), alone)
    entries = written(tmp_path)
    lost = sorted(entries)[1:3]
    for path in lost:
        path.unlink()
    same_fit(model.fit(*plane), alone)
    found = written(tmp_path)
    assert found.keys() == entries.keys()
    assert {path for path in found if found[path] != entries[path]} == set(lost)
    # This process ran those of the first fit only.
    assert len(trainings) == 4


@pytest.mark.filterwarnings("ignore:A worker stopped while")
def test_searches_side_by_side_share_it(regressor, plane, tmp_path):
    grid = {"drop_fraction": [0.0, 0.1]}
    model = DataDropoutRegressor(regressor, cv=3, random_state=0)
    plain = GridSearchCV(model, grid, cv=2).fit(*plane)
    model = clone(model).set_params(memory=str(tmp_path))
    search = GridSearchCV(model, grid, cv=2, n_jobs=2).fit(*plane)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    # Three splits of each of the folds, and of the refit.
    assert len(written(tmp_path)) == 3 * (2 + 1)


def test_a_damaged_entry_is_computed_again(
    classifier, blobs, tmp_path, trainings, caplog
):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path)
    )
    expected = copy.deepcopy(model.fit(*blobs))
    damaged = sorted(written(tmp_path))[0]
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    same_fit(model.fit(*blobs), expected)
    assert "Exception while loading results" in caplog.text
    assert len(trainings) == 2 + 1
    same_fit(model.fit(*blobs), expected)
    assert len(trainings) == 2 + 1


@pytest.mark.parametrize("damage", [b"", b"cgone\nNet\n."])
def test_garbage_is_computed_again(classifier, blobs, tmp_path, trainings, damage):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path)
    )
    expected = copy.deepcopy(model.fit(*blobs))
    sorted(written(tmp_path))[0].write_bytes(damage)
    for path in tmp_path.rglob("metadata.json"):
        path.write_bytes(damage)
    for _ in range(2):
        same_fit(model.fit(*blobs), expected)
        assert len(trainings) == 2 + 1


def test_an_entry_that_cannot_be_read_now_is_not_removed(tmp_path, monkeypatch):
    """Memory or file handles may have run out only for a moment."""
    cache, key = Cache(str(tmp_path)), {"a": "b"}
    cache.keep(key, 3, "x")
    with monkeypatch.context() as patched:
        patched.setattr(
            "joblib.numpy_pickle.load", lambda *a, **k: 1 / 0 if a else None
        )
        assert cache.find(key) == []
    assert cache.find(key) == [3]


def test_a_folder_that_has_results_is_used_though_none_can_be_added(
    tmp_path, monkeypatch
):
    cache = Cache(str(tmp_path))
    cache.keep({"a": "b"}, 3, "x")
    again = Cache(str(tmp_path))
    monkeypatch.setattr("joblib.numpy_pickle.dump", failing)
    with pytest.raises(ValueError, match="results cannot be kept there"):
        again.check_writable()
    assert again.find({"a": "b"}) == [3]
    again.check_writable()
    with pytest.warns(UserWarning, match="a result of y was not kept"):
        again.keep({"a": "c"}, 4, "y")


def failing(*arguments, **options):
    raise OSError


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_folder_that_cannot_be_made_is_refused(
    classifier, blobs, tmp_path, trainings, below
):
    (tmp_path / "file").touch()
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path / below)
    )
    message = rf"memory='{tmp_path / below}': results cannot be kept.*Not a directory"
    with pytest.raises(ValueError, match=message + ".*Pass a folder that you may"):
        model.fit(*blobs)
    assert trainings == []


@pytest.fixture
def fill_disk(monkeypatch):
    """Return a function, after which joblib writes so many bytes and no more."""

    def fill(room=0):
        disk = types.SimpleNamespace(room=room)

        @contextmanager
        def open_item(path, mode):
            with Path(path).open(mode) as file:
                yield file if mode == "rb" else OnFullDisk(file, disk)

        backend = joblib.memory.FileSystemStoreBackend
        monkeypatch.setattr(backend, "_open_item", staticmethod(open_item))

    return fill


class OnFullDisk:
    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def write(self, data):
        data = bytes(data)
        self.disk.room -= self.file.write(data[: self.disk.room])
        if self.disk.room == 0:
            raise OSError(28, "No space left on device")
        return len(data)

    def tell(self):
        return self.file.tell()


def test_a_full_disk_is_told_before_the_trainings(
    classifier, blobs, tmp_path, trainings, fill_disk
):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=0, memory=str(tmp_path)
    )
    model.fit(*blobs)
    fill_disk()
    # What is there can be read.
    model.fit(*blobs)
    with pytest.raises(ValueError, match="kept there .*No space left on device"):
        model.set_params(random_state=1).fit(*blobs)
    assert len(trainings) == 2


def test_fit_goes_on_where_the_disk_is_full(
    classifier, blobs, tmp_path, monkeypatch, fill_disk
):
    options = {"cv": 3, "drop_fraction": "auto", "random_state": 0}
    expected = DataDropoutClassifier(classifier, **options).fit(*blobs)
    model = DataDropoutClassifier(classifier, memory=str(tmp_path), **options)
    fill_disk(room=30_000)
    with pytest.warns(UserWarning, match="of round 1 was not kept .*No space") as seen:
        same_fit(model.fit(*blobs), expected)
    assert Path(seen[0].filename) == Path(__file__)
    monkeypatch.undo()
    # Nothing is left of what was not kept.
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= {".gitignore", "func_code.py", "output.pkl", "metadata.json"}
    assert len(written(tmp_path)) == 1
    same_fit(model.fit(*blobs), expected)


def test_a_file_that_a_callback_cannot_write_is_told_with_the_training(
    classifier, blobs
):
    class Full(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise OSError(28, "No space left on device")

    model = DataDropoutClassifier(classifier.set_params(callbacks=[Full()]), cv=2)
    with pytest.raises(OSError, match="No space left") as raised:
        model.fit(*blobs)
    assert raised.value.__notes__[0].startswith("round 1, split 1 of 2: a file could")


def test_entries_say_what_they_are(classifier, blobs, tmp_path):
    model = DataDropoutClassifier(
        classifier, cv=2, random_state=5, memory=str(tmp_path)
    )
    model.fit(*blobs)
    keys = [
        ast.literal_eval(json.loads(path.read_text())["input_args"]["key"])
        for path in tmp_path.rglob("metadata.json")
    ]
    first, second = keys
    assert {name for name in first | second if first[name] != second[name]} == {"split"}
    assert first["seed"] == "5"
    assert f"torch {torch.__version__}" in first["versions"]
    assert all(type(value) is str for value in first.values())


def test_warnings_come_back_with_the_round(classifier, blobs, tmp_path):
    net = classifier.set_params(module=WarningMLP)
    model = DataDropoutClassifier(net, cv=2, random_state=0, memory=str(tmp_path))
    for _ in range(2):
        with pytest.warns(UserWarning, match="careful with this net"):
            model.fit(*blobs)


class WarningMLP(MLP):
    def forward(self, X):
        if self.training:
            warnings.warn("careful with this net", UserWarning, stacklevel=2)
        return super().forward(X)


class TestRefused:
    def test_module_instance(self, blobs, tmp_path):
        net = NeuralNetClassifier(MLP(), criterion=nn.CrossEntropyLoss)
        model = DataDropoutClassifier(net, random_state=0, memory=str(tmp_path))
        with (
            pytest.warns(UserWarning, match="holds an instance"),
            pytest.raises(ValueError, match="memory= needs a module class"),
        ):
            model.fit(*blobs)

    def test_lambda(self, classifier, blobs, tmp_path):
        model = DataDropoutClassifier(
            classifier,
            objective=lambda outputs, y: outputs[:, 0],
            random_state=0,
            memory=str(tmp_path),
        )
        with pytest.raises(ValueError, match="memory= cannot tell objective=<function"):
            model.fit(*blobs)

    def test_local_class(self, classifier, blobs, tmp_path):
        class Local(MLP):
            pass

        model = DataDropoutClassifier(
            classifier.set_params(module=Local), random_state=0, memory=str(tmp_path)
        )
        with pytest.raises(ValueError, match="memory= cannot tell module="):
            model.fit(*blobs)


def test_memory_without_a_seed_has_no_effect(classifier, blobs, tmp_path, trainings):
    model = DataDropoutClassifier(classifier, cv=2, memory=str(tmp_path))
    for n_trainings in (2, 4):
        with pytest.warns(UserWarning, match="memory has no effect with random_state"):
            model.fit(*blobs)
        assert len(trainings) == n_trainings


SCALE = 2.0
OPTIONS = {"shift": [0.0]}


def decorated(function):
    @functools.wraps(function)
    def wrapper(X):
        return function(X) + OPTIONS["shift"][0]

    return wrapper


def shifted(X):
    return X


def lifted(X):
    return X + 1


STEPS = {"shift": shifted}


class Offset:
    value = 0.0


@decorated
def scaled(X):
    return SCALE * STEPS["shift"](X) + Offset().value


def accuracy(net, X, y):
    return 0.0


class UserNet(MLP):
    factor = 3

    def forward(self, X):
        return super().forward(scaled(X)) * self.factor


def unscaled():
    """Return another function of the name `scaled`."""
    other = types.FunctionType((lambda X: X - SCALE).__code__, globals())
    other.__module__, other.__qualname__ = __name__, "scaled"
    return other


HERE = globals()
CHANGED_CODE = {
    "method": ("attribute", UserNet, "forward", lambda self, X: scaled(X)[:, :3]),
    "method of a base": ("attribute", MLP, "forward", lambda self, X: self.second(X)),
    "attribute of a class": ("attribute", UserNet, "factor", 4),
    "attribute of another class": ("attribute", Offset, "value", 1.0),
    "function": ("item", HERE, "scaled", unscaled()),
    "function in a table": ("item", STEPS, "shift", lifted),
    "code of a function": ("attribute", shifted, "__code__", lifted.__code__),
    "number": ("item", HERE, "SCALE", 2.5),
    "table": ("item", OPTIONS, "shift", [1.0]),
}


def key_of(**parameters):
    net = NeuralNetClassifier(UserNet, criterion=nn.CrossEntropyLoss, **parameters)
    with seeded(0, "cpu"):
        probe = clone(net).initialize()
    return cache_key(net, probe, {"objective": "bounded"}, [])


class TestKey:
    def test_is_the_same_for_the_same(self):
        weight = torch.tensor([1.0, 2.0, 3.0])
        assert key_of() == key_of()
        assert key_of(criterion__weight=weight) == key_of(
            criterion__weight=weight.clone()
        )
        assert key_of(callbacks=[EpochScoring("accuracy")]) == key_of(
            callbacks=[EpochScoring("accuracy")]
        )

    def test_does_not_depend_on_what_was_copied_before(self):
        """The first copy of an instance adds an attribute to its class."""
        before = key_of()
        copy.copy(Offset())
        assert "__slotnames__" in vars(Offset)
        assert key_of() == before

    @pytest.mark.parametrize("change", CHANGED_CODE)
    def test_sees_code_that_was_changed(self, change, monkeypatch):
        kind, owner, name, value = CHANGED_CODE[change]
        before = key_of()
        with monkeypatch.context() as context:
            set_it = context.setitem if kind == "item" else context.setattr
            set_it(owner, name, value)
            assert key_of() != before
        assert key_of() == before

    def test_sees_code_of_callbacks(self, monkeypatch):
        before = key_of(callbacks=[EpochScoring(accuracy)])
        monkeypatch.setattr(accuracy, "__code__", (lambda net, X, y: 1.0).__code__)
        assert key_of(callbacks=[EpochScoring(accuracy)]) != before

    def test_sees_what_the_net_starts_from(self):
        """Whatever it comes from: here the global generator."""
        net = NeuralNetClassifier(UserNet, criterion=nn.CrossEntropyLoss)
        keys = []
        for seed in (0, 1):
            with seeded(seed, "cpu"):
                probe = clone(net).initialize()
            keys.append(cache_key(net, probe, {}, []))
        first, second = keys
        assert {name for name in first if first[name] != second[name]} == {"untrained"}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.complex64])
    def test_tensors_of_any_dtype(self, dtype):
        one, two = (torch.tensor(v).to(dtype) for v in ([1.0, 0.0], [0.0, 1.0]))
        assert key_of(criterion__weight=one) != key_of(criterion__weight=two)
        assert key_of(criterion__weight=one) == key_of(criterion__weight=one.clone())

    def test_sees_versions(self, monkeypatch):
        before = key_of()
        monkeypatch.setattr(torch, "__version__", "0.0")
        assert key_of() != before


@pytest.mark.parametrize(
    "other", [(slice(10, 60), slice(60, 90)), (slice(60), slice(60, 80))]
)
def test_a_split_is_both_of_its_parts(classifier, blobs, tmp_path, trainings, other):
    """Other training samples, or other held-out ones, make another split."""
    indices = np.arange(90)
    for train, held_out in [(slice(60), slice(60, 90)), other]:
        DataDropoutClassifier(
            classifier,
            cv=[(indices[train], indices[held_out])],
            random_state=0,
            memory=str(tmp_path),
        ).fit(*blobs)
    assert len(trainings) == 2


class Unlike:
    """An objective that no copy of it is stored like."""

    def __call__(self, outputs, y):
        return outputs[:, 0]

    def __getstate__(self):
        return {"place": id(self)}


def test_what_cannot_be_recognised_is_refused(classifier, blobs, tmp_path):
    model = DataDropoutClassifier(
        classifier, objective=Unlike(), cv=2, random_state=0, memory=str(tmp_path)
    )
    with pytest.raises(ValueError, match="two copies of it have different hashes"):
        model.fit(*blobs)
