"""A fitted skorch net as functions of one flat parameter vector.

All scoring goes through it. It works on a private copy of the module in evaluation
mode, so the caller's net keeps its flags, buffers and gradients.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier
from skorch.utils import to_tensor
from torch import Tensor

from sk_datadrop._criteria import recorded, without_reduction, without_weights
from sk_datadrop._derivatives import METHODS, find_method
from sk_datadrop._deviance import perfect_losses
from sk_datadrop._ranks import device_of, iterator_of_all, module_of
from sk_datadrop._samples import Samples
from sk_datadrop._stateless import (
    WithWeights,
    differentiable_kernels,
    names_by_place,
    stateless_copy,
)

FEW_SAMPLES = 16
"""Enough to tell how a net can be differentiated, and cheap."""

_IN_ORDER = {
    "sampler": None,
    "batch_sampler": None,
    "shuffle": False,
    "drop_last": False,
}
"""Options of a data loader that passes every sample once, in order."""


class Evaluation(NamedTuple):
    """What a net makes of some samples.

    Losses, (n_samples,), are those by the criterion, without class weights, label
    smoothing and penalties. Of classes there are log-probabilities, (n_samples,
    n_classes), by a softmax over minus the losses that each label would have; of other
    targets, their mean, the mean loss of a constant prediction, and, of targets of one
    value, what is left of it, (n_samples,).
    """

    losses: np.ndarray
    log_proba: np.ndarray | None = None
    mean_target: np.ndarray | None = None
    constant_loss: float = np.nan
    residuals: np.ndarray | None = None


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
    """

    def __init__(
        self, net: NeuralNet, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        module = self._module = stateless_copy(module_of(net), state_dict)
        self._reduction, self._criterion = without_reduction(net.criterion_)
        self._plain_criterion = without_weights(self._criterion)
        # A shallow twin, so that net.get_loss sees the copies. copy.copy would
        # go through skorch's pickling.
        self._net = object.__new__(type(net))
        self._net.__dict__.update(net.__dict__, criterion_=self._criterion)
        self._training_net = net
        self._state_dict = state_dict
        for option, value in _IN_ORDER.items():
            if f"iterator_valid__{option}" in vars(net):
                self._net.__dict__[f"iterator_valid__{option}"] = value
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
        self.derivative: str | None = None
        self._is_recurrent = any(
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
        net, device = self._net, device_of(self._net)
        dataset = net.get_dataset(samples.X, samples.y)
        net.__dict__["iterator_valid__batch_size"] = self.samples_per_batch(batch_size)
        # A DataLoader draws a seed for its workers, needed or not.
        with torch.random.fork_rng(devices=[]):
            batches = iter(iterator_of_all(net, dataset))
        for number, (X, y) in enumerate(batches):
            if number == 0 and "iterator_valid__collate_fn" in vars(net):
                _check_order(y, samples.y)
            yield to_tensor(X, device=device), to_tensor(y, device=device)

    @property
    def skorch_net(self) -> NeuralNet:
        """The net this was made of."""
        return self._training_net

    @property
    def parameter_names(self) -> list[str]:
        """Names of the trainable parameters."""
        return list(self._shapes)

    def outputs(self, theta: Tensor, X: Any) -> Tensor:
        """Return the outputs of the module, as the criterion and the user see them."""
        return self.outputs_with(self.unflatten(theta), X)

    def outputs_with(self, weights: dict[str, Tensor], X: Any) -> Tensor:
        """Return the outputs of the module with the trainable parameters given."""
        placed = {place: weights[name] for place, name in self._names.items()}
        # Through net.infer, which some nets override: skorch's binary classifier
        # drops an axis there.
        self._net.__dict__["module_"] = WithWeights(self._module, placed)
        with differentiable_kernels(self._is_recurrent):
            # A module may change its input in place, and batches are passed more
            # than once.
            out = self._net.infer(copy.deepcopy(X))
        if not isinstance(out, Tensor):
            raise ValueError(
                "the module must return one tensor for influence to be computed; "
                f"got {type(out).__name__}."
            )
        return out

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
        outputs = self._unlink(natural)
        return self._per_sample(self._net.get_loss(outputs, y, training=False), outputs)

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
        outputs = self._unlink(self._link(outputs))
        criterion = self._criterion if weighted else self._plain_criterion
        self._net.__dict__["criterion_"] = criterion
        try:
            with recorded(criterion) as given:
                losses = self._net.get_loss(outputs, y, training=False)
        finally:
            self._net.__dict__["criterion_"] = self._criterion
        if len(given) == 1 and given[0].shape == losses.shape:
            losses = given[0]
        perfect = perfect_losses(criterion, y)
        if perfect is not None and perfect.shape == losses.shape:
            losses = losses - perfect
        return self._per_sample(losses, outputs)

    def _per_sample(self, losses: Tensor, outputs: Tensor) -> Tensor:
        if losses.ndim == 0 or losses.shape[0] != outputs.shape[0]:
            raise ValueError(self._not_per_sample(losses, outputs))
        losses = losses.reshape(outputs.shape[0], -1)
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

    @torch.no_grad()
    def evaluate(
        self,
        samples: Samples,
        n_classes: int | None = None,
        constant: np.ndarray | None = None,
    ) -> Evaluation:
        """Return what the net makes of samples, at `theta`, in one pass.

        Without a number of classes, targets are real; the constant is a prediction for
        all samples.
        """
        losses, log_proba, constant_losses, residuals = [], [], [], []
        total = torch.zeros((), dtype=torch.float64)
        for X, y in self.batches(samples):
            outputs = self.outputs(self.theta, X)
            losses.append(self.criterion_losses(outputs, y).double().cpu())
            if n_classes is not None:
                log_proba.append(self._log_proba(outputs, y, n_classes).cpu())
            else:
                total = total + y.double().sum(0).cpu()
                on_scale = perfect_losses(self._criterion, y) is None
                if on_scale and outputs.shape == y.shape and y[0].numel() == 1:
                    residuals.append((y - outputs).double().reshape(-1).cpu())
            if constant is not None:
                same = torch.as_tensor(constant).to(outputs).expand_as(outputs)
                constant_losses.append(self.criterion_losses(same, y).double().cpu())
        if not losses:
            return Evaluation(np.empty(0))
        return Evaluation(
            torch.cat(losses).numpy(),
            torch.cat(log_proba).numpy() if log_proba else None,
            (total / len(samples)).numpy() if n_classes is None else None,
            float(torch.cat(constant_losses).mean()) if constant_losses else np.nan,
            torch.cat(residuals).numpy() if residuals else None,
        )

    @torch.no_grad()
    def predict(self, samples: Samples) -> np.ndarray:
        """Return the outputs for samples, at `theta`, (n_samples, ...)."""
        outputs = [self.outputs(self.theta, X).cpu() for X, _ in self.batches(samples)]
        return np.asarray(torch.cat(outputs).numpy())

    def _log_proba(self, outputs: Tensor, y: Tensor, n_classes: int) -> Tensor:
        """Return log-probabilities in float32: of cross entropy, the net's own."""
        natural = self._link(outputs)
        likelihood = torch.nn.CrossEntropyLoss | torch.nn.NLLLoss
        if natural.ndim == 2 and isinstance(self._plain_criterion, likelihood):
            return natural.float().log_softmax(1)
        losses = [
            self.criterion_losses(outputs, torch.full_like(y, label))
            for label in range(n_classes)
        ]
        return (-torch.stack(losses, dim=1).float()).log_softmax(1)

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

        def outputs(theta: Tensor, X: Any = X) -> Tensor:
            return self.natural_outputs(theta, X)

        if self.derivative is None:
            few = X[:FEW_SAMPLES] if isinstance(X, Tensor) else X
            self.derivative = find_method(partial(outputs, X=few), self.theta)
        exact = self.derivative != "finite differences"
        with torch.autocast(
            self.theta.device.type,
            dtype=autocast,
            enabled=autocast is not None and exact,
        ):
            value, along = METHODS[self.derivative](outputs, self.theta, direction)
        return value.to(self.theta.dtype), along.to(self.theta.dtype)

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
        return isinstance(self._criterion, torch.nn.NLLLoss)

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


def _check_order(batch_y: Any, y: Any) -> None:
    """Raise a ValueError if a first batch does not hold the first samples, in order."""
    expected = torch.as_tensor(y[: len(batch_y)])
    found = torch.as_tensor(batch_y)
    if found.shape != expected.shape or not torch.equal(found.to(expected), expected):
        raise ValueError(
            "iterator_valid__collate_fn changes the samples, their order or their "
            "targets, so scores could not be told apart. Leave it out of the net for "
            "validation, or keep the order."
        )
