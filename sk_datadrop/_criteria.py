"""Copies of a user's criterion: one loss per sample, and without class weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_WEIGHTED_LOSSES = (torch.nn.modules.loss._WeightedLoss, torch.nn.BCEWithLogitsLoss)
"""Criteria of torch with weights of classes."""

_NEUTRAL = {"weight": None, "pos_weight": None, "label_smoothing": 0.0}
"""Their options that change how much a class, or the label of a sample, counts."""


def without_reduction(criterion: torch.nn.Module) -> tuple[str, torch.nn.Module]:
    """Return the reduction of a criterion, and a copy of it that does not reduce."""
    reduction = getattr(criterion, "reduction", None)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"criterion {type(criterion).__name__} has no losses per sample: its "
            f"reduction is {reduction!r}. Use a torch criterion such as "
            "CrossEntropyLoss or MSELoss, or give yours a `reduction` attribute that "
            "accepts 'none'."
        )
    criterion = copy.deepcopy(criterion)
    # A user's criterion may have a property of that name; torch's types know none.
    setattr(criterion, "reduction", "none")  # noqa: B010
    return reduction, criterion


def without_weights(criterion: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a criterion without class weights and label smoothing.

    Only torch's own are known: a user's criterion may mean anything by the names.
    """
    criterion = copy.deepcopy(criterion)
    if isinstance(criterion, _WEIGHTED_LOSSES):
        for name, neutral in _NEUTRAL.items():
            if hasattr(criterion, name):
                setattr(criterion, name, neutral)
    return criterion


@contextmanager
def recorded(criterion: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a criterion returns within the block."""
    given: list[Tensor] = []
    if not isinstance(criterion, torch.nn.Module):
        yield given
        return
    hook = criterion.register_forward_hook(lambda *call: given.append(call[-1]))
    try:
        yield given
    finally:
        hook.remove()
