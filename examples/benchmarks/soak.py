"""200 fits in one process: does anything grow?

Classifiers and regressors with a small net take turns, with ``cv=2``, ``cv=0.2``,
``memory=``, ``on_harmful=``, ``drop_fraction="auto"``, and two workers in every
twentieth fit. After each ten the process is measured: its memory (VmRSS and RssAnon),
open files, threads, child processes, and files in the working directory and the folder
for temporary files, which are empty before.

Whatever a process needs is loaded in the first 20 fits. From then on memory may grow by
no more than ``--allowed`` MiB and the rest not at all: the most that was measured in
the second half of the fits is compared with the most in the first half. If something
grew, the script says so and fails.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from unittest.mock import patch

import _peers
import numpy as np
import torch
from large import memory_of
from skorch import NeuralNetClassifier, NeuralNetRegressor

from sk_datadrop import DataDropoutClassifier, DataDropoutRegressor

RESULTS = Path(__file__).with_name("results") / "soak.json"
EVERY = 10
WITH_WORKERS = 20
SETTLED = 20
"""Fits after which nothing may grow."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--allowed", type=float, default=30.0, help="MiB of memory")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


class Net(torch.nn.Sequential):
    """Two layers, wide enough that a graph which is not freed shows."""

    def __init__(self, n_outputs, n_hidden=2000):
        first, last = torch.nn.Linear(4, n_hidden), torch.nn.Linear(n_hidden, n_outputs)
        super().__init__(first, torch.nn.ReLU(), last)


def make_samples(n_samples):
    """Return inputs, labels of which a tenth is wrong, and numbers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 4)).astype(np.float32)
    labels = (X[:, 0] > 0).astype(np.int64)
    labels[: n_samples // 10] = 1 - labels[: n_samples // 10]
    return X, labels, X @ np.float32([[1], [-2], [0.5], [0]])


KINDS = (
    {},
    {"regressor": True},
    {"cv": 0.2},
    {"memory": "new"},
    {"on_harmful": "mend"},
    {"on_harmful": "weigh"},
    {"drop_fraction": "auto"},
    {"memory": "kept"},
    {"regressor": True, "cv": 0.2, "drop_fraction": 0.1},
    {"drop_fraction": 0.1},
)


def fit(number, samples, folder) -> None:
    """Make and fit the model whose turn it is."""
    X, labels, numbers = samples
    options = {"cv": 2, "random_state": 0} | KINDS[number % len(KINDS)]
    if number % WITH_WORKERS == WITH_WORKERS - 1:
        options["n_jobs"] = 2
    if "memory" in options:
        is_new = options["memory"] == "new"
        options["memory"] = str(folder / (f"memory-{number}" if is_new else "memory"))
    is_regressor = options.pop("regressor", False)
    common = {"lr": 0.005, "max_epochs": 3, "batch_size": 16, "verbose": 0}
    if is_regressor:
        net = NeuralNetRegressor(Net, module__n_outputs=1, **common)
        model = DataDropoutRegressor(net, **options).fit(X, numbers)
    else:
        criterion = torch.nn.CrossEntropyLoss
        net = NeuralNetClassifier(Net, criterion=criterion, module__n_outputs=2)
        net.set_params(**common)
        model = DataDropoutClassifier(net, **options).fit(X, labels)
    model.predict(X)
    shutil.rmtree(folder / f"memory-{number}", ignore_errors=True)


def measure() -> dict:
    """Return what this process holds."""
    sizes, tasks = memory_of(os.getpid()), Path("/proc/self/task")
    children = [t.joinpath("children").read_text().split() for t in tasks.iterdir()]
    here, temporary = Path.cwd(), Path(tempfile.gettempdir())
    return {
        "resident MiB": sizes["VmRSS"] / 2**20,
        "private MiB": sizes["RssAnon"] / 2**20,
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(tasks.iterdir())),
        "children": sum(map(len, children)),
        "files": sum(
            path.is_file() for f in (here, temporary) for path in f.rglob("*")
        ),
    }


def growth(lines, allowed) -> list[str]:
    """Return what grew after the first fits, beyond what is allowed."""
    settled = [line for line in lines if line["fits"] >= SETTLED]
    half, found = len(settled) // 2, []
    for name in ("private MiB", "open files", "threads", "children", "files"):
        before, after = (
            max((line[name] for line in part), default=0)
            for part in (settled[: half or None], settled[half:])
        )
        if after - before > (allowed if name == "private MiB" else 0):
            found.append(f"{name}: {before:.0f}, then {after:.0f}")
    return found


@contextmanager
def apart() -> Iterator[Path]:
    """Work in folders of our own: others may write where they usually are."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("here", "temporary"):
            (folder / part).mkdir()
        stack.enter_context(chdir(folder / "here"))
        temporary = str(folder / "temporary")
        places = {"TMPDIR": temporary, "JOBLIB_TEMP_FOLDER": temporary}
        stack.enter_context(patch.dict(os.environ, places))
        stack.enter_context(patch.object(tempfile, "tempdir", temporary))
        yield folder


def main(arguments=None):
    arguments = parse_arguments(arguments)
    output = arguments.output.resolve()
    torch.set_num_threads(1)
    samples, lines, start = make_samples(arguments.samples), [], time.perf_counter()
    with apart() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(arguments.fits):
            fit(number, samples, folder)
            if (number + 1) % EVERY == 0:
                seconds = round(time.perf_counter() - start, 1)
                lines.append({"fits": number + 1, "seconds": seconds, **measure()})
                print(json.dumps(lines[-1]), flush=True)
    found = growth(lines, arguments.allowed)
    results = {"environment": _peers.environment(), "allowed MiB": arguments.allowed}
    results |= {"grew": found, "lines": lines}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    if found:
        sys.exit(f"grew after the first {SETTLED} fits: {'; '.join(found)}")
    print(f"nothing grew after the first {SETTLED} fits")


if __name__ == "__main__":
    main()
