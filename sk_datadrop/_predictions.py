"""Predictions of a trained net, in the shape and on the scale of its targets.

What the net's own ``predict`` makes of outputs is a guess from its criterion, and
fits one class per sample. Others are read from what the criterion is given.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import Tensor

from sk_datadrop._criteria import inverse_link, original
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._reading import Reading, reading_of_known
from sk_datadrop._samples import Samples, given_to

_KNOWN_TO_SKORCH = (
    torch.nn.CrossEntropyLoss,
    torch.nn.NLLLoss,
    torch.nn.BCEWithLogitsLoss,
)
"""Criteria whose outputs skorch makes probabilities of, or that are given them."""

_OF_SKORCH = (
    NeuralNet,
    NeuralNetClassifier,
    NeuralNetBinaryClassifier,
    NeuralNetRegressor,
)


def _tells_by_itself(net: NeuralNet, method: str) -> bool:
    """Tell whether a user's net has a ``predict`` or ``predict_proba`` of its own."""
    own = getattr(type(net), method)
    return all(own is not getattr(kind, method) for kind in _OF_SKORCH)


def _is_read_by_skorch(net: NeuralNet, aim: "Aim", method: str) -> bool:
    """Tell whether a method of the net makes the right classes of its outputs.

    It does if it is the user's, or told how, or knows the criterion.
    """
    if aim.reading is None:
        return True
    if aim.shape is not None:
        return False
    if _tells_by_itself(net, method) or callable(net.predict_nonlinearity):
        return True
    criterion = original(net.criterion_)
    is_of_two = isinstance(criterion, torch.nn.BCEWithLogitsLoss)
    is_known = isinstance(criterion, _KNOWN_TO_SKORCH)
    return is_known and not aim.is_picked and is_of_two == aim.reading.is_binary


class Aim(NamedTuple):
    """The kind of target that a net was trained to predict.

    `like` is a target of the shape and dtype that the net takes, `shape` that of one as
    it was given, or None if it is one class. `reading` tells how chances of classes are
    read, None if targets are none, and `is_picked` whether ``get_loss`` picks what the
    criterion is given among the outputs of the module.
    """

    reading: Reading | None
    like: np.ndarray
    shape: tuple[int, ...] | None
    is_picked: bool = False


def predict_codes(net: NeuralNet, X: Any, aim: Aim) -> np.ndarray:
    """Return positions of classes, (n_samples,), or many per sample as they are given.

    They are those of the net's own ``predict``, where that knows what it does.
    """
    reading = aim.reading
    if reading is None or _is_read_by_skorch(net, aim, "predict"):
        predicted = np.asarray(net.predict(given_to(net, X)))
        # skorch's base class predicts probabilities.
        codes = predicted.argmax(1) if predicted.ndim > 1 else predicted
        return codes.astype(np.int64)
    chances = _chances_for(net, X, aim, reading)
    codes = chances.argmax(axis=1)
    if aim.shape is None:
        # skorch's binary classifier has one of its own.
        threshold = getattr(net, "threshold", 0.5)
        is_second = chances[:, 1, 0] > threshold
        return np.where(reading.is_binary, is_second, codes[:, 0]).astype(np.int64)
    if reading.is_binary:
        codes = codes + (1 - codes) * int(reading.first)
    return _shaped(codes, (len(codes), *aim.shape))


def predict_proba(net: NeuralNet, X: Any, aim: Aim) -> np.ndarray:
    """Return probabilities of classes, (n_samples, n_classes), in double precision.

    With many classes per sample that of the second, (n_samples, ...) as the targets, or
    those of all if there are more, (n_samples, n_classes, ...). Raises a ValueError if
    the net's own ``predict_proba`` gives something else.
    """
    reading = aim.reading
    if reading is None or _is_read_by_skorch(net, aim, "predict_proba"):
        proba = np.asarray(net.predict_proba(given_to(net, X)), dtype=np.float64)
        return _checked(net, proba)
    chances = _chances_for(net, X, aim, reading).astype(np.float64)
    chances = chances / chances.sum(axis=1, keepdims=True)
    shape = () if aim.shape is None else aim.shape
    if reading.is_binary and shape:
        return _shaped(chances[:, 1], (len(chances), *shape))
    return _shaped(chances, (*chances.shape[:2], *shape))


def _shaped(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return values in a shape, unless ``get_loss`` leaves out some of the places."""
    fits = values.size == np.prod(shape)
    return np.asarray(values.reshape(shape) if fits else values)


def _checked(net: NeuralNet, proba: np.ndarray) -> np.ndarray:
    is_log = isinstance(original(net.criterion_), torch.nn.NLLLoss)
    if is_log and not isinstance(net, NeuralNetClassifier):
        proba = np.exp(proba)
    sums = proba.sum(axis=1, keepdims=True)
    if proba.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
        raise ValueError(
            "the net's predict_proba gives no probabilities (values from "
            f"{proba.min():.3g} to {proba.max():.3g}). Give it a "
            "predict_nonlinearity, such as a softmax over axis 1."
        )
    # Single precision leaves the sum off by 1e-7, which log_loss complains of.
    return np.asarray(proba / sums)


def accuracy_of_places(
    y: np.ndarray, predicted: np.ndarray, ignored: int | None
) -> float:
    """Return the share of the places with a class at which it is predicted."""
    counts = (y >= 0) if ignored is None else (y >= 0) & (y != ignored)
    return float((y == predicted)[counts].mean())


def expected_targets(
    net: FunctionalNet, samples: Samples, reading: Reading | None
) -> np.ndarray:
    """Return what targets should be by a net, as numbers to take the mean of.

    Of one class of several, (n_samples, n_classes, n_places), how likely each is;
    otherwise of the shape of the targets. Raises a ValueError if outputs are not those
    of targets.
    """
    shape = samples.y.shape[1:]
    if reading is None:
        return _joined(_predicted(net, samples)).reshape(len(samples), *shape)
    chances = _chances(net, samples, reading)
    if reading.is_binary:
        values = reading.first + (1 - reading.first) * chances[:, 1]
        return values.reshape(len(samples), *shape)
    if chances[0].size == np.prod(shape):
        return chances.reshape(len(samples), *shape)
    if chances.shape[2] != np.prod(shape):
        raise ValueError(
            f"the criterion is given {chances.shape[2]} classes per sample, and y has "
            f"{np.prod(shape)}: no targets can be made of predictions. Choose "
            "on_harmful='drop' or 'weigh'."
        )
    return chances


def predict_real(net: NeuralNet, X: Any, aim: Aim) -> np.ndarray:
    """Return predictions of real targets, (n_samples, ...) as they were given.

    By the net's own ``predict_nonlinearity``, if it is a function, and else by the
    inverse link of the criterion, such as the sigmoid under BCEWithLogitsLoss. Outputs
    of another size, such as several quantiles of a target, stay as they are.
    """
    if _tells_by_itself(net, "predict"):
        predicted = np.asarray(net.predict(given_to(net, X)))
    elif callable(net.predict_nonlinearity):
        predicted = np.asarray(net.predict_proba(given_to(net, X)))
    elif aim.reading is not None and reading_of_known(net.criterion_) is None:
        samples = _with_any_targets(X, aim.like)
        predicted = expected_targets(FunctionalNet(net), samples, aim.reading)
    elif aim.is_picked:
        samples = _with_any_targets(X, aim.like)
        predicted = _joined(_predicted(FunctionalNet(net), samples))
    else:
        mean_of = inverse_link(net.criterion_)
        given = given_to(net, X)
        predicted = _joined(mean_of(outputs) for outputs in net.forward_iter(given))
    if predicted[:1].size == aim.like.size:
        return predicted.reshape(len(predicted), *(aim.shape or ()))
    return predicted


def _chances_for(net: NeuralNet, X: Any, aim: Aim, reading: Reading) -> np.ndarray:
    chances = _chances(FunctionalNet(net), _with_any_targets(X, aim.like), reading)
    # Of several heads for one class, the first is asked, as in round 1.
    return chances[:, :, :1] if aim.shape is None else chances


def _with_any_targets(X: Any, like: np.ndarray) -> Samples:
    return Samples.of(X, np.zeros((len(X), *like.shape), like.dtype))


@torch.no_grad()
def _chances(net: FunctionalNet, samples: Samples, reading: Reading) -> np.ndarray:
    log_chances = _joined(
        net.chances(net.outputs(net.theta, X), y, reading)[0]
        for X, y in net.batches(samples)
    )
    return np.asarray(np.exp(log_chances))


@torch.no_grad()
def _predicted(net: FunctionalNet, samples: Samples) -> Iterator[Tensor]:
    for X, y in net.batches(samples):
        predicted = net.predicted(net.outputs(net.theta, X), y)
        if predicted is None:
            raise ValueError(
                f"the net has no prediction of targets of shape {tuple(y.shape[1:])}: "
                "its criterion is given something of another size. Give the net a "
                "predict method of its own."
            )
        yield predicted


def _joined(parts: Any) -> np.ndarray:
    return np.concatenate([part.detach().float().cpu().numpy() for part in parts])
