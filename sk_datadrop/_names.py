"""Names that data sets have for their samples and classes."""

import os
from typing import Any

import numpy as np
from skorch.helper import SliceDataset
from torch.utils.data import Subset

from sk_datadrop._lazy import DatasetRows


def file_names(X: Any) -> list[str] | None:
    """Return the files that samples were read from; None if they are not known.

    The image folders of torchvision list them as ``samples`` and ``imgs``.
    """
    if not isinstance(X, DatasetRows):
        return None
    dataset, positions = _origin(X)
    for name in ("samples", "imgs"):
        listed = getattr(dataset, name, None)
        if isinstance(listed, list | tuple) and len(listed) == len(dataset):
            paths = [_first(listed[position]) for position in positions]
            if _are_files(paths):
                return [os.fspath(path) for path in paths]
    return None


def class_names(X: DatasetRows) -> np.ndarray | None:
    """Return what a data set calls its classes 0, 1, ...; None if it does not."""
    dataset, _ = _origin(X)
    names = getattr(dataset, "classes", None)
    # Who changes the labels on the way gives them another meaning.
    is_plain = getattr(dataset, "target_transform", None) is None
    if not is_plain or not isinstance(names, list | tuple):
        return None
    if not all(isinstance(name, str) for name in names):
        return None
    return np.array(names, dtype=object)


def _origin(X: DatasetRows) -> tuple[Any, np.ndarray]:
    """Return the data set that samples were cut from, and their positions in it."""
    dataset: Any = X.dataset
    positions = X.indices
    # A user's own kind of subset may change its items.
    while type(dataset) is Subset or isinstance(dataset, SliceDataset | DatasetRows):
        # Those of a `SliceDataset` may be None, which stands for all.
        indices = getattr(dataset, "indices_", dataset.indices)
        dataset, positions = dataset.dataset, np.asarray(indices)[positions]
    return dataset, positions


def _first(entry: Any) -> Any:
    return entry[0] if isinstance(entry, list | tuple) and entry else entry


def _are_files(paths: list[Any]) -> bool:
    """Tell names of files from sentences; one look at the disk is enough."""
    are_names = all(isinstance(path, str | os.PathLike) for path in paths)
    return bool(paths) and are_names and os.path.isfile(paths[0])
