"""How fast is a GPU: scores beside those of other libraries, and whole fits?

Nets: the ResNet-18 of torchvision with a first convolution for small images, the
ResNet-9 that kronfluence is measured with, a small CNN, an LSTM over the lines of a
picture, and attention between them. The samples have the shape of CIFAR-10: random
patterns in ten classes that are easy to tell, a fifth of the labels wrong. Each net is
trained on them for an epoch; the time to score does not depend on what they show.

ours, ours in bfloat16
    ``influence_scores`` in full precision and with
    ``InfluenceFunctions(autocast="bfloat16")``.
kronfluence
    EK-FAC with the summed query gradient, in full precision; its own paper reports
    106 s for pairwise scores of 50,000 samples on an A100, 36 s in half precision
    (arXiv:2308.03296).
gradients by vmap
    Products of plain gradients, without any curvature.
captum, dattri
    TracInCP in convolutions and linear layers, and conjugate gradients on the Hessian;
    for at most ``--few`` samples.
forward pass, epoch of training
    What the scores are to be compared with.

Each is called once on few samples before it is timed; the table has medians over
``--repeats``, the memory that torch held at the peak, and the rank correlation with
ours. Then a whole fit of ``DataDropoutClassifier``, beside a plain training. Results
are saved after each net.
"""

import argparse
import gc
import re
from functools import partial
from pathlib import Path
from time import perf_counter

import _peers
import numpy as np
import torch
from _nets import LSTM, Encoder
from fidelity import save_results
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.metrics import precision_score, recall_score
from skorch import NeuralNetClassifier
from torch import nn
from torchvision.models import resnet18

from sk_datadrop import DataDropoutClassifier, InfluenceFunctions, influence_scores
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

NO_GPU = (
    "No GPU: torch.cuda.is_available() is False. Run this where there is one, with a "
    "torch that was built for it; --device cpu --quick shows that the script works."
)
SMALL = 64
"""Samples of the call that is not timed."""

MAX_BYTES = 8e9
"""For the gradients of single samples where a method wants them all at once."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 5_000, 50_000])
    parser.add_argument("--few", type=int, default=5_000, help="for captum and dattri")
    parser.add_argument("--nets", default="", help="only names this pattern is in")
    parser.add_argument("--fit-rows", type=int, default=10_000)
    parser.add_argument("--fit-epochs", type=int, default=8)
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
        parsed.rows, parsed.held_out, parsed.repeats = [2 * SMALL], SMALL, 1
        parsed.batch_size, parsed.fit_rows, parsed.fit_epochs = SMALL, 3 * SMALL, 1
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


def small_cnn():
    return SmallCNN(channels=(32, 64), n_hidden=128)


NETS = {
    "ResNet-9": ResNet9,
    "ResNet-18": small_resnet18,
    "small CNN": small_cnn,
    "LSTM": LSTM,
    "attention": Encoder,
}


def make_rows(n_rows, seed, *, share=0.2, with_truth=False):
    """Images (N, 3, 32, 32) of ten patterns in noise, and labels, a fifth wrong."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).normal(size=(10, 3, 8, 8))
    patterns = patterns.repeat(4, axis=2).repeat(4, axis=3).astype(np.float32)
    labels = rng.integers(0, 10, n_rows)
    X = rng.standard_normal((n_rows, 3, 32, 32), dtype=np.float32)
    y, is_wrong = flip_labels(labels, share, random_state=seed)
    X += patterns[labels]
    return (X, y, is_wrong) if with_truth else (X, y)


def make_net(module, arguments, *, epochs=1):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.02,
        max_epochs=epochs,
        batch_size=128,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=arguments.batch_size,
        train_split=None,
        device=arguments.device,
        verbose=0,
    )


def train(module, X, y, arguments):
    """Return the net, and the seconds that an epoch took."""
    make_net(module, arguments).fit(X[:SMALL], y[:SMALL])
    torch.manual_seed(0)
    start = perf_counter()
    net = make_net(module, arguments).fit(X, y)
    return net, perf_counter() - start


# Methods: (net, train, held_out, batch size) -> scores.


def ours(net, train_rows, held_out, batch_size, autocast=None):
    engine = InfluenceFunctions(autocast=autocast)
    result = influence_scores(
        net, *train_rows, *held_out, engine=engine, random_state=0
    )
    return result.influence


def forward_pass(net, train_rows, held_out, batch_size):
    return net.predict_proba(train_rows[0])[:, 0]


def ask(method, net, train_rows, held_out, batch_size, *, on_device, damping=False):
    """Put the question to another library, its samples on the device or not."""
    device = net.device if on_device else "cpu"
    module = net.module_.eval()
    row_losses = _peers.make_row_losses(is_classifier=True)
    n_parameters = sum(p.numel() for p in module.parameters())
    rows_that_fit = max(1, int(MAX_BYTES / (4 * n_parameters)))
    question = _peers.Question(
        module,
        tuple(torch.as_tensor(part).to(device) for part in train_rows),
        tuple(torch.as_tensor(part).to(device) for part in held_out),
        row_losses,
        _peers.make_row_objectives("bounded", row_losses),
        is_classifier=True,
        damping=damping_of(net, train_rows, held_out) if damping else None,
        batch_size=min(batch_size, rows_that_fit) if on_device else batch_size,
    )
    return method(question)


def damping_of(net, train_rows, held_out) -> float:
    result = influence_scores(net, *train_rows, *held_out, random_state=0)
    return result.solver_results[0].shift


METHODS = {
    "ours": ours,
    "ours, bfloat16": partial(ours, autocast="bfloat16"),
    "forward pass": forward_pass,
    "kronfluence": partial(ask, _peers.kronfluence_ekfac, on_device=False),
    "gradients by vmap": partial(ask, _peers.gradient_dots, on_device=True),
    "captum": partial(ask, _peers.captum_tracin, on_device=True),
    "dattri": partial(
        ask, _peers.dattri_conjugate_gradient, on_device=True, damping=True
    ),
}
PEERS = {"kronfluence", "captum", "dattri"}
FOR_FEW = {"captum", "dattri"}


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
            break
    if note:
        return {"note": note}
    peak = None if net.device == "cpu" else torch.cuda.max_memory_allocated()
    return {"seconds": float(np.median(seconds)), "bytes": peak, "scores": scores}


def measure_net(name, train_rows, held_out, arguments) -> dict:
    n_rows = len(train_rows[1])
    net, seconds = train(NETS[name], *train_rows, arguments)
    lines: dict = {"epoch of training": {"seconds": seconds, "bytes": None}}
    reference = None
    print(f"| {name} | {n_rows} | epoch of training | {seconds:.2f} | | |", flush=True)
    for method, function in METHODS.items():
        if arguments.no_peers and method in PEERS:
            continue
        if method in FOR_FEW and n_rows > arguments.few:
            continue
        line = measure(function, net, train_rows, held_out, arguments)
        scores = line.pop("scores", None)
        if scores is not None and method != "forward pass":
            reference = scores if reference is None else reference
            line["rank correlation"] = float(spearmanr(scores, reference).statistic)
        lines[method] = line
        print(f"| {name} | {n_rows} | {method} | {as_cells(line)} |", flush=True)
    return lines


def measure_fit(arguments) -> dict:
    """A whole fit beside a plain training, and what it found."""
    X, y, is_wrong = make_rows(arguments.fit_rows, seed=3, with_truth=True)
    test = make_rows(2 * SMALL, seed=4, share=0.0)
    net = make_net(ResNet9, arguments, epochs=arguments.fit_epochs)
    torch.manual_seed(0)
    start = perf_counter()
    plain = clone(net).fit(X, y)
    seconds = perf_counter() - start
    start = perf_counter()
    model = DataDropoutClassifier(net, random_state=0).fit(X, y)
    found = {
        "plain training": seconds,
        "fit": perf_counter() - start,
        "timings": {name: float(value) for name, value in model.timings_.items()},
        "precision": precision_score(is_wrong, ~model.sample_mask_, zero_division=0),
        "recall": recall_score(is_wrong, ~model.sample_mask_),
        "accuracy": [float(m.score(*test)) for m in (plain, model)],
        "summary": model.summary_,
    }
    print(found, flush=True)
    return found


def as_cells(line) -> str:
    if "note" in line:
        return f"{line['note']} | | "
    memory = "" if line["bytes"] is None else f"{line['bytes'] / 1e9:.1f}"
    correlation = line.get("rank correlation")
    shown = "" if correlation is None else f"{correlation:.4f}"
    return f"{line['seconds']:.2f} | {memory} | {shown}"


def main(arguments=None):
    arguments = parse_arguments(arguments)
    held_out = make_rows(arguments.held_out, seed=2)
    device = arguments.device
    if device != "cpu":
        device = torch.cuda.get_device_name(device)
    entry = {"device": device, "environment": _peers.environment(), "lines": {}}
    print(f"{arguments.held_out:,} held out, {device}\n")
    print("| net | rows | method | seconds | GB | rank correlation with ours |")
    print("|---|---|---|---|---|---|", flush=True)
    entry["fit"] = measure_fit(arguments)
    for n_rows in arguments.rows:
        train_rows = make_rows(n_rows, seed=1)
        for name in NETS:
            if re.search(arguments.nets, name):
                lines = measure_net(name, train_rows, held_out, arguments)
                entry["lines"][f"{name}, {n_rows} rows"] = lines
                save_results(arguments.output, {device: entry})


if __name__ == "__main__":
    main()
