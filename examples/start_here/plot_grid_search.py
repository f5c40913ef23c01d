"""
How many samples to drop? A grid search that trains round 1 once per fold
=========================================================================

A grid search over the share of samples to drop, with ``memory=``, trains round 1 once
per fold instead of once per candidate, and picks a share near that of the wrong labels.
A fifth of the digits it is given have a wrong label.
"""

import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
FRACTIONS = (
    [0.0, 0.1, 0.2, 0.3] if QUICK else [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]
)
N_FOLDS = 3
N_SPLITS = 3

# %%
# Data and model
# --------------
# 1,297 digits of 8 x 8 pixels. The other 500 keep their right labels and show how good
# the choice was.

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
train, test = order[:-500], order[-500:]
X = (digits.images[:, None] / 16).astype(np.float32)
y = digits.target
y_given, _ = flip_labels(y[train], 0.2, random_state=0)

net = NeuralNetClassifier(
    SmallCNN,
    module__channels=(8, 16),
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=20,
    batch_size=32,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
model = DataDropoutClassifier(net, cv=N_SPLITS, random_state=0)

# %%
# The search
# ----------
# Candidates are scored on the fold left out. Its labels are as often wrong as those
# trained on, which lowers all scores alike. A second scorer uses the 500 test digits.


def score_on_test_digits(fitted, X_fold, y_fold):
    return fitted.score(X[test], y[test])


with tempfile.TemporaryDirectory() as folder:
    search = GridSearchCV(
        model.set_params(memory=folder),
        {"drop_fraction": FRACTIONS},
        scoring={"fold": "accuracy", "test": score_on_test_digits},
        refit="fold",
        cv=N_FOLDS,
    ).fit(X[train], y_given)
    n_trained = len(list(Path(folder).rglob("output.pkl")))

# The search fits each candidate on each fold, and the best one on all samples.
n_fits = len(FRACTIONS) * N_FOLDS + 1
print(f"fits: {n_fits}, each with {N_SPLITS} trainings in round 1: {N_SPLITS * n_fits}")
print(f"trainings of round 1 that took place: {n_trained}")
print("share chosen:", search.best_params_["drop_fraction"])

# %%
# The upper curve is the one you would like to see. In practice you cannot, because it
# needs right labels.

figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for name, label in [
    ("test", "500 digits with right labels"),
    ("fold", "fold left out, a fifth of its labels wrong"),
]:
    mean = search.cv_results_[f"mean_test_{name}"]
    ax.plot(FRACTIONS, mean, marker="o", label=label)
best = search.best_params_["drop_fraction"]
ax.axvline(best, color="0.5", linestyle="--", linewidth=1)
ax.annotate(f" chosen: {best:g}", (best, ax.get_ylim()[0]), va="bottom")
ax.set_xlabel("share of the training samples dropped")
ax.set_ylabel(f"accuracy, mean of {N_FOLDS} folds")
ax.legend()
plt.show()
