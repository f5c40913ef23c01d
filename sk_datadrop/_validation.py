"""Checks of everything the user hands to ``fit``, before any training.

What comes in is turned into arrays the net can be trained on; what cannot be
is refused with a sentence that says what to do.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import clone
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.multiclass import check_classification_targets
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.utils import to_tensor

from sk_datadrop._derivatives import is_out_of_memory
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._ranks import device_of
from sk_datadrop._rounds import seeded
from sk_datadrop._rows import (
    DatasetRows,
    MemoryMap,
    TargetsOfRows,
    chunks,
    first_rows,
    with_targets,
)


@dataclass(frozen=True)
class Targets:
    """Targets as the net is trained on them.

    Attributes
    ----------
    values : ndarray or TargetsOfRows of shape (n_samples, ...)
    labels : ndarray of shape (n_samples,), dtype int64, or None
        Classes as 0, 1, ..., None for a regressor.
    """

    values: np.ndarray | TargetsOfRows
    labels: np.ndarray | None


@contextmanager
def of_argument(name: str) -> Iterator[None]:
    """Say which argument of ``fit`` an error is about, where the check cannot know."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise ValueError(f"{name}: {error}") from error


def check_is_net(estimator, *, wrapper: str) -> None:
    """Raise unless `estimator` is a skorch net."""
    if not isinstance(estimator, NeuralNet):
        got = estimator.__name__ if isinstance(estimator, type) else type(estimator)
        raise TypeError(
            f"{wrapper} needs a skorch net as estimator; got {got!r}. Wrap a torch "
            "module: skorch.NeuralNetClassifier(MyModule, "
            "criterion=torch.nn.CrossEntropyLoss), or skorch.NeuralNetRegressor."
        )


def warn_of_module_instance(estimator) -> None:
    """Warn if the net holds a module whose weights every training goes on with."""
    if isinstance(estimator.module, torch.nn.Module):
        warnings.warn(
            f"the net holds an instance of {type(estimator.module).__name__}: every "
            "round goes on training the weights it has now, instead of starting from "
            "scratch. Pass the class, and its arguments as module__name=value.",
            UserWarning,
            stacklevel=5,
        )


def check_labels(y, name="y") -> np.ndarray:
    """Return labels as a 1-D array without missing values."""
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name=name)
    check_classification_targets(y)
    return y


def check_rows(X: DatasetRows, engine, *, minimum: int) -> None:
    """Raise a ValueError unless there are rows enough, none known to be bad.

    Those of a memory map are all looked at, a few at a time; those of a data set are
    not: reading them may take as long as an epoch, in which they show.
    """
    if len(X) < minimum:
        raise ValueError(
            f"Found array with {len(X)} sample(s) while a minimum of {minimum} is "
            "required: give X more rows."
        )
    if len(X.shape) < 2:
        raise ValueError(
            "rows of a data set must be arrays of one axis or more; got single values."
        )
    if engine is not None and X.augmented is not None:
        raise ValueError(
            "engine=Trajectory() replays the training row by row, which it cannot do "
            "with augmented rows. Leave augmented out of DatasetRows, or leave "
            "engine=None for influence functions."
        )
    if isinstance(X.dataset, MemoryMap):
        for chunk in chunks(X.dataset.array):
            with np.errstate(over="ignore"):
                chunk = chunk.astype(np.float32)
            assert_all_finite(chunk, input_name="X")


def encode_labels(y, classes, name="y") -> np.ndarray:
    """Return labels as positions in `classes`, dtype int64."""
    unknown = np.setdiff1d(y, classes)
    if unknown.size:
        raise ValueError(
            f"{name} holds the label {unknown.tolist()[0]!r}, which is not among the "
            "classes of y. Leave out those rows, or add such rows to y."
        )
    return np.searchsorted(classes, y).astype(np.int64)


def check_real_targets(y, name="y"):
    """Return regression targets of any shape as float32, or as read with their rows."""
    if isinstance(y, TargetsOfRows):
        return y
    return check_array(
        y,
        dtype=np.float32,
        force_writeable=True,
        ensure_2d=False,
        allow_nd=True,
        input_name=name,
    )


def as_class_targets(estimator, labels) -> Targets:
    """Labels in the type that the criterion of the net expects."""
    binary = isinstance(estimator, NeuralNetBinaryClassifier)
    return Targets(labels.astype(np.float32) if binary else labels, labels)


def probe_net(estimator, X, targets: Targets, *, n_classes, engine, seed) -> tuple:
    """Run an untrained clone on two rows and check what comes out.

    Parameters
    ----------
    estimator : skorch.NeuralNet
    X : ndarray or DatasetRows of shape (n_samples, ...)
    targets : Targets
    n_classes : int or None
        None for a regressor.
    engine : Trajectory or None
        Must be able to score the net.
    seed : int

    Returns
    -------
    net : skorch.NeuralNet
        The untrained clone.
    outputs_shape : torch.Size
        Shape of the outputs for two rows.

    Raises
    ------
    ValueError
        If the net fails on the rows, its outputs match neither classes nor
        targets, or the criterion has no per-row losses.
    """
    with seeded(seed, device_of(estimator)), torch.no_grad():
        net = _initialized(clone(estimator).set_params(verbose=0))
        if engine is not None:
            engine.check_net(net)
        try:
            return net, _check_outputs(net, X, targets.values, n_classes)
        except ValueError as error:
            refusal = error
        # Some callbacks give the module its shape at the start of the training.
        before = repr(net.module_)
        net.notify("on_train_begin", X=X, y=targets.values)
        net.notify("on_train_end", X=X, y=targets.values)
        if repr(net.module_) == before:
            raise refusal
        return net, _check_outputs(net, X, targets.values, n_classes)


def _initialized(net):
    try:
        return net.initialize()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"the net cannot be initialized: {error}. Check module, criterion, "
            "optimizer, lr, and their arguments (module__..., optimizer__...)."
        ) from error


def _check_outputs(net, X, y, n_classes) -> torch.Size:
    """Run two rows, check what comes out, and return its shape."""
    few = to_tensor(first_rows(X, 2), device=device_of(net))
    net.module_.eval()
    try:
        outputs = net.infer(few.clone())
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"the net failed on rows of shape {X.shape[1:]}, with "
            f"{type(error).__name__}: {error}. Check the arguments of the module "
            "(module__...) against the shape of X."
        ) from error
    functional = FunctionalNet(net)
    # Refuses a module that returns several tensors, before shapes are looked at.
    functional.raw_outputs(functional.theta, few)
    if n_classes is not None:
        _check_class_outputs(outputs.shape, n_classes, net)
    else:
        y = match_targets(y, outputs.shape)
    rows = with_targets(X[:2], y[:2])
    functional.check_loss(rows, y[:2])
    functional.check_rows(rows, y[:2])
    _check_step_loss(net, functional, rows, y[:2])
    return outputs.shape


def match_targets(y, outputs_shape):
    """Targets in the shape of the outputs, row by row; 1-D y may become (n, 1)."""
    if y.shape[1:] == tuple(outputs_shape[1:]):
        return y
    if y.ndim == 1 and tuple(outputs_shape[1:]) == (1,):
        return y.reshape(-1, 1)
    raise ValueError(
        f"the net's outputs have shape {tuple(outputs_shape[1:])} per row, the targets "
        f"{y.shape[1:]}. Give the module as many outputs as y has targets."
    )


def _check_class_outputs(shape, n_classes: int, estimator) -> None:
    if isinstance(estimator, NeuralNetBinaryClassifier):
        if n_classes != 2 or (len(shape) != 1 and tuple(shape[1:]) != (1,)):
            raise ValueError(
                "NeuralNetBinaryClassifier takes two classes and one output per row; "
                f"got {n_classes} classes and outputs of shape {tuple(shape[1:])}. Use "
                "NeuralNetClassifier for more classes."
            )
        return
    if tuple(shape[1:]) != (n_classes,):
        raise ValueError(
            f"the net's outputs have shape {tuple(shape[1:])} per row, but y has "
            f"{n_classes} classes. Give the module {n_classes} outputs."
        )


def _check_step_loss(net, functional: FunctionalNet, X, y) -> None:
    Xb, yb = next(functional.batches(X, y))
    raw = functional.raw_outputs(functional.theta, Xb)
    loss = net.get_loss(raw, yb, X=Xb, training=True)
    if loss.ndim:
        raise ValueError(
            f"criterion {type(net.criterion_).__name__} gives a loss of shape "
            f"{tuple(loss.shape)} to train on; it must be one number. Set "
            "criterion__reduction='mean'."
        )


def validation_of_refit(net, validation):
    """Rows for the validation phase of round 2: given ones, the net's own, none.

    Round 2 trains on every kept row. Only where a callback watches a validation
    quantity and no rows were given does the net's own ``train_split`` withhold
    some, since otherwise the callback would fail.
    """
    if validation is not None:
        return validation
    watching = [
        type(callback).__name__
        for _, callback in net.callbacks_
        if isinstance(getattr(callback, "monitor", None), str)
        and not callback.monitor.startswith("train")
    ]
    if not watching:
        return None
    if not net.train_split:
        raise ValueError(
            f"callback {watching[0]} watches a validation quantity, but round 2 has no "
            "validation rows. Pass X_val and y_val, or give the net a train_split."
        )
    return "own"


def route_fit_params(owner, params: dict) -> tuple[dict, dict]:
    """Tell what goes to the ``fit`` of the net, and to the ``split`` of `cv`."""
    if params.get("sample_weight") is not None:
        raise ValueError(
            "sample_weight is not supported: a skorch net has no weights of rows in "
            "its loss, and here rows are kept or dropped. Leave it out; weights of "
            "classes go into the criterion (criterion__weight)."
        )
    if get_config()["enable_metadata_routing"]:
        routed = process_routing(owner, "fit", **params)
        split = routed.splitter.split if hasattr(owner.cv, "split") else {}
        return dict(routed.estimator.fit), dict(split)
    to_split = {k: v for k, v in params.items() if k == "groups" and v is not None}
    return {k: v for k, v in params.items() if k != "groups"}, to_split


def rows_of(value, indices, n_samples: int):
    """Cut an array with one entry per row as the rows are; leave all else alone."""
    if not hasattr(value, "__len__") or isinstance(value, str | dict):
        return value
    return np.asarray(value)[indices] if len(value) == n_samples else value
