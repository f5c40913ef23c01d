"""A fitted skorch net as functions of one flat parameter vector.

All scoring goes through it. It works on a private copy of the module in evaluation
mode, so the caller's net keeps its flags, buffers and gradients.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import Tensor

from sk_datadrop._batches import batches_of, twin_of
from sk_datadrop._criteria import (
    Call,
    inverse_link,
    original,
    recorded,
    without_reduction,
    without_weights,
)
from sk_datadrop._derivatives import METHODS, find_method, linearised, pullback
from sk_datadrop._deviance import perfect_losses
from sk_datadrop._outputs import Structure, joined, taken_apart
from sk_datadrop._ranks import module_of
from sk_datadrop._reading import Reading, surprise
from sk_datadrop._samples import Samples
from sk_datadrop._stateless import (
    WithWeights,
    differentiable_kernels,
    names_by_place,
    stateless_copy,
)

FEW_SAMPLES = 16
"""Enough to tell how a net can be differentiated, and cheap."""


class FunctionalNet:
    """Outputs and losses per sample of a fitted net, for any parameters.

    Module and criterion of an initialized net are copied. A state dict gives other
    weights and buffers, such as those of an earlier epoch. Raises a ValueError if the
    criterion has no ``reduction``, and so no losses per sample, or if no parameter is
    trainable.

    Attributes
    ----------
    theta : Tensor of shape (n_parameters,)
        The trainable parameters, one after the other. Frozen parameters
        (``requires_grad=False``) are constants.
    derivative : str or None
        How `jvp` goes about it: a key of `METHODS`, or None before its first call.
    is_recurrent : bool
        Whether there is a recurrent layer.
    """

    def __init__(
        self, net: NeuralNet, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        module = self._module = stateless_copy(original(module_of(net)), state_dict)
        criterion = original(net.criterion_)
        self._reduction, self._criterion = without_reduction(criterion)
        self._plain_criterion = without_weights(self._criterion)
        # A shallow twin, so that net.get_loss sees the copies.
        self._net = twin_of(net)
        self._net.__dict__["criterion_"] = self._criterion
        self._training_net = net
        self._state_dict = state_dict
        self._batch_size = vars(net).get("iterator_valid__batch_size", net.batch_size)
        trainable = {
            k: p.detach() for k, p in module.named_parameters() if p.requires_grad
        }
        if not trainable:
            raise ValueError(
                "the net has no trainable parameter (requires_grad is False on all "
                "of them): influence is undefined. Unfreeze at least one layer."
            )
        self._shapes = {k: p.shape for k, p in trainable.items()}
        self.theta = torch.cat([p.reshape(-1) for p in trainable.values()])
        self._names = names_by_place(module, trainable)
        self._structure: Structure | None = None
        self._inputs: Any = None
        self.derivative: str | None = None
        self.is_recurrent = any(
            isinstance(m, torch.nn.RNNBase) for m in module.modules()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt by the process it is sent to, since hooks cannot be sent. skorch
        # pickles a fitted net by names, and not all processes know them.
        net = self._training_net
        return _rebuild, (type(net), vars(net), self._state_dict, self.derivative)

    def samples_per_batch(self, batch_size: int | None) -> int:
        """Return the number of samples in a batch of `batches`; -1 for all."""
        return int(batch_size or self._batch_size)

    def batches(
        self, samples: Samples, batch_size: int | None = None
    ) -> Iterator[tuple[Any, Tensor]]:
        """Yield batches (X, y) on the net's device, in the order of the samples.

        A batch size of None is the net's own for validation.
        """
        return batches_of(self._net, samples, self.samples_per_batch(batch_size))

    @property
    def skorch_net(self) -> NeuralNet:
        """The net this was made of."""
        return self._training_net

    @property
    def is_convex(self) -> bool:
        """Tell whether the loss is torch's, and so convex in the outputs."""
        owners = type(self._criterion), type(self._net).get_loss
        return all(o.__module__.split(".")[0] in ("torch", "skorch") for o in owners)

    @property
    def parameter_names(self) -> list[str]:
        """Names of the trainable parameters."""
        return list(self._shapes)

    def outputs(self, theta: Tensor, X: Any) -> Tensor:
        """Return the outputs of the module, (n_samples, ...), joined if several."""
        return self.outputs_with(self.unflatten(theta), X)

    @property
    def returns_several(self) -> bool:
        """Tell whether the module returned more than one tensor for the last batch."""
        return self._structure is not None

    def as_returned(self, outputs: Tensor) -> Any:
        """Return outputs as the module returned those of the last batch."""
        return taken_apart(outputs, self._structure)

    def outputs_with(self, weights: dict[str, Tensor], X: Any) -> Tensor:
        """Return the outputs of the module with the trainable parameters given."""
        placed = {place: weights[name] for place, name in self._names.items()}
        # Through net.infer, which some nets override: skorch's binary classifier
        # drops an axis there.
        self._net.__dict__["module_"] = WithWeights(self._module, placed)
        with differentiable_kernels(self.is_recurrent):
            # A module may change its input in place, and batches are passed more
            # than once.
            returned = self._net.infer(copy.deepcopy(X))
        outputs, self._structure = joined(returned)
        self._inputs = X
        return outputs

    def natural_outputs(self, theta: Tensor, X: Any) -> Tensor:
        """Return outputs in which the loss is convex and not linear.

        They are the module's own, except under NLLLoss: there they are the
        log-probabilities, read as logits. The loss is the same number, but its Hessian
        is the Fisher information, diag(p) - p p^T, whereas in the probabilities it
        would only be that of the given label, and in the log-probabilities zero.
        """
        return self._link(self.outputs(theta, X))

    def natural_losses(self, natural: Tensor, y: Tensor) -> Tensor:
        """Return the training loss of each sample, from `natural_outputs`."""
        outputs = self.as_returned(self._unlink(natural))
        losses = self._net.get_loss(outputs, y, X=self._inputs, training=False)
        return self._per_sample(losses, natural)

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the training loss of each sample, shape (n_samples,)."""
        return self.natural_losses(self._link(outputs), y)

    def criterion_losses(
        self, outputs: Tensor, y: Tensor, *, weighted: bool = False
    ) -> Tensor:
        """Return the loss of each sample as the criterion itself gives it.

        What the net's ``get_loss`` adds to it, such as a penalty on the weights, says
        nothing about a sample and is left out. Where ``get_loss`` does not call the
        criterion exactly once, or changes the shape of what it gives, its own value
        counts. Of PoissonNLLLoss it is half the deviance.

        Class weights and label smoothing count only if `weighted`. Without them the
        loss under cross entropy is minus the log-probability of the given class.
        """
        criterion = self._criterion if weighted else self._plain_criterion
        losses, calls = self._watched_loss(outputs, y, criterion)
        if len(calls) == 1 and calls[0].result.shape == losses.shape:
            losses = calls[0].result
        perfect = perfect_losses(criterion, y)
        if perfect is not None and perfect.shape == losses.shape:
            losses = losses - perfect
        return self._per_sample(losses, outputs)

    def given_to_criterion(
        self, outputs: Tensor, y: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the outputs and targets of each call of the criterion.

        ``get_loss`` may call it for several heads. Where it does not call it with two
        tensors, they are the module's own, if it is one tensor. Otherwise raises a
        ValueError.
        """
        _, calls = self._watched_loss(outputs, y, self._criterion)
        pairs = [call.arguments[:2] for call in calls]
        handed = [
            (pair[0], pair[1])
            for pair in pairs
            if len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)
        ]
        if not handed and self._structure is not None:
            raise ValueError(
                "the module returns several tensors, and get_loss hands none of them "
                "to the criterion: it is unknown which one predicts y. Have infer "
                "return the tensor to predict with."
            )
        return handed or [(outputs, y)]

    def call_criterion(self, given: Tensor, targets: Tensor) -> Tensor:
        """Return what the criterion makes of outputs and targets, without reduction.

        Class weights and label smoothing of torch's criteria do not count.
        """
        losses: Tensor = self._plain_criterion(given, targets)
        return losses

    def rows_of_losses(self, outputs: Tensor, y: Tensor) -> int:
        """Return the number of rows that losses come in: tokens may be flattened."""
        return len(self._watched_loss(outputs, y, self._criterion)[0])

    def chances(
        self, outputs: Tensor, y: Tensor, reading: Reading
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the classes, and how much each is given.

        Both are of shape (n_samples, n_classes, n_places). Several heads are places,
        the classes of smaller ones filled up with such that are ruled out.
        """
        parts = []
        for given, targets in self.given_to_criterion(outputs, y):
            if reading.scale == "losses":
                log_chances = self._by_losses(outputs, y, given.shape[1])
            elif reading.nonlinearity is not None:
                log_chances = reading.log_chances(reading.nonlinearity(given))
            else:
                log_chances = reading.log_chances(given)
            share = reading.given(targets, log_chances)
            both = torch.stack([log_chances, share])
            # Places may have come as rows of their own.
            n_classes = log_chances.shape[1]
            places = both.movedim(2, -1).reshape(2, len(outputs), -1, n_classes)
            parts.append(places.movedim(-1, 2))
        largest = max(part.shape[2] for part in parts)
        filled = [
            torch.nn.functional.pad(part, (0, 0, 0, largest - part.shape[2]))
            for part in parts
        ]
        for part, full in zip(parts, filled, strict=True):
            full[0, :, part.shape[2] :] = -torch.inf
        log_chances, share = filled[0] if len(filled) == 1 else torch.cat(filled, dim=3)
        return log_chances, share

    def losses_of_constant(
        self, outputs: Tensor, y: Tensor, reading: Reading, chances: Any
    ) -> Tensor:
        """Return the losses, (n_samples,), if the same classes were likely everywhere.

        Chances are of shape (n_classes, n_places or 1). NaN where it takes the user's
        own function to read outputs, or there are several heads.
        """
        handed = self.given_to_criterion(outputs, y)
        given, targets = handed[0]
        if reading.nonlinearity is not None or len(handed) > 1:
            return torch.full_like(outputs.flatten(1)[:, 0], torch.nan)
        if reading.shift is not None:
            log_chances, share = self.chances(outputs, y, reading)
            same = torch.as_tensor(chances).to(log_chances).log()
            return surprise(same.expand_as(log_chances), share)
        same = reading.outputs_for(torch.as_tensor(chances).to(given))
        if not reading.is_binary:
            same = same.reshape(-1, *[1] * (given.ndim - 2))
        losses = self.call_criterion(same.expand_as(given).contiguous(), targets)
        return self._per_sample(losses, outputs)

    def _by_losses(self, outputs: Tensor, y: Tensor, n_classes: int) -> Tensor:
        losses = [
            self.criterion_losses(outputs, torch.full_like(y, label))
            for label in range(n_classes)
        ]
        return (-torch.stack(losses, dim=1)).log_softmax(1)

    def _watched_loss(
        self, outputs: Tensor, y: Tensor, criterion: torch.nn.Module
    ) -> tuple[Tensor, list[Call]]:
        """Return the loss by some criterion, and the calls of that."""
        outputs = self.as_returned(self._unlink(self._link(outputs)))
        self._net.__dict__["criterion_"] = criterion
        try:
            with recorded(criterion) as calls:
                losses = self._net.get_loss(outputs, y, X=self._inputs, training=False)
        finally:
            self._net.__dict__["criterion_"] = self._criterion
        return losses, calls

    def _per_sample(self, losses: Tensor, outputs: Tensor) -> Tensor:
        n_samples = outputs.shape[0]
        if losses.ndim == 0 or losses.shape[0] % n_samples:
            raise ValueError(self._not_per_sample(losses, outputs))
        losses = losses.reshape(n_samples, -1)
        if losses.shape[1] > outputs[0].numel():
            raise ValueError(
                f"the criterion gives {losses.shape[1]} losses per sample for outputs "
                f"of shape {tuple(outputs.shape)}: samples are mixed up by "
                "broadcasting. Give y the shape of the outputs."
            )
        return losses.sum(1) if self._reduction == "sum" else losses.mean(1)

    def _not_per_sample(self, losses: Tensor, outputs: Tensor) -> str:
        who = f"criterion {type(self._criterion).__name__}"
        advice = "Use a criterion that honours reduction='none'."
        if not type(self._net).get_loss.__module__.startswith("skorch."):
            who = f"get_loss of {type(self._net).__name__}"
            advice = (
                "Have it return what self.criterion_, or super().get_loss, returns, "
                "which then has one value per sample; or average only where "
                "self.criterion_.reduction is not 'none'."
            )
        return (
            f"{who} gives losses of shape {tuple(losses.shape)} for "
            f"{outputs.shape[0]} samples with reduction='none'; it must give one loss "
            f"per sample (or per element). {advice}"
        )

    def predicted(self, outputs: Tensor, y: Tensor) -> Tensor | None:
        """Return predictions of targets, in their shape and on their scale.

        None if the criterion is given something of another size.
        """
        try:
            handed = self.given_to_criterion(outputs, y)
        except ValueError:
            return None
        fitting = [given for given, _ in handed if given.numel() == y.numel()]
        if not fitting:
            return None
        return inverse_link(self._criterion)(fitting[0]).reshape(y.shape)

    def has_residuals(self, y: Tensor) -> bool:
        """Tell whether targets are one value each, whose errors are all of one size."""
        return y[0].numel() == 1 and perfect_losses(self._criterion, y) is None

    def jvp(
        self, X: Tensor, direction: Tensor, autocast: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return natural outputs at `theta`, and their derivative along a direction.

        The first call settles the method for all: the first of `METHODS` that neither
        fails on these samples nor contradicts the gradients; a ValueError says that
        there is none. `autocast` is the precision of the net's own computation where
        torch.autocast sees fit; finite differences, which would drown in it, keep full
        precision.
        """
        outputs = partial(self.natural_outputs, X=X)
        method = self._method_for(X)
        exact = method != "finite differences"
        with torch.autocast(
            self.theta.device.type,
            dtype=autocast,
            enabled=autocast is not None and exact,
        ):
            value, along = METHODS[method](outputs, self.theta, direction)
        return value.to(self.theta.dtype), along.to(self.theta.dtype)

    def linearised(
        self, X: Any
    ) -> tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return natural outputs at `theta`, v -> J v and u -> J^T u, for products.

        J v goes the way that `jvp` does.
        """
        outputs = partial(self.natural_outputs, X=X)
        if self._method_for(X) == "reverse over reverse":
            return linearised(outputs, self.theta)
        value, transpose = pullback(outputs, self.theta)
        return value, lambda v: self.jvp(X, v)[1], transpose

    def _method_for(self, X: Any) -> str:
        if self.derivative is None:
            few = X[:FEW_SAMPLES] if isinstance(X, Tensor) else X
            outputs = partial(self.natural_outputs, X=few)
            self.derivative = find_method(outputs, self.theta)
        return self.derivative

    def _link(self, outputs: Tensor) -> Tensor:
        if self._is_nll and self._takes_probabilities:
            return torch.log(outputs + torch.finfo(outputs.dtype).eps)
        return outputs

    def _unlink(self, natural: Tensor) -> Tensor:
        if not self._is_nll:
            return natural
        if self._takes_probabilities:
            return torch.softmax(natural, dim=1)
        return torch.log_softmax(natural, dim=1)

    @property
    def _is_nll(self) -> bool:
        is_nll = isinstance(self._criterion, torch.nn.NLLLoss)
        return is_nll and self._structure is None

    @property
    def _takes_probabilities(self) -> bool:
        # skorch's classifier applies the logarithm in get_loss, unlike its base class.
        return isinstance(self._net, NeuralNetClassifier)

    def mean_per_tensor(self, v: Tensor) -> Tensor:
        """Replace each entry of v, (n_parameters,), by the mean over its tensor."""
        return torch.cat([p.mean().expand(len(p)) for p in self._split(v)])

    def _split(self, theta: Tensor) -> tuple[Tensor, ...]:
        return torch.split(theta, [shape.numel() for shape in self._shapes.values()])

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parts of a flat vector by the names of the parameters."""
        return {
            k: p.view(shape)
            for (k, shape), p in zip(
                self._shapes.items(), self._split(theta), strict=True
            )
        }


def _rebuild(
    kind: type[NeuralNet],
    attributes: dict[str, Any],
    state_dict: dict[str, Tensor] | None,
    derivative: str | None,
) -> FunctionalNet:
    net = object.__new__(kind)
    vars(net).update(attributes)
    functional = FunctionalNet(net, state_dict)
    functional.derivative = derivative
    return functional
