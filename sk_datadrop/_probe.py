"""Try an untrained clone of a net: how it takes samples, and what it returns.

Everything that a net could fail on is tried on a few samples before it is trained.
"""

import copy
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor

from sk_datadrop._batches import batches_of, collates, has_own_dataset, twin_of
from sk_datadrop._callbacks import cloned
from sk_datadrop._casting import Casting, castings_of
from sk_datadrop._criteria import OF_TWO_CLASSES, original
from sk_datadrop._derivatives import is_out_of_memory
from sk_datadrop._functional import FEW_SAMPLES, FunctionalNet
from sk_datadrop._lazy import LazyTargets, keeps_integers, shape_of
from sk_datadrop._net_checks import (
    check_class_outputs,
    check_deterministic,
    check_likelihood,
    check_loss,
    check_step_loss,
    criterion_name,
    tried,
)
from sk_datadrop._ranks import device_of
from sk_datadrop._reading import (
    Reading,
    counts_classes,
    find_reading,
    reading_of_known,
    within_unit_interval,
)
from sk_datadrop._samples import Samples
from sk_datadrop._training import seeded

T = TypeVar("T")
Check = Callable[[FunctionalNet, Samples], None]

_ASKS_FOR_INTEGERS = re.compile(r"\b(long|longtensor|int|integers?)\b", re.IGNORECASE)


class Probe(NamedTuple):
    """An untrained clone of a net, and the shape that targets need.

    Also how chances of classes are read from its outputs, None if targets are none, and
    the dtypes in which it takes numbers: integers stay integers if it can, and whether
    ``get_loss`` picks what the criterion is given among the outputs of the module.
    """

    net: NeuralNet
    target_shape: tuple[int, ...]
    reading: Reading | None
    casting: Casting
    is_picked: bool = False


def probe_net(
    net: NeuralNet,
    samples: Samples,
    check: Check = lambda net, samples: None,
    *,
    n_classes: int | None,
    seed: int,
    is_classification: bool = False,
) -> Probe:
    """Run an untrained clone on a few samples and check what comes out.

    Raises a ValueError if the net fails, its outputs match neither the classes nor,
    where `n_classes` is None, the targets, the criterion has no losses per sample, or a
    further check fails.
    """
    is_classification = is_classification or n_classes is not None

    def probed(probe: NeuralNet) -> Probe:
        def run(casting: Casting) -> Probe:
            return _check(probe, samples, check, n_classes, is_classification, casting)

        return first_that_works(run, castings_for(probe, samples.X))

    with seeded(seed, device_of(net)), torch.no_grad():
        probe = _initialized(cloned(net).set_params(verbose=0))
        try:
            return probed(probe)
        except ValueError as error:
            refusal = error
        # Some callbacks give the module its shape at the start of the training.
        before = repr(probe.module_)
        probe.notify("on_train_begin", X=samples.X, y=samples.y)
        probe.notify("on_train_end", X=samples.X, y=samples.y)
        if repr(probe.module_) == before:
            raise refusal
        return probed(probe)


def read_outputs(
    net: FunctionalNet, samples: Samples, is_classification: bool | None
) -> Reading | None:
    """Return how chances of classes are read from the outputs of a net.

    None if targets are no classes. Where that is not known, `is_classification` being
    None, they are if they are integers and lack the axis of the outputs that counts the
    classes. Raises a ValueError if they are classes, and nothing tells how to read
    them.
    """
    reading = reading_of_known(net.skorch_net.criterion_)
    n_samples = FEW_SAMPLES if reading is None else 2
    X, y = next(net.batches(samples[:n_samples], n_samples))
    outputs = net.outputs(net.theta, X)
    handed = net.given_to_criterion(outputs, y)
    if samples.codes is not None and _is_one_hot(*handed[0]):
        # Each class against all others: the same odds, and classes along axis 1.
        known = reading is not None and replace(reading, is_binary=False)
        reading = known or None
    if reading is None:
        reading = _reading_of_others(
            net, outputs, y, handed[0], samples, is_classification
        )
    if reading is None:
        return None
    has_columns = y.ndim == 2 and (reading.is_binary or len(handed) > 1)
    if reading.is_binary:
        return replace(reading, has_columns=has_columns)
    counts = [given.shape[1] if given.ndim > 1 else 2 for given, _ in handed]
    return replace(reading, n_classes=max(counts), has_columns=has_columns)


def _is_one_hot(given: Tensor, targets: Tensor) -> bool:
    return given.shape == targets.shape and given.ndim == 2 and given.shape[1] > 1


def _reading_of_others(
    net: FunctionalNet,
    outputs: Tensor,
    y: Tensor,
    handed: tuple[Tensor, Tensor],
    samples: Samples,
    is_classification: bool | None,
) -> Reading | None:
    """Return how outputs are read that a criterion of the user's is given."""
    given, targets = handed
    is_one_hot = samples.codes is not None and _is_one_hot(given, targets)
    has_classes = counts_classes(given, targets) or is_one_hot
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
        return replace(found, is_binary=found.is_binary and not is_one_hot)
    if callable(nonlinearity):
        is_binary = nonlinearity(given).shape == targets.shape and not is_one_hot
        return Reading("probabilities", is_binary, nonlinearity=nonlinearity)
    if is_two_valued and not is_one_hot:
        is_chance = within_unit_interval(given)
        return Reading("probabilities" if is_chance else "logits", is_binary=True)
    if has_classes and given.shape[:1] == outputs.shape[:1] and given.ndim == 2:
        return _read_from_losses(net, outputs, y)
    raise ValueError(_UNREADABLE.format(criterion_name(net)))


_UNREADABLE = (
    "criterion {} does not tell how probabilities of classes are read from the outputs "
    "of the net. Give the net a predict_nonlinearity, a function from outputs to "
    "probabilities, with classes along axis 1."
)


def _read_from_losses(net: FunctionalNet, outputs: Tensor, y: Tensor) -> Reading:
    """Return the reading that takes losses for minus log-likelihoods, and say so."""
    reading, name = Reading("losses"), criterion_name(net)
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


def castings_for(net: NeuralNet, X: Any) -> list[Casting]:
    """Return the castings of inputs that an initialized net may need, in order."""
    floating = next(
        (p.dtype for p in net.module_.parameters() if p.is_floating_point()),
        torch.float32,
    )
    others = collates(net) or has_own_dataset(net)
    return castings_of(keeps_integers(X), str(floating).removeprefix("torch."), others)


def first_that_works(attempt: Callable[[Casting], T], castings: Sequence[Casting]) -> T:
    """Return the first result that is no ValueError."""
    refusals = []
    for casting in castings:
        try:
            return attempt(casting)
        except ValueError as error:
            refusals.append(error)
    # Of a net that asks for integers, those say what else is wrong.
    raise refusals[0 if _ASKS_FOR_INTEGERS.search(str(refusals[-1])) else -1]


def _check(
    net: NeuralNet,
    samples: Samples,
    check: Check,
    n_classes: int | None,
    is_classification: bool,
    casting: Casting,
) -> Probe:
    """Run a few samples, and check what comes out."""
    pair = samples[:2].cast_as(casting)
    try:
        functional = _run(net, pair)
        shape = _target_shape(functional, pair, n_classes, is_classification)
        pair = shaped(pair, shape)
        check_loss(functional, pair)
        check_deterministic(functional, pair)
        check_step_loss(net, functional, pair)
        check(functional, pair)
        few = samples[: min(FEW_SAMPLES, len(samples))].cast_as(casting)
        reading = read_outputs(functional, shaped(few, shape), is_classification)
    except ValueError as error:
        advice = _advice(net.module_, shape_of(samples.X))
        # Without an axis of channels, a convolution takes a batch for a single image.
        if "axis" not in advice or advice in str(error):
            raise
        raise ValueError(f"{error} {advice}") from error
    return Probe(net, shape, reading, casting, _is_picked(functional, pair))


def _is_picked(net: FunctionalNet, samples: Samples) -> bool:
    X, _ = next(net.batches(samples))
    outputs = net.outputs(net.theta, X)
    given, _ = _shapes_given(net, samples)
    return net.returns_several or outputs.numel() != math.prod(given)


def shaped(samples: Samples, shape: tuple[int, ...]) -> Samples:
    """Return samples whose targets have a shape; classes are given as they are."""
    if samples.codes is not None or samples.y.shape[1:] == shape:
        return samples
    return samples.with_targets(samples.y.reshape(len(samples), *shape))


def _run(net: NeuralNet, pair: Samples) -> FunctionalNet:
    """Run two samples; a ValueError says why the net failed."""
    few = _first_batch(net, pair)
    net.module_.eval()
    try:
        outputs = net.infer(copy.deepcopy(few))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shape = shape_of(pair.X)
        raise ValueError(
            f"the net failed on samples of shape {shape}, with "
            f"{type(error).__name__}: {error}. {_advice(net.module_, shape)}"
        ) from error
    if isinstance(outputs, Tensor) and outputs.dtype == torch.bfloat16:
        raise ValueError(
            "the net's outputs are bfloat16, of which skorch makes no predictions. "
            "Have forward return them in float32, such as outputs.float(); all else "
            "may stay bfloat16."
        )
    if isinstance(outputs, Tensor):
        check_likelihood(net, outputs)
    return FunctionalNet(net)


def _target_shape(
    net: FunctionalNet, pair: Samples, n_classes: int | None, is_classification: bool
) -> tuple[int, ...]:
    """Return the shape that targets need; a ValueError if outputs do not suit them."""
    shape: tuple[int, ...] = pair.y.shape[1:]
    (rows, *sizes), of_targets = _shapes_given(net, pair)
    given = tuple(sizes)
    if n_classes is not None:
        check_class_outputs((rows, *given), n_classes, net.skorch_net)
    elif not is_classification:
        return match_targets(shape, given, net.skorch_net.criterion_)
    elif isinstance(original(net.skorch_net.criterion_), OF_TWO_CLASSES):
        # Masks with and without an axis of channels.
        return given if math.prod(given) == math.prod(shape) else shape
    elif (rows, *given) == of_targets and _takes_one_of_several(net):
        raise ValueError(
            f"y has a value for each of the {given[0]} outputs of the net, under "
            f"{criterion_name(net)}, which takes one class of them. Pass the "
            "classes, y.argmax(axis=1), or train on probabilities with "
            "DataDropoutRegressor."
        )
    return shape


def _takes_one_of_several(net: FunctionalNet) -> bool:
    """Tell whether the criterion is one of torch that takes one class of several."""
    reading = reading_of_known(net.skorch_net.criterion_)
    return reading is not None and not reading.is_binary


def _shapes_given(
    net: FunctionalNet, samples: Samples
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of what the criterion is given, or of outputs and targets."""
    X, y = next(net.batches(samples))
    outputs = tried(net, X, "the samples")
    try:
        with warnings.catch_warnings():
            # torch tells of targets of another shape, which are about to be matched.
            warnings.simplefilter("ignore")
            given, targets = net.given_to_criterion(outputs, y)[0]
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
        return tuple(outputs.shape), tuple(y.shape)
    return tuple(given.shape), tuple(targets.shape)


def _first_batch(net: NeuralNet, samples: Samples) -> Any:
    try:
        return next(batches_of(twin_of(net), samples, len(samples)))[0]
    except Exception as error:
        is_own = collates(net) or has_own_dataset(net)
        if isinstance(error, ValueError) or not is_own or is_out_of_memory(error):
            raise
        raise ValueError(
            "the data set class or the collate_fn of the net failed on the first "
            f"samples, with {type(error).__name__}: {error}. A collate_fn gets a list "
            "of pairs (x, y), and returns a pair of batches."
        ) from error


def _advice(module: torch.nn.Module, shape: Any) -> str:
    """Say what may be wrong with inputs that a net failed on."""
    if isinstance(shape, dict):
        names = ", ".join(map(repr, shape))
        return f"It got {names} as keyword arguments: see its forward method."
    if isinstance(shape, list):
        return (
            f"It got a list of {len(shape)} tensors as its only argument: see its "
            "forward method."
        )
    convolutions = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
    first = next((m for m in module.modules() if isinstance(m, convolutions)), None)
    if first is not None and shape is not None:
        n_axes = len(first.kernel_size)
        if len(shape) == n_axes:
            return (
                "The samples have no axis of channels, which a convolution needs: pass "
                "X[:, None], or np.stack(X)[:, None] of a list."
            )
        may_be_last = shape[-1] in (1, 3, first.in_channels)
        if len(shape) == n_axes + 1 and may_be_last and shape[0] not in (1, 3):
            return (
                "The channels of the samples are the last axis, and must be the first: "
                "pass np.moveaxis(X, -1, 1), or give a data set of images a transform "
                "such as torchvision's ToTensor."
            )
    return (
        "Check the arguments of the module (module__...) against the shape and dtype "
        "of X."
    )
