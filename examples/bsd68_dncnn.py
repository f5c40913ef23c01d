"""Data dropout for a denoiser: DnCNN on a folder of images.

The script cuts patches from the images of one folder, adds Gaussian noise, and trains a
DnCNN to remove it: on all patches, on fewer chosen at random, and with data dropout. It
prints the peak signal-to-noise ratio (PSNR) of the three on the whole images of another
folder, which nothing else uses. ``--corrupt 0.15`` first damages the targets of that
share of the patches, in the way that ``--kind`` names; the script then prints how many
of them it found.

It needs Pillow, which torchvision installs (``pip install "sk_datadrop[vision]"``), and
two folders of png, jpg or bmp files. Colours are turned into gray. To compare with
published figures, use the data of Zhang, Zuo, Chen, Meng, Zhang (2017,
arXiv:1608.03981): 400 images of 180 x 180 pixels to train on, and BSD68 to test. Their
DnCNN-S, one net per level of noise, reaches 31.73, 29.23 and 26.23 dB there, at sigma
15, 25 and 50.

Noise is drawn from ``--seed`` and the number of the patch, so a patch is the same
whenever it is read. Patches are cut when they are needed; memory holds only the images,
as bytes. Values lie between 0 and 1. Noisy images may leave that range; denoised ones
are clipped before they are compared, borders included.

A bar shows the trainings done and the time left. Try this first::

    python bsd68_dncnn.py --train train400 --test bsd68 --n-patches 2000 \\
        --depth 7 --width 32 --epochs 10 --corrupt 0.15
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _experiment import (
    Help,
    add_flags,
    dropout_parameters,
    net_parameters,
    nets_to_compare,
    print_dropped,
    share,
)
from PIL import Image
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler
from torch.utils.data import Dataset

from sk_datadrop import DataDropoutRegressor, DatasetRows
from sk_datadrop.datasets import corrupt_targets
from sk_datadrop.metrics import peak_signal_noise_ratio
from sk_datadrop.nets import DnCNN

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
NOISE, TEST_NOISE, CHOICE, SPOILED = range(4)
"""Streams of random numbers, one for each use."""


class NoisyPatches(Dataset):
    """Pairs of a noisy patch and its target, each cut when it is read.

    Parameters
    ----------
    images : list of Path or ndarray of shape (height, width), dtype uint8
        Paths are read again for every patch.
    corners : ndarray of shape (n_patches, 3), dtype int
        Image, top and left of each patch.
    size, sigma, kind, seed
        As on the command line.
    spoiled : ndarray of shape (n_patches,), dtype bool
        Patches whose target is to be spoiled.
    turned : bool, default=False
        Whether to turn and mirror each pair at random, for training.
    """

    def __init__(
        self, images, corners, *, size, sigma, spoiled, kind, seed, turned=False
    ):
        self.images = images
        self.corners = corners
        self.size = size
        self.sigma = sigma
        self.spoiled = spoiled
        self.kind = kind
        self.seed = seed
        self.turned = turned

    def __len__(self):
        return len(self.corners)

    def __getitem__(self, number):
        image, top, left = self.corners[number]
        patch = as_gray(self.images[image])[top:, left:][: self.size, : self.size]
        clean = patch[None] / np.float32(255)
        noisy = add_noise(clean, self.sigma, (self.seed, NOISE, number))
        if self.spoiled[number]:
            [clean], _ = corrupt_targets(clean[None], 1, kind=self.kind, random_state=0)
        if self.turned:
            quarters, mirrored = torch.randint(4, ()), torch.randint(2, ())
            noisy, clean = (
                np.rot90(pair[..., :: 1 - 2 * int(mirrored)], int(quarters), (1, 2))
                for pair in (noisy, clean)
            )
        return noisy.copy(), clean.copy()


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    data = parser.add_argument_group("data")
    data.add_argument("--train", type=Path, required=True, help="training images")
    data.add_argument("--test", type=Path, required=True, help="test images")
    data.add_argument(
        "--sigma",
        type=int,
        choices=[15, 25, 50],
        default=25,
        help="standard deviation of the noise; pixels go up to 255",
    )
    data.add_argument("--patch", type=int, default=40, help="side in pixels")
    data.add_argument("--stride", type=int, default=20, help="pixels between patches")
    data.add_argument(
        "--n-patches", type=int, help="use this many patches, chosen at random"
    )
    data.add_argument(
        "--reopen",
        action="store_true",
        help="read the file again for every patch, for images that do not fit in "
        "memory; --memory then knows files only by their names",
    )
    data.add_argument(
        "--corrupt",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of the patches whose target is damaged",
    )
    data.add_argument(
        "--kind",
        choices=["gamma", "shift", "invert", "blur"],
        default="gamma",
        help="damage of --corrupt",
    )
    net = parser.add_argument_group("net")
    net.add_argument("--depth", type=int, default=17, help="number of convolutions")
    net.add_argument("--width", type=int, default=64, help="channels of a convolution")
    net.add_argument(
        "--batch-norm", action=argparse.BooleanOptionalAction, default=True
    )
    net.add_argument("--lr", type=float, default=0.001, help="learning rate of Adam")
    net.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="turn and mirror patches in training",
    )
    add_flags(parser, epochs=50, batch_size=128)
    return parser.parse_args(arguments)


def image_files(folder):
    files = sorted(f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"no png, jpg or bmp files in {folder}")
    return files


def as_gray(image):
    """Return the gray values, (height, width), dtype uint8; paths are read first."""
    if isinstance(image, np.ndarray):
        return image
    with Image.open(image) as file:
        return np.array(file.convert("L"))


def add_noise(clean, sigma, seed):
    noise = np.random.default_rng(seed).standard_normal(clean.shape, dtype=np.float32)
    return clean + np.float32(sigma / 255) * noise


def cut_corners(images, arguments):
    """Return image, top and left of patches in a grid, all or some of them."""
    corners = []
    for number, image in enumerate(images):
        tops, lefts = (
            range(0, extent - arguments.patch + 1, arguments.stride)
            for extent in as_gray(image).shape
        )
        corners += [(number, top, left) for top in tops for left in lefts]
    if not corners:
        raise SystemExit(f"no image has {arguments.patch} pixels in both directions")
    n_patches = arguments.n_patches or len(corners)
    order = np.random.default_rng((arguments.seed, CHOICE)).permutation(len(corners))
    return np.array(corners)[np.sort(order[:n_patches])]


def load_samples(arguments):
    """Return the training samples, and which of them are spoiled."""
    images = image_files(arguments.train)
    if not arguments.reopen:
        images = [as_gray(file) for file in images]
    corners = cut_corners(images, arguments)
    order = np.random.default_rng((arguments.seed, SPOILED)).permutation(len(corners))
    spoiled = order < round(arguments.corrupt * len(corners))
    patches, turned = (
        NoisyPatches(
            images,
            corners,
            size=arguments.patch,
            sigma=arguments.sigma,
            spoiled=spoiled,
            kind=arguments.kind,
            seed=arguments.seed,
            turned=turned,
        )
        for turned in (False, True)
    )
    return DatasetRows(
        patches, augmented=turned if arguments.augment else None
    ), spoiled


def make_net(arguments):
    return NeuralNetRegressor(
        DnCNN,
        module__depth=arguments.depth,
        module__width=arguments.width,
        module__batch_norm=arguments.batch_norm,
        optimizer=torch.optim.Adam,
        lr=arguments.lr,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=arguments.epochs)],
        **net_parameters(arguments),
    )


def print_psnr(nets, files, arguments):
    """Print a line for each test image, and one for the mean."""
    print(f"\nPSNR in dB, sigma {arguments.sigma}")
    print(f"{'':20}{'noisy':>14}" + "".join(f"{name:>14}" for name in nets))
    table = []
    for number, file in enumerate(files):
        clean = as_gray(file)[None, None] / np.float32(255)
        noisy = add_noise(clean, arguments.sigma, (arguments.seed, TEST_NOISE, number))
        images = [noisy, *(np.clip(net.predict(noisy), 0, 1) for net in nets.values())]
        table.append([peak_signal_noise_ratio(clean, image) for image in images])
        print_line(file.name, table[-1])
    print_line(f"mean of {len(files)} images", np.mean(table, axis=0))


def print_line(name, values):
    print(f"{name:20}" + "".join(f"{value:14.2f}" for value in values))


def main(arguments=None):
    arguments = parse_arguments(arguments)
    test = image_files(arguments.test)
    samples, spoiled = load_samples(arguments)
    print(
        f"{len(samples)} training samples, {spoiled.sum()} with a spoiled target",
        flush=True,
    )
    model = DataDropoutRegressor(make_net(arguments), **dropout_parameters(arguments))
    model.fit(samples)
    nets = nets_to_compare(model, samples, None, arguments.seed)
    print_dropped(model, spoiled)
    print_psnr(nets, test, arguments)


if __name__ == "__main__":
    main()
