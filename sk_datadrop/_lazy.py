"""Torch data sets and memory maps, read when they are needed and cut as arrays are."""

import copy
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_consistent_length
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

_CHUNK = 2**24
"""Bytes of a memory map that are read at a time."""


class DatasetRows(Dataset[Any]):
    """A torch data set that is indexed like an array and read one sample at a time.

    ``fit`` and ``predict`` wrap data sets in it. Wrap one yourself for a search or a
    cross-validation, which cut it before ``fit`` sees it, and to train on augmented
    samples: influence is measured without augmentation.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Map-style; its items are ``(x, y)``, or ``x`` where y is given elsewhere. Each
        x is an array or tensor of the same shape; the net gets float32.
    augmented : torch.utils.data.Dataset or None, default=None
        The same samples in the same order as training sees them: with torchvision the
        same data set with another ``transform``. Scoring and prediction use `dataset`.

    See Also
    --------
    skorch.helper.SliceDataset : X or y alone of a data set.

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
        self._row_shape: tuple[int, ...] | None = None
        self._target_dtype = torch.float32

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

    def _item(self, number: int) -> tuple[torch.Tensor, Any]:
        x, y = _parts(self._source[int(self.indices[number])])
        if self._values is not None:
            y = self._values[number]
        x = _as_input(x)
        if not x.isfinite().all():
            raise ValueError(
                "Input X contains NaN or infinity, in sample "
                f"{self.indices[number]} of the data set. Leave such samples out, or "
                "fill them in."
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
        return y.to(self._target_dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, and shape of the first.

        It reads the first item of the data set, once.

        Returns
        -------
        tuple of int
            Shape of an array of all samples.

        See Also
        --------
        DatasetRows.with_targets : Other targets for the same samples.

        Examples
        --------
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from sk_datadrop import DatasetRows
        >>> DatasetRows(TensorDataset(torch.zeros(10, 3), torch.zeros(10))).shape
        (10, 3)
        """
        if self._row_shape is None:
            self._row_shape = tuple(_as_input(_parts(self.dataset[0])[0]).shape)
        return (len(self), *self._row_shape)

    @property
    def targets(self) -> Any:
        """Targets as an array, or read when needed if each has two axes or more.

        Labels and numbers are read one by one, but for those that a `TensorDataset`
        or a data set of torchvision holds as a list.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets), or LazyTargets
            Targets, in the dtype of the data set.

        See Also
        --------
        DatasetRows.with_targets : Other targets for the same samples.

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
            raise ValueError(
                f"the items of {type(self.dataset).__name__} are single values, with "
                "no targets among them. Pass y."
            )
        if np.ndim(first) > 1:
            return LazyTargets(self)
        known = None if self._values is not None else _listed_targets(self.dataset)
        if known is not None:
            return known[self.indices]
        return np.array([self._target_of(i) for i in range(len(self))])

    def _target_of(self, number: int) -> Any:
        """Return a target as the data set has it, a tensor as an array."""
        if self._values is not None:
            target = self._values[number]
        else:
            _, target = _parts(self.dataset[int(self.indices[number])])
        return target.numpy() if isinstance(target, torch.Tensor) else target

    def with_targets(self, values: Any) -> "DatasetRows":
        """Return the same samples with other targets, one for each.

        Use it for labels that are spoiled on purpose, or kept apart from the images.

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
        DatasetRows.targets : The targets they have now.

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


class HeldOutAsTheyAre:
    """A ``train_split`` whose validation samples are not augmented.

    The net's own may withhold samples of another data set, which stay as they are.
    """

    def __init__(self, split: Callable[..., Any], samples: DatasetRows) -> None:
        self.split = split
        self.samples = samples

    def __call__(self, dataset: Any, y: Any = None, **options: Any) -> tuple[Any, Any]:
        train, held_out = self.split(dataset, y, **options)
        if isinstance(held_out, Subset) and held_out.dataset is dataset:
            held_out = self.samples[np.asarray(held_out.indices)]
        return train, held_out


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
        return torch.empty(0, dtype=self.samples._target_dtype).numpy().dtype

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


def identity(part: Any) -> Iterator[Any]:
    """Yield what tells samples from others: plain values, memory maps in chunks."""
    if isinstance(part, DatasetRows):
        yield part.indices
        for own in (part.dataset, part.augmented, part._values):
            yield from identity(own)
    elif isinstance(part, SliceDataset):
        yield from (part.idx, part.indices_)
        yield from identity(part.dataset)
    elif isinstance(part, LazyTargets):
        yield from identity(part.samples)
    elif isinstance(part, MemoryMap):
        yield from chunks(part.array)
    else:
        yield part


def as_lazy(X: Any) -> DatasetRows | None:
    """Wrap samples that are not all in memory; return None if X is anything else."""
    if isinstance(X, DatasetRows):
        return X
    # A user's own kind of subset may change its items.
    if type(X) is Subset and isinstance(X.dataset, DatasetRows | Subset):
        whole = as_lazy(X.dataset)
        return None if whole is None else whole[np.asarray(X.indices)]
    if isinstance(X, np.memmap) and X.dtype.kind in "biuf" and X.ndim > 1:
        return DatasetRows(MemoryMap(X))
    return DatasetRows(X) if isinstance(X, Dataset | SliceDataset) else None


def with_own_targets(X: Any, y: Any) -> tuple[Any, Any]:
    """Return X and y, lazy ones wrapped; y of a data set if it is None."""
    if (lazy := as_lazy(X)) is None:
        return X, y
    if isinstance(y, np.memmap) and y.ndim < 2:
        y = np.array(y)
    if isinstance(y, SliceDataset | np.memmap):
        lazy, y = lazy.with_targets(y), None
    return lazy, lazy.targets if y is None else y


def has_own_targets(X: DatasetRows) -> bool:
    """Tell whether targets are those of the data set, not given apart."""
    return X._values is None


def _parts(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) not in (1, 2):
        raise ValueError(
            f"items of a data set must be x, or a pair (x, y); got {len(item)} values."
        )
    # `TensorDataset(inputs)` gives tuples of one.
    return item[0], item[1] if len(item) == 2 else None


def _as_input(x: Any) -> torch.Tensor:
    x = x if isinstance(x, torch.Tensor) else np.asarray(x)
    is_array = isinstance(x, np.ndarray)
    if x.dtype.kind not in "biuf" if is_array else x.is_complex():
        raise TypeError(
            f"samples must be arrays or tensors of real numbers; got {x!r:.80}. Give "
            "the data set a transform that makes tensors of them, such as "
            "torchvision's ToTensor."
        )
    if is_array:
        # Too large a number becomes infinity, which is found.
        with np.errstate(over="ignore"):
            return torch.as_tensor(np.array(x, dtype=np.float32))
    tensor: torch.Tensor = x.detach().float()
    return tensor


def _listed_targets(dataset: Any) -> np.ndarray | None:
    """Return the targets that a data set holds as a list, if its items have no others.

    A user's own data set may change them on the way.
    """
    if type(dataset) is Subset:
        of_all = _listed_targets(dataset.dataset)
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
