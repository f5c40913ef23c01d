"""Modules that return several tensors: seen as one, and taken apart again."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree


class Structure(NamedTuple):
    """How the outputs of a batch were joined, to give them back in their places.

    `leaves` are the entries of tuples and dicts; `are_joined` tells which take part.
    Those that are no numbers of each sample, such as the state of a recurrent layer,
    are kept as they are.
    """

    spec: _pytree.TreeSpec
    leaves: list[Any]
    are_joined: list[bool]


def joined(outputs: Any) -> tuple[Tensor, Structure | None]:
    """Return the outputs of a module as one tensor, (n_samples, ...).

    Several are joined to (n_samples, n_values). Raises a ValueError if there is no
    tensor of real numbers among them.
    """
    if isinstance(outputs, Tensor):
        return outputs, None
    leaves, spec = _pytree.tree_flatten(outputs)
    first = next((leaf for leaf in leaves if _is_joined(leaf)), None)
    if first is None:
        raise ValueError(
            "the module must return a tensor of real numbers, or a tuple or dict "
            f"with some, for influence to be computed; got {type(outputs).__name__}."
        )
    n_samples = len(first)
    are_joined = [_is_joined(leaf) and len(leaf) == n_samples for leaf in leaves]
    parts = [
        leaf.reshape(n_samples, -1).to(first.dtype)
        for leaf, is_joined in zip(leaves, are_joined, strict=True)
        if is_joined
    ]
    return torch.cat(parts, dim=1), Structure(spec, leaves, are_joined)


def taken_apart(outputs: Tensor, structure: Structure | None) -> Any:
    """Return outputs as the module returned them, with the values given."""
    if structure is None:
        return outputs
    leaves, start = [], 0
    for leaf, is_joined in zip(structure.leaves, structure.are_joined, strict=True):
        if not is_joined:
            leaves.append(leaf.detach() if isinstance(leaf, Tensor) else leaf)
            continue
        stop = start + leaf[0].numel()
        values = outputs[:, start:stop].to(leaf.dtype)
        leaves.append(values.reshape(len(outputs), *leaf.shape[1:]))
        start = stop
    return _pytree.tree_unflatten(leaves, structure.spec)


def _is_joined(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 0
