"""
Scores for a net that you trained yourself
==========================================

The epoch at which you score matters. At the epoch of the lowest held-out loss,
influence ranks nearly all wrong labels below the right ones. At the end of a training
that has begun to memorise the wrong labels, it ranks fewer of them there. The training
is a plain torch loop without an estimator: ``influence_scores`` takes the module, the
loss and the state dicts of some epochs.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from sk_datadrop import influence_scores
from sk_datadrop.datasets import flip_labels

# %%
# A fifth of the digits have a wrong label, the held-out ones too.

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
X = torch.as_tensor(digits.data[order] / 16, dtype=torch.float32)
labels, flipped = flip_labels(digits.target[order], 0.2, random_state=0)
y = torch.as_tensor(labels)
train, held_out = slice(0, 1200), slice(1200, None)

# %%
# Your training loop
# ------------------
# The loop keeps the weights after each epoch, and the loss on the held-out samples.

N_EPOCHS = 40
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
weights, held_out_losses, accuracies = [], [], []
for _ in range(N_EPOCHS):
    for batch in torch.randperm(1200).split(64):
        optimizer.zero_grad()
        loss(module(X[train][batch]), y[train][batch]).backward()
        optimizer.step()
    weights.append(copy.deepcopy(module.state_dict()))
    with torch.no_grad():
        held_out_losses.append(float(loss(module(X[held_out]), y[held_out])))
        right = module(X[train]).argmax(1) == y[train]
        accuracies.append(float(right.double().mean()))
best = int(np.argmin(held_out_losses))
print(f"lowest held-out loss after epoch {best + 1}")
print(
    f"training accuracy there {accuracies[best]:.3f}, at the end {accuracies[-1]:.3f}"
)

# %%
# Scores by epoch
# ---------------
# The module is left as it was found. Positive is helpful, negative is harmful.


def score(checkpoints):
    return influence_scores(
        module,
        X[train],
        y[train],
        X[held_out],
        y[held_out],
        loss=loss,
        checkpoints=checkpoints,
        random_state=0,
    ).influence


def share_ranked_right(influence):
    """Return the share of pairs that rank the wrong label below the right one."""
    return roc_auc_score(flipped[train], -influence)


epochs = sorted({0, 1, 2, 4, 7, 11, 15, 20, 26, 32, N_EPOCHS - 1, best})
by_epoch = {epoch: score([weights[epoch]]) for epoch in epochs}
ranked = {epoch: share_ranked_right(scores) for epoch, scores in by_epoch.items()}
neighbours = score(weights[max(best - 1, 0) : best + 2])
print(f"at the lowest held-out loss     AUC {ranked[best]:.3f}")
print(f"mean of it and its neighbours   AUC {share_ranked_right(neighbours):.3f}")
print(f"at the end                      AUC {ranked[N_EPOCHS - 1]:.3f}")

# %%
# Above: the held-out loss, and the share of training labels, right and wrong, that the
# net reproduces. Below: how well the scores at an epoch rank the wrong labels.

figure, (above, below) = plt.subplots(
    2, 1, figsize=(6.4, 5.2), sharex=True, layout="constrained"
)
numbers = np.arange(1, N_EPOCHS + 1)
above.plot(numbers, held_out_losses, label="held-out loss")
above.plot(numbers, accuracies, label="training accuracy")
above.legend()
below.plot([e + 1 for e in ranked], list(ranked.values()), marker="o")
below.set(xlabel="epoch", ylabel="AUC of wrong labels")
for ax in (above, below):
    ax.axvline(best + 1, color="0.5", linestyle="--", linewidth=1)
plt.show()
