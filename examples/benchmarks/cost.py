"""Does a fit cost what ``estimate_cost`` says, and what would large ones cost?

check
    For three numbers of rows: the estimate, then the fit, each size in a process of
    its own. Memory is the rise of the private part of the resident set (Linux).
predict
    Estimates for data sets of the size of CIFAR-10, SVHN and ImageNet, with made-up
    images of their shape, on this machine; nothing but a few rows is trained on.

Time on a busy machine is no measure: run it alone, with ``OMP_NUM_THREADS=1`` for the
figures of one core.
"""

import argparse
import json
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter, sleep

import _peers
import numpy as np
import torch
from fidelity import mnist, save_results
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import Dataset

from sk_datadrop import DataDropoutClassifier, estimate_cost
from sk_datadrop.nets import CifarResNet, SmallCNN

SIZES = (1_000, 2_000, 4_000)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="check|predict")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("cost.json"))
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.parts) - {"check", "predict"}:
        parser.error(f"parts are check and predict; got {unknown}")
    parsed.parts = parsed.parts or ["check", "predict"]
    return parsed


def net(module, epochs, device="cpu", **options):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=epochs,
        batch_size=128,
        iterator_train__shuffle=True,
        train_split=None,
        device=device,
        verbose=0,
        **options,
    )


# What it says, and what it is.


class HighWaterMark(threading.Thread):
    """The largest private resident set while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.highest = private_bytes()
        self.stopped = False

    def run(self):
        while not self.stopped:
            self.highest = max(self.highest, private_bytes())
            sleep(0.01)


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def check_size(n_rows, quick) -> dict:
    X, y = mnist()
    chosen = np.random.default_rng(0).permutation(len(y))[:n_rows]
    X, y = X[chosen], y[chosen]
    model = DataDropoutClassifier(
        net(SmallCNN, 2 if quick else 8), cv=2 if quick else 5, random_state=0
    )
    # Libraries that are loaded on the way belong to neither.
    estimate_cost(model, X, y, n_samples=64)
    start = perf_counter()
    cost = estimate_cost(model, X, y)
    estimated = perf_counter()
    mark = HighWaterMark()
    mark.start()
    model.fit(X, y)
    seconds = perf_counter() - estimated
    mark.stopped = True
    stages = {
        name: [cost.seconds_per_stage[name], model.timings_[name]]
        for name in cost.seconds_per_stage
    }
    return {
        "rows": n_rows,
        "seconds of the estimate": estimated - start,
        "seconds": [cost.seconds, seconds],
        "memory": [cost.memory, mark.highest - mark.before],
        "trainings": [cost.n_trainings, len(model.round_one_estimators_) + 1],
        "stages": stages,
    }


def check(arguments) -> dict:
    if arguments.size:
        print(json.dumps(check_size(arguments.size, arguments.quick)))
        return {}
    print("| rows | seconds: said, took | ratio | MB: said, took | ratio | trainings |")
    print("|---|---|---|---|---|---|")
    lines = []
    for size in (200, 400, 600) if arguments.quick else SIZES:
        command = [sys.executable, "-W", "ignore", __file__, "check", "--size"]
        command += [str(size), *(["--quick"] if arguments.quick else [])]
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        line = json.loads(shown.stdout.splitlines()[-1])
        lines.append(line)
        (said, took), (bytes_said, bytes_took) = line["seconds"], line["memory"]
        print(
            f"| {size:,} | {said:.1f}, {took:.1f} | {said / took:.2f} | "
            f"{bytes_said / 1e6:.0f}, {bytes_took / 1e6:.0f} | "
            f"{bytes_said / bytes_took:.2f} | {line['trainings'][0]}, "
            f"{line['trainings'][1]} |",
            flush=True,
        )
    return {"check": lines}


# What large ones would cost.


class MadeUp(Dataset):
    """Noise of the shape of a data set, whose rows are made when asked for."""

    def __init__(self, n_rows, size, n_classes):
        self.shape = (3, size, size)
        self.targets = np.arange(n_rows) % n_classes

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        rng = np.random.default_rng(row)
        return rng.standard_normal(self.shape, dtype=np.float32), self.targets[row]


def resnet18(n_classes):
    from torchvision.models import resnet18

    return resnet18(num_classes=n_classes)


def predictions(device, quick):
    """Name, rows, net and rows to measure on."""
    small = {"module__depth": 8} if quick else {"module__depth": 20}
    cifar = net(CifarResNet, 200, device, **small)
    large = net(resnet18, 90, device, module__n_classes=1000)
    yield "CIFAR-10, ResNet-20", MadeUp(50_000, 32, 10), cifar, 512
    yield "SVHN, ResNet-20", MadeUp(73_257, 32, 10), cifar, 512
    if not quick:
        yield "ImageNet, ResNet-18", MadeUp(1_281_167, 224, 1000), large, 128


def predict(arguments) -> dict:
    lines = {}
    print("\n| data, net | epochs | with cv=5 | with cv=0.2 |\n|---|---|---|---|")
    for name, rows, estimator, n_samples in predictions(
        arguments.device, arguments.quick
    ):
        costs = [
            estimate_cost(
                DataDropoutClassifier(estimator, cv=cv, random_state=0),
                rows,
                n_samples=64 if arguments.quick else n_samples,
            )
            for cv in (5, 0.2)
        ]
        lines[name] = [vars(cost) for cost in costs]
        cells = " | ".join(map(str, costs))
        print(f"| {name} | {estimator.max_epochs} | {cells} |", flush=True)
    return {"predict": lines}


def main(arguments=None):
    arguments = parse_arguments(arguments)
    torch.set_num_threads(1)
    parts = {"check": check, "predict": predict}
    results = {}
    for name in arguments.parts:
        results |= parts[name](arguments)
    if results:
        entry = {"environment": _peers.environment(), **results}
        save_results(arguments.output, {" ".join(arguments.parts): entry})


if __name__ == "__main__":
    main()
