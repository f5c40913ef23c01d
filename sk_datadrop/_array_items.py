"""Data sets made of arrays: several in memory, ragged ones, and those on disk."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from sk_datadrop._casting import FLOATS, as_input, map_parts, parts_of

_CHUNK = 2**24
"""Bytes of a memory map that are read at a time."""


class ArrayItems(Dataset[Any]):
    """Samples in memory that are no single array of numbers.

    They are several arrays, in a dict, tuple or list, or rows of different lengths in
    an array of objects. Raises a ValueError if the arrays differ in length.
    """

    def __init__(self, parts: Any) -> None:
        self.parts = map_parts(_as_column, parts)
        lengths = {len(part) for part in parts_of(self.parts)}
        if len(lengths) != 1:
            raise ValueError(
                "the arrays of X must have one entry per sample each; got arrays of "
                f"{', '.join(map(str, sorted(lengths))) or 'no'} entries."
            )
        self.n_samples = lengths.pop()

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, key: int) -> Any:
        # In a tuple of one: two parts are no pair of input and target.
        return (map_parts(lambda part, _: _entry(part, key), self.parts),)


def _as_column(part: Any, name: str) -> Any:
    """Return an array or tensor of one entry per sample."""
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu()
    elif hasattr(part, "toarray"):
        as_input(part, FLOATS, name)
    else:
        part = rows_of_objects(part) if is_ragged(part) else np.asarray(part)
    if not part.ndim:
        raise TypeError(
            f"X{name} must be an array with one entry per sample; got {part!r:.60}."
        )
    return part


def _entry(part: Any, key: int) -> Any:
    entry = part[key]
    return entry if isinstance(entry, torch.Tensor | str) else np.asarray(entry)


def is_ragged(X: Any) -> bool:
    """Tell whether rows in memory differ in shape."""
    if isinstance(X, np.ndarray):
        is_object = X.dtype == object and X.ndim == 1 and len(X) > 0
        return is_object and isinstance(X[0], list | tuple | np.ndarray | torch.Tensor)
    if not isinstance(X, list | tuple):
        return False
    rows = (list, tuple, np.ndarray, torch.Tensor)
    if not X or not all(isinstance(row, rows) for row in X):
        return False
    return len({np.shape(r) if hasattr(r, "shape") else len(r) for r in X}) > 1


def is_text(X: Any) -> bool:
    """Tell whether X holds one text per sample."""
    values = X.to_numpy() if hasattr(X, "iloc") and X.ndim == 1 else X
    if not isinstance(values, list | tuple | np.ndarray) or np.ndim(values[:1]) != 1:
        return False
    return len(values) > 0 and all(isinstance(value, str) for value in values)


def rows_of_objects(X: Any) -> np.ndarray:
    """Return rows as an array of objects, each an array or text."""
    rows = np.empty(len(X), dtype=object)
    for number, row in enumerate(X):
        rows[number] = row if isinstance(row, str) else np.asarray(row)
    return rows


def are_parts(X: Any, y: Any, n_parts: int) -> bool:
    """Tell whether a tuple or list holds several inputs, not samples."""
    if not isinstance(X, tuple | list) or not X:
        return False
    if not all(getattr(part, "ndim", 0) for part in X):
        return False
    if n_parts:
        return True
    n_samples = len(y) if hasattr(y, "__len__") else -1
    return len(X) != n_samples and all(len(part) == n_samples for part in X)


def holds_dicts(X: Any) -> bool:
    """Tell whether items are dicts, as in data sets of Hugging Face."""
    has_items = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not has_items or isinstance(X, np.ndarray | torch.Tensor | str):
        return False
    if hasattr(X, "iloc") or hasattr(X, "toarray") or not len(X):
        return False
    try:
        return isinstance(X[0], Mapping)
    except (KeyError, IndexError, TypeError):
        return False


class MemoryMap(Dataset[Any]):
    """Samples of a `numpy.memmap`, sent to other processes as the name of its file."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __reduce__(self) -> tuple[Any, ...]:
        root: Any = self.array
        while isinstance(root.base, np.memmap):
            root = root.base
        # Changes to a map that is copied on write are in no file.
        if getattr(root, "filename", None) is None or root.mode == "c":
            return MemoryMap, (np.array(self.array),)
        start, of_root = (a.__array_interface__["data"][0] for a in (self.array, root))
        view = (self.array.shape, self.array.dtype, self.array.strides)
        return _open_map, (str(root.filename), int(root.offset + start - of_root), view)


def _open_map(filename: str, offset: int, view: tuple[Any, ...]) -> MemoryMap:
    shape, dtype, strides = view
    buffer = np.memmap(filename, np.uint8, mode="r")
    return MemoryMap(np.ndarray(shape, dtype, buffer, offset, strides))


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a memory map a few samples at a time, as arrays in memory."""
    n_samples = max(1, _CHUNK // max(array[:1].nbytes, 1))
    for start in range(0, len(array), n_samples):
        yield np.array(array[start : start + n_samples])


def listed_targets(dataset: Any) -> np.ndarray | None:
    """Return the targets that a data set holds as a list, if its items have no others.

    A user's own data set may change them on the way.
    """
    if type(dataset) is Subset:
        of_all = listed_targets(dataset.dataset)
        return None if of_all is None else of_all[np.asarray(dataset.indices)]
    if type(dataset) is TensorDataset:
        return dataset.tensors[1].numpy() if len(dataset.tensors) > 1 else None
    is_plain = getattr(dataset, "target_transform", None) is None
    if is_plain and type(dataset).__module__.startswith("torchvision."):
        for name in ("targets", "labels"):
            values = getattr(dataset, name, None)
            if values is not None and np.shape(values) == (len(dataset),):
                return np.asarray(values)
    return None


def refuse_ragged(y: Any) -> None:
    """Raise a ValueError if targets of samples differ in length."""
    if isinstance(y, list | tuple | np.ndarray) and is_ragged(y):
        raise ValueError(
            "the targets of samples differ in length. Fill them up to the longest with "
            "what the criterion ignores (ignore_index)."
        )
