"""Torch data sets and memory maps, read when they are needed and cut as arrays are."""

import copy
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, IterableDataset, Subset

from sk_datadrop._array_items import (
    ArrayItems,
    MemoryMap,
    are_parts,
    chunks,
    holds_dicts,
    is_ragged,
    listed_targets,
    refuse_ragged,
    rows_of_objects,
)
from sk_datadrop._casting import (
    FLOATS,
    Casting,
    as_input,
    cast_array,
    holds_integers,
    is_nested,
    map_parts,
    parts_of,
    shapes_of,
)

_LABELS = ("labels", "label")
"""Keys under which items of Hugging Face data sets hold the target."""


class DatasetRows(Dataset[Any]):
    """A torch data set that is indexed like an array and read one sample at a time.

    ``fit`` and ``predict`` wrap data sets in it. Wrap one yourself for a search or a
    cross-validation, which index it before ``fit`` sees it, and to train on augmented
    samples, since influence is measured without augmentation.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset, or dict or tuple of arrays
        A map-style data set with items ``(x, y)``, or ``x`` if y is given elsewhere;
        or arrays, one per input of the net. Each x is an array or tensor, or a dict,
        tuple or list of them, of equal shapes unless the net has a ``collate_fn``.
        Integers stay integers if the net takes them; everything else is cast to the
        dtype of its parameters. In an item that is a dict, "labels" or "label" is y.
    augmented : torch.utils.data.Dataset or None, default=None
        The same samples in the same order, augmented, for training only: with
        torchvision the same data set with another ``transform``.

    See Also
    --------
    skorch.helper.SliceDataset : Holds X or y of a data set.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from sk_datadrop import DatasetRows
    >>> rows = DatasetRows(TensorDataset(torch.zeros(10, 3), torch.arange(10)))
    >>> rows.shape, rows[2:5].targets
    ((10, 3), array([2, 3, 4]))
    """

    def __init__(self, dataset: Any, *, augmented: Any = None) -> None:
        if isinstance(dataset, Mapping | tuple) and is_nested(dataset):
            dataset = ArrayItems(dataset)
        in_training = dataset if augmented is None else augmented
        for name, given in (("dataset", dataset), ("augmented", in_training)):
            if isinstance(given, IterableDataset) or not hasattr(given, "__len__"):
                raise TypeError(
                    f"{name} must have a length and items by number, for samples to be "
                    f"held out and dropped; got {type(given).__name__}."
                )
        if len(in_training) != len(dataset):
            raise ValueError(
                f"augmented must hold the samples of dataset; got {len(augmented)} and "
                f"{len(dataset)} samples."
            )
        self.dataset = dataset
        self.augmented = augmented
        self.indices = np.arange(len(dataset))
        self._values: np.ndarray | SliceDataset | LazyTargets | None = None
        self._source = dataset
        self._target_dtype: torch.dtype | None = None
        self._casting = FLOATS
        self._first: tuple[Any, bool] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: Any) -> Any:
        # scikit-learn asks for (rows, Ellipsis).
        key = key[0] if isinstance(key, tuple) else key
        if isinstance(key, Integral):
            return self._item(int(key))
        cut = copy.copy(self)
        cut.indices = self.indices[key]
        if self._values is not None:
            cut._values = self._values[key]
        return cut

    def _item(self, number: int) -> tuple[Any, Any]:
        x, y = _read(self._source, int(self.indices[number]))
        if self._values is not None:
            y = self._values[number]
        x = map_parts(lambda part, name: as_input(part, self._casting, name), x)
        for part in parts_of(x):
            if isinstance(part, torch.Tensor) and not part.isfinite().all():
                raise ValueError(
                    "Input X contains NaN or infinity, in sample "
                    f"{self.indices[number]} of the data set. Leave such samples out, "
                    "or fill them in."
                )
        return x, self._as_target(y)

    def _as_target(self, y: Any) -> Any:
        if y is None or isinstance(y, str | bytes):
            # Targets to train on were given apart; loaders make no batches of None.
            return 0
        y = torch.as_tensor(y if isinstance(y, torch.Tensor) else np.array(y))
        is_label = y.ndim == 0 and not y.is_floating_point()
        if is_label or isinstance(self._values, np.ndarray):
            return y
        if self._target_dtype is not None:
            return y.to(self._target_dtype)
        return y.double() if self._casting.floating == "float64" else y.float()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and shape of the first if it has a single part.

        It reads the first item of the data set, once.

        Returns
        -------
        tuple of int
            Shape of an array of all samples.

        See Also
        --------
        DatasetRows.with_targets : Replaces the targets.

        Examples
        --------
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from sk_datadrop import DatasetRows
        >>> DatasetRows(TensorDataset(torch.zeros(10, 3), torch.zeros(10))).shape
        (10, 3)
        """
        shape = self._look()[0]
        return (len(self), *(shape if isinstance(shape, tuple) else ()))

    def _look(self) -> tuple[Any, bool]:
        """Return the shape of the first item, and whether it holds integers."""
        if self._first is None:
            x, _ = _read(self.dataset, 0)
            self._first = shapes_of(x), holds_integers(x)
        return self._first

    @property
    def targets(self) -> Any:
        """Targets as an array, or read when needed if each has two axes or more.

        Labels and numbers are read one by one, except those that a `TensorDataset`
        or a data set of torchvision holds as a list.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets), or LazyTargets
            Targets, in the dtype of the data set.

        See Also
        --------
        DatasetRows.with_targets : Replaces the targets.

        Examples
        --------
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from sk_datadrop import DatasetRows
        >>> DatasetRows(TensorDataset(torch.zeros(3, 2), torch.arange(3))).targets
        array([0, 1, 2])
        """
        if isinstance(self._values, np.ndarray):
            return self._values
        first = self._target_of(0)
        if first is None:
            x = raw_input(self, 0)
            what = "single values, with no targets among them. Pass y."
            if isinstance(x, Mapping):
                what = f"dicts of {', '.join(map(repr, x))}, with no targets under "
                what += "'labels' or 'label'. Pass y, or give the target that name."
            raise ValueError(f"the items of {type(self.dataset).__name__} are {what}")
        if np.ndim(first) > 1:
            return LazyTargets(self)
        known = None if self._values is not None else listed_targets(self.dataset)
        if known is not None:
            return known[self.indices]
        found = [self._target_of(i) for i in range(len(self))]
        refuse_ragged(found)
        return np.array(found)

    def _target_of(self, number: int) -> Any:
        """Return a target as the data set has it, a tensor as an array."""
        if self._values is not None:
            target = self._values[number]
        else:
            _, target = _read(self.dataset, int(self.indices[number]))
        return target.numpy() if isinstance(target, torch.Tensor) else target

    def with_targets(self, values: Any) -> "DatasetRows":
        """Return the same samples with other targets, one for each.

        Use it for labels that were changed on purpose, or that are stored elsewhere.

        Parameters
        ----------
        values : ndarray, numpy.memmap or SliceDataset of shape (n_samples, ...)
            Targets.

        Returns
        -------
        DatasetRows
            Samples with these targets instead of those of the data set.

        See Also
        --------
        DatasetRows.targets : Holds the present targets.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from torch.utils.data import TensorDataset
        >>> from sk_datadrop import DatasetRows
        >>> rows = DatasetRows(TensorDataset(torch.zeros(3, 2), torch.arange(3)))
        >>> rows.with_targets(np.array([2, 2, 1])).targets
        array([2, 2, 1])
        """
        check_consistent_length(self, values)
        if isinstance(values, LazyTargets) and values.are_of(self):
            return values.samples
        if isinstance(values, np.memmap):
            values = SliceDataset(DatasetRows(MemoryMap(values)))
        other = copy.copy(self)
        other._values = values
        return other


def for_training(X: DatasetRows) -> DatasetRows:
    """Return the same samples as training sees them: augmented, if they are to be."""
    other = copy.copy(X)
    other._source = X.dataset if X.augmented is None else X.augmented
    return other


def shape_of(X: Any) -> Any:
    """Return the shape of a sample, a dict or list of shapes if it has several parts.

    It is None for a part whose samples differ in shape.
    """
    return X._look()[0] if isinstance(X, DatasetRows) else X.shape[1:]


def with_shape(X: DatasetRows, shape: Any) -> DatasetRows:
    """Return the same samples, whose shape is known by more than the first of them."""
    other = copy.copy(X)
    other._first = shape, X._look()[1]
    return other


def keeps_integers(X: Any) -> bool:
    """Tell whether integers are among the inputs, which a net may or may not take."""
    return X._look()[1] if isinstance(X, DatasetRows) else X.dtype.kind in "iu"


def cast_as(X: Any, casting: Casting) -> Any:
    """Return the same samples in the dtypes that a net takes.

    Arrays remain arrays if they can: there are none of low precision.
    """
    if not isinstance(X, DatasetRows):
        if casting.dtype.itemsize >= casting.in_memory.itemsize:
            return cast_array(X, casting)
        X = DatasetRows(ArrayItems(X))
    other = copy.copy(X)
    other._casting = casting
    return other


def raw_input(X: DatasetRows, number: int) -> Any:
    """Return an input as the data set has it."""
    return _read(X.dataset, int(X.indices[number]))[0]


def as_arrays(X: DatasetRows, *, cast: bool = True) -> Any:
    """Return what `ArrayItems` hold of these samples; None of any other data set."""
    if not isinstance(X.dataset, ArrayItems):
        return None

    def cut(part: Any, name: str) -> Any:
        part = part[X.indices]
        if not cast:
            return part
        return cast_array(np.asarray(part), X._casting)

    return map_parts(cut, X.dataset.parts)


class LazyTargets:
    """Targets as large as inputs, which are only read together with them."""

    def __init__(self, samples: DatasetRows) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, Integral):
            return np.asarray(self.samples._target_of(int(key)), dtype=self.dtype)
        return LazyTargets(self.samples[key])

    @property
    def dtype(self) -> np.dtype:
        """Type of the values: float32, or that of classes."""
        own = self.samples._target_dtype
        floating = self.samples._casting.in_memory
        return floating if own is None else torch.empty(0, dtype=own).numpy().dtype

    def with_dtype(self, dtype: np.dtype) -> "LazyTargets":
        """Return the same targets, of another dtype."""
        samples = copy.copy(self.samples)
        samples._target_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        return LazyTargets(samples)

    def are_of(self, X: DatasetRows) -> bool:
        """Tell whether samples carry these targets already, in this order."""
        own = self.samples
        is_same = own.dataset is X.dataset and own._values is X._values
        return is_same and np.array_equal(own.indices, X.indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        stacked = np.stack([self[i] for i in range(len(self))])
        return np.asarray(stacked, dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and shape of the first target."""
        return (len(self), *self[0].shape) if len(self) else (0,)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


def identity(part: Any) -> Iterator[Any]:
    """Yield what tells samples from others: plain values, memory maps in chunks."""
    if isinstance(part, DatasetRows):
        yield from (part.indices, str(part._casting))
        for own in (part.dataset, part.augmented, part._values):
            yield from identity(own)
    elif isinstance(part, SliceDataset):
        yield from (part.idx, part.indices_)
        yield from identity(part.dataset)
    elif isinstance(part, LazyTargets):
        yield from identity(part.samples)
    elif isinstance(part, ArrayItems):
        yield repr(map_parts(lambda _, name: name, part.parts))
        yield from parts_of(part.parts)
    elif isinstance(part, MemoryMap):
        yield from chunks(part.array)
    else:
        yield part


def as_lazy(X: Any, y: Any = None, n_parts: int = 0) -> DatasetRows | None:
    """Wrap samples that are no array in memory; return None if they are one.

    A tuple or list of arrays holds several inputs, not samples, if each array has as
    many entries as y, or if several are expected.
    """
    if isinstance(X, DatasetRows):
        return X
    # A user's own kind of subset may change its items.
    if type(X) is Subset and isinstance(X.dataset, DatasetRows | Subset):
        whole = as_lazy(X.dataset)
        return None if whole is None else whole[np.asarray(X.indices)]
    if isinstance(X, np.memmap) and X.dtype.kind in "biuf" and X.ndim > 1:
        return DatasetRows(MemoryMap(X))
    # One kind of sparse matrix is a dict.
    is_dict = isinstance(X, Mapping) and not hasattr(X, "toarray")
    if is_dict or are_parts(X, y, n_parts):
        return DatasetRows(ArrayItems(X))
    values = X.to_numpy() if hasattr(X, "iloc") and X.ndim == 1 else X
    if is_ragged(values):
        return DatasetRows(ArrayItems(rows_of_objects(values)))
    is_dataset = isinstance(X, Dataset | SliceDataset) or holds_dicts(X)
    return DatasetRows(X) if is_dataset else None


def with_own_targets(X: Any, y: Any) -> tuple[Any, Any]:
    """Return X and y, lazy ones wrapped; y of a data set if it is None."""
    if (lazy := as_lazy(X, y)) is None:
        return X, y
    if isinstance(y, np.memmap) and y.ndim < 2:
        y = np.array(y)
    if isinstance(y, SliceDataset | np.memmap):
        lazy, y = lazy.with_targets(y), None
    return lazy, lazy.targets if y is None else y


def has_own_targets(X: DatasetRows) -> bool:
    """Tell whether targets are those of the data set, not given apart."""
    return X._values is None


def _read(source: Any, number: int) -> tuple[Any, Any]:
    """Return input and target of an item, as the innermost data set has them."""
    if not isinstance(source, DatasetRows):
        return _parts(source[number])
    x, y = _read(source._source, int(source.indices[number]))
    return x, y if source._values is None else source._values[number]


def _parts(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        label = next((key for key in _LABELS if key in item), None)
        x = {key: part for key, part in item.items() if key != label}
        return x, None if label is None else item[label]
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) not in (1, 2):
        raise ValueError(
            f"items of a data set must be x, or a pair (x, y); got {len(item)} values. "
            "Put several inputs into one x: ((a, b), y), or ({'a': a, 'b': b}, y)."
        )
    # `TensorDataset(inputs)` gives tuples of one.
    return item[0], item[1] if len(item) == 2 else None
