"""Data dropout on CIFAR-10 or SVHN, with a ResNet.

The script trains a residual net three times: with data dropout, on all training images,
and without as many images of each class chosen at random. It prints the accuracy of the
three on the test images, which nothing else uses. ``--label-noise 0.2`` first gives a
fifth of the training images a wrong label; the script then prints how many it found.

It needs torchvision (``pip install "sk_datadrop[vision]"``) and the data in the folder
``--root``, in the files of torchvision: ``cifar-10-batches-py/`` for CIFAR-10,
``train_32x32.mat`` and ``test_32x32.mat`` for SVHN. ``--download`` fetches them.

The nets:

resnet18
    The net of torchvision, made for images of 224 x 224 pixels. Its first convolution
    (7 x 7, stride 2, then max-pooling) would leave 8 x 8 pixels of 32 x 32. By default
    one of 3 x 3 with stride 1 and no pooling replaces it, as is usual for images of
    this size. ``--stem 7x7`` keeps the original.
resnet110
    The net of He, Zhang, Ren, Sun (2016, arXiv:1512.03385), section 4.2. ``--depth``
    selects smaller ones of 6 n + 2 layers: 20, 32, 44, 56.

Both are trained as in that paper: SGD with momentum 0.9, weight decay 1e-4, batches of
128, and a learning rate of 0.1, divided by ten after half and three quarters of 164
epochs (the 64,000 batches of the paper). Images are cropped at random within a border
of 4 pixels and mirrored at random, except for digits. resnet110 starts with an epoch at
a tenth of the learning rate. Influence is measured on the images as they are.

A bar shows the trainings done and the time left. Try this first::

    python cifar10_resnet.py --net resnet110 --depth 20 --epochs 20 --cv 0.2 \\
        --label-noise 0.2 --memory splits
"""

import argparse
from functools import partial

import numpy as np
import torch
from _cifar_resnet import CifarResNet
from _experiment import (
    Help,
    add_flags,
    dropout_parameters,
    net_parameters,
    nets_to_compare,
    print_dropped,
    share,
)
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.utils.data import Subset
from torchvision import datasets, transforms
from torchvision.models import resnet

from sk_datadrop import DataDropoutClassifier, DatasetRows
from sk_datadrop.datasets import flip_labels

N_CLASSES = 10
MEAN_AND_DEVIATION = {
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "svhn": ((0.438, 0.444, 0.473), (0.198, 0.201, 0.197)),
}


class Resnet18(resnet.ResNet):
    """The net of torchvision, with its own first layers or with smaller ones."""

    def __init__(self, stem="3x3"):
        super().__init__(resnet.BasicBlock, [2, 2, 2, 2], num_classes=N_CLASSES)
        if stem == "3x3":
            self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out")
            self.maxpool = nn.Identity()


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=["cifar10", "svhn"], default="cifar10")
    data.add_argument("--root", default="data", help="folder of the data")
    data.add_argument("--download", action="store_true", help="fetch missing data")
    data.add_argument(
        "--n-samples",
        type=int,
        help="use only the first samples; all ten classes must be among them",
    )
    data.add_argument(
        "--label-noise",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of the training samples that get a wrong label",
    )
    net = parser.add_argument_group("net")
    net.add_argument("--net", choices=["resnet18", "resnet110"], default="resnet18")
    net.add_argument(
        "--stem",
        choices=["3x3", "7x7"],
        default="3x3",
        help="first convolution of resnet18: 3x3 for small images, or 7x7",
    )
    net.add_argument(
        "--depth", type=int, default=110, help="layers of resnet110: 6 n + 2"
    )
    net.add_argument(
        "--width",
        type=int,
        default=16,
        help="channels of the first stage of resnet110",
    )
    net.add_argument("--lr", type=float, default=0.1, help="learning rate")
    net.add_argument("--weight-decay", type=float, default=1e-4, help="of SGD")
    net.add_argument(
        "--schedule",
        choices=["step", "cosine"],
        default="step",
        help="schedule of the learning rate",
    )
    add_flags(parser, epochs=164, batch_size=128)
    return parser.parse_args(arguments)


def load_samples(arguments):
    """Return training samples, augmented in training only, and test samples."""
    plain = [
        transforms.ToTensor(),
        transforms.Normalize(*MEAN_AND_DEVIATION[arguments.dataset]),
    ]
    random = [transforms.RandomCrop(32, padding=4)]
    # The mirror image of a digit is no digit.
    random += [transforms.RandomHorizontalFlip()] * (arguments.dataset == "cifar10")
    train, augmented = (
        open_data(arguments, train=True, transform=steps)
        for steps in (plain, random + plain)
    )
    if arguments.n_samples is not None:
        first = range(min(arguments.n_samples, len(train)))
        train, augmented = Subset(train, first), Subset(augmented, first)
    test = open_data(arguments, train=False, transform=plain)
    return DatasetRows(train, augmented=augmented), DatasetRows(test)


def open_data(arguments, *, train, transform):
    transform = transforms.Compose(transform)
    if arguments.dataset == "cifar10":
        options, kind = {"train": train}, datasets.CIFAR10
    else:
        options, kind = {"split": "train" if train else "test"}, datasets.SVHN
    return kind(
        arguments.root, transform=transform, download=arguments.download, **options
    )


def share_of_rate(epoch, *, schedule, n_epochs, n_warm_up):
    """Return the learning rate of an epoch, counted from 0, over the highest one."""
    if epoch < n_warm_up:
        return 0.1
    if schedule == "cosine":
        return (1 + np.cos(np.pi * epoch / n_epochs)) / 2
    return 0.1 ** ((epoch >= n_epochs / 2) + (epoch >= 3 * n_epochs / 4))


def make_net(arguments):
    if arguments.net == "resnet18":
        module = {"module": Resnet18, "module__stem": arguments.stem}
    else:
        module = {
            "module": CifarResNet,
            "module__depth": arguments.depth,
            "module__width": arguments.width,
            "module__n_outputs": N_CLASSES,
        }
    rate = partial(
        share_of_rate,
        schedule=arguments.schedule,
        n_epochs=arguments.epochs,
        n_warm_up=int(arguments.net == "resnet110"),
    )
    return NeuralNetClassifier(
        **module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        optimizer__weight_decay=arguments.weight_decay,
        lr=arguments.lr,
        callbacks=[LRScheduler("LambdaLR", lr_lambda=rate)],
        **net_parameters(arguments),
    )


def main(arguments=None):
    arguments = parse_arguments(arguments)
    samples, test = load_samples(arguments)
    y, flipped = flip_labels(
        samples.targets, arguments.label_noise, random_state=arguments.seed
    )
    print(
        f"{len(samples)} training samples, {flipped.sum()} with a wrong label",
        flush=True,
    )
    model = DataDropoutClassifier(make_net(arguments), **dropout_parameters(arguments))
    model.fit(samples, y)
    nets = nets_to_compare(model, samples, y, arguments.seed)
    print_dropped(model, flipped)
    print(f"\naccuracy on {len(test)} test samples")
    for name, net in nets.items():
        print(f"{name:14}{np.mean(net.predict(test) == test.targets):8.4f}")


if __name__ == "__main__":
    main()
