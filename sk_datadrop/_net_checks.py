"""Checks of a net and its criterion, before they are trained and before scoring."""

import warnings
from itertools import chain
from math import inf
from typing import Any

import torch
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor

from sk_datadrop._batches import collates
from sk_datadrop._casting import map_parts
from sk_datadrop._derivatives import is_out_of_memory
from sk_datadrop._functional import FEW_SAMPLES, FunctionalNet
from sk_datadrop._samples import Samples

_RANDOM = 3e-4
"""Relative change of the outputs, passed twice, above rounding on any hardware."""

_COUPLED = 0.1
"""Relative change of a sample's outputs, passed alone, above rounding and TF32."""


@torch.no_grad()
def check_deterministic(net: FunctionalNet, samples: Samples) -> None:
    """Check that outputs are numbers, the same every time, and each by itself.

    The first few samples are run, in evaluation mode. Raises a ValueError if the net
    fails on several or on one, an output is NaN, or the same samples come out
    differently the second time; warns if the outputs of a sample depend on the samples
    beside it.
    """
    few, _ = next(net.batches(samples[:FEW_SAMPLES], FEW_SAMPLES))
    outputs = tried(net, few, "the samples")
    check_not_nan(outputs, "the first samples")
    change = _relative_change(outputs, tried(net, few, "the samples"))
    if change > _RANDOM:
        raise ValueError(
            "the net is not deterministic in evaluation mode: the same samples, "
            f"passed twice, come out {change:.2g} apart. Have random layers look "
            "at self.training, as nn.Dropout does, and let no forward pass change "
            "parameters or buffers."
        )
    if collates(net.skorch_net):
        single, _ = next(net.batches(samples[:1], 1))
    else:
        single = map_parts(lambda part, _: part[:1], few)
    alone = outputs.clone()
    alone[:1] = tried(net, single, "a single sample")
    # Relative to all samples: the outputs of a single one may be next to nothing.
    change = _relative_change(outputs, alone) * len(outputs) ** 0.5
    if change > _COUPLED:
        warnings.warn(
            "in evaluation mode the outputs of a sample depend on the samples beside "
            "it in the batch: so do the influences, and the predictions. Look for "
            "batch normalisation without running statistics, or for padding that is "
            "not masked.",
            stacklevel=3,
        )


@torch.enable_grad()
def check_loss(net: FunctionalNet, samples: Samples) -> None:
    """Check that the losses of the first samples follow from the parameters.

    Two samples are run. Raises a ValueError if net or criterion fail, outputs or losses
    are not one per sample, or no gradient reaches the parameters.
    """
    theta = net.theta.clone().requires_grad_()
    for X, y in net.batches(samples[:2]):
        outputs = tried(net, X, "the samples", theta)
        if not outputs.ndim or len(outputs) != len(y):
            raise ValueError(
                f"the net gives outputs of shape {tuple(outputs.shape)} for "
                f"{len(y)} samples. Have it return one entry per sample."
            )
        losses = _tried_losses(net, outputs, y)
        if not losses.requires_grad:
            raise ValueError(
                "no gradient of the training loss reaches a trainable parameter: "
                "influence is undefined. Look for a `detach`, a `no_grad`, or a "
                "rounding in module and criterion."
            )
        _check_rows(net, outputs, y)
        try:
            net.criterion_losses(outputs, y)
        except (RuntimeError, LookupError, TypeError) as error:
            raise ValueError(
                f"criterion {criterion_name(net)} failed without class weights, as "
                f"the held-out samples are measured: {error}. Have it work with "
                "weight=None, or give what it needs another name."
            ) from error


def _check_rows(net: FunctionalNet, outputs: Tensor, y: Tensor) -> None:
    """Check that losses of places that came as rows are those of the right samples."""
    together = net.losses(outputs.detach(), y)
    if together.isnan().any() and outputs.isfinite().all():
        raise ValueError(
            f"criterion {criterion_name(net)} gives a loss of NaN for the first "
            "samples with reduction='none'. Look for a division, a root or a logarithm "
            "of what an untrained net gives."
        )
    rows = net.rows_of_losses(outputs.detach(), y)
    if rows == len(y):
        return
    alone = net.losses(outputs[:1].detach(), y[:1])
    if not torch.allclose(together[:1], alone, rtol=1e-3):
        raise ValueError(
            f"the loss has {rows} rows for {len(y)} samples with reduction='none', and "
            "not those of one sample after the other; it must give one loss per sample "
            "(or per element). Flatten outputs and targets with samples first."
        )


def warn_of_unused_parameters(
    net: FunctionalNet, samples: Samples, batch_size: int | None = None
) -> None:
    """Warn of trainable parameters that no output depends on.

    Training by gradients leaves them as they are, and they have no part in the
    influence. Only a missing dependency is seen: not a derivative of zero, nor
    a detached use beside another. As a rule the first few samples are enough and the
    only ones run. Raises a ValueError if the outputs depend on no parameter at all.
    """
    names = net.parameter_names
    few = net.batches(samples[:FEW_SAMPLES])
    for X, _ in chain(few, net.batches(samples, batch_size)):
        names = _unused_of(net, names, X)
        if not names:
            return
    if len(names) == len(net.parameter_names):
        raise ValueError(
            "the outputs of the net depend on none of its trainable parameters: "
            "influence is undefined. Look for a `detach` or `no_grad`."
        )
    warnings.warn(
        f"no output depends on the parameters {', '.join(names)}: they have no "
        "part in the influence. Look for a `detach` or `no_grad`, or set "
        "requires_grad=False.",
        stacklevel=3,
    )


def check_not_nan(outputs: Tensor, which: str) -> None:
    """Raise a ValueError if an output is NaN."""
    n_bad = int(outputs.isnan().flatten(1).any(1).sum()) if outputs.ndim > 1 else 0
    n_bad = n_bad or int(outputs.isnan().sum())
    if n_bad:
        raise ValueError(
            f"in evaluation mode the net gives NaN for {n_bad} of {len(outputs)} "
            f"samples among {which}. Scale X, lower the learning rate, or look for a "
            "division or a logarithm in the module."
        )


def check_likelihood(net: NeuralNet, outputs: Tensor) -> None:
    """Raise a ValueError if NLLLoss gets something else than it takes."""
    get_loss, criterion = type(net).get_loss, type(net.criterion_)
    if criterion is not torch.nn.NLLLoss or outputs.ndim < 2:
        return
    low, high = float(outputs.min()), float(outputs.max())
    takes, end = "", ""
    if get_loss is NeuralNetClassifier.get_loss and low < 0:
        takes, end = "probabilities, of which it takes the logarithm", "softmax"
    elif get_loss is NeuralNet.get_loss and outputs.logsumexp(1).abs().max() > 0.01:
        takes, end = "log-probabilities", "log_softmax"
    if end:
        raise ValueError(
            f"under NLLLoss {type(net).__name__} needs {takes}; the module gives "
            f"values from {low:.3g} to {high:.3g}. End it with a {end} over axis 1, or "
            "set criterion=torch.nn.CrossEntropyLoss, which takes values of any size."
        )


def check_class_outputs(shape: tuple[int, ...], n_classes: int, net: NeuralNet) -> None:
    if isinstance(net, NeuralNetBinaryClassifier):
        if n_classes != 2 or (len(shape) != 1 and shape[1:] != (1,)):
            raise ValueError(
                "NeuralNetBinaryClassifier needs two classes and one output per "
                f"sample; got {n_classes} classes and outputs of shape {shape[1:]}. "
                "Use NeuralNetClassifier for more classes."
            )
    elif shape[1:] != (n_classes,):
        if n_classes == 2 and shape[1:] in ((), (1,)):
            raise ValueError(
                "the net has one output per sample, for two classes. Give the module "
                "2 outputs, or take a NeuralNetBinaryClassifier."
            )
        raise ValueError(
            f"the net's outputs have shape {shape[1:]} per sample, but y has "
            f"{n_classes} classes. Give the module {n_classes} outputs."
        )


def check_step_loss(
    net: NeuralNet, functional: FunctionalNet, samples: Samples
) -> None:
    X, y = next(functional.batches(samples))
    outputs = functional.outputs(functional.theta, X)
    loss = net.get_loss(functional.as_returned(outputs), y, X=X, training=True)
    if loss.ndim:
        raise ValueError(
            f"criterion {type(net.criterion_).__name__} gives a loss of shape "
            f"{tuple(loss.shape)} to train on; it must be one number. Set "
            "criterion__reduction='mean'."
        )


@torch.enable_grad()
def _unused_of(net: FunctionalNet, names: list[str], X: Any) -> list[str]:
    weights = {
        k: p.detach().requires_grad_() for k, p in net.unflatten(net.theta).items()
    }
    outputs = net.outputs_with(weights, X)
    if not outputs.requires_grad:
        return names
    leaves = [weights[k] for k in names]
    gradients = torch.autograd.grad(outputs.sum(), leaves, allow_unused=True)
    return [k for k, g in zip(names, gradients, strict=True) if g is None]


def tried(
    net: FunctionalNet, X: Any, which: str, theta: Tensor | None = None
) -> Tensor:
    try:
        return net.outputs(net.theta if theta is None else theta, X)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"the net failed on {which} in evaluation mode, with "
            f"{type(error).__name__}: {error}. Check shape and dtype of X, and "
            "that no layer needs a whole batch or changes parameters in place."
        ) from error


def _tried_losses(net: FunctionalNet, outputs: Tensor, y: Tensor) -> Tensor:
    try:
        return net.losses(outputs, y)
    except (RuntimeError, LookupError, TypeError) as error:
        raise ValueError(
            f"criterion {criterion_name(net)} failed on outputs of shape "
            f"{tuple(outputs.shape)}, {outputs.dtype}, and targets of shape "
            f"{tuple(y.shape)}, {y.dtype}: {error}. Check that y suits the "
            "criterion: its shape, its dtype, and classes counted from 0."
        ) from error


def criterion_name(net: FunctionalNet) -> str:
    return type(net.skorch_net.criterion_).__name__


def _relative_change(outputs: Tensor, others: Tensor) -> float:
    """Norm of the difference, relative to that of the outputs; inf for other shapes."""
    if outputs.shape != others.shape:
        return inf
    # Masked logits are minus infinity, and stay so.
    difference = torch.where(outputs == others, 0, outputs - others)
    size = torch.where(outputs.isinf(), 0, outputs).double().norm()
    return float(difference.double().norm() / size) if difference.any() else 0.0
