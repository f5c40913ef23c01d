"""How chances of classes are read from what a criterion is given.

A criterion may weigh, smooth or bend a likelihood as it likes: what a net says of the
classes is in its outputs all the same. These are logits, probabilities or their
logarithms, of classes along axis 1, or of the second of two classes at each place: a
label of several, a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sk_datadrop._criteria import original

Scale = Literal["logits", "probabilities", "log-probabilities", "losses"]
CriterionCall = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Reading:
    """The meaning of the outputs that a criterion is given.

    "losses" are no outputs: chances are read from the losses that each class would
    have, as if these were minus the log-likelihood. `nonlinearity` is that of the net,
    where only it tells. Targets of two classes are `first` and one; `ignored` is that
    of places that do not count. Where a target `has_columns`, labels or heads, each is
    a problem of its own, unlike tokens and pixels. Training with a ``pos_weight`` adds
    its logarithm, `shift`, to the logits of what is likely. Weights of several classes
    stay: they are there to have classes count alike, as they do in the objective.
    """

    scale: Scale
    is_binary: bool = False
    n_classes: int = 2
    has_columns: bool = False
    ignored: int | None = None
    first: float = 0.0
    nonlinearity: Callable[[Any], Tensor] | None = None
    shift: np.ndarray | None = field(default=None, compare=False)

    def outputs_for(self, chances: Tensor) -> Tensor:
        """Return outputs of which these, (n_classes, ...), are the probabilities."""
        if self.scale == "probabilities":
            return chances[1] if self.is_binary else chances
        log_chances = chances.log()
        return log_chances[1] - log_chances[0] if self.is_binary else log_chances

    def log_chances(self, outputs: Tensor) -> Tensor:
        """Return log-probabilities of the classes, (n, n_classes, ...)."""
        if self.scale == "probabilities":
            outputs = outputs.clamp(0, 1)
            if self.is_binary:
                outputs = torch.stack([1 - outputs, outputs], dim=1)
            outputs = torch.log(outputs + torch.finfo(outputs.dtype).eps)
        elif self.is_binary:
            if self.shift is not None:
                outputs = outputs - torch.as_tensor(self.shift).to(outputs)
            return nn.functional.logsigmoid(torch.stack([-outputs, outputs], dim=1))
        return outputs.log_softmax(1)

    def given(self, targets: Tensor, log_chances: Tensor) -> Tensor:
        """Return how much each class is given at each place, (n, n_classes, ...).

        Nothing is given where a target is to be ignored, or is no class.
        """
        if self.is_binary:
            second = (targets.to(log_chances) - self.first) / (1 - self.first)
            counts = (second >= 0) & (second <= 1)
            return torch.stack([1 - second, second], dim=1).where(counts[:, None], 0.0)
        if targets.shape == log_chances.shape:
            return targets.to(log_chances)
        n_classes = log_chances.shape[1]
        counts = (targets >= 0) & (targets < n_classes)
        if self.ignored is not None:
            counts &= targets != self.ignored
        one_hot = nn.functional.one_hot(targets.where(counts, 0).long(), n_classes)
        return one_hot.movedim(-1, 1).to(log_chances) * counts[:, None]

    def classes(self, target_shape: tuple[int, ...]) -> np.ndarray:
        """Return the classes of many per sample: those of a place, or the labels."""
        if self.is_binary and len(target_shape) == 1:
            return np.arange(target_shape[0])
        if self.is_binary:
            return np.array([int(self.first), 1])
        return np.arange(self.n_classes)

    def codes(self, targets: np.ndarray) -> np.ndarray:
        """Return the given classes, (n_samples, n_places), -1 where there is none."""
        are_chances = targets.dtype.kind == "f" and not self.is_binary
        places = targets.shape[2:] if are_chances else targets.shape[1:]
        like = torch.empty(len(targets), self.n_classes, *places)
        given = self.given(torch.as_tensor(targets), like)
        given = given.reshape(len(targets), self.n_classes, -1)
        codes = given.argmax(dim=1).where(given.sum(dim=1) > 0, -1)
        return np.asarray(codes.numpy())


_KNOWN: dict[type[nn.Module], Reading] = {
    nn.CrossEntropyLoss: Reading("logits"),
    nn.MultiMarginLoss: Reading("logits"),
    nn.NLLLoss: Reading("log-probabilities"),
    nn.KLDivLoss: Reading("log-probabilities"),
    nn.BCEWithLogitsLoss: Reading("logits", is_binary=True),
    nn.MultiLabelSoftMarginLoss: Reading("logits", is_binary=True),
    nn.SoftMarginLoss: Reading("logits", is_binary=True, first=-1.0),
    nn.BCELoss: Reading("probabilities", is_binary=True),
}
"""Outputs that the criteria of torch for classes are given."""


def reading_of_known(criterion: Any) -> Reading | None:
    """Return what a criterion of torch is given; None if it is not one of classes."""
    criterion = original(criterion)
    for kind, reading in _KNOWN.items():
        if isinstance(criterion, kind):
            shift = _log_weights(criterion)
            return replace(reading, ignored=_ignored_by(criterion), shift=shift)
    return None


def find_reading(
    criterion: nn.Module, call: CriterionCall, outputs: Tensor, targets: Tensor
) -> Reading | None:
    """Find out what a criterion is given, by trying it; None if it does not tell.

    `call` gives a loss per place or sample. Outputs and targets are those of a few
    samples, as the criterion is given them.
    """
    ignored = _ignored_by(criterion)
    if outputs.shape == targets.shape:
        of_two = _scale_of_two(call, outputs)
        return of_two and Reading(of_two, is_binary=True, ignored=ignored)
    if not counts_classes(outputs, targets):
        return None
    if _ignores_shifts(call, outputs, targets):
        return Reading("logits", ignored=ignored)
    scales: tuple[tuple[Scale, Tensor], ...] = (
        ("probabilities", outputs),
        ("log-probabilities", outputs.exp()),
    )
    for scale, values in scales:
        sums = values.sum(1)
        if (values >= 0).all() and torch.allclose(
            sums, torch.ones_like(sums), atol=1e-3
        ):
            return Reading(scale, ignored=ignored)
    return None


def counts_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Tell whether outputs have one axis more, for the classes, than targets."""
    return (
        not targets.is_floating_point()
        and outputs.ndim > 1
        and outputs.shape[1] > 1
        and outputs.shape[:1] + outputs.shape[2:] == targets.shape
    )


def within_unit_interval(outputs: Tensor) -> bool:
    """Tell whether all outputs could be probabilities."""
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def _log_weights(criterion: nn.Module) -> np.ndarray | None:
    """Return the logarithms of the weights of second classes, if all are above zero."""
    weights = getattr(criterion, "pos_weight", None)
    if not isinstance(weights, Tensor) or not (weights > 0).all():
        return None
    return np.asarray(weights.detach().double().log().cpu().numpy())


def _ignored_by(criterion: Any) -> int | None:
    ignored = getattr(criterion, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None


def _ignores_shifts(call: CriterionCall, outputs: Tensor, targets: Tensor) -> bool:
    """Tell whether losses stay if all outputs of a place change alike: logits."""
    shift = torch.linspace(-3, 3, len(outputs)).to(outputs)
    shifted = outputs + shift.reshape(-1, *[1] * (outputs.ndim - 1))
    return _are_alike(_tried(call, outputs, targets), _tried(call, shifted, targets))


def _scale_of_two(call: CriterionCall, outputs: Tensor) -> Scale | None:
    """Return the scale on which both classes of a place are treated alike, or None.

    Up to a factor, such as a weight of the second class.
    """

    def is_symmetric(values: Tensor, mirrored: Tensor) -> bool:
        shape = (len(values), *outputs.shape[1:])
        places = [
            v.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
            for v in (values, mirrored)
        ]
        first, second = (
            _tried(call, place.contiguous(), place.new_full(shape, label))
            for place, label in zip(places, (0.0, 1.0), strict=True)
        )
        if first is None or second is None or not (first > 0).all():
            return False
        ratio = second / first
        return _are_alike(ratio, ratio[:1].expand_as(ratio))

    logits = torch.linspace(-4, 4, 8).to(outputs)
    if is_symmetric(-logits, logits):
        return "logits"
    chances = torch.linspace(0.1, 0.9, 8).to(outputs)
    return "probabilities" if is_symmetric(1 - chances, chances) else None


@torch.no_grad()
def _tried(call: CriterionCall, outputs: Tensor, targets: Tensor) -> Tensor | None:
    try:
        losses = call(outputs, targets)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    return losses.reshape(len(outputs), -1).sum(1) if losses.ndim else None


def _are_alike(values: Tensor | None, others: Tensor | None) -> bool:
    if values is None or others is None:
        return False
    return torch.allclose(values, others, rtol=1e-2, atol=1e-4)


def excess(log_chances: Tensor, given: Tensor) -> Tensor:
    """Return the parts of the divergence of classes as given, (n, n_classes, n_places).

    Summed over the classes it is minus the log-probability of the given class, or
    Kullback's divergence of chances from those given, which is zero where they agree.
    """
    found = torch.where(given > 0, log_chances, 0)
    return torch.xlogy(given, given) - given * found


def surprise(log_chances: Tensor, given: Tensor) -> Tensor:
    """Return the divergence of the given classes, (n_samples,).

    It is the mean over the places, (n_samples, n_classes, n_places), that have a class.
    """
    return mean_over_places(excess(log_chances, given).sum(1), given.sum(1))


def mean_over_places(values: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over the places, (n_samples, n_places), that count, (n_samples,).

    Zero where none does.
    """
    total = counts.sum(1).clamp_min(torch.finfo(counts.dtype).tiny)
    return (values * counts).sum(1) / total
