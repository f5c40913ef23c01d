"""
When the answer is: do not drop
===============================

On clean digits the default rule drops nothing, and no share that is dropped by force
gains anything beyond the noise. ``drop_curve`` finds that out about your own data. It
retrains without the samples most likely to do harm, without as many at random, and on
all samples, and scores the three on samples that no other step used.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier, DropCurveDisplay
from sk_datadrop.nets import SmallCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
FRACTIONS = ["harmful", 0.2, 0.4] if QUICK else ["harmful", 0.05, 0.1, 0.2, 0.3, 0.4]

# %%
# Clean data
# ----------

digits = load_digits()
X = (digits.images[:, None] / 16).astype(np.float32)
net = NeuralNetClassifier(
    SmallCNN,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=15,
    batch_size=64,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)

# %%
# The curve
# ---------
# Three outer splits, each with a round 1 of three nets and two nets per share. The
# intervals are those of a paired t-test, widened because the splits share training
# samples.

display = DropCurveDisplay.from_estimator(
    DataDropoutClassifier(net),
    X,
    digits.target,
    fractions=FRACTIONS,
    n_repeats=1 if QUICK else 3,
    cv=3,
    random_state=0,
)
plt.show()

# %%
# In numbers
# ----------
# The interval of "harmful" is a point at zero if it dropped no sample in any split: the
# nets are then the same. The others are wide because three splits are few.

curve = display.curve
print(f"accuracy without dropout {curve.none.mean():.4f}")
print(f"{'drop':>9}{'samples':>9}{'over no dropout':>29}{'over a random drop':>29}")
gains = zip(*curve.gain("none"), *curve.gain("random"), strict=True)
for fraction, n_dropped, gain in zip(
    curve.fractions, curve.n_dropped.mean(0), gains, strict=True
):
    shown = [f"{m:+.4f} [{a:+.4f}, {b:+.4f}]" for m, a, b in (gain[:3], gain[3:])]
    print(f"{fraction!s:>9}{n_dropped:9.1f}{shown[0]:>29}{shown[1]:>29}")
