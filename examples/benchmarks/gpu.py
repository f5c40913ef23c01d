"""How long does a GPU take to score 50,000 samples of the shape of CIFAR-10?

Nets: the ResNet-18 of torchvision with a first convolution for small images, and the
ResNet-9 that kronfluence is measured with. The samples are random patterns in ten
classes that are easy to tell, a fifth of the labels wrong. Each net is trained on them
for an epoch; the time to score does not depend on what the images show. Methods:

ours, ours in bfloat16
    ``influence_scores`` in full precision and with
    ``InfluenceFunctions(autocast="bfloat16")``, and the rank correlation between the
    two.
kronfluence
    EK-FAC with the summed query gradient, in full precision; its own paper reports
    106 s for pairwise scores of this size on an A100, 36 s in half precision
    (arXiv:2308.03296).

Each is called once on few samples before it is timed; the table has medians over
``--repeats``, and the memory that torch held at the peak.
"""

import argparse
import gc
from functools import partial
from pathlib import Path
from time import perf_counter

import _peers
import numpy as np
import torch
from fidelity import save_results
from scipy.stats import spearmanr
from skorch import NeuralNetClassifier
from torch import nn
from torchvision.models import resnet18

from sk_datadrop import InfluenceFunctions, influence_scores
from sk_datadrop.datasets import flip_labels

NO_GPU = (
    "No GPU: torch.cuda.is_available() is False. Run this where there is one, with a "
    "torch that was built for it; --device cpu --quick shows that the script works."
)
SMALL = 64
"""Samples of the call that is not timed."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--held-out", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="leave rivals out")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parsed = parser.parse_args(arguments)
    if parsed.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(1, NO_GPU + "\n")
    if parsed.quick:
        parsed.rows, parsed.held_out, parsed.repeats = 2 * SMALL, SMALL, 1
        parsed.batch_size = SMALL
    return parsed


# Nets and samples.


def small_resnet18():
    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def block(n_in, n_out, *, kernel=3, stride=1):
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


class Residual(nn.Sequential):
    def forward(self, X):
        return X + super().forward(X)


class ResNet9(nn.Sequential):
    """Eight convolutions and a linear layer, 2.4 million parameters and more."""

    def __init__(self):
        super().__init__(
            block(3, 64),
            block(64, 128, kernel=5, stride=2),
            Residual(block(128, 128), block(128, 128)),
            block(128, 256),
            nn.MaxPool2d(2),
            Residual(block(256, 256), block(256, 256)),
            block(256, 128),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


NETS = {"ResNet-9": ResNet9, "ResNet-18": small_resnet18}


def make_rows(n_rows, seed):
    """Images (N, 3, 32, 32) of ten patterns in noise, and labels, a fifth wrong."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).normal(size=(10, 3, 8, 8))
    patterns = patterns.repeat(4, axis=2).repeat(4, axis=3).astype(np.float32)
    labels = rng.integers(0, 10, n_rows)
    X = rng.standard_normal((n_rows, 3, 32, 32), dtype=np.float32)
    y, _ = flip_labels(labels, 0.2, random_state=seed)
    return X + patterns[labels], y


def train(module, X, y, arguments):
    net = NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.02,
        max_epochs=1,
        batch_size=128,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=arguments.batch_size,
        train_split=None,
        device=arguments.device,
        verbose=0,
    )
    torch.manual_seed(0)
    return net.fit(X, y)


# Methods: (net, train, held_out, batch size) -> scores.


def ours(net, train_rows, held_out, batch_size, autocast=None):
    engine = InfluenceFunctions(autocast=autocast)
    result = influence_scores(
        net, *train_rows, *held_out, engine=engine, random_state=0
    )
    return result.influence


def kronfluence(net, train_rows, held_out, batch_size):
    row_losses = _peers.make_row_losses(is_classifier=True)
    question = _peers.Question(
        net.module_.eval(),
        tuple(map(torch.as_tensor, train_rows)),
        tuple(map(torch.as_tensor, held_out)),
        row_losses,
        _peers.make_row_objectives("bounded", row_losses),
        is_classifier=True,
        batch_size=batch_size,
    )
    return _peers.kronfluence_ekfac(question)


METHODS = {
    "ours": ours,
    "ours, bfloat16": partial(ours, autocast="bfloat16"),
    "kronfluence": kronfluence,
}


def measure(method, net, train_rows, held_out, arguments) -> dict:
    """Median seconds, bytes at the peak, and the scores, or why there are none."""
    few = [tuple(part[:SMALL] for part in rows) for rows in (train_rows, held_out)]
    _, note = _peers.answer(method, net, *few, SMALL)
    seconds = []
    for _ in range(0 if note else arguments.repeats):
        gc.collect()
        if net.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = perf_counter()
        scores, note = _peers.answer(
            method, net, train_rows, held_out, arguments.batch_size
        )
        # Scores are on the host: whatever made them has come to its end.
        seconds.append(perf_counter() - start)
    if note:
        return {"note": note}
    peak = None if net.device == "cpu" else torch.cuda.max_memory_allocated()
    return {"seconds": float(np.median(seconds)), "bytes": peak, "scores": scores}


def measure_net(name, train_rows, held_out, arguments) -> dict:
    net = train(NETS[name], *train_rows, arguments)
    lines, reference = {}, None
    for method, function in METHODS.items():
        if arguments.no_peers and method == "kronfluence":
            continue
        line = measure(function, net, train_rows, held_out, arguments)
        scores = line.pop("scores", None)
        if scores is not None:
            reference = scores if reference is None else reference
            line["rank correlation"] = float(spearmanr(scores, reference).statistic)
        lines[method] = line
        print(f"| {name} | {method} | {as_cells(line)} |", flush=True)
    return lines


def as_cells(line) -> str:
    if "note" in line:
        return f"{line['note']} | | "
    memory = "" if line["bytes"] is None else f"{line['bytes'] / 1e9:.1f}"
    return f"{line['seconds']:.2f} | {memory} | {line['rank correlation']:.4f}"


def main(arguments=None):
    arguments = parse_arguments(arguments)
    train_rows = make_rows(arguments.rows, seed=1)
    held_out = make_rows(arguments.held_out, seed=2)
    device = arguments.device
    if device != "cpu":
        device = torch.cuda.get_device_name(device)
    print(f"{arguments.rows:,} rows, {arguments.held_out:,} held out, {device}\n")
    print("| net | method | seconds | GB | rank correlation with ours |")
    print("|---|---|---|---|---|", flush=True)
    lines = {name: measure_net(name, train_rows, held_out, arguments) for name in NETS}
    entry = {"device": device, "environment": _peers.environment(), "lines": lines}
    save_results(arguments.output, {f"{device}, {arguments.rows} rows": entry})


if __name__ == "__main__":
    main()
