"""
A robust loss, or dropping?
===========================

A robust loss is the cheap answer to wrong targets: the net trains once, on all samples,
and those that it cannot fit count less. Data dropout costs about three trainings, and
says *which* samples are wrong. Here both meet wrong labels, gross errors in a table,
and a table whose noise is heavy-tailed but honest. On wrong targets each repairs most
of the damage. On honest heavy tails only a robust loss helps: no sample is wrong, and
data dropout drops next to none.

All nets are scored on test samples without errors, over several seeds.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import ttest_rel
from sklearn.base import clone
from sklearn.datasets import load_digits, make_friedman1
from skorch import NeuralNetClassifier, NeuralNetRegressor

from sk_datadrop import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
SEEDS = range(4 if QUICK else 10)
N_TABLE = 500 if QUICK else 1000

# %%
# Three data sets
# ---------------
# - **Labels**: of the digits 30 % have the label of the next digit.
# - **Gross errors**: 10 % of the targets of a table (Friedman's function) are off by
#   four standard deviations of the target, too high or too low with equal chance.
# - **Heavy tails**: no target is wrong, but the noise of the same table has a few very
#   large values (Student's t with two degrees of freedom).

images, digits = load_digits(return_X_y=True)
images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)


def labels(seed):
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:1000], order[1000:]
    given, wrong = flip_labels(digits[train], 0.3, kind="pair", random_state=seed)
    return images[train], given, wrong, images[test], digits[test]


def table(seed, errors):
    X, y = make_friedman1(N_TABLE + 2000, random_state=seed)
    X, y = X.astype(np.float32), (y - 14) / 5
    added, wrong = errors(np.random.default_rng(seed))
    given = (y[:N_TABLE] + added).astype(np.float32)
    return X[:N_TABLE], given, wrong, X[N_TABLE:], y[N_TABLE:]


def gross_errors(rng):
    wrong = rng.permutation(N_TABLE) < N_TABLE // 10
    signs = rng.choice([-1, 1], N_TABLE)
    return 0.2 * rng.standard_normal(N_TABLE) + 4 * signs * wrong, wrong


def heavy_tails(rng):
    return 0.5 * rng.standard_t(2, N_TABLE), np.zeros(N_TABLE, dtype=bool)


# %%
# Robust losses
# -------------
# For classes: label smoothing, which torch has, and generalised cross entropy (GCE,
# Zhang and Sabuncu 2018, `arXiv:1805.07836 <https://arxiv.org/abs/1805.07836>`_). GCE
# is ``(1 - p**q) / q`` with *p* the probability of the given label. It lies between
# cross entropy (q near 0) and the mean absolute error (q = 1). For numbers: the
# absolute error (L1) and Huber's loss, quadratic up to an error of 1, linear beyond.


class GeneralisedCrossEntropy(torch.nn.CrossEntropyLoss):
    def forward(self, outputs, y):
        log_p = torch.log_softmax(outputs, dim=1).gather(1, y[:, None])
        return -torch.expm1(0.7 * log_p).mean() / 0.7


class TableNet(torch.nn.Sequential):
    def __init__(self):
        super().__init__(
            torch.nn.Linear(10, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 1),
        )


settings = {
    "optimizer": torch.optim.Adam,
    "batch_size": 64,
    "iterator_train__shuffle": True,
    "train_split": None,
    "verbose": 0,
}
classifier = NeuralNetClassifier(
    SmallCNN,
    module__channels=(8, 16),
    criterion=torch.nn.CrossEntropyLoss,
    lr=0.005,
    max_epochs=15,
    **settings,
)
regressor = NeuralNetRegressor(TableNet, lr=0.01, max_epochs=20, **settings)

for_labels = [
    {"criterion__label_smoothing": 0.2},
    {"criterion": GeneralisedCrossEntropy},
]
for_numbers = [{"criterion": torch.nn.L1Loss}, {"criterion": torch.nn.HuberLoss}]
problems = {
    "labels": (labels, classifier, for_labels),
    "gross errors": (lambda seed: table(seed, gross_errors), regressor, for_numbers),
    "heavy tails": (lambda seed: table(seed, heavy_tails), regressor, for_numbers),
}

# %%
# The same net, six ways
# ----------------------
# All nets of a seed start from the same weights and take as many optimiser steps: where
# samples are left out, some others are repeated. "Both" leaves out the samples that
# data dropout drops and trains the last net with the second robust loss. The last way
# is for comparison only: it leaves out the samples that are wrong, which nobody knows
# in practice.


def compare(load, net, robust, seed):
    X, given, wrong, X_test, y_test = load(seed)
    rng = np.random.default_rng(seed)

    def score_of(keep, **params):
        rows = np.sort(np.resize(rng.permutation(np.flatnonzero(keep)), len(keep)))
        y = given[rows] if net is classifier else given[rows, None]
        torch.manual_seed(seed)
        return clone(net).set_params(**params).fit(X[rows], y).score(X_test, y_test)

    dropout = DataDropoutClassifier if net is classifier else DataDropoutRegressor
    model = dropout(net, random_state=seed).fit(X, given)
    kept, everything = model.sample_mask_, np.ones(len(X), dtype=bool)
    plain = score_of(everything)
    first, second = (score_of(everything, **params) for params in robust)
    scores = {
        "plain loss": plain,
        "smoothing / L1": first,
        "GCE / Huber": second,
        "data dropout": model.score(X_test, y_test),
        # With nothing to leave out the nets are the same.
        "both": second if kept.all() else score_of(kept, **robust[1]),
        "right samples only": score_of(~wrong) if wrong.any() else plain,
    }
    return scores, ~kept, wrong


results = {
    name: [compare(*problem, seed) for seed in SEEDS]
    for name, problem in problems.items()
}

# %%
# Accuracy (of labels) or R2, the mean over the seeds, and the gain over the plain loss
# with its 95 % interval (paired t-test: the ways share seeds, samples and weights). The
# price is in plain trainings: round 1 trains three nets on two thirds of the samples
# each. Scoring comes on top.

trainings = dict(zip(results["labels"][0][0], [1, 1, 1, 3, 3, 1], strict=True))
gains = {}
for name, found in results.items():
    print(f"\n{name:22}trainings  score    gain")
    plain = [scores["plain loss"] for scores, *_ in found]
    for way, n_trainings in trainings.items():
        values = [scores[way] for scores, *_ in found]
        line = f"  {way:20}{n_trainings:9}  {np.mean(values):.3f}"
        if values != plain:
            low, high = ttest_rel(values, plain).confidence_interval()
            gains[name, way] = np.mean(values) - np.mean(plain), low, high
            line += "  {:+.3f} [{:+.3f}, {:+.3f}]".format(*gains[name, way])
        print(line)

# %%
# Points right of the line are better than the plain loss. A point without an interval
# lies on the line: the net is the plain one, because no sample was dropped.

colors = ["tab:orange", "tab:orange", "tab:blue", "tab:purple", "0.5"]
titles = ["30 % wrong labels", "10 % gross errors", "honest heavy tails"]
figure, all_axes = plt.subplots(1, 3, figsize=(8, 4), sharey=True, layout="constrained")
ways = [way for way in trainings if way != "plain loss"]
for axes, name, title in zip(all_axes, results, titles, strict=True):
    axes.axvline(0, color="0.6", linewidth=1)
    for place, (way, color) in enumerate(zip(ways, colors, strict=True)):
        gain, low, high = gains.get((name, way), (0, 0, 0))
        axes.plot([low, high], [place, place], color=color, linewidth=3)
        axes.plot(gain, place, "o", color=color, markersize=9)
    axes.set_title(title)
    axes.set_xlabel("R2 gained" if name != "labels" else "accuracy gained")
all_axes[0].set_yticks(range(len(ways)), ways, fontsize=12)
all_axes[0].invert_yaxis()
plt.show()

# %%
# What only dropping gives
# ------------------------
# A robust loss leaves no list. Data dropout names the samples, so you can look at them
# and correct the source. Where none is wrong it names next to none.

for name, found in results.items():
    n_dropped, n_hits, n_wrong = np.sum(
        [
            (dropped.sum(), (dropped & wrong).sum(), wrong.sum())
            for _, dropped, wrong in found
        ],
        axis=0,
    )
    print(
        f"{name:13} {n_wrong:4} wrong, {n_dropped:4} dropped, {n_hits:4} of these wrong"
    )

# %%
# Which one to take
# -----------------
# - Take a robust loss first if you only want a better net. It costs one training, and
#   it can help where the noise is honest, too.
# - Take data dropout if you want to know which samples are wrong. It is also safer
#   where a robust loss is a risk. On the :doc:`benchmarks </benchmarks>` GCE made the
#   log loss more than four times that of the plain loss where one class is rare. It
#   also raised it on clean data, beyond the noise in four cells of six. Data dropout
#   drops next to nothing there.
# - The two go together: pass a net with a robust criterion, or train one on
#   ``X[model.sample_mask_]``, as here.
