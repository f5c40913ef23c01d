"""Rounds that `memory` gives back: the right ones, and no others."""

import copy
import functools
import os
import subprocess
import sys
import types
import warnings

import joblib
import numpy as np
import pytest
import torch
from conftest import MLP
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import EpochScoring, LRScheduler
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    GaussNewton,
    Lanczos,
    Trajectory,
    Views,
)
from sk_datadrop._memory import round_key
from sk_datadrop._workers import n_processes

SETTINGS = {"objective": "bounded", "curvature": None, "solver": None}


def same_fit(first, second):
    np.testing.assert_array_equal(first.influence_, second.influence_)
    np.testing.assert_array_equal(first.sample_mask_, second.sample_mask_)
    for a, b in zip(
        first.estimator_.module_.parameters(),
        second.estimator_.module_.parameters(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_round_one_is_run_once(classifier, blobs, tmp_path, trainings):
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
        {"curvature": GaussNewton(damping=0.2)},
        {"solver": Lanczos(tol=0.3)},
        {"views": Views(n_checkpoints=2)},
        {"engine": Trajectory()},
        {"autocast": "bfloat16"},
        {"cv": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_round_runs_it_again(
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


def test_number_of_rounds_sets_the_number_of_groups(classifier, blobs, tmp_path):
    """The first of three splits is not a split alone, on the same rows."""
    rows = np.arange(90)
    folds = [(rows[rows % 3 != k], rows[rows % 3 == k]) for k in range(3)]
    model = DataDropoutClassifier(
        classifier, cv=folds[:1], random_state=0, memory=str(tmp_path)
    )
    assert model.fit(*blobs).influence_per_view_.shape == (8, 90)
    assert model.set_params(cv=folds).fit(*blobs).influence_per_view_.shape == (3, 90)


def test_classifier_is_no_regressor(plane, tmp_path):
    """A binary net on labels of 0 and 1 can be either, with another objective."""
    X, y = plane[0], (plane[1] > 0).astype(np.float32)
    net = NeuralNetBinaryClassifier(MLP, module__n_outputs=1, max_epochs=2)
    rows = np.arange(80)
    options = {"cv": [(rows[::2], rows[1::2])], "random_state": 0}
    DataDropoutClassifier(net, memory=str(tmp_path), **options).fit(X, y)
    plain = DataDropoutRegressor(net, **options).fit(X, y)
    kept = DataDropoutRegressor(net, memory=str(tmp_path), **options).fit(X, y)
    same_fit(kept, plain)


SCRIPT = """
import sys
import numpy as np, torch
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
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
    model.set_params(n_jobs=int(sys.argv[2])).fit(X, y)
"""


def test_nets_of_a_script(tmp_path):
    """Other processes, workers and searches find the rounds of a net of a script."""
    script, cache = tmp_path / "script.py", tmp_path / "cache"
    script.write_text(SCRIPT)
    here = os.environ | {"PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"}
    # Two rounds of the fit and of the refit, and two of each of the folds.
    runs = {"1": 2, "2": 2, "search": 6, "search again": 6}
    for seed, (how, n_rounds) in enumerate(runs.items()):
        subprocess.run(
            [sys.executable, script, cache, how.split()[0]],
            check=True,
            env=here | {"PYTHONHASHSEED": str(seed)},
        )
        assert len(list(cache.rglob("output.pkl"))) == n_rounds


def test_other_rows_run_it_again(classifier, blobs, tmp_path, trainings):
    X, y = blobs
    model = DataDropoutClassifier(
        classifier, cv=0.5, random_state=0, memory=str(tmp_path)
    )
    model.fit(X, y)
    X[0, 0] += 1e-3
    model.fit(X, y)
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


@pytest.mark.filterwarnings("ignore:A worker stopped while")
def test_workers_share_it_and_change_nothing(regressor, plane, tmp_path):
    alone = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
    model = DataDropoutRegressor(
        regressor, cv=3, random_state=0, n_jobs=2, memory=str(tmp_path)
    )
    same_fit(model.fit(*plane), alone)
    search = GridSearchCV(
        model.set_params(n_jobs=None), {"drop_fraction": [0.0, 0.1]}, cv=2, n_jobs=2
    )
    plain = GridSearchCV(
        DataDropoutRegressor(regressor, cv=3, random_state=0), search.param_grid, cv=2
    )
    np.testing.assert_array_equal(
        search.fit(*plane).cv_results_["mean_test_score"],
        plain.fit(*plane).cv_results_["mean_test_score"],
    )


def test_threads_do_not_share_the_generator(regressor, plane):
    """joblib gives threads to workers of a search; torch's generator is global."""
    plain = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
    model = DataDropoutRegressor(regressor, cv=3, random_state=0, n_jobs=2)
    with joblib.parallel_config(backend="threading"):
        assert n_processes(2) == 1
        same_fit(model.fit(*plane), plain)


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

    def test_random_state_none_is_no_use(self, classifier, blobs, tmp_path):
        model = DataDropoutClassifier(classifier, cv=2, memory=str(tmp_path))
        with pytest.warns(UserWarning, match="memory has no effect with random_state"):
            model.fit(*blobs)


SCALE = 2.0
OPTIONS = {"shift": [0.0]}


def decorated(function):
    @functools.wraps(function)
    def wrapper(X):
        return function(X) + OPTIONS["shift"][0]

    return wrapper


CONFIG = types.SimpleNamespace(offset=0.0)
TABLE = {"shift": functools.partial(torch.add, other=0)}


@decorated
def scaled(X):
    return SCALE * TABLE["shift"](X) + CONFIG.offset


def accuracy(net, X, y):
    return 0.0


class UserNet(MLP):
    factor = 3

    def forward(self, X):
        return super().forward(scaled(X)) * self.factor


class TestKey:
    def key(self, **parameters):
        torch.manual_seed(0)
        module = UserNet()
        net = NeuralNetClassifier(UserNet, criterion=nn.CrossEntropyLoss, **parameters)
        return round_key(net, module.modules(), SETTINGS, [])

    def test_is_the_same_for_the_same(self):
        weight = torch.tensor([1.0, 2.0, 3.0])
        assert self.key() == self.key()
        assert self.key(criterion__weight=weight) == self.key(
            criterion__weight=weight.clone()
        )
        assert self.key(callbacks=[EpochScoring("accuracy")]) == self.key(
            callbacks=[EpochScoring("accuracy")]
        )

    def test_sees_code_that_was_changed(self, monkeypatch):
        before = self.key()
        with monkeypatch.context() as context:
            context.setattr(UserNet, "forward", lambda self, X: scaled(X)[:, :3])
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setattr(UserNet, "factor", 4)
            assert self.key() != before
        with monkeypatch.context() as context:
            other = types.FunctionType((lambda X: X - SCALE).__code__, globals())
            other.__module__, other.__qualname__ = __name__, "scaled"
            context.setitem(globals(), "scaled", other)
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setitem(globals(), "SCALE", 2.5)
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setitem(OPTIONS, "shift", [1.0])
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setattr(MLP, "forward", lambda self, X: self.second(X))
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setitem(TABLE, "shift", functools.partial(torch.add, other=1))
            assert self.key() != before
        with monkeypatch.context() as context:
            context.setattr(CONFIG, "offset", 1.0)
            assert self.key() != before
        assert self.key() == before

    def test_sees_code_of_callbacks(self, monkeypatch):
        def key():
            return self.key(callbacks=[EpochScoring(accuracy)])

        before = key()
        monkeypatch.setattr(accuracy, "__code__", (lambda net, X, y: 1.0).__code__)
        assert key() != before

    def test_sees_what_the_net_starts_from(self):
        """Whatever it comes from: here the global generator."""
        net = NeuralNetClassifier(UserNet, criterion=nn.CrossEntropyLoss)
        torch.manual_seed(0)
        first, second = UserNet(), UserNet()
        other = round_key(net, second.modules(), SETTINGS, [])
        assert round_key(net, first.modules(), SETTINGS, []) != other

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.complex64])
    def test_tensors_of_any_dtype(self, dtype):
        one, two = (torch.tensor(v).to(dtype) for v in ([1.0, 0.0], [0.0, 1.0]))
        assert self.key(criterion__weight=one) != self.key(criterion__weight=two)
        assert self.key(criterion__weight=one) == self.key(
            criterion__weight=one.clone()
        )

    def test_sees_versions(self, monkeypatch):
        before = self.key()
        monkeypatch.setattr(torch, "__version__", "0.0")
        assert self.key() != before
