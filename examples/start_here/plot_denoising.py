"""
Denoising with spoiled target images
====================================

A denoiser retrained without the pairs that data dropout calls harmful is better, by
decibels, than one trained on all pairs. Inputs are patches of photographs with Gaussian
noise of standard deviation 25 (of 255). Targets are the clean patches, but 20 % of them
have a wrong gamma curve.

The photographs come with the package scikit-image. Training and test patches are cut
from different photographs. Set ``CORRUPT`` to ``"shift"`` for targets displaced by two
pixels, or to ``"invert"`` for negatives.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage import color, data
from sklearn.base import clone
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler

from sk_datadrop import DataDropoutRegressor
from sk_datadrop.datasets import corrupt_targets
from sk_datadrop.metrics import peak_signal_noise_ratio
from sk_datadrop.nets import DnCNN

QUICK = os.environ.get("SK_DATADROP_QUICK", "0") != "0"
CORRUPT = "gamma"
SIGMA = 25 / 255
SIZE = 24
N_PATCHES = 400 if QUICK else 1500
N_EPOCHS = 20 if QUICK else 25

# %%
# The pairs
# ---------


def cut_patches(photographs, n_patches, rng):
    """Cut equally many patches from each photograph, (n, 1, SIZE, SIZE) in [0, 1]."""
    patches = []
    for photograph in photographs:
        gray = color.rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255
        corners = np.array(gray.shape) - SIZE
        for top, left in rng.integers(corners, size=(n_patches // len(photographs), 2)):
            patches.append(gray[top : top + SIZE, left : left + SIZE])
    return np.array(patches, dtype=np.float32)[:, None]


def add_noise(images, rng):
    return images + SIGMA * rng.standard_normal(images.shape, dtype=np.float32)


rng = np.random.default_rng(0)
y_clean = cut_patches(
    [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()], N_PATCHES, rng
)
y_test = cut_patches([data.camera(), data.coins(), data.moon()], 150, rng)
X, X_test = add_noise(y_clean, rng), add_noise(y_test, rng)
y, spoiled = corrupt_targets(y_clean, 0.2, kind=CORRUPT, random_state=0)

# %%
# The net, and data dropout
# -------------------------

net = NeuralNetRegressor(
    DnCNN,
    module__depth=5,
    module__width=16,
    optimizer=torch.optim.Adam,
    lr=0.002,
    max_epochs=N_EPOCHS,
    batch_size=16 if QUICK else 32,
    iterator_train__shuffle=True,
    iterator_valid__batch_size=256,
    callbacks=[LRScheduler("CosineAnnealingLR", T_max=N_EPOCHS)],
    train_split=None,
    verbose=0,
)
model = DataDropoutRegressor(net, random_state=0).fit(X, y)
dropped = ~model.sample_mask_
print(
    f"dropped {dropped.sum()} of {len(X)} pairs, {np.sum(dropped & spoiled)} of the "
    f"{spoiled.sum()} spoiled ones"
)

# %%
# On test patches from other photographs
# --------------------------------------
# All nets take as many optimiser steps: as in round 2, some pairs are repeated in place
# of those left out.


def fit_on(keep):
    rows = np.sort(np.resize(rng.permutation(np.flatnonzero(keep)), len(keep)))
    torch.manual_seed(0)
    return clone(net).fit(X[rows], y[rows])


arms = {
    "no dropout": fit_on(np.ones(len(X), dtype=bool)),
    "random drop": fit_on(rng.permutation(model.sample_mask_)),
    "data dropout": model,
    "clean targets only": fit_on(~spoiled),
}
print(f"{'noisy input':20}{peak_signal_noise_ratio(y_test, X_test):6.2f} dB")
for name, arm in arms.items():
    print(f"{name:20}{peak_signal_noise_ratio(y_test, arm.predict(X_test)):6.2f} dB")

# %%
# A wrong gamma makes the denoiser darken images. Here are four of the test patches with
# the most contrast.

shown = np.argsort(-y_test.std(axis=(1, 2, 3)))[:40:10]
columns = {
    "noisy input": X_test[shown],
    "no dropout": arms["no dropout"].predict(X_test[shown]),
    "data dropout": model.predict(X_test[shown]),
    "clean": y_test[shown],
}


def draw(columns):
    size = 1.6 * len(columns), 6.6
    _, axes = plt.subplots(4, len(columns), figsize=size, layout="constrained")
    for cells, (title, images) in zip(axes.T, columns.items(), strict=True):
        cells[0].set_title(title, fontsize=10)
        for cell, image in zip(cells, images, strict=True):
            cell.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            cell.set_axis_off()


draw(columns)
plt.show()

# %%
# The most harmful training pairs
# -------------------------------
# The retrained net has not seen these targets, and its predictions show what is wrong
# with them.

worst = np.argsort(model.influence_)[:4]
draw({"input": X[worst], "given": y[worst], "predicted": model.predict(X[worst])})
plt.show()

# sphinx_gallery_thumbnail_number = 2
