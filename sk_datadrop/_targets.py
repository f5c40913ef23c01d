"""Checks of y, as the estimators are handed it, and the form that a net takes it in.

Labels, one per sample, are encoded; many classes per sample, of labels, tokens or
pixels, stay the numbers that they are; all else is real.
"""

import re
from contextlib import nullcontext
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from skorch import NeuralNet, NeuralNetBinaryClassifier

from sk_datadrop._array_items import refuse_ragged
from sk_datadrop._criteria import OF_TWO_CLASSES
from sk_datadrop._lazy import DatasetRows, LazyTargets
from sk_datadrop._probe import Check, Probe, probe_net, shaped
from sk_datadrop._reading import reading_of_known
from sk_datadrop._samples import Samples
from sk_datadrop._training import prefix_errors

_ABOUT_DTYPE = re.compile(r"dtype|Long|Int|Float|cast", re.IGNORECASE)


def check_labels(y: Any, name: str = "y") -> np.ndarray:
    """Return labels as a 1-D array without missing values."""
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name=name)
    check_classification_targets(y)
    return np.asarray(y)


def fit_labels(y: Any) -> LabelEncoder:
    """Return an encoder of the classes, of which there must be two."""
    encoder = LabelEncoder().fit(check_labels(y))
    if len(encoder.classes_) < 2:
        raise ValueError(
            "Classifier needs at least two classes in y; got one class: "
            f"{encoder.classes_.tolist()[0]!r}."
        )
    return encoder


def encode_labels(encoder: LabelEncoder, y: Any, name: str) -> np.ndarray:
    """Return labels as positions in the classes, dtype int64."""
    labels = check_labels(y, name)
    try:
        return np.asarray(encoder.transform(labels), dtype=np.int64)
    except ValueError as error:
        raise ValueError(
            f"{name} holds a label that is not among the classes of y: {error}. Leave "
            "out those samples, or add such samples to y."
        ) from error


def class_targets(net: NeuralNet, codes: np.ndarray) -> np.ndarray:
    """Return class codes in the dtype that the criterion of the net expects."""
    is_binary = isinstance(net, NeuralNetBinaryClassifier)
    return codes.astype(np.float32) if is_binary else codes


def takes_places(y: Any) -> bool:
    """Tell whether samples have many classes each: labels, tokens or pixels."""
    if not hasattr(y, "shape"):
        refuse_ragged(y)
    shape = y.shape if hasattr(y, "shape") else np.asarray(y).shape
    return len(shape) > 1 and tuple(shape[1:]) != (1,)


def check_places(X: Any, y: Any, name: str) -> Any:
    """Return many classes per sample as int64, or as read together with X.

    Raises a ValueError if they are no whole numbers, as a criterion takes them.
    """
    if isinstance(y, LazyTargets) and isinstance(X, DatasetRows):
        return y.with_dtype(np.dtype(np.int64))
    given = check_array(y, dtype=None, ensure_2d=False, allow_nd=True, input_name=name)
    if given.dtype.kind not in "biuf" or np.any(given % 1):
        raise ValueError(
            f"{name} of shape {given.shape} must hold whole numbers, the classes from "
            f"0 on or which of the labels apply; got {given.reshape(-1)[0]!r}, among "
            "others. Use MultiLabelBinarizer or LabelEncoder of scikit-learn, or "
            "DataDropoutRegressor for probabilities."
        )
    return given.astype(np.int64)


def target_dtypes(criterion: Any) -> list[Any]:
    """Return dtypes to try for many classes per sample, the likelier first."""
    is_of_two = isinstance(criterion, type) and issubclass(criterion, OF_TWO_CLASSES)
    likely, other = np.dtype(np.int64), np.dtype(np.float32)
    return [other] if is_of_two else [likely, other]


def check_real_targets(X: Any, y: Any, name: str = "y") -> Any:
    """Return regression targets as float32, or as read together with X."""
    if isinstance(y, LazyTargets):
        if isinstance(X, DatasetRows):
            return y
        y = np.asarray(y)
    try:
        return check_array(
            y,
            dtype=np.float32,
            force_writeable=True,
            ensure_2d=False,
            allow_nd=True,
            input_name=name,
        )
    except ValueError as error:
        if "convert string" not in str(error):
            raise
        raise ValueError(
            f"{name} holds text, such as {str(np.ravel(np.asarray(y))[0])!r}, and a "
            "regressor needs numbers. For labels use DataDropoutClassifier with a net "
            "that has an output per class."
        ) from error


def samples_of(
    net: NeuralNet, X: Any, y: Any, encoder: Any, name: str, has_places: bool
) -> Samples:
    if has_places:
        return Samples.of(X, check_places(X, y, name))
    if encoder is None:
        return Samples.of(X, check_real_targets(X, y, name))
    codes = encode_labels(encoder, y, name)
    return Samples.of(X, class_targets(net, codes), codes)


def probed(
    net: NeuralNet,
    samples: Samples,
    check: Check,
    classes: np.ndarray | None,
    seed: int,
    is_classification: bool,
) -> tuple[Probe, Samples]:
    """Return what a probe shows, and the samples with targets as the net takes them.

    Where a sample has many classes, criteria of two take them as real numbers.
    """
    n_classes = None if classes is None else len(classes)
    as_given: list[Any] = [None]
    if is_classification and classes is None:
        as_given = target_dtypes(net.criterion)
    refusals = []
    for dtype in as_given:
        tried = samples if dtype is None else samples.with_target_dtype(dtype)
        try:
            probe = probe_net(
                net,
                tried,
                check,
                n_classes=n_classes,
                seed=seed,
                is_classification=is_classification,
            )
        except ValueError as error:
            refusals.append(error)
        else:
            _check_classes(net, probe, tried)
            return probe, matched(tried, probe, tried)
    # Where the first dtype was wrong, the last one says what else is.
    raise refusals[-1 if _ABOUT_DTYPE.search(str(refusals[0])) else 0]


def _check_classes(net: NeuralNet, probe: Probe, samples: Samples) -> None:
    """Raise a ValueError if targets are none of those that torch's criteria take."""
    reading = reading_of_known(probe.net.criterion_)
    if reading is None or samples.codes is not None or probe.reading is None:
        return
    y = samples.y[:2] if isinstance(samples.y, LazyTargets) else samples.y
    values = np.unique(np.asarray(y))
    if reading.is_binary:
        takes = f"from {reading.first:g} to 1"
        wrong = values[(values < reading.first) | (values > 1)]
    elif samples.y.dtype.kind == "f":
        return
    else:
        takes = f"classes from 0 to {probe.reading.n_classes - 1}"
        is_class = (values >= 0) & (values < probe.reading.n_classes)
        wrong = values[~is_class & (values != reading.ignored)]
    if reading.is_binary and reading.first < 0:
        takes, wrong = "-1 and 1", values[~np.isin(values, (-1, 1))]
    if len(wrong):
        raise ValueError(
            f"y holds {wrong[0]:g}, but {type(probe.net.criterion_).__name__} takes "
            f"{takes}. Number the classes so, or name what is to be ignored "
            "(criterion__ignore_index)."
        )


def matched(samples: Samples, probe: Probe, like: Samples, suffix: str = "") -> Samples:
    """Return samples as the net takes them, their targets of the shape that it needs.

    Raises a ValueError if these are of another shape than those alike.
    """
    y = samples.y
    with prefix_errors(f"y{suffix}") if suffix else nullcontext():
        if samples.codes is None and np.prod(y.shape[1:]) != np.prod(
            probe.target_shape
        ):
            raise ValueError(
                f"the targets have shape {y.shape[1:]} per sample, and those to "
                f"train on {like.y.shape[1:]}. Pass targets of the same kind."
            )
    needed = shaped(Samples.of(samples.X, y, samples.codes), probe.target_shape)
    if y.dtype != like.y.dtype:
        needed = needed.with_target_dtype(like.y.dtype)
    with prefix_errors(f"X{suffix}") if suffix else nullcontext():
        return needed.cast_as(probe.casting)
