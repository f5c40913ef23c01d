"""A fit that was killed goes on where it was, and trains nothing twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, signal, sys
from pathlib import Path

folder = Path(sys.argv[1])
calls = {"training": 0, "scoring": 0, "storing": 0}


def die_at(name):
    calls[name] += 1
    # Not from a global name, by which memory would tell this net from the next.
    if os.environ["STAGE"] == f"{name} {calls[name]}":
        os.kill(os.getpid(), signal.SIGKILL)


replace = os.replace


def replace_or_die(source, target):
    if str(target).endswith("output.pkl"):
        die_at("storing")
    replace(source, target)


os.replace = replace_or_die

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from sklearn.datasets import load_digits
from sk_datadrop import DataDropoutClassifier, _two_rounds
from sk_datadrop.datasets import flip_labels

torch.set_num_threads(1)


class Count(Callback):
    def on_train_begin(self, net, **kwargs):
        with (folder / "trainings").open("a") as file:
            file.write("one more\\n")

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            die_at("training")


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(
            torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10)
        )


score = _two_rounds.score


def score_or_die(*args, **options):
    scores = score(*args, **options)
    die_at("scoring")
    return scores


_two_rounds.score = score_or_die

X, y = load_digits(return_X_y=True)
y, _ = flip_labels(y[:300], 0.3, random_state=0)
net = NeuralNetClassifier(
    Net, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.Adam, lr=0.01,
    max_epochs=8, callbacks=[Count()], verbose=0,
)
model = DataDropoutClassifier(
    net, drop_fraction="auto", cv=3, memory=str(folder / "memory"), random_state=0
)
model.fit(X[:300] / 16, y)
with (folder / "result.json").open("w") as file:
    json.dump([model.influence_.tolist(), model.predict(X).tolist()], file)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script, stage, folder):
    """Run the script, and return its end and the trainings begun so far."""
    folder.mkdir(exist_ok=True)
    package = str(Path(__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", str(script), str(folder)],
        env=os.environ | {"PYTHONPATH": package, "STAGE": stage},
        capture_output=True,
        text=True,
    )
    assert (folder / "trainings").exists(), process.stderr
    return process, len((folder / "trainings").read_text().splitlines())


@pytest.fixture(scope="module")
def uninterrupted(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process, n_trainings = run(script, "never", folder)
    assert process.returncode == 0, process.stderr
    # Three splits, two candidates of each, and round 2.
    assert n_trainings == 10
    return folder, json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    "stage", ["training 2", "scoring 2", "storing 3", "training 5", "training 10"]
)
def test_killed_fit_goes_on(stage, script, uninterrupted, tmp_path):
    process, _ = run(script, stage, tmp_path)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    process, n_trainings = run(script, "never", tmp_path)
    assert process.returncode == 0, process.stderr
    # Only the one that was cut short is repeated.
    assert n_trainings == 10 + 1
    assert json.loads((tmp_path / "result.json").read_text()) == uninterrupted[1]


def test_half_written_entries_are_not_read(script, uninterrupted):
    folder, expected = uninterrupted
    stored = list(folder.rglob("output.pkl"))
    assert len(stored) == 9
    for path in stored[:2]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process, n_trainings = run(script, "never", folder)
    assert process.returncode == 0, process.stderr
    assert "Exception while loading results" in process.stderr
    # Those two, and round 2.
    assert n_trainings == 10 + 3
    assert json.loads((folder / "result.json").read_text()) == expected
