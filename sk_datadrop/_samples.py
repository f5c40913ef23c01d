"""Samples: inputs, targets and class codes, always together.

They are cut by indices, whether they are arrays in memory or read when needed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset as ArrayDataset
from torch import Tensor

from sk_datadrop._casting import Casting, parts_of
from sk_datadrop._lazy import (
    DatasetRows,
    LazyTargets,
    as_arrays,
    cast_as,
    for_training,
)


@dataclass(frozen=True)
class Samples:
    """Inputs and targets as a net takes them.

    Attributes
    ----------
    X : array-like or DatasetRows of shape (n_samples, ...)
        Inputs. `DatasetRows` carry the targets too.
    y : array-like or LazyTargets of shape (n_samples, ...)
        Targets, as the criterion takes them.
    codes : ndarray of shape (n_samples,), dtype int64, or None
        Classes as 0, 1, ...; None where the targets are no classes.
    """

    X: Any
    y: Any
    codes: np.ndarray | None = None

    @classmethod
    def of(cls, X: Any, y: Any, codes: np.ndarray | None = None) -> "Samples":
        """Join inputs and targets; lazily read inputs are made to carry the targets."""
        return cls(X.with_targets(y) if isinstance(X, DatasetRows) else X, y, codes)

    def parts(self) -> tuple[Any, Any, np.ndarray | None]:
        """Return what `joined` makes the samples of, each part to be sent once."""
        return self.X, None if isinstance(self.y, LazyTargets) else self.y, self.codes

    @classmethod
    def joined(cls, X: Any, y: Any, codes: np.ndarray | None) -> "Samples":
        """Return samples of `parts`; targets that are None are read with X."""
        return cls(X, LazyTargets(X) if y is None else y, codes)

    def with_targets(self, y: np.ndarray) -> "Samples":
        """Return the same inputs with other targets, (n_samples, ...)."""
        return Samples.of(self.X, y, self.codes)

    def with_target_dtype(self, dtype: np.dtype) -> "Samples":
        """Return the same samples with targets of another dtype."""
        if isinstance(self.y, LazyTargets):
            y = self.y.with_dtype(dtype)
            return Samples(y.samples, y, self.codes)
        return Samples.of(self.X, self.y.astype(dtype), self.codes)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, indices: Any) -> "Samples":
        codes = None if self.codes is None else self.codes[indices]
        return Samples(self.X[indices], self.y[indices], codes)

    def cast_as(self, casting: Casting) -> "Samples":
        """Return the same samples in the dtypes that a net takes."""
        y = self.y
        if isinstance(y, np.ndarray) and y.dtype.kind == "f":
            y = y.astype(casting.in_memory, copy=False)
        return Samples.of(cast_as(self.X, casting), y, self.codes)

    def arguments(self, net: Any) -> tuple[Any, Any]:
        """Return X and y for the ``get_dataset`` of a net, without augmentation."""
        return given_to(net, self.X), self.y

    def fit_arguments(self, net: Any) -> tuple[Any, Any]:
        """Return X and y for the ``fit`` of a net, augmented if they are to be."""
        X = given_to(net, self.X)
        if not isinstance(X, DatasetRows):
            return X, self.y
        return for_training(X), self.parts()[1]


def given_to(net: Any, X: Any) -> Any:
    """Return inputs as a net takes them: those in memory go to its data set class."""
    if isinstance(X, DatasetRows) and net.dataset is not ArrayDataset:
        arrays = as_arrays(X)
        return X if arrays is None else arrays
    return X


def input_of(X: Any, number: int) -> np.ndarray:
    """Return the input of one sample, without its target.

    Of several parts, the first with the most axes.
    """
    if isinstance(X, DatasetRows):
        x, _ = cast_as(X, Casting(others=True))[number]
        parts = [part for part in parts_of(x) if isinstance(part, Tensor)]
        largest = max(parts, key=Tensor.dim, default=torch.empty(0))
        return np.asarray(largest.float().numpy())
    # The columns of a frame may be of several dtypes.
    return X.iloc[number].to_numpy(float) if hasattr(X, "iloc") else np.array(X[number])


def by_position(X: Any) -> Any:
    """Return samples that `input_of` can read; a frame remains one, to predict for."""
    return X if isinstance(X, DatasetRows) or hasattr(X, "iloc") else np.asarray(X)


def class_codes(y: Any) -> np.ndarray:
    """Return the class number of every target.

    Parameters
    ----------
    y : array-like of shape (n_samples, ...)
        Class numbers. Targets that are not whole numbers are probabilities, and
        count as one class.

    Returns
    -------
    ndarray of shape (n_samples,), dtype int64
    """
    # numpy reads neither other devices nor bfloat16.
    y = y.cpu().double().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.size != len(y) or (y.dtype.kind == "f" and np.any(y % 1)):
        return np.zeros(len(y), dtype=np.int64)
    return np.unique(y.reshape(-1), return_inverse=True)[1]
