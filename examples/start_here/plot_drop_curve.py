"""
Did dropping help?
==================

``drop_curve`` finds that out about your own data. It retrains without the harmful
samples, without as many at random, and on all samples, and scores the three on samples
that no other step used. This example runs it on digits with wrong labels, by labels
that are trusted and by labels that are as wrong as all others, and on clean digits,
where the answer is that nothing was shown.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier, DropCurveDisplay, drop_curve
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
FRACTIONS = [] if QUICK else [0.1, 0.3]

# %%
# Digits with wrong labels
# ------------------------
# A fifth of the labels are replaced at random. We set 500 digits aside and keep their
# right labels.

digits = load_digits()
X = (digits.images[:, None] / 16).astype(np.float32)
order = np.random.default_rng(0).permutation(len(X))
test, train = order[:500], order[500:]
y_right = digits.target[train]
y_given, flipped = flip_labels(y_right, 0.2, random_state=0)
trusted = {"X_test": X[test], "y_test": digits.target[test]}
net = NeuralNetClassifier(
    SmallCNN,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=30,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
model = DataDropoutClassifier(net)

# %%
# Without trusted labels
# ----------------------
# Three outer splits hold samples out in turn. Their labels are as wrong as all others,
# so every difference is smaller than it would be by right labels. Random errors change
# the sign of no difference in accuracy or in the probability of the given class; the
# last lines of the summary say what such samples cannot tell.

untrusted_curve = drop_curve(
    model,
    X[train],
    y_given,
    fractions=FRACTIONS,
    n_repeats=1 if QUICK else 2,
    random_state=0,
)
print(untrusted_curve)

# %%
# With trusted labels
# -------------------
# Each run trains on all of ``X``, with another seed, and scores on the 500 digits.
# Right labels show larger gains.

trusted_curve = drop_curve(
    model,
    X[train],
    y_given,
    **trusted,
    fractions=FRACTIONS,
    n_repeats=4 if QUICK else 5,
    random_state=0,
)
print(trusted_curve)

# %%
# An interval of the accuracy above zero means that the rule helped. Both columns have
# their gains on the same side. Wrong labels make them smaller and their intervals
# wider, so with few runs nothing is shown on the left where the right shows a gain.

figure, axes = plt.subplots(2, 2, figsize=(9, 8), sharey="row", layout="constrained")
for column, curve in zip(axes.T, (untrusted_curve, trusted_curve), strict=True):
    for ax, of_score in zip(column, (curve, curve.probability), strict=True):
        DropCurveDisplay(of_score).plot(ax)
plt.show()

# %%
# Clean digits
# ------------
# The default rule drops next to nothing here, so it changes nothing. A share dropped by
# force does not help.

clean_curve = drop_curve(
    model,
    X[train],
    y_right,
    **trusted,
    fractions=[0.2] if QUICK else FRACTIONS,
    n_repeats=2 if QUICK else 5,
    random_state=0,
)
print(clean_curve)
DropCurveDisplay(clean_curve).plot()
plt.show()
