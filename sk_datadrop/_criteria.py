"""Copies of a user's criterion: one loss per sample, and without class weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

_WEIGHTED_LOSSES = (torch.nn.modules.loss._WeightedLoss, torch.nn.BCEWithLogitsLoss)
"""Criteria of torch with weights of classes."""

_NEUTRAL = {"weight": None, "pos_weight": None, "label_smoothing": 0.0}
"""Their options that change how much a class, or the label of a sample, counts."""


OF_TWO_CLASSES = (
    torch.nn.BCEWithLogitsLoss,
    torch.nn.BCELoss,
    torch.nn.MultiLabelSoftMarginLoss,
    torch.nn.SoftMarginLoss,
)
"""Criteria of torch whose targets are real numbers that stand for two classes."""


class Call(NamedTuple):
    """A call of a criterion: what it was given, and what it gave."""

    arguments: tuple[Any, ...]
    result: Tensor


def original(module: Any) -> Any:
    """Return the module that ``torch.compile`` wraps, or the module itself."""
    return getattr(module, "_orig_mod", module)


def inverse_link(criterion: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from what a criterion is given to the mean of the target."""
    criterion = original(criterion)
    if isinstance(criterion, torch.nn.BCEWithLogitsLoss):
        return torch.sigmoid
    if isinstance(criterion, torch.nn.CrossEntropyLoss):
        return partial(torch.softmax, dim=1)
    is_log = isinstance(criterion, torch.nn.KLDivLoss) and not criterion.log_target
    if is_log or getattr(criterion, "log_input", False):
        return torch.exp
    return _identity


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


def _identity(values: Tensor) -> Tensor:
    return values


@contextmanager
def recorded(criterion: torch.nn.Module) -> Iterator[list[Call]]:
    """Collect the calls of a criterion within the block."""
    calls: list[Call] = []
    if not isinstance(criterion, torch.nn.Module):
        yield calls
        return

    def record(_: Any, args: Any, kwargs: dict[str, Any], result: Tensor) -> None:
        calls.append(Call((*args, *kwargs.values()), result))

    hook = criterion.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
