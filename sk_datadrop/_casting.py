"""Inputs of one or several parts, each in a dtype that the net takes.

An input is an array, or a dict, tuple or list of such parts, as skorch's data set and
torch's loaders have them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

LOW_PRECISION = ("bfloat16", "float16")
"""Floating dtypes too coarse to solve equations in."""


class Casting(NamedTuple):
    """The dtypes in which a net takes numbers.

    Attributes
    ----------
    floating : str
        That of its parameters, for all numbers with a fraction.
    integers : bool
        Whether integers stay integers (int64); otherwise they become floating too, and
        so do truth values.
    others : bool
        Whether what is no number passes as it is: the net has a ``collate_fn`` or a
        data set class for it.
    """

    floating: str = "float32"
    integers: bool = False
    others: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of torch."""
        dtype: torch.dtype = getattr(torch, self.floating)
        return dtype

    @property
    def in_memory(self) -> np.dtype[Any]:
        """The floating dtype of arrays, which cannot be bfloat16."""
        return np.dtype("float64" if self.floating == "float64" else "float32")


FLOATS = Casting()
"""The dtypes that most nets take."""


def is_nested(x: Any) -> bool:
    """Tell whether an input has parts: lists of plain numbers are arrays."""
    if isinstance(x, Mapping):
        return True
    kinds = (torch.Tensor, np.ndarray, Mapping)
    return isinstance(x, list | tuple) and any(isinstance(part, kinds) for part in x)


def map_parts(function: Callable[..., Any], *inputs: Any, name: str = "") -> Any:
    """Apply a function of parts and their name to inputs of the same structure.

    An input without parts is its own, and has no name.
    """
    first = inputs[0]
    if not is_nested(first):
        return function(*inputs, name)
    is_mapping = isinstance(first, Mapping)
    keys = list(first) if is_mapping else list(range(len(first)))
    parts = [
        map_parts(function, *(x[k] for x in inputs), name=f"{name}[{k!r}]")
        for k in keys
    ]
    if is_mapping:
        return dict(zip(keys, parts, strict=True))
    if type(first) in (tuple, list):
        return type(first)(parts)
    # A named tuple.
    return type(first)(*parts) if isinstance(first, tuple) else parts


def parts_of(x: Any) -> Iterator[Any]:
    """Yield the parts of an input, or the input if it has none."""
    if not is_nested(x):
        yield x
        return
    for part in x.values() if isinstance(x, Mapping) else x:
        yield from parts_of(part)


def shapes_of(x: Any) -> Any:
    """Return the shape of an input, or those of its parts in a dict or list."""
    shapes = map_parts(lambda part, _: _Shape(tuple(np.shape(part))), x)
    return _as_plain(shapes)


class _Shape(NamedTuple):
    """A shape, told from a tuple of parts."""

    axes: tuple[int, ...]


def _as_plain(shapes: Any) -> Any:
    if isinstance(shapes, _Shape):
        return shapes.axes
    if isinstance(shapes, dict):
        return {key: _as_plain(part) for key, part in shapes.items()}
    return [_as_plain(part) for part in shapes]


def holds_integers(x: Any) -> bool:
    """Tell whether an input holds integers, or a part of it truth values."""
    kinds = "iub" if is_nested(x) else "iu"
    return any(_kind(part) in kinds for part in parts_of(x))


def _kind(part: Any) -> str:
    if not isinstance(part, torch.Tensor):
        return np.asarray(part).dtype.kind
    if part.is_complex():
        return "c"
    if part.dtype == torch.bool:
        return "b"
    return "f" if part.is_floating_point() else "i"


def castings_of(holds_integers: bool, floating: str, others: bool) -> list[Casting]:
    """Return the castings that inputs may need, to be tried one after the other."""
    kept = [True, False] if holds_integers else [False]
    return [Casting(floating, integers, others) for integers in kept]


def as_input(part: Any, casting: Casting, name: str = "") -> Any:
    """Return a part as a tensor that the net takes.

    Raises a TypeError if it holds no real numbers, or is sparse.
    """
    what = f"X{name}" if name else "samples"
    kind = "S" if _is_sparse(part) else _kind(part)
    if kind not in "biuf":
        if casting.others:
            return part
        raise TypeError(f"{what} must be {_demand(part, kind, name)}")
    if kind in "iub" and casting.integers:
        whole = torch.as_tensor(part if isinstance(part, torch.Tensor) else _own(part))
        return whole.detach() if kind == "b" else whole.detach().long()
    if isinstance(part, torch.Tensor):
        return part.detach().to(casting.dtype)
    # Too large a number becomes infinity, which is found.
    with np.errstate(over="ignore"):
        array = np.array(part, dtype=casting.in_memory)
    return torch.as_tensor(array).to(casting.dtype)


def _own(part: Any) -> np.ndarray:
    """Return a copy of its own: torch warns of read-only arrays and has no uint64."""
    array = np.asarray(part)
    return np.array(array, dtype=bool if array.dtype.kind == "b" else np.int64)


def _is_sparse(part: Any) -> bool:
    if isinstance(part, torch.Tensor):
        return part.layout != torch.strided
    return hasattr(part, "toarray")


def _demand(part: Any, kind: str, name: str) -> str:
    """Return what a part must be, what it is, and what to do about it."""
    if kind == "S":
        return (
            f"dense; got {type(part).__name__}, which is sparse. Make it dense: "
            "toarray() of scipy, to_dense() of torch."
        )
    if kind == "U":
        return (
            f"arrays or tensors of numbers; got text, {str(part)!r:.40}. Make numbers "
            "of it before, leave it out, or give the net a collate_fn "
            "(iterator_train__collate_fn, iterator_valid__collate_fn) that does."
        )
    return (
        f"arrays or tensors of real numbers; got {part!r:.80}. Give the data set a "
        "transform that makes tensors of them, such as torchvision's ToTensor."
    )


def cast_array(array: np.ndarray, casting: Casting) -> np.ndarray:
    """Return an array, of numbers or not, in the dtype that the net takes.

    Raises a ValueError if a number is too large for it.
    """
    kind = array.dtype.kind
    if kind not in "biuf" or (kind == "b" and casting.integers):
        return array
    keeps = kind in "iu" and casting.integers
    with np.errstate(over="ignore"):
        cast = array.astype(np.int64 if keeps else casting.in_memory, copy=False)
    if array.dtype.itemsize > cast.itemsize and not keeps and np.isinf(cast).any():
        raise ValueError(
            f"Input X contains infinity or a value too large for {cast.dtype}. Scale "
            "X, or leave such samples out."
        )
    return cast
