"""Whoever does the work, and whatever happens to them, the result is that of one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    InfluenceFunctions,
    _parallel,
    influence_scores,
)
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import _shard_scores
from sk_datadrop._parallel import _run_in_worker, n_processes, run_all
from sk_datadrop._plan import make_plan
from sk_datadrop._progress import SILENT
from sk_datadrop._samples import Samples
from sk_datadrop._schedule import run
from sk_datadrop._two_rounds import score_split
from sk_datadrop.nets import SmallCNN


class Traced(SmallCNN):
    """Leave the ids of the processes it runs in."""

    def __init__(self, folder, **params):
        super().__init__(**params)
        self.folder = Path(folder)

    def forward(self, X):
        (self.folder / str(os.getpid())).touch()
        return super().forward(X)


class DieOnce(Callback):
    """Kill one of the other processes: the first that trains as a second one.

    Dask keeps what it was sent in the processes that have used it.
    """

    def __init__(self, folder, caller):
        self.folder = folder
        self.caller = caller

    def on_epoch_end(self, net, **kwargs):
        if os.getpid() == self.caller:
            return
        folder = Path(self.folder)
        (folder / str(os.getpid())).touch()
        if len(list(folder.iterdir())) == 2:
            with suppress(FileExistsError):
                (folder / "died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.images[:240, None] / 16).astype(np.float32), data.target[:240]


def classifier(callbacks=None, folder=None, **params):
    module = {"module": SmallCNN} if folder is None else {"module": Traced}
    if folder is not None:
        module["module__folder"] = str(folder)
    net = NeuralNetClassifier(
        **module,
        module__channels=(4,),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=2,
        batch_size=32,
        callbacks=callbacks,
        verbose=0,
    )
    params = {"cv": 3, "drop_fraction": 0.1, "random_state": 0} | params
    return DataDropoutClassifier(net, **params)


def assert_same(model, expected, X):
    np.testing.assert_array_equal(
        model.influence_per_view_, expected.influence_per_view_
    )
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("cv", [3, 0.3], ids=["splits", "samples of a single split"])
def test_fit_is_shared_out(digits, cv, tmp_path):
    X, y = digits
    model = classifier(folder=tmp_path, cv=cv, n_jobs=2).fit(X, y)
    assert_same(model, classifier(cv=cv).fit(X, y), X)
    others = {path.name for path in tmp_path.iterdir()} - {str(os.getpid())}
    assert len(others) in (1, 2)


@pytest.mark.parametrize("batch_size", [None, 7, 1000])
def test_scores_are_those_of_one_process(batch_size, digits):
    X, y = digits
    model = classifier().fit(X, y)
    one, two = (
        influence_scores(
            model.estimator_,
            *(X, y, X[:50], y[:50]),
            batch_size=batch_size,
            engine=InfluenceFunctions(n_groups=2),
            n_jobs=n_jobs,
            random_state=0,
        )
        for n_jobs in (None, 2)
    )
    np.testing.assert_array_equal(two.influence_per_view, one.influence_per_view)


def test_functional_net_goes_to_workers(digits):
    X, y = digits
    net = classifier().fit(X, y).estimator_
    state = {k: v + 1 for k, v in net.module_.state_dict().items()}
    functional = FunctionalNet(net, state)
    functional.derivative = "finite differences"
    (sent,) = joblib.Parallel(2)([joblib.delayed(lambda f: f)(functional)])
    assert torch.equal(sent.theta, functional.theta)
    assert sent.derivative == functional.derivative
    batch = torch.as_tensor(X[:3])
    assert torch.equal(
        sent.outputs(sent.theta, batch), functional.outputs(functional.theta, batch)
    )


def test_results_come_with_the_positions_of_their_calls(regressor):
    calls = [(base, 2) for base in range(5)]
    expected = [(number, base**2) for number, (base, _) in enumerate(calls)]
    assert list(run_all(pow, calls, n_jobs=None, net=regressor)) == expected
    assert sorted(run_all(pow, calls, n_jobs=2, net=regressor)) == expected


@pytest.mark.parametrize(
    ("n_cores", "callers", "n_jobs", "expected"),
    [(2, 3, 2, 1), (8, 8, 2, 4), (8, 3, 2, 3), (1, 1, 2, 1), (8, 8, 3, 4)],
    ids=["few cores", "many", "few threads", "one core", "more workers than calls"],
)
def test_workers_share_the_cores(
    n_cores, callers, n_jobs, expected, regressor, monkeypatch
):
    """Two workers of two threads each, on two cores, would wait for each other."""
    monkeypatch.setattr(_parallel, "cpu_count", lambda: n_cores)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(callers)
        found = dict(
            run_all(torch.get_num_threads, [(), ()], n_jobs=n_jobs, net=regressor)
        )
    finally:
        torch.set_num_threads(before)
    assert found == {0: expected, 1: expected}


def test_threads_do_not_share_the_generator(regressor, plane):
    """joblib gives threads to workers of a search; torch's generator is global."""
    model = DataDropoutRegressor(regressor, cv=3, random_state=0, n_jobs=2)
    expected = DataDropoutRegressor(regressor, cv=3, random_state=0).fit(*plane)
    assert n_processes(2) == 2
    with joblib.parallel_config(backend="threading"):
        assert n_processes(2) == 1
        model.fit(*plane)
    np.testing.assert_array_equal(
        model.influence_per_view_, expected.influence_per_view_
    )
    np.testing.assert_array_equal(model.predict(plane[0]), expected.predict(plane[0]))


SCRIPT = """
import pickle, sys
import numpy as np, torch
from skorch import NeuralNetClassifier
from sk_datadrop import DataDropoutClassifier, influence_scores

class Net(torch.nn.Module):
    def __init__(self, activation=torch.tanh, twice=False):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)
        self.activation = activation
        if twice:
            self.activation = lambda X: activation(activation(X))

    def forward(self, X):
        return self.second(self.activation(self.first(X)))

rng = np.random.default_rng(0)
y = np.arange(80) % 2
X = (rng.normal(size=(80, 4)) + y[:, None]).astype(np.float32)

def net(**options):
    return NeuralNetClassifier(
        Net, criterion=torch.nn.CrossEntropyLoss, lr=0.1, max_epochs=2, verbose=0,
        **options,
    )

plain, named = net().fit(X, y), net(module__activation=lambda X: torch.relu(X))
for given in (plain, named.fit(X, y), net(module__twice=True)):
    for cv in (2, 0.3):
        one, two = (
            DataDropoutClassifier(given, cv=cv, n_jobs=n_jobs, random_state=0).fit(X, y)
            for n_jobs in (None, 2)
        )
        np.testing.assert_array_equal(two.influence_, one.influence_)
        np.testing.assert_array_equal(two.predict_proba(X), one.predict_proba(X))
        of_first = (m.round_one_estimators_[0].predict_proba(X) for m in (one, two))
        np.testing.assert_array_equal(*of_first)
    if given is plain:
        assert type(two.round_one_estimators_[0].module_) is Net
        pickle.loads(pickle.dumps(two))
scores = [
    influence_scores(named, X[:60], y[:60], X[60:], y[60:], n_jobs=n_jobs).influence
    for n_jobs in (None, 2)
]
np.testing.assert_array_equal(*scores)
"""


def test_what_pickle_cannot_name_goes_to_workers_and_back(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


class Locked(torch.nn.Linear):
    """It can be copied, and cannot be sent."""

    def __init__(self):
        super().__init__(4, 3)
        self.lock = threading.Lock()

    def __deepcopy__(self, memo):
        return Locked()


def test_what_cannot_be_sent_is_refused_before_training(blobs, trainings):
    net = NeuralNetClassifier(Locked, criterion=torch.nn.CrossEntropyLoss, verbose=0)
    message = r"n_jobs=2: net \(module_.lock\).*cannot be sent .* set n_jobs=None"
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(net, n_jobs=2).fit(*blobs)
    assert trainings == []
    lock = threading.Lock()

    def objective(outputs, y):
        with lock:
            return outputs.logsumexp(1)

    net = net.set_params(module=torch.nn.Linear, module__in_features=4)
    net.set_params(module__out_features=3)
    message = "net, samples or objective cannot be sent between processes: .*lock"
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(net, objective=objective, n_jobs=2).fit(*blobs)


def heard(function, *arguments):
    """Return what a call warns the user of, and what torch does only once."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(*arguments)
    finally:
        torch.set_warn_always(before)
    return [str(w.message) for w in caught if w.category is UserWarning]


def looked_at(plan, number, bar=SILENT):
    """Score a split, and tell what the process had, and what it was warned of."""
    X, y = plan.samples.X, plan.samples.y
    results = []
    messages = heard(lambda: results.append(score_split(plan, number)))
    messages += [w.message for w in results[0].warnings if w.category is UserWarning]
    files = [array.filename for array in (X, y) if not array.flags.writeable]
    return os.getpid(), X.shape, y.shape, files, messages


@pytest.fixture(scope="module")
def large():
    """4 MB of inputs and more than one of targets, and a net for them."""
    rng = np.random.default_rng(0)
    X = rng.random((1024, 1024), dtype=np.float32)
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=1024,
        module__out_features=600,
        max_epochs=1,
        verbose=0,
    )
    return X, X[:, :600].copy(), net


def test_samples_are_passed_whole_and_once(large):
    """Workers map the very same file into memory, and cut it themselves."""
    X, y, net = large
    owner = DataDropoutRegressor(net, cv=3, random_state=0)
    plan = make_plan(owner, X, y, None, None, {})
    assert plan.samples.X is X
    assert plan.samples.y is y
    calls = [(number,) for number in range(3)]
    works = [1.0] * len(calls)
    options = {"n_jobs": 2, "bar": SILENT, "name": "looked at"}
    found = run(looked_at, plan, calls, works, **options)
    pids, *shapes, files, messages = zip(*found, strict=True)
    assert os.getpid() not in pids
    assert set(zip(*shapes, strict=True)) == {(X.shape, y.shape)}
    assert files[0] == files[1] == files[2]
    assert len(set(files[0])) == 2
    assert messages == ([], [], [])


def test_workers_score_large_samples_without_a_warning(large):
    X, y, net = large
    net = net.initialize()
    functional = FunctionalNet(net)
    directions = torch.ones(len(functional.theta), 1)
    calls = [
        (_shard_scores, functional, Samples(X[half], y[half]), directions)
        for half in (slice(0, 512), slice(512, 1024))
    ]
    found = dict(run_all(heard, calls, n_jobs=2, net=net))
    assert found == {0: [], 1: []}


@pytest.fixture(scope="module")
def cluster():
    """Two processes of dask."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_dask_fits_and_is_sent_the_samples_once(digits, cluster, monkeypatch):
    X, y = digits
    expected = classifier().fit(X, y)
    sent = []
    scatter = Client.scatter

    def noted(self, data, *args, **options):
        sent.extend(data if isinstance(data, list) else [data])
        return scatter(self, data, *args, **options)

    monkeypatch.setattr(Client, "scatter", noted)
    with joblib.parallel_config("dask"):
        assert_same(classifier().fit(X, y), expected, X)
        assert sum(part is X for part in sent) == 1
        alone = classifier(cv=0.3).fit(X, y)
    assert_same(alone, classifier(cv=0.3).fit(X, y), X)


def test_dask_searches(digits, cluster):
    X, y = digits
    search = GridSearchCV(classifier(), {"drop_fraction": [0.0, 0.2]}, cv=2)
    expected = search.fit(X, y).cv_results_
    with joblib.parallel_config("dask"):
        found = search.fit(X, y).cv_results_
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_fit_outlives_a_worker(digits, cluster, tmp_path):
    X, y = digits
    callbacks = [DieOnce(str(tmp_path), os.getpid())]
    with joblib.parallel_config("dask"):
        model = classifier(callbacks=callbacks).fit(X, y)
    assert (tmp_path / "died").exists()
    assert_same(model, classifier().fit(X, y), X)


class DieTogether(Callback):
    """Kill both of the other processes, once, when both are in a training."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_end(self, net, **kwargs):
        folder = Path(self.folder)
        if (folder / "died").exists():
            return
        (folder / str(os.getpid())).touch()
        for _ in range(600):
            if len(list(folder.iterdir())) > 1:
                break
            time.sleep(0.05)
        time.sleep(0.2)
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_fit_outlives_all_workers(digits, cluster, tmp_path):
    X, y = digits
    model = classifier(callbacks=[DieTogether(str(tmp_path))])
    cluster.wait_for_workers(2)
    with (
        joblib.parallel_config("dask"),
        pytest.warns(UserWarning, match="all workers that had the samples stopped"),
    ):
        model.fit(X, y)
    assert_same(model, classifier().fit(X, y), X)


class Losing:
    """Parallel that loses its workers after the second result, as often as told."""

    losses = 0

    def __init__(self, n_jobs, return_as):
        pass

    def __call__(self, calls):
        for done, (function, arguments, options) in enumerate(calls):
            if done == 2 and Losing.losses:
                Losing.losses -= 1
                raise CancelledError
            yield function(*arguments, **options)


def test_lost_calls_are_sent_again_and_no_others(regressor, monkeypatch):
    monkeypatch.setattr(_parallel, "Parallel", Losing)
    seen = []
    monkeypatch.setattr(Losing, "losses", 2)
    with pytest.warns(UserWarning, match="is sent to others"):
        found = list(run_all(seen.append, [(i,) for i in range(7)], **two(regressor)))
    assert sorted(found) == [(i, None) for i in range(7)]
    assert sorted(seen) == list(range(7))
    monkeypatch.setattr(Losing, "losses", 3)
    message = "samples stopped, 3 times.*With memory=, fit starts again"
    with (
        pytest.warns(UserWarning, match="is sent to others"),
        pytest.raises(RuntimeError, match=message),
    ):
        list(run_all(pow, [(i, 2) for i in range(9)], **two(regressor)))


def two(net):
    return {"n_jobs": 2, "net": net}


RANKS = """
import json, os
import numpy as np, torch
from accelerate import Accelerator
from skorch import NeuralNetClassifier
from skorch.hf import AccelerateMixin
from sklearn.datasets import load_digits
from sk_datadrop import DataDropoutClassifier

torch.set_num_threads(1)

class Net(AccelerateMixin, NeuralNetClassifier):
    pass

class MLP(torch.nn.Sequential):
    def __init__(self):
        # Batch statistics are those of a rank.
        super().__init__(
            torch.nn.Linear(64, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Linear(16, 10),
        )

class CrossEntropy:
    # Not a module: accelerate fails on modules without parameters, on CPUs.
    reduction = "mean"
    def __call__(self, outputs, y):
        return torch.nn.functional.cross_entropy(outputs, y, reduction=self.reduction)

digits = load_digits()
X, y = digits.data[:240] / 16, digits.target[:240].copy()
y[:40] = (y[:40] + 1) % 10
net = Net(
    MLP, criterion=CrossEntropy, optimizer=torch.optim.Adam, lr=0.02, max_epochs=5,
    accelerator=Accelerator(cpu=True), device=None, iterator_train__shuffle=True,
)
model = DataDropoutClassifier(net, cv=2, drop_fraction=0.1).fit(X, y)
kept = model.sample_indices_.tolist()
weights = [p.sum().item() for p in model.estimator_.module_.parameters()]
with open(f"{os.environ['OUT']}/{os.environ['RANK']}.json", "w") as file:
    json.dump([kept, model.influence_.tolist(), weights], file)
try:
    model.set_params(memory="unused").fit(X, y)
except ValueError as error:
    assert "several processes" in str(error)
else:
    raise AssertionError("memory was accepted")
"""


def test_ranks_drop_the_same_samples(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(RANKS)
    package = str(Path(__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
        + ["--standalone", "--nproc-per-node", "2", str(script)],
        env=os.environ | {"PYTHONPATH": package, "OUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    first, second = (tmp_path.joinpath(f"{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    assert len(json.loads(first)[0]) < 240


def test_workers_make_modules_in_the_dtype_of_the_caller(classifier):
    settings = 1, torch.float64
    try:
        result = _run_in_worker(settings, classifier, 3, torch.get_default_dtype)
    finally:
        torch.set_default_dtype(torch.float32)
    number, dtype = result
    assert number == 3
    assert pickle.loads(dtype) == torch.float64
