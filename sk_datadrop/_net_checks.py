"""Checks of a net and its criterion, before they are trained and before scoring."""

import warnings
from dataclasses import replace
from itertools import chain
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.utils import to_tensor
from torch import Tensor

from sk_datadrop._criteria import original
from sk_datadrop._derivatives import is_out_of_memory
from sk_datadrop._functional import FEW_SAMPLES, FunctionalNet
from sk_datadrop._lazy import LazyTargets
from sk_datadrop._ranks import device_of
from sk_datadrop._reading import (
    Reading,
    counts_classes,
    find_reading,
    reading_of_known,
    within_unit_interval,
)
from sk_datadrop._samples import Samples, first_inputs
from sk_datadrop._training import seeded

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
    outputs = _tried(net, few, "the samples")
    check_not_nan(outputs, "the first samples")
    change = _relative_change(outputs, _tried(net, few, "the samples"))
    if change > _RANDOM:
        raise ValueError(
            "the net is not deterministic in evaluation mode: the same samples, "
            f"passed twice, come out {change:.2g} apart. Have random layers look "
            "at self.training, as nn.Dropout does, and let no forward pass change "
            "parameters or buffers."
        )
    if not isinstance(few, Tensor):
        return
    alone = outputs.clone()
    alone[:1] = _tried(net, few[:1], "a single sample")
    # Relative to all samples: the outputs of a single one may be next to nothing.
    change = _relative_change(outputs, alone) * len(outputs) ** 0.5
    if change > _COUPLED:
        warnings.warn(
            "in evaluation mode the outputs of a sample depend on the samples beside "
            "it in the batch: so do the influences, and the predictions. Look for "
            "batch normalisation without running statistics.",
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
        outputs = _tried(net, X, "the samples", theta)
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
                f"criterion {_criterion_name(net)} failed without class weights, as "
                f"the held-out samples are measured: {error}. Have it work with "
                "weight=None, or give what it needs another name."
            ) from error


def _check_rows(net: FunctionalNet, outputs: Tensor, y: Tensor) -> None:
    """Check that losses of places that came as rows are those of the right samples."""
    together = net.losses(outputs.detach(), y)
    if together.isnan().any() and outputs.isfinite().all():
        raise ValueError(
            f"criterion {_criterion_name(net)} gives a loss of NaN for the first "
            "samples with reduction='none'. Look for a division, a root or a logarithm "
            "of what an untrained net gives."
        )
    rows = net.rows_of_losses(outputs.detach(), y)
    alone = net.losses(outputs[:1].detach(), y[:1])
    if rows != len(y) and not torch.allclose(together[:1], alone, rtol=1e-3):
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


class Probe(NamedTuple):
    """What an untrained clone showed: itself, and the shape that targets need.

    Also how chances of classes are read from its outputs, None if targets are none.
    """

    net: NeuralNet
    target_shape: tuple[int, ...]
    reading: Reading | None


def probe_net(
    net: NeuralNet,
    samples: Samples,
    *,
    n_classes: int | None,
    seed: int,
    is_classification: bool = False,
) -> Probe:
    """Run an untrained clone on a few samples and check what comes out.

    Raises a ValueError if the net fails, its outputs match neither the classes nor,
    where `n_classes` is None, the targets, or the criterion has no losses per sample.
    """
    is_classification = is_classification or n_classes is not None
    with seeded(seed, device_of(net)), torch.no_grad():
        probe = _initialized(clone(net).set_params(verbose=0))
        try:
            return _probed(probe, samples, n_classes, is_classification)
        except ValueError as error:
            refusal = error
        # Some callbacks give the module its shape at the start of the training.
        before = repr(probe.module_)
        probe.notify("on_train_begin", X=samples.X, y=samples.y)
        probe.notify("on_train_end", X=samples.X, y=samples.y)
        if repr(probe.module_) == before:
            raise refusal
        return _probed(probe, samples, n_classes, is_classification)


def read_outputs(
    net: FunctionalNet, samples: Samples, is_classification: bool | None
) -> Reading | None:
    """Return how chances of classes are read from the outputs of a net.

    None if targets are no classes. Where that is not known, `is_classification` being
    None, they are if they are integers and lack the axis of the outputs that counts the
    classes. Raises a ValueError if they are classes, and nothing tells how to read
    them.
    """
    X, y = next(net.batches(samples[:FEW_SAMPLES], FEW_SAMPLES))
    outputs = net.outputs(net.theta, X)
    given, _ = net.given_to_criterion(outputs, y)
    reading = reading_of_known(net.skorch_net.criterion_)
    if reading is None:
        reading = _reading_of_others(net, outputs, y, samples, is_classification)
    if reading is None or reading.is_binary:
        return reading
    n_classes = given.shape[1] if given.ndim > 1 else 2
    return replace(reading, n_classes=n_classes)


def _reading_of_others(
    net: FunctionalNet,
    outputs: Tensor,
    y: Tensor,
    samples: Samples,
    is_classification: bool | None,
) -> Reading | None:
    """Return how outputs are read that a criterion of the user's is given."""
    given, targets = net.given_to_criterion(outputs, y)
    has_classes = counts_classes(given, targets)
    is_two_valued = given.shape == targets.shape and _is_two_valued(samples.y)
    if is_classification is None:
        is_classification = has_classes
    if not is_classification and not is_two_valued:
        return None
    criterion = original(net.skorch_net.criterion_)
    found = find_reading(criterion, net.call_criterion, given, targets)
    if not is_classification:
        # A mean squared error treats both alike too, but not as logits.
        return found if found is not None and found.scale == "logits" else None
    nonlinearity = net.skorch_net.predict_nonlinearity
    if found is not None:
        return found
    if callable(nonlinearity):
        is_binary = nonlinearity(given).shape == targets.shape
        return Reading("probabilities", is_binary, nonlinearity=nonlinearity)
    if is_two_valued:
        is_chance = within_unit_interval(given)
        return Reading("probabilities" if is_chance else "logits", is_binary=True)
    if has_classes and given.shape[:1] == outputs.shape[:1] and given.ndim == 2:
        return _read_from_losses(net, outputs, y)
    raise ValueError(_UNREADABLE.format(_criterion_name(net)))


_UNREADABLE = (
    "criterion {} does not tell how probabilities of classes are read from the outputs "
    "of the net. Give the net a predict_nonlinearity, a function from outputs to "
    "probabilities, with classes along axis 1."
)


def _read_from_losses(net: FunctionalNet, outputs: Tensor, y: Tensor) -> Reading:
    """Return the reading that takes losses for minus log-likelihoods, and say so."""
    reading, name = Reading("losses"), _criterion_name(net)
    try:
        log_chances, _ = net.chances(outputs, y, reading)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(_UNREADABLE.format(name)) from error
    if not log_chances.isfinite().all():
        raise ValueError(_UNREADABLE.format(name))
    warnings.warn(
        f"how criterion {name} reads the outputs of the net is unknown: probabilities "
        "of classes are taken from its losses, as if these were minus the "
        "log-likelihood. If they are not, give the net a predict_nonlinearity, a "
        "function from outputs to probabilities.",
        UserWarning,
        stacklevel=5,
    )
    return reading


def _is_two_valued(y: Any) -> bool:
    if isinstance(y, LazyTargets):
        y = y[0]
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    return bool(np.isin(values, (0, 1)).all())


def match_targets(
    y_shape: tuple[int, ...], given_shape: tuple[int, ...], criterion: Any
) -> tuple[int, ...]:
    """Return the shape that targets need to have, from that of what they are set off.

    1-D targets may become (n, 1). Criteria of torch would broadcast others; what those
    of users make of them is known from their losses.
    """
    if y_shape == given_shape:
        return y_shape
    if y_shape == () and given_shape == (1,):
        return (1,)
    kinds = type(original(criterion)).__mro__
    is_of_torch = any(getattr(torch.nn, k.__name__, None) is k for k in kinds[:-2])
    if not is_of_torch:
        return y_shape
    reading = reading_of_known(criterion)
    advice = "Give the module as many outputs as y has targets."
    if reading is not None and not reading.is_binary:
        advice = (
            "Where targets are classes, of pixels or tokens, use DataDropoutClassifier."
        )
    raise ValueError(
        f"the net's outputs have shape {given_shape} per sample, the targets "
        f"{y_shape}. {advice}"
    )


def _initialized(net: NeuralNet) -> NeuralNet:
    try:
        return net.initialize()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"the net cannot be initialized: {error}. Check module, criterion, "
            "optimizer, lr, and their arguments (module__..., optimizer__...)."
        ) from error


def _probed(
    net: NeuralNet,
    samples: Samples,
    n_classes: int | None,
    is_classification: bool,
) -> Probe:
    """Run two samples, and check what comes out."""
    few = to_tensor(first_inputs(samples.X, 2), device=device_of(net))
    net.module_.eval()
    try:
        net.infer(few.clone())
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"the net failed on samples of shape {samples.X.shape[1:]}, with "
            f"{type(error).__name__}: {error}. Check the arguments of the module "
            "(module__...) against the shape of X."
        ) from error
    functional = FunctionalNet(net)
    shape = samples.y.shape[1:]
    given = _shape_given(functional, samples[:2])
    if n_classes is not None:
        _check_class_outputs((2, *given), n_classes, net)
    elif not is_classification:
        shape = match_targets(shape, given, net.criterion_)
    elif shape == given and _takes_one_of_several(functional):
        raise ValueError(
            f"y has a value for each of the {given[0]} outputs of the net, under "
            f"{_criterion_name(functional)}, which takes one class of them. Pass the "
            "classes, y.argmax(axis=1), or train on probabilities with "
            "DataDropoutRegressor."
        )
    some = samples[: min(FEW_SAMPLES, len(samples))]
    if some.y.shape[1:] != shape:
        some = some.with_targets(some.y.reshape(len(some), *shape))
    pair = some[:2]
    check_loss(functional, pair)
    check_deterministic(functional, pair)
    _check_step_loss(net, functional, pair)
    reading = read_outputs(functional, some, is_classification)
    return Probe(net, shape, reading)


def _takes_one_of_several(net: FunctionalNet) -> bool:
    """Tell whether the criterion is one of torch that takes one class of several."""
    reading = reading_of_known(net.skorch_net.criterion_)
    return reading is not None and not reading.is_binary


def _shape_given(net: FunctionalNet, samples: Samples) -> tuple[int, ...]:
    """Return the shape per sample of what the criterion is given, or of the outputs."""
    X, y = next(net.batches(samples))
    outputs = _tried(net, X, "the samples")
    try:
        with warnings.catch_warnings():
            # torch tells of targets of another shape, which are about to be matched.
            warnings.simplefilter("ignore")
            given, _ = net.given_to_criterion(outputs, y)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if net.returns_several:
            kind = type(net.as_returned(outputs)).__name__
            raise ValueError(
                f"the module returns a {kind} of tensors, with which the loss failed: "
                f"{type(error).__name__}: {error}. Have the net's infer return the "
                "tensor to predict with, or its get_loss hand it to the criterion."
            ) from error
        return tuple(outputs.shape[1:])
    return tuple(given.shape[1:])


def _check_class_outputs(
    shape: tuple[int, ...], n_classes: int, net: NeuralNet
) -> None:
    if isinstance(net, NeuralNetBinaryClassifier):
        if n_classes != 2 or (len(shape) != 1 and shape[1:] != (1,)):
            raise ValueError(
                "NeuralNetBinaryClassifier needs two classes and one output per "
                f"sample; got {n_classes} classes and outputs of shape {shape[1:]}. "
                "Use NeuralNetClassifier for more classes."
            )
    elif shape[1:] != (n_classes,):
        raise ValueError(
            f"the net's outputs have shape {shape[1:]} per sample, but y has "
            f"{n_classes} classes. Give the module {n_classes} outputs."
        )


def _check_step_loss(
    net: NeuralNet, functional: FunctionalNet, samples: Samples
) -> None:
    X, y = next(functional.batches(samples))
    outputs = functional.outputs(functional.theta, X)
    loss = net.get_loss(outputs, y, X=X, training=True)
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


def _tried(
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
            f"criterion {_criterion_name(net)} failed on outputs of shape "
            f"{tuple(outputs.shape)}, {outputs.dtype}, and targets of shape "
            f"{tuple(y.shape)}, {y.dtype}: {error}. Check that y suits the "
            "criterion: its shape, its dtype, and classes counted from 0."
        ) from error


def _criterion_name(net: FunctionalNet) -> str:
    return type(net.skorch_net.criterion_).__name__


def _relative_change(outputs: Tensor, others: Tensor) -> float:
    """Norm of the difference, relative to that of the outputs; inf for other shapes."""
    if outputs.shape != others.shape:
        return inf
    # Masked logits are minus infinity, and stay so.
    difference = torch.where(outputs == others, 0, outputs - others)
    size = torch.where(outputs.isinf(), 0, outputs).double().norm()
    return float(difference.double().norm() / size) if difference.any() else 0.0
