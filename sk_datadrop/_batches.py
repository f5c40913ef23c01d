"""Batches as the net makes them, every sample once and in order."""

from collections.abc import Iterator
from typing import Any

import torch
from skorch import NeuralNet
from skorch.dataset import Dataset as ArrayDataset
from skorch.utils import to_tensor
from torch import Tensor

from sk_datadrop._ranks import device_of, iterator_of_all
from sk_datadrop._samples import Samples

_IN_ORDER = {
    "sampler": None,
    "batch_sampler": None,
    "shuffle": False,
    "drop_last": False,
}
"""Options of a data loader that passes every sample once, in order."""


def twin_of(net: NeuralNet) -> NeuralNet:
    """Return a shallow copy of a net, with validation batches in order."""
    # copy.copy would go through skorch's pickling.
    twin: NeuralNet = object.__new__(type(net))
    twin.__dict__.update(net.__dict__)
    for option, value in _IN_ORDER.items():
        if f"iterator_valid__{option}" in vars(net):
            twin.__dict__[f"iterator_valid__{option}"] = value
    return twin


def batches_of(
    twin: NeuralNet, samples: Samples, batch_size: int
) -> Iterator[tuple[Any, Tensor]]:
    """Yield batches (X, y) of validation on the net's device; the net is a twin."""
    device = device_of(twin)
    dataset = twin.get_dataset(*samples.arguments(twin))
    twin.__dict__["iterator_valid__batch_size"] = batch_size
    # A DataLoader draws a seed for its workers, needed or not.
    with torch.random.fork_rng(devices=[]):
        batches = iter(iterator_of_all(twin, dataset))
    for number, (X, y) in enumerate(batches):
        if number == 0 and collates(twin):
            _check_order(y, samples.y)
        yield to_tensor(X, device=device), to_tensor(y, device=device)


def collates(net: NeuralNet) -> bool:
    """Tell whether batches for validation are made by a function of the user."""
    return vars(net).get("iterator_valid__collate_fn") is not None


def has_own_dataset(net: NeuralNet) -> bool:
    """Tell whether samples go through a data set class of the user."""
    return net.dataset is not ArrayDataset


def _check_order(batch_y: Any, y: Any) -> None:
    """Raise a ValueError if a first batch does not hold the first samples, in order."""
    expected = torch.as_tensor(y[: len(batch_y)])
    found = torch.as_tensor(batch_y)
    if found.shape != expected.shape or not torch.equal(found.to(expected), expected):
        raise ValueError(
            "iterator_valid__collate_fn changes the samples, their order or their "
            "targets, so scores could not be told apart. Leave it out of the net for "
            "validation, or keep the order."
        )
