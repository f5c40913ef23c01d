"""Checks of X, as the estimators are handed it.

What comes in is turned into what a net can be trained on; what cannot be is refused
with a sentence that says what to do.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data
from skorch import NeuralNet
from torch.utils.data import DataLoader

from sk_datadrop._array_items import (
    ArrayItems,
    MemoryMap,
    chunks,
    is_text,
    rows_of_objects,
)
from sk_datadrop._batches import collates, has_own_dataset
from sk_datadrop._casting import FLOATS, Casting, as_input, map_parts
from sk_datadrop._lazy import (
    DatasetRows,
    as_lazy,
    cast_as,
    raw_input,
    shape_of,
    with_own_targets,
    with_shape,
)
from sk_datadrop._ranks import device_of
from sk_datadrop._rereading import common_shape, say_random
from sk_datadrop._safeguards import DataDropoutWarning
from sk_datadrop._samples import Samples
from sk_datadrop._training import seeded


def with_targets_given(
    net: NeuralNet, X: Any, y: Any, shape: Any = None
) -> tuple[Any, Any]:
    """Return X and y, lazy ones wrapped; y of a data set if it is None."""
    lazy = _as_lazy(net, X, y, shape)
    return (X, y) if lazy is None else with_own_targets(lazy, y)


def check_inputs(
    owner: Any,
    X: Any,
    *,
    reset: bool,
    shape: Any = None,
    casting: Casting | None = FLOATS,
) -> Any:
    """Check X, and return it as an array or as `DatasetRows`.

    The owner learns the number and names of the features if `reset`, and compares with
    them otherwise. Each sample must have the shape, if one is given. A casting of None
    leaves the dtype as it is.
    """
    minimum = 2 if reset else 1
    if (lazy := _as_lazy(owner.estimator, X, shape=shape)) is None:
        X = _as_array(owner, X, reset, minimum)
    else:
        net = owner.estimator
        # A data set may draw from the global generators.
        with seeded(0, device_of(net)):
            _check_lazy(lazy, minimum, net)
            if reset:
                lazy = with_shape(lazy, common_shape(lazy, net))
        X = validate_data(owner, lazy, reset=reset, skip_check_array=True)
    if shape is not None:
        _check_shape(type(owner).__name__, owner.estimator, X, shape)
    return X if casting is None else cast_as(X, casting)


def _as_array(owner: Any, X: Any, reset: bool, minimum: int) -> np.ndarray:
    """Return samples in memory as an array of numbers, in a dtype of their own."""
    names = getattr(X, "columns", None)
    if isinstance(X, torch.Tensor):
        X = _of_tensor(X)
    try:
        array = validate_data(
            owner,
            X,
            reset=reset,
            ensure_min_samples=minimum,
            dtype=_integers_of(X) or "numeric",
            allow_nd=True,
            ensure_all_finite=False,
            # torch warns of read-only arrays, as those of a DataFrame may be.
            force_writeable=True,
        )
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error):
            raise ValueError(
                "the rows of X differ in shape. Give the net a collate_fn that pads "
                "them, or pad them before; and pass several inputs as a dict or list "
                "of arrays with one entry per sample each."
            ) from error
        if (advice := _text_in(X)) is None:
            raise
        raise ValueError(advice) from error
    # Categories of a frame pass as they are.
    if array.dtype.kind not in "biuf" and (advice := _text_in(X)) is not None:
        raise ValueError(advice)
    if array.dtype.kind == "f":
        _check_finite(array, names)
    return np.asarray(array)


def _of_tensor(X: torch.Tensor) -> np.ndarray:
    if X.layout != torch.strided:
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use "
            "'.to_dense()' to convert to a dense tensor."
        )
    X = X.detach().cpu()
    return np.asarray(
        (X.float() if X.dtype.itemsize < 4 and X.is_floating_point() else X).numpy()
    )


def _integers_of(X: Any) -> Any:
    """Return the dtype of a frame that holds nothing but integers, or None."""
    dtypes = getattr(X, "dtypes", None)
    if not hasattr(X, "iloc") or dtypes is None or X.ndim != 2 or not X.shape[1]:
        return None
    kinds = [getattr(d, "categories", d) for d in dtypes]
    kinds = [getattr(kind, "dtype", kind) for kind in kinds]
    are_whole = all(getattr(kind, "kind", "O") in "iu" for kind in kinds)
    # Missing values are no integers.
    return np.int64 if are_whole and not X.isna().to_numpy().any() else None


def _check_finite(X: np.ndarray, names: Any) -> None:
    """Raise a ValueError that says where values are no finite numbers."""
    if X.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(X.sum(dtype=np.float64)):
            return
    is_bad = ~np.isfinite(X)
    if not is_bad.any():
        return
    rows = np.flatnonzero(is_bad.reshape(len(X), -1).any(axis=1))
    what = "NaN"
    if not np.isnan(X).any():
        what = f"infinity or a value too large for {X.dtype}"
    where = f"{len(rows)} of {len(X)} samples, the first at position {rows[0]}"
    if X.ndim == 2:
        columns = np.flatnonzero(is_bad.any(axis=0))
        shown = [str(c if names is None else names[c]) for c in columns[:5]]
        more = ", ..." if len(columns) > 5 else ""
        where += f" (columns {', '.join(shown)}{more})"
    raise ValueError(
        f"Input X contains {what}: in {where}. Fill such values in, as "
        "sklearn.impute.SimpleImputer does in a pipeline, or leave the samples out."
    )


def warn_of_inputs(
    net: NeuralNet,
    X: Any,
    samples: Samples,
    validation: Samples | None,
    casting: Casting,
    seed: int,
) -> list[str]:
    """Warn of integers that are rounded, and of samples that are read differently.

    Of the latter it returns what was said.
    """
    _warn_of_rounding(X, samples.X, casting, stacklevel=4)
    given = {"X": samples, "X_val": validation}
    notes = [say_random(net, part, seed, name) for name, part in given.items() if part]
    said = [note for note in notes if note is not None]
    for note in said:
        warnings.warn(note, DataDropoutWarning, stacklevel=4)
    return said


def _warn_of_rounding(X: Any, as_read: Any, casting: Casting, stacklevel: int) -> None:
    """Warn of integers in a table that the floating dtype cannot tell apart.

    X is as it was given and as it was read.
    """
    if casting.in_memory.itemsize > 4 or not isinstance(as_read, np.ndarray):
        return
    if hasattr(X, "iloc") and X.ndim == 2:
        numbers = enumerate(X.columns)
        columns = {str(name): X.iloc[:, n] for n, name in numbers}
        if casting.integers and _integers_of(X) is not None:
            return
    else:
        array = _of_tensor(X) if isinstance(X, torch.Tensor) else np.asarray(X)
        if array.dtype.kind not in "iu" or casting.integers:
            return
        columns = {"": array}
    rounded = [name for name, column in columns.items() if _is_rounded(column)]
    if rounded:
        to = casting.floating
        where = f" in columns {', '.join(rounded)}" if any(rounded) else ""
        warnings.warn(
            f"X holds integers above 2**24{where}, which {to} rounds: ids would be "
            "mixed up. Give the net ids of their own, as in "
            "X={'ids': ..., 'values': ...}, or number them from zero.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _is_rounded(column: Any) -> bool:
    if getattr(column.dtype, "kind", "O") not in "iu":
        return False
    values = np.asarray(column)
    is_whole = values.dtype.kind in "iu"
    return is_whole and bool((values.astype(np.float32) != values).any())


def _text_in(X: Any) -> str | None:
    """Return what to say of values that are no numbers; None if all are."""
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        bad = [str(c) for n, c in enumerate(X.columns) if _is_text(X.iloc[:, n])]
        if not bad:
            return None
        return (
            f"X has columns that hold no numbers: {', '.join(bad[:10])}"
            f"{', ...' if len(bad) > 10 else ''}. Encode them before, such as by "
            "sklearn.preprocessing.OrdinalEncoder (for embeddings) or OneHotEncoder, "
            "in a ColumnTransformer and a pipeline."
        )
    if not _is_text(X):
        return None
    return (
        "X holds text, and a net takes numbers. Encode it before: words by a tokenizer "
        "or a vectorizer, categories by sklearn.preprocessing.OrdinalEncoder or "
        "OneHotEncoder, in a pipeline. Or give the net a data set class or a "
        "collate_fn that does."
    )


def _is_text(values: Any) -> bool:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "biufc":
            return False
        if array.dtype.kind != "M":
            array.astype(float)
            return False
    except (ValueError, TypeError):
        kinds = str | bytes
        first = np.ravel(np.asarray(values, dtype=object))
        return any(isinstance(value, kinds) for value in first)
    return True


def _check_shape(name: str, net: NeuralNet, X: Any, shape: Any) -> None:
    """Raise a ValueError unless samples have the shape of those seen in ``fit``."""
    found = shape_of(X)
    if (
        isinstance(shape, dict)
        and isinstance(found, dict)
        and found.keys() != shape.keys()
    ):
        raise ValueError(
            f"X holds {', '.join(map(repr, found))}, but {name} was fitted on "
            f"{', '.join(map(repr, shape))}. Give X the same parts."
        )
    ragged = collates(net) and isinstance(X, DatasetRows)
    if not ragged and not _match(found, shape):
        raise ValueError(
            f"X has samples of shape {found}, but {name} was fitted on samples of "
            f"shape {shape}."
        )


def _match(found: Any, shape: Any) -> bool:
    """Tell whether shapes agree; None agrees with all."""
    if found is None or shape is None:
        return True
    if type(found) is not type(shape):
        return False
    if isinstance(shape, dict):
        return all(_match(found[key], part) for key, part in shape.items())
    if isinstance(shape, list):
        pairs = zip(found, shape, strict=False)
        return len(found) == len(shape) and all(_match(*pair) for pair in pairs)
    return bool(found == shape)


def without_targets(X: Any) -> Any:
    """Return inputs to predict for: targets of a data set are not read."""
    return X.with_targets(np.zeros(len(X))) if isinstance(X, DatasetRows) else X


def refuse_iterators(X: Any) -> None:
    """Raise a TypeError if X passes samples in turn, so that none can be left out."""
    if isinstance(X, Iterator):
        raise TypeError(
            f"X is a {type(X).__name__}, which can be read only once. Pass an array or "
            "a list, or a data set whose items are read by number."
        )
    if isinstance(X, DataLoader):
        raise TypeError(
            "X is a DataLoader, which passes batches: samples could not be left out. "
            "Pass its data set, loader.dataset, and give the net what else it was "
            "made with: batch_size=..., iterator_train__shuffle=True, "
            "iterator_train__collate_fn=..., iterator_valid__collate_fn=..."
        )


def _as_lazy(net: NeuralNet, X: Any, y: Any = None, shape: Any = None) -> Any:
    refuse_iterators(X)
    # A data set class of the user's own may change arrays as it likes.
    if isinstance(X, np.memmap) and has_own_dataset(net):
        return None
    if (collates(net) or has_own_dataset(net)) and is_text(X):
        return DatasetRows(ArrayItems(rows_of_objects(X)))
    return as_lazy(X, y, len(shape) if isinstance(shape, list) else 0)


def _check_lazy(X: DatasetRows, minimum: int, net: NeuralNet) -> None:
    """Raise a ValueError unless there are enough samples, none known to be bad.

    Those of a memory map are all read, a few at a time. Those of a data set are not:
    it may take as long as an epoch, in which bad ones show.
    """
    if len(X) < minimum:
        raise ValueError(
            f"Found array with {len(X)} sample(s) while a minimum of {minimum} is "
            "required: give X more samples."
        )
    is_own = collates(net) or has_own_dataset(net)
    casting = Casting(others=is_own)
    map_parts(lambda part, name: as_input(part, casting, name), raw_input(X, 0))
    if shape_of(X) == () and not is_own:
        raise ValueError(
            "samples of a data set must be arrays of one axis or more; got single "
            "values."
        )
    if isinstance(X.dataset, MemoryMap):
        for chunk in chunks(X.dataset.array):
            with np.errstate(over="ignore"):
                chunk = chunk.astype(np.float32)
            assert_all_finite(chunk, input_name="X")
