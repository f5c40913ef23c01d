"""Reading a few samples, to see what all are like before any training."""

from typing import Any

import numpy as np
import torch
from skorch import NeuralNet

from sk_datadrop._array_items import ArrayItems, MemoryMap
from sk_datadrop._batches import collates, has_own_dataset
from sk_datadrop._casting import parts_of, shapes_of
from sk_datadrop._lazy import DatasetRows, raw_input, shape_of
from sk_datadrop._ranks import device_of
from sk_datadrop._samples import Samples
from sk_datadrop._training import seeded

N_LOOKED_AT = 8
N_READINGS = 4
"""Eight samples read four times: a change to one in ten is noticed 29 times of 30."""


def common_shape(X: DatasetRows, net: NeuralNet) -> Any:
    """Return the shape of a sample, None where the first few differ.

    Raises a ValueError if they differ, and the net has nothing that makes batches of
    them.
    """
    # In memory, all are soon looked at.
    is_known = isinstance(X.dataset, ArrayItems)
    numbers = range(len(X)) if is_known else _few(len(X))
    shapes = [shapes_of(raw_input(X, number)) for number in numbers]
    known = shape_of(X)
    shapes = [known, *shapes]
    if all(shape == known for shape in shapes):
        return known
    if not collates(net):
        raise ValueError(_say_ragged(shapes, known))
    return _common(shapes)


def _few(n_samples: int) -> np.ndarray:
    """Return positions of a few samples, from the first to the last."""
    return np.unique(np.linspace(0, n_samples - 1, N_LOOKED_AT).astype(int))


def _say_ragged(shapes: list[Any], known: Any) -> str:
    other = next(shape for shape in shapes if shape != known)
    advice = (
        "Pad them to one length in a collate_fn of the net "
        "(iterator_train__collate_fn, iterator_valid__collate_fn), or before."
    )
    if isinstance(known, tuple) and len(known) == 3:
        advice = (
            "Bring images to one size in the data set, such as by torchvision's Resize."
        )
    return f"samples of X differ in shape: {known} and {other}. {advice}"


def _common(shapes: list[Any]) -> Any:
    """Return what shapes have in common: None for parts that differ."""
    first = shapes[0]
    if isinstance(first, dict) and all(s.keys() == first.keys() for s in shapes):
        return {key: _common([shape[key] for shape in shapes]) for key in first}
    if isinstance(first, list) and all(len(s) == len(first) for s in shapes):
        return [_common(list(parts)) for parts in zip(*shapes, strict=True)]
    return first if all(shape == first for shape in shapes) else None


def say_random(net: NeuralNet, samples: Samples, seed: int, name: str) -> str | None:
    """Return a warning if samples come out differently each time they are read.

    A few are read a few times, as scoring reads them; global generators are left as
    they were. Arrays that go through no code of the user are not read.
    """
    rows, is_own = samples.X, has_own_dataset(net)
    in_memory = not isinstance(rows, DatasetRows) or isinstance(
        rows.dataset, ArrayItems | MemoryMap
    )
    if in_memory and not is_own and not collates(net):
        return None
    dataset = net.get_dataset(*samples.arguments(net))
    collate = vars(net).get("iterator_valid__collate_fn")
    few = _few(len(samples))
    with seeded(seed, device_of(net)):
        first = _read(dataset, few, collate)
        again = (_read(dataset, few, collate) for _ in range(N_READINGS - 1))
        if all(_are_same(first, other) for other in again):
            return None
    advice = (
        "Augment in training only: pass DatasetRows(plain, augmented=...) as X, where "
        "plain is the same data set without augmentation."
    )
    if not in_memory:
        by = f"the data set of {name}, {type(samples.X.dataset).__name__},"
    elif is_own:
        by = f"dataset={type(dataset).__name__} of the net"
    else:
        by = "iterator_valid__collate_fn of the net"
        advice = "Draw random numbers in iterator_train__collate_fn only."
    return (
        f"{by} gives other values each time a sample is read, as random augmentation "
        "does. All scores are then those of one random draw, and fewer errors are "
        f"found. {advice}"
    )


def _read(dataset: Any, numbers: np.ndarray, collate: Any) -> Any:
    items = [dataset[int(number)] for number in numbers]
    return items if collate is None else collate(items)


def _are_same(first: Any, second: Any) -> bool:
    """Tell whether two readings hold the same values, whatever they are made of."""
    one, other = list(_leaves(first)), list(_leaves(second))
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        for a, b in zip(one, other, strict=True)
    )


def _leaves(values: Any) -> Any:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield from map(_as_array, parts_of(values))


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to_dense()
        return np.asarray(value.float() if value.is_floating_point() else value)
    return np.asarray(value)


def check_lengths(net: NeuralNet, samples: Samples) -> None:
    """Raise a ValueError if a data set of the net holds no sample per row."""
    if not callable(net.dataset):
        raise ValueError(
            f"the net holds a data set, {type(net.dataset).__name__}, which would "
            "stand for any samples. Pass it as X, and leave dataset out of the net."
        )
    if not has_own_dataset(net):
        return
    n_items = len(net.get_dataset(*samples.arguments(net)))
    if n_items != len(samples):
        raise ValueError(
            f"dataset={net.dataset.__name__} of the net makes {n_items} items of "
            f"{len(samples)} samples, so that none could be dropped. Make the items "
            "before, and pass them as X."
        )
