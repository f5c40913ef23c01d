"""Whoever does the work, and whatever happens to them, the result is that of one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback

from sk_datadrop import DataDropoutClassifier, influence_scores
from sk_datadrop._functional import FunctionalNet
from sk_datadrop.nets import SmallCNN


class DieOnce(Callback):
    """Kill the process of the first training that finds no such file."""

    def __init__(self, path):
        self.path = path

    def on_epoch_end(self, net, **kwargs):
        if not Path(self.path).exists():
            Path(self.path).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.images[:240, None] / 16).astype(np.float32), data.target[:240]


def classifier(callbacks=None, **params):
    net = NeuralNetClassifier(
        SmallCNN,
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


def test_rows_of_a_single_round_are_scored_side_by_side(digits):
    X, y = digits
    model = classifier(cv=0.3, n_jobs=2).fit(X, y)
    assert_same(model, classifier(cv=0.3).fit(X, y), X)


@pytest.mark.parametrize("batch_size", [None, 7, 1000])
def test_scores_are_those_of_one_process(batch_size, digits):
    X, y = digits
    model = classifier().fit(X, y)
    one, two = (
        influence_scores(
            model.estimator_,
            *(X, y, X[:50], y[:50]),
            batch_size=batch_size,
            n_groups=2,
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


def test_dask_fits(digits, cluster):
    X, y = digits
    expected = classifier().fit(X, y)
    with joblib.parallel_config("dask", scatter=[X, y]):
        assert_same(classifier().fit(X, y), expected, X)
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
    died = tmp_path / "died"
    with joblib.parallel_config("dask"):
        model = classifier(callbacks=[DieOnce(str(died))]).fit(X, y)
    assert died.exists()
    assert_same(model, classifier().fit(X, y), X)


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


def test_ranks_drop_the_same_rows(tmp_path):
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
