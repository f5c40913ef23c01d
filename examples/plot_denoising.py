"""
Denoising with spoiled target images
====================================

Patches of photographs, each with Gaussian noise of standard deviation 25 (of
255), are the inputs; the clean patches are the targets, but 15 % of them went
through a wrong gamma curve. `DataDropoutRegressor` finds the spoiled pairs by
their influence, drops them, and retrains a small DnCNN.

Run ``python plot_denoising.py --corrupt shift`` for targets displaced by two
pixels, ``invert`` for negatives, ``none`` for clean data. The photographs come
with the package scikit-image; training and test patches are cut from different
ones.
"""

import argparse

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

SIGMA = 25 / 255
SIZE = 24


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--corrupt", choices=["gamma", "shift", "invert", "none"], default="gamma"
    )
    parser.add_argument("--rate", type=float, default=0.15, help="share of targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="denoising.png", help="figure to save")
    return parser.parse_args()


def cut_patches(photographs, n_patches, rng):
    """Patches of equal number from each photograph, (n, 1, SIZE, SIZE) in [0, 1]."""
    patches = []
    for photograph in photographs:
        gray = color.rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255
        corners = np.array(gray.shape) - SIZE
        for top, left in rng.integers(corners, size=(n_patches // len(photographs), 2)):
            patches.append(gray[top : top + SIZE, left : left + SIZE])
    return np.array(patches, dtype=np.float32)[:, None]


def add_noise(images, rng):
    return images + SIGMA * rng.standard_normal(images.shape, dtype=np.float32)


def make_net():
    return NeuralNetRegressor(
        DnCNN,
        module__depth=5,
        module__width=16,
        optimizer=torch.optim.Adam,
        lr=0.002,
        max_epochs=25,
        batch_size=32,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=256,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=25)],
        train_split=None,
        verbose=0,
    )


def fit_net(X, y, seed):
    """Train a plain net, as one would without this package."""
    torch.manual_seed(seed)
    return clone(make_net()).fit(X, y)


def random_mask(mask, rng):
    """Drop as many rows as `mask` does, at random."""
    return rng.permutation(mask)


def save_figure(path, X, y, plain, dropout, X_test, y_test):
    figure = plt.figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    left.suptitle("Test patches")
    rows = np.argsort(-y_test.std(axis=(1, 2, 3)))[:: len(y_test) // 4][:4]
    columns = {
        "noisy input": X_test[rows],
        "no dropout": plain.predict(X_test[rows]),
        "data dropout": dropout.predict(X_test[rows]),
        "clean": y_test[rows],
    }
    draw_columns(left.subplots(4, 4), columns)
    right.suptitle("Most harmful training pairs")
    worst = np.argsort(dropout.influence_)[:8]
    columns = {
        "input": X[worst[:4]],
        "given target": y[worst[:4]],
        "input ": X[worst[4:]],
        "given target ": y[worst[4:]],
    }
    draw_columns(right.subplots(4, 4), columns)
    figure.savefig(path, dpi=120)
    print(f"figure saved as {path}")


def draw_columns(axes, columns):
    for column, (title, images) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=10)
        for cell, image in zip(column, images, strict=True):
            cell.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            cell.set_axis_off()


def main():
    arguments = parse_arguments()
    rng = np.random.default_rng(arguments.seed)
    train_photographs = [
        data.astronaut(),
        data.coffee(),
        data.chelsea(),
        data.rocket(),
        data.stereo_motorcycle()[0],
    ]
    y_clean = cut_patches(train_photographs, 1500, rng)
    y_test = cut_patches([data.camera(), data.coins(), data.moon()], 300, rng)
    X, X_test = add_noise(y_clean, rng), add_noise(y_test, rng)
    y, spoiled = y_clean, np.zeros(len(X), dtype=bool)
    if arguments.corrupt != "none":
        y, spoiled = corrupt_targets(
            y_clean,
            arguments.rate,
            kind=arguments.corrupt,
            random_state=arguments.seed,
        )

    dropout = DataDropoutRegressor(
        make_net(), random_state=arguments.seed, verbose=1
    ).fit(X, y)
    shuffled = random_mask(dropout.sample_mask_, rng)
    plain = fit_net(X, y, arguments.seed)
    models = {
        "no dropout": plain,
        "random drop": fit_net(X[shuffled], y[shuffled], arguments.seed),
        "data dropout": dropout,
        "oracle": fit_net(X[~spoiled], y[~spoiled], arguments.seed),
    }
    print(f"{'noisy input':14}{peak_signal_noise_ratio(y_test, X_test):8.2f} dB")
    for name, model in models.items():
        psnr = peak_signal_noise_ratio(y_test, model.predict(X_test))
        print(f"{name:14}{psnr:8.2f} dB")
    dropped = ~dropout.sample_mask_
    print(
        f"dropped {dropped.sum()} of {len(X)} pairs, {np.sum(dropped & spoiled)} of "
        f"the {spoiled.sum()} spoiled ones; seconds: "
        + ", ".join(f"{k} {v:.0f}" for k, v in dropout.timings_.items())
    )
    save_figure(arguments.output, X, y, plain, dropout, X_test, y_test)


if __name__ == "__main__":
    main()
