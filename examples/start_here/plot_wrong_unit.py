"""
A table some of whose targets have the wrong unit
=================================================

Targets in the wrong unit, all too large, are found and dropped, and the retrained net
predicts better. So are errors of both signs, although their influence does not show
them: errors that cancel on average do damage by their variance, which a first-order
score does not see. Their losses show them, as a second population beyond a valley. A
robust loss gets about as far, but has no list of what is wrong.

The table is Friedman's function of ten columns, drawn here.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from skorch import NeuralNetRegressor

from sk_datadrop import DataDropoutRegressor

# %%
# Two ways to be wrong
# --------------------
# Of 800 training targets 15 % are wrong. Either they are in centimetres instead of
# inches, 2.54 times too large, or they are off by as much in both directions.

X, y_clean = make_friedman1(2800, noise=1.0, random_state=0)
X, y_clean = X.astype(np.float32), y_clean.astype(np.float32)
train, test = np.arange(800), np.arange(800, 2800)
rng = np.random.default_rng(0)
wrong = np.zeros(len(train), dtype=bool)
wrong[rng.choice(len(train), 120, replace=False)] = True
error = 1.54 * y_clean[train] * wrong
given = {
    "wrong unit": y_clean[train] + error,
    "both signs": y_clean[train] + error * rng.choice(np.float32([-1, 1]), len(train)),
}


class Net(torch.nn.Sequential):
    """Two hidden layers."""

    def __init__(self):
        super().__init__(
            torch.nn.Linear(10, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 1),
        )


net = NeuralNetRegressor(
    Net,
    optimizer=torch.optim.Adam,
    lr=0.005,
    max_epochs=40,
    batch_size=32,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)


def fit_on(y, keep, **options):
    rows = np.sort(np.resize(rng.permutation(np.flatnonzero(keep)), len(keep)))
    torch.manual_seed(0)
    fitted = clone(net).set_params(**options).fit(X[train][rows], y[rows, None])
    return r2_score(y_clean[test], fitted.predict(X[test]))


# %%
# Data dropout on both
# --------------------
# R2 is measured on 2,000 samples without errors. ``HuberLoss`` is the robust loss,
# trained on all samples. For tables with gross errors it is hard to beat, and costs
# one training. All nets take as many optimiser steps: as in round 2, some samples
# are repeated in place of those left out.

everything = np.ones(len(train), dtype=bool)
scores, models = {}, {}
for name, y in given.items():
    model = DataDropoutRegressor(net, random_state=0).fit(X[train], y)
    dropped = ~model.sample_mask_
    models[name] = model
    scores[name] = {
        "no dropout": fit_on(y, everything),
        "random drop": fit_on(y, rng.permutation(model.sample_mask_)),
        "data dropout": r2_score(y_clean[test], model.predict(X[test])),
        "Huber loss": fit_on(y, everything, criterion=torch.nn.HuberLoss),
        "right targets only": fit_on(y, ~wrong),
    }
    print(f"{name}: dropped {dropped.sum()}, {np.sum(dropped & wrong)} of 120 wrong")
    for arm, score in scores[name].items():
        print(f"    {arm:18} R2 {score:.3f}")

# %%
# The figure shows influence against the error of the target. On the left errors and
# harm go together. On the right errors of one sign score as harmful and those of the
# other as helpful: the *size* of the influence reveals the errors, its sign does not.
# They are dropped for their losses. Samples without an error stay, on whichever side of
# zero their influence is.

figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    off = given[name] - y_clean[train]
    kept = model.sample_mask_
    for chosen, label in [(kept, "kept"), (~kept, "dropped")]:
        ax.plot(off[chosen], model.influence_[chosen], ".", label=label)
    ax.axhline(0, color="0.5", linewidth=1)
    ax.set(title=name, xlabel="error of the target", ylabel="influence")
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    ax.legend()
plt.show()
