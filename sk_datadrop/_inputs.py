"""Checks of X, as the estimators are handed it.

What comes in is turned into what a net can be trained on; what cannot be is refused
with a sentence that says what to do.
"""

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data
from skorch import NeuralNet
from skorch.dataset import Dataset as ArrayDataset

from sk_datadrop._lazy import (
    DatasetRows,
    MemoryMap,
    as_lazy,
    chunks,
    with_own_targets,
)


def with_targets_given(net: NeuralNet, X: Any, y: Any) -> tuple[Any, Any]:
    """Return X and y, lazy ones wrapped; y of a data set if it is None."""
    lazy = _as_lazy(net, X)
    return (X, y) if lazy is None else with_own_targets(lazy, y)


def check_inputs(
    owner: Any, X: Any, *, reset: bool, shape: tuple[int, ...] | None = None
) -> Any:
    """Check X, and return it as a float32 array or as `DatasetRows`.

    The owner learns the number and names of the features if `reset`, and compares with
    them otherwise. Each sample must have the shape, if one is given.
    """
    minimum = 2 if reset else 1
    if (lazy := _as_lazy(owner.estimator, X)) is None:
        X = validate_data(
            owner,
            X,
            reset=reset,
            ensure_min_samples=minimum,
            dtype=np.float32,
            allow_nd=True,
            # torch warns of read-only arrays, as those of a DataFrame may be.
            force_writeable=True,
        )
    else:
        _check_lazy(lazy, minimum)
        X = validate_data(owner, lazy, reset=reset, skip_check_array=True)
    if shape is not None and X.shape[1:] != shape:
        raise ValueError(
            f"X has samples of shape {X.shape[1:]}, but {type(owner).__name__} was "
            f"fitted on samples of shape {shape}."
        )
    return X


def without_targets(X: Any) -> Any:
    """Return inputs to predict for: targets of a data set are not read."""
    return X.with_targets(np.zeros(len(X))) if isinstance(X, DatasetRows) else X


def _as_lazy(net: NeuralNet, X: Any) -> DatasetRows | None:
    # A data set class of the user's own may change arrays as it likes.
    if isinstance(X, np.memmap) and net.dataset is not ArrayDataset:
        return None
    return as_lazy(X)


def _check_lazy(X: DatasetRows, minimum: int) -> None:
    """Raise a ValueError unless there are enough samples, none known to be bad.

    Those of a memory map are all read, a few at a time. Those of a data set are not:
    it may take as long as an epoch, in which bad ones show.
    """
    if len(X) < minimum:
        raise ValueError(
            f"Found array with {len(X)} sample(s) while a minimum of {minimum} is "
            "required: give X more samples."
        )
    if len(X.shape) < 2:
        raise ValueError(
            "samples of a data set must be arrays of one axis or more; got single "
            "values."
        )
    if isinstance(X.dataset, MemoryMap):
        for chunk in chunks(X.dataset.array):
            with np.errstate(over="ignore"):
                chunk = chunk.astype(np.float32)
            assert_all_finite(chunk, input_name="X")
