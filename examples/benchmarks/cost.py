"""Does a fit cost what ``estimate_cost`` says, and what would large ones cost?

check
    For three numbers of rows: the estimate, then the fit, each in a process of its
    own. First digits and a CNN, for the time; then images by ten thousands and a net of
    one convolution, for the memory.
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
from pathlib import Path
from time import perf_counter

import _peers
import numpy as np
import torch
from fidelity import mnist, save_results
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import Dataset

from sk_datadrop import DataDropoutClassifier, _cost, estimate_cost
from sk_datadrop.nets import CifarResNet, SmallCNN


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="check|predict")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--size", help=argparse.SUPPRESS)
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


def digits(n_rows, quick):
    X, y = mnist()
    chosen = np.random.default_rng(0).permutation(len(y))[:n_rows]
    epochs, cv = (2, 2) if quick else (8, 5)
    model = DataDropoutClassifier(net(SmallCNN, epochs), cv=cv, random_state=0)
    return model, X[chosen], y[chosen]


def images(n_rows, quick):
    rng = np.random.default_rng(0)
    X = rng.random((n_rows, 3, 32, 32), dtype=np.float32)
    model = DataDropoutClassifier(net(Coarse, 1), cv=0.5, random_state=0)
    return model, X, np.arange(n_rows) % 10


class Coarse(nn.Sequential):
    """Little to compute for many bytes."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)
        )


KINDS = {
    "digits": (digits, (1_000, 2_000, 4_000), (200, 400, 600)),
    "images": (images, (20_000, 40_000, 80_000), (1_000, 2_000, 4_000)),
}


def check_size(kind, n_rows, quick) -> dict:
    model, X, y = KINDS[kind][0](n_rows, quick)
    # Libraries that are loaded on the way belong to neither.
    estimate_cost(model, X, y, n_samples=64)
    start = perf_counter()
    cost = estimate_cost(model, X, y)
    estimated = perf_counter()
    model.fit(X, y)
    seconds = perf_counter() - estimated
    stages = {
        name: [cost.seconds_per_stage[name], model.timings_[name]]
        for name in cost.seconds_per_stage
    }
    return {
        "rows": n_rows,
        "bytes of the rows": X.nbytes,
        "seconds of the estimate": estimated - start,
        "seconds": [cost.seconds, seconds],
        "memory": [cost.memory, _cost._peak()],
        "trainings": [cost.n_trainings, len(model.round_one_estimators_) + 1],
        "stages": stages,
    }


def check(arguments) -> dict:
    if arguments.size:
        kind, size = arguments.size.split()
        print(json.dumps(check_size(kind, int(size), arguments.quick)))
        return {}
    print("| rows | seconds: said, took | ratio | MB: said, took | ratio | trainings |")
    print("|---|---|---|---|---|---|")
    lines = {}
    for kind, (_, sizes, few) in KINDS.items():
        for size in few if arguments.quick else sizes:
            lines[f"{size:,} {kind}"] = line = in_own_process(kind, size, arguments)
            print(f"| {size:,} {kind} | {as_cells(line)} |", flush=True)
    return {"check": lines}


def in_own_process(kind, size, arguments) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "check", "--size"]
    command += [f"{kind} {size}", *(["--quick"] if arguments.quick else [])]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(shown.stdout.splitlines()[-1])


def as_cells(line) -> str:
    (said, took), (bytes_said, bytes_took) = line["seconds"], line["memory"]
    return (
        f"{said:.1f}, {took:.1f} | {said / took:.2f} | "
        f"{bytes_said / 1e6:.0f}, {bytes_took / 1e6:.0f} | "
        f"{bytes_said / bytes_took:.2f} | {line['trainings'][0]}, "
        f"{line['trainings'][1]}"
    )


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
