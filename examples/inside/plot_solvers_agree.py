"""
Five solvers, one answer
========================

All five solvers give the same scores, up to their tolerance. They differ in the number
of products with the curvature matrix that they need. The reference builds the whole
matrix, which is possible only for a small net.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier

from sk_datadrop import (
    CG,
    Arnoldi,
    Dense,
    InfluenceFunctions,
    Lanczos,
    LiSSA,
    influence_scores,
)
from sk_datadrop.datasets import flip_labels

# %%
# A trained net
# -------------
# The net has 64 inputs, 12 hidden units and 10 classes: 910 parameters. A tenth of the
# 1,200 training labels is wrong, and a tenth of the 597 held-out ones.


class Net(torch.nn.Sequential):
    """One hidden layer."""

    def __init__(self):
        super().__init__(
            torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
        )


digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
X = (digits.data[order] / 16).astype(np.float32)
y, flipped = flip_labels(digits.target[order], 0.1, random_state=0)
torch.manual_seed(0)
net = NeuralNetClassifier(
    Net,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=15,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
).fit(X[:1200], y[:1200])

# %%
# The same system, five times
# ---------------------------
# The damping belongs to the curvature and is relative to its largest eigenvalue, so
# that every solver solves the same system. ``Lanczos()`` with its defaults stops at a
# residual of a tenth, which is enough to find wrong labels.

solvers = {
    "Dense": Dense(),
    "Lanczos": Lanczos(max_iter=60, tol=1e-3),
    "CG": CG(max_iter=60, tol=1e-3),
    "Arnoldi": Arnoldi(rank=160, max_iter=250, tol=1e-2),
    "LiSSA": LiSSA(max_iter=300, tol=1e-3),
    "Lanczos, defaults": Lanczos(),
}
results = {
    name: influence_scores(
        net,
        X[:1200],
        y[:1200],
        X[1200:],
        y[1200:],
        engine=InfluenceFunctions(solver=solver),
        random_state=0,
    )
    for name, solver in solvers.items()
}

exact = results["Dense"].influence
products = {name: r.solver_results[0].n_iter for name, r in results.items()}
print(f"{'':18}{'products':>9}{'residual':>10}{'largest error':>15}{'rank corr.':>12}")
for name, result in results.items():
    difference = np.abs(result.influence - exact).max() / np.abs(exact).max()
    residual = result.solver_results[0].residual
    rank = spearmanr(result.influence, exact).statistic
    print(f"{name:18}{products[name]:9}{residual:10.1e}{difference:15.1e}{rank:12.5f}")

# %%
# The scores of the other solvers against those of the whole matrix:

figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
names = [name for name in results if name != "Dense"]
for name in names:
    ax.plot(exact, results[name].influence, ".", markersize=3, label=name)
ax.axline((0, 0), slope=1, color="0.5", linewidth=1)
ax.set(xlabel="influence, whole matrix", ylabel="influence, by the solver")
ax.ticklabel_format(style="sci", scilimits=(0, 0))
ax.legend(markerscale=3)
plt.show()

# %%
# The cost of a solver is its number of products with the curvature matrix. A product
# costs about as much as a gradient over the samples of the curvature. ``Dense`` needs
# one product per parameter.

figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
bars = ax.barh(list(products), list(products.values()))
ax.bar_label(bars, padding=3)
ax.invert_yaxis()
ax.set(xscale="log", xlabel="products with the curvature matrix")
ax.set_xlim(1, 4 * max(products.values()))
plt.show()

# sphinx_gallery_thumbnail_number = 2
